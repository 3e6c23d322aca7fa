"""What steps cost; ``benchmarks.steps`` measures it, and is imported late: an older checkout has no steps."""

from __future__ import annotations

import functools

from benchmarks.aiotaskq import Aiotaskq
from benchmarks.case import AIOTASKQ, Run, Sample, Unit, scenario
from benchmarks.cases.memory import AiotaskqInMemory
from benchmarks.cases.mysql import AiotaskqInMySQL
from benchmarks.cases.postgresql import AiotaskqInPostgreSQL
from benchmarks.cases.redis import AiotaskqInRedis
from benchmarks.cases.sqlite import AiotaskqInSQLite
from benchmarks.queues import PLACES


async def _steps(kind: type[Aiotaskq], run: Run) -> Sample:
    from benchmarks.steps import steps

    return await steps(kind(run.place).url(), run)


def _register() -> None:
    rates = {"push": Unit("tasks/s"), "step": Unit("steps/s")}
    for kind in (AiotaskqInMemory, AiotaskqInSQLite, AiotaskqInPostgreSQL, AiotaskqInMySQL, AiotaskqInRedis):
        title = "push, and steps of handlers: 50 at a time"
        scene = scenario(kind.family, "steps", title, rates, size=5_000, place=PLACES.get(kind.family, ""))
        scene.by(AIOTASKQ, *kind.needs)(functools.partial(_steps, kind))


_register()

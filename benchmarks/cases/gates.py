"""What gates cost; ``benchmarks.gates`` measures it, and is imported late: an older checkout has no gates."""

from __future__ import annotations

import functools

from benchmarks.aiotaskq import Aiotaskq
from benchmarks.case import AIOTASKQ, Run, Sample, Unit, scenario
from benchmarks.cases.mysql import AiotaskqInMySQL
from benchmarks.cases.postgresql import AiotaskqInPostgreSQL
from benchmarks.cases.redis import AiotaskqInRedis
from benchmarks.cases.sqlite import AiotaskqInSQLite
from benchmarks.queues import PLACES


async def _gates(family: str, run: Run) -> Sample:
    from benchmarks.gates import gates

    return await gates(family, run)


async def _beside_parked(kind: type[Aiotaskq], run: Run) -> Sample:
    from benchmarks.beside_parked import beside_parked

    return await beside_parked(kind, run)


def _register() -> None:
    rates = {name: Unit("tasks/s") for name in ("none", "none, 40 at a time", "hot", "1,000 gates")}
    for family in ("memory", *PLACES):
        title = "push, claim and settle in the store, by 100: no gate, one of 40, many"
        place = PLACES.get(family, "")
        scene = scenario(family, "gates", title, rates, size=6_000, place=place, patience=3.0)
        scene.by(AIOTASKQ)(functools.partial(_gates, family))
    verbs = ("push", "claim", "settle")
    figures = {verb: Unit("×") for verb in verbs}
    figures |= {f"{verb}, {name}": Unit("µs", less=True) for verb in verbs for name in ("none", "parked")}
    for kind in (AiotaskqInSQLite, AiotaskqInPostgreSQL, AiotaskqInMySQL, AiotaskqInRedis):
        title = "CPU time of push, claim and settle, by 100: beside no parked tasks, and beside 1,000,000"
        place = PLACES[kind.family]
        scene = scenario(
            kind.family, "parked", title, figures, size=1, place=place, warm_up=False, fresh=True, patience=5.0
        )
        scene.by(AIOTASKQ, *kind.needs)(functools.partial(_beside_parked, kind))


_register()

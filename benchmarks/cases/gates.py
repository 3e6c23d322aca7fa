"""What gates cost; ``benchmarks.gates`` measures it, and is imported late: an older checkout has no gates."""

from __future__ import annotations

import functools

from benchmarks.case import AIOTASKQ, Run, Sample, Unit, scenario
from benchmarks.queues import PLACES


async def _gates(family: str, run: Run) -> Sample:
    from benchmarks.gates import gates

    return await gates(family, run)


def _register() -> None:
    rates = {name: Unit("tasks/s") for name in ("none", "none, 40 at a time", "hot", "1,000 gates")}
    for family in ("memory", *PLACES):
        title = "push, claim and settle in the store, by 100: no gate, one of 40, many"
        place = PLACES.get(family, "")
        scene = scenario(family, "gates", title, rates, size=6_000, place=place, patience=3.0)
        scene.by(AIOTASKQ)(functools.partial(_gates, family))


_register()

"""The two-minute profile for CI: every scenario in small, several at a time: ``nox -s chaos -- --quick``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.harness import Report
from tests.chaos.places import PLACES, opened
from tests.chaos.scenarios import Scenario
from tests.chaos.sizes import QUICK, WHERE

pytestmark = [pytest.mark.chaos, pytest.mark.chaos_quick, pytest.mark.timeout(240)]

AT_ONCE = 8  # scenarios; most of their time is spent waiting for leases to end


# The second PostgreSQL differs in its plans alone: the contract suite meets it in each run. MySQL takes turns as
# PostgreSQL does, by locks of rows. Schedules in another store than the tasks are those of SQLite. The full profile has
# all of them.
@pytest.mark.parametrize(
    "name", [name for name in PLACES if name not in ("postgresql_jit", "mysql", "redis_and_sqlite")]
)
async def test_quick(
    name: str, tmp_path: Path
) -> (
    None
):  # A1, A4, A8, A10, A11, A12, A19, B3, B5, B10, B12, C1, C2, C3, C5, C8, C9, C18, D4, D5, D7, D8, D13, F1, F12
    room = asyncio.Semaphore(AT_ONCE)

    async def run(scenario: Scenario) -> Report:
        async with room, opened(name, tmp_path / scenario.__name__) as place:
            return await scenario(place, tmp_path, patience=20.0, tolerance=3.0, **QUICK[scenario])

    alone = [each for each in QUICK if name in WHERE[each] and each.__name__ == "restarts"]
    together = [each for each in QUICK if name in WHERE[each] and each not in alone]
    came = await asyncio.gather(*map(run, together), return_exceptions=True)  # each gets to its end
    # Scenarios that stop the server come last.
    came += await asyncio.gather(*map(run, alone), return_exceptions=True)
    if failed := [each for each in came if isinstance(each, BaseException)]:
        raise BaseExceptionGroup("scenarios failed", failed)
    broken = [report for report in came if isinstance(report, Report) and report.violations]
    assert not broken, "\n".join(report.table() for report in broken)

"""The harness proves itself: a fault seeded into the package must be found: ``nox -s chaos -- -k fault``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import scenarios, scenarios_schedules, scenarios_store
from tests.chaos.faults import FAULTS
from tests.chaos.places import SQL, opened
from tests.chaos.scenarios import Scenario

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

FINDS: dict[str, tuple[Scenario, dict[str, Any], str]] = {
    "no-fence": (scenarios.pauses, {"pauses": 2, "workers": 3, "every": 2.0}, r"^zombie: .* was taken after fence"),
    "late-owner": (scenarios.kills, {"tasks": 200, "rate": 40.0, "kills": 6, "workers": 3}, r"^stuck: .* owner None"),
    "deferred": (
        scenarios_store.mixed,
        {"tasks": 600, "rate": 200.0, "workers": 4, "producers": 4},
        r"^the database was locked",
    ),
    "no-cas": (scenarios_schedules.purged, {"seconds": 6.0}, r"^a due time ran more than once"),
}
"""By fault: the scenario that finds it, small, and what it must say."""


def places(fault: str) -> tuple[str, ...]:
    return ("sqlite",) if fault == "deferred" else SQL


@pytest.mark.parametrize(("fault", "name"), [(fault, name) for fault in FINDS for name in places(fault)])
async def test_fault_is_found(fault: str, name: str, tmp_path: Path) -> None:
    scenario, options, said = FINDS[fault]
    async with opened(name, tmp_path) as place:
        report = await scenario(place, tmp_path, patience=8.0, fault=fault, **options)
    assert any(re.search(said, each) for each in report.violations), f"{fault} was not found\n{report.table()}"


@pytest.mark.parametrize(("fault", "name"), [(fault, name) for fault in FINDS for name in places(fault)])
async def test_without_the_fault_nothing_is_found(fault: str, name: str, tmp_path: Path) -> None:
    scenario, options, _ = FINDS[fault]
    async with opened(name, tmp_path) as place:
        report = await scenario(place, tmp_path, **options)
    report.check()


def test_every_fault_is_sought() -> None:
    assert FINDS.keys() == FAULTS.keys()

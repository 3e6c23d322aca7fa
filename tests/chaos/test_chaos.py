"""The table "must hold" at its full size, a test for each row and store: ``nox -s chaos``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import (
    scenarios,
    scenarios_groups,
    scenarios_limits,
    scenarios_schedules,
    scenarios_store,
    scenarios_workflows,
)
from tests.chaos.places import opened
from tests.chaos.scenarios import Scenario
from tests.chaos.sizes import WHERE, full

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


def on_places(scenario: Scenario) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", WHERE[scenario])


async def hold(scenario: Scenario, name: str, folder: Path) -> None:
    async with opened(name, folder) as place:
        report = await scenario(place, folder, **full(scenario))
    report.check()


@on_places(scenarios.kills)
async def test_kills(name: str, tmp_path: Path) -> None:  # A1, A10, B5
    await hold(scenarios.kills, name, tmp_path)


@on_places(scenarios.survivors)
async def test_survivors_recover(name: str, tmp_path: Path) -> None:  # A12, B12
    await hold(scenarios.survivors, name, tmp_path)


@on_places(scenarios.producers)
async def test_producers_that_are_killed(name: str, tmp_path: Path) -> None:  # A20
    await hold(scenarios.producers, name, tmp_path)


@on_places(scenarios.pauses)
async def test_zombies_are_refused(name: str, tmp_path: Path) -> None:  # B10
    await hold(scenarios.pauses, name, tmp_path)


@on_places(scenarios.blocking)
async def test_a_blocked_loop_keeps_its_lease(name: str, tmp_path: Path) -> None:  # B3
    await hold(scenarios.blocking, name, tmp_path)


@on_places(scenarios.poison)
async def test_a_handler_that_kills_its_process(name: str, tmp_path: Path) -> None:  # A4
    await hold(scenarios.poison, name, tmp_path)


@on_places(scenarios_schedules.schedulers)
async def test_one_task_for_each_due(name: str, tmp_path: Path) -> None:  # C1, C2, C3, C5, C9
    await hold(scenarios_schedules.schedulers, name, tmp_path)


@on_places(scenarios_schedules.purged)
async def test_once_although_rows_are_purged(name: str, tmp_path: Path) -> None:  # C8
    await hold(scenarios_schedules.purged, name, tmp_path)


@on_places(scenarios_schedules.downtime)
async def test_after_a_downtime(name: str, tmp_path: Path) -> None:  # C18
    await hold(scenarios_schedules.downtime, name, tmp_path)


@on_places(scenarios.terms)
async def test_a_rolling_deploy(name: str, tmp_path: Path) -> None:  # D4, D5, D7, D8, D13
    await hold(scenarios.terms, name, tmp_path)


@on_places(scenarios.cut_short)
async def test_a_kill_in_the_drain(name: str, tmp_path: Path) -> None:  # A19
    await hold(scenarios.cut_short, name, tmp_path)


@on_places(scenarios_limits.limits)
async def test_limits_hold(name: str, tmp_path: Path) -> None:  # A1, B10
    await hold(scenarios_limits.limits, name, tmp_path)


@on_places(scenarios_limits.rates)
async def test_a_rate_holds(name: str, tmp_path: Path) -> None:  # C3
    await hold(scenarios_limits.rates, name, tmp_path)


@on_places(scenarios_groups.groups)
async def test_a_group_calls_back_once(name: str, tmp_path: Path) -> None:  # A1, B10
    await hold(scenarios_groups.groups, name, tmp_path)


@on_places(scenarios_groups.debounced)
async def test_each_debounced_call_is_in_one_task(name: str, tmp_path: Path) -> None:  # A1
    await hold(scenarios_groups.debounced, name, tmp_path)


@on_places(scenarios_groups.batches)
async def test_a_kill_amid_batches(name: str, tmp_path: Path) -> None:  # A1, B10
    await hold(scenarios_groups.batches, name, tmp_path)


@on_places(scenarios_workflows.workflows)
async def test_workflows_among_kills(name: str, tmp_path: Path) -> None:
    await hold(scenarios_workflows.workflows, name, tmp_path)


@on_places(scenarios_workflows.races)
async def test_an_event_beside_the_wait_for_it(name: str, tmp_path: Path) -> None:
    await hold(scenarios_workflows.races, name, tmp_path)


@on_places(scenarios_workflows.sleepers)
async def test_workflows_that_sleep(name: str, tmp_path: Path) -> None:
    await hold(scenarios_workflows.sleepers, name, tmp_path)


@on_places(scenarios_store.mixed)
async def test_many_processes_on_one_store(name: str, tmp_path: Path) -> None:  # A8, F1, F12
    await hold(scenarios_store.mixed, name, tmp_path)


@on_places(scenarios_store.restarts)
async def test_the_server_restarts(name: str, tmp_path: Path) -> None:  # F5, G-11
    await hold(scenarios_store.restarts, name, tmp_path)


@on_places(scenarios_store.outages)
async def test_the_network_is_cut(name: str, tmp_path: Path) -> None:  # B8, F8
    await hold(scenarios_store.outages, name, tmp_path)


@on_places(scenarios_store.unknown_outcomes)
async def test_a_commit_without_an_answer(name: str, tmp_path: Path) -> None:  # A20
    await hold(scenarios_store.unknown_outcomes, name, tmp_path)


@on_places(scenarios_store.transactions)
async def test_the_callers_transaction(name: str, tmp_path: Path) -> None:  # A11
    await hold(scenarios_store.transactions, name, tmp_path)


@on_places(scenarios_store.memory)
async def test_memory_stays(name: str, tmp_path: Path) -> None:  # H2
    await hold(scenarios_store.memory, name, tmp_path)


@on_places(scenarios_store.many_rows)
async def test_a_claim_among_many_rows(name: str, tmp_path: Path) -> None:  # F13
    await hold(scenarios_store.many_rows, name, tmp_path)


def test_every_scenario_is_tested() -> None:
    here = Path(__file__).read_text()
    missing = [each.__name__ for each in WHERE if f".{each.__name__}, name" not in here]
    assert not missing, f"scenarios without a test: {missing}"

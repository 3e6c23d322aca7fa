"""How large each scenario is in the full run (the table "must hold", times AIOTASKQ_CHAOS_SCALE) and in CI's."""

from __future__ import annotations

from typing import Any

from tests.chaos import (
    scenarios,
    scenarios_groups,
    scenarios_limits,
    scenarios_schedules,
    scenarios_store,
    scenarios_workflows,
)
from tests.chaos.harness import SCALE
from tests.chaos.places import PLACES, SERVERS, SQL
from tests.chaos.scenarios import Scenario

EVERYWHERE = tuple(name for name in PLACES if name != "redis_and_sqlite")

WHERE: dict[Scenario, tuple[str, ...]] = {
    scenarios.kills: EVERYWHERE,
    scenarios.survivors: EVERYWHERE,
    scenarios.producers: EVERYWHERE,
    scenarios.pauses: EVERYWHERE,
    scenarios.blocking: EVERYWHERE,
    scenarios.poison: EVERYWHERE,
    scenarios_schedules.schedulers: tuple(PLACES),
    scenarios_schedules.purged: tuple(PLACES),
    scenarios_schedules.downtime: tuple(PLACES),
    scenarios.terms: EVERYWHERE,
    scenarios.cut_short: EVERYWHERE,
    scenarios_limits.limits: EVERYWHERE,
    scenarios_limits.rates: EVERYWHERE,
    scenarios_groups.groups: EVERYWHERE,
    scenarios_groups.debounced: EVERYWHERE,
    scenarios_groups.batches: EVERYWHERE,
    scenarios_workflows.workflows: EVERYWHERE,
    scenarios_workflows.races: EVERYWHERE,
    scenarios_workflows.sleepers: EVERYWHERE,
    scenarios_store.mixed: EVERYWHERE,
    scenarios_store.memory: EVERYWHERE,
    scenarios_store.restarts: SERVERS,
    scenarios_store.outages: SERVERS,
    scenarios_store.unknown_outcomes: SERVERS,
    scenarios_store.transactions: SQL,
    scenarios_store.many_rows: SQL,
}
"""Every scenario, and the places that it makes sense on."""

QUICK: dict[Scenario, dict[str, Any]] = {
    scenarios_store.outages: {"workers": 2, "seconds": 3.0, "rate": 10.0, "calm": 1.0},
    scenarios.pauses: {"workers": 3, "pauses": 2, "every": 1.5},
    scenarios.blocking: {"rounds": 1, "others": 8},
    scenarios.poison: {"workers": 2, "tasks": 40, "hows": ("kill",)},
    scenarios.kills: {"workers": 3, "slots": 4, "tasks": 120, "kills": 4, "rate": 20.0},
    scenarios_schedules.schedulers: {"schedulers": 3, "schedules": 8, "seconds": 6.0},
    scenarios_schedules.purged: {"schedulers": 3, "schedules": 4, "seconds": 5.0},
    scenarios.terms: {"workers": 2, "terms": 8},
    scenarios_limits.limits: {"workers": 2, "keys": 4, "tasks": 150, "kills": 2, "pauses": 1, "rate": 30.0},
    scenarios_groups.groups: {"workers": 2, "groups": 24, "kills": 2, "pauses": 1, "rate": 5.0},
    scenarios_workflows.workflows: {
        "workers": 2,
        "workflows": 24,
        "kills": 2,
        "pauses": 1,
        "restarts": 0,
        "rate": 5.0,
    },
    scenarios.survivors: {"tasks": 12, "seconds": 1.5},
    scenarios.cut_short: {"workers": 2, "stops": 8, "rate": 10.0},
    scenarios_store.mixed: {"workers": 3, "producers": 3, "tasks": 400, "rate": 100.0},
    scenarios_store.unknown_outcomes: {"tasks": 40, "cuts": 8, "rate": 20.0},
    scenarios_store.transactions: {"each": 2, "hold": 0.3},
    scenarios_store.many_rows: {"finished": 20_000, "future": 2_000, "claims": 200, "bound": 0.2},
    scenarios.producers: {"producers": 5, "tasks": 20, "rate": 10.0},
    scenarios_schedules.downtime: {},
    scenarios_store.restarts: {"workers": 2, "slots": 4, "each": 1, "rate": 40.0, "every": 3.0},
}
"""What the two-minute profile does: the same scenarios, smaller, the longest first; the others need their size."""

SCALED = (
    "tasks",
    "kills",
    "pauses",
    "terms",
    "stops",
    "each",
    "cuts",
    "seconds",
    "groups",
    "calls",
    "workflows",
    "restarts",
)


def full(scenario: Scenario) -> dict[str, Any]:
    """The options of the full run: the scenario's own defaults, scaled if the environment says so."""
    if SCALE == 1.0:
        return {}
    defaults = scenario.__kwdefaults__ or {}  # type: ignore[attr-defined]
    return {name: type(value)(max(1, value * SCALE)) for name, value in defaults.items() if name in SCALED}

"""The terms of the benchmarks: a scenario is measured, a case is one contestant in it, a sample the result of a run.

A case is a function, ``async def`` or ``def``, that does something ``run.n`` times and returns how long it took::

    PUSH = scenario("memory", "push.one", "push, one producer", RATE, start=1_000)

    @PUSH.by("aiotaskq")
    async def push(run: Run) -> Sample: ...

Nothing here or in the modules of the cases imports a contestant before its case runs: what is not installed is absent.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

LIMIT = "limit"  # what the driver or the language can do at most, with nothing around it
AIOTASKQ = "aiotaskq"


def is_peer(who: str) -> bool:
    """Return whether a contestant is a peer: neither aiotaskq, nor a part or another version of it, nor the limit."""
    return who != LIMIT and not who.startswith(AIOTASKQ)


class Unit(NamedTuple):
    """What a figure is counted in, and whether less of it is better."""

    name: str
    less: bool = False


RATE: Mapping[str, Unit] = {"rate": Unit("tasks/s")}
LATENCY: Mapping[str, Unit] = {"p50": Unit("ms", less=True), "p99": Unit("ms", less=True)}


@dataclass(frozen=True)
class Run:
    """What one run is asked for: how often, where (a URL or an empty folder), and what part of the full size."""

    n: int
    place: str = ""
    scale: float = 1.0

    def of(self, full: int, least: int) -> int:
        """Return a size at this scale."""
        return max(least, round(full * self.scale))


@dataclass(frozen=True)
class Sample:
    """What one run gave: figures by name, the seconds that were measured, and each wait in seconds, if it has them."""

    values: dict[str, float]
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)


def rate(count: int, seconds: float) -> Sample:
    """Return the sample of something done so often in so many seconds."""
    return Sample({"rate": count / seconds}, seconds)


def latency(waits: list[float]) -> Sample:
    """Return the sample of waits in seconds."""
    return Sample({"p50": quantile(waits, 0.50) * 1000, "p99": quantile(waits, 0.99) * 1000}, sum(waits), waits)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share lies; between two of them, the mix."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=1000, method="inclusive")[min(998, max(0, round(share * 1000) - 1))]


Function = Callable[[Run], Sample | Awaitable[Sample]]


@dataclass(frozen=True)
class Case:
    """One contestant in one scenario."""

    scenario: Scenario
    who: str
    function: Function
    needs: tuple[str, ...] = ()
    """Modules without which it is absent."""
    checkout: Path | None = None
    """The checkout whose aiotaskq is run, where it is another one than this."""

    @property
    def label(self) -> str:
        """The contestant's name in the report."""
        return self.who if self.checkout is None else f"{self.who} of {self.checkout.name}"

    @property
    def absent(self) -> str:
        """Which module is missing, or nothing."""
        return next((name for name in self.needs if importlib.util.find_spec(name) is None), "")


@dataclass(frozen=True)
class Scenario:
    """What is measured, and how a run of it is sized.

    With ``size`` a run does that often (times the scale); without, as often as fills the time of a run, tried out first
    from ``start`` up. ``place`` is the kind of store that is made for each run; ``fresh``: each in a new process.
    Without ``warm_up`` the first run counts, as where a run is long and begins with a wait. A run may take ``patience``
    times as long as others.
    """

    family: str
    name: str
    title: str
    figures: Mapping[str, Unit]
    size: int = 0
    start: int = 100
    place: str = ""
    fresh: bool = False
    warm_up: bool = True
    patience: float = 1.0
    cases: dict[str, Case] = field(default_factory=dict, compare=False)

    @property
    def id(self) -> str:
        """What ``--only`` is matched with, before the contestant."""
        return f"{self.family}/{self.name}"

    def by(self, who: str, *needs: str) -> Callable[[Function], Function]:
        """Register a function as the case of a contestant that needs these modules."""

        def register(function: Function) -> Function:
            self.cases[who] = Case(self, who, function, needs)
            return function

        return register


SCENARIOS: dict[str, Scenario] = {}
NOTES: dict[tuple[str, str], str] = {}
"""How a contestant is set up, by family and name; part of the report."""


def scenario(
    family: str,
    name: str,
    title: str,
    figures: Mapping[str, Unit],
    *,
    size: int = 0,
    start: int = 100,
    place: str = "",
    fresh: bool = False,
    warm_up: bool = True,
    patience: float = 1.0,
) -> Scenario:
    """Register a scenario; one that has this id already is returned as it is."""
    new = Scenario(family, name, title, figures, size, start, place, fresh, warm_up, patience)
    return SCENARIOS.setdefault(new.id, new)


def load() -> dict[str, Scenario]:
    """Import all cases and peers (not what they measure); return the scenarios by id, in the order of the report."""
    here = Path(__file__).parent
    for folder in ("cases", "peers"):
        for path in sorted((here / folder).glob("*.py")):
            importlib.import_module(f"benchmarks.{folder}.{path.stem}")
    order = {family: number for number, family in enumerate(FAMILIES)}
    return dict(sorted(SCENARIOS.items(), key=lambda item: order[item[1].family]))


FAMILIES = {
    "memory": "The queue in memory",
    "sqlite": "SQLite, one file, synchronous FULL",
    "postgresql": "PostgreSQL, durable",
    "mysql": "MySQL (MariaDB), durable",
    "redis": "Redis (Valkey), append-only file synced always",
    "facade": "The blocking facade, from threads",
    "store": "Public values with time to live",
    "scheduler": "The scheduler",
    "startup": "Imports and start-up",
}

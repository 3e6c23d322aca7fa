"""What aiotaskq must reach beside its peers and the limit, as data: two measurements of one run and their ratio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.case import AIOTASKQ, FAMILIES, LIMIT, is_peer

ANY_PEER = "best peer"


@dataclass(frozen=True)
class Target:
    """``of`` divided by ``by``, both named as ``family/scenario/contestant:figure``; without ``by``, ``of`` itself.

    The contestant of ``by`` may be ``best peer``: the best one that is neither aiotaskq nor the limit.
    """

    text: str
    of: str
    by: str = ""
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "×"
    full_size: bool = False
    """Whether it applies only to a run of full size."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a target; ``value`` is None, with the reason in ``why``, if something was not measured."""

    target: Target
    value: float | None
    why: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether it was reached, or None if it was not measured."""
        if self.value is None:
            return None
        low, high = self.target.at_least, self.target.at_most
        return (low is None or self.value >= low) and (high is None or self.value <= high)


def judge(figures: Mapping[str, float], less_is_better: Iterable[str] = (), scale: float = 1.0) -> list[Outcome]:
    """Hold the targets against medians by name, ``family/scenario/contestant:figure``."""
    less = set(less_is_better)
    return [
        Outcome(target, None, "only at full size") if target.full_size and scale < 1 else _judged(target, figures, less)
        for target in TARGETS
    ]


def _judged(target: Target, figures: Mapping[str, float], less: set[str]) -> Outcome:
    value = figures.get(target.of)
    if value is None:
        return Outcome(target, None, f"{target.of} was not measured")
    if not target.by:
        return Outcome(target, value)
    against, why = _value(target.by, figures, less)
    if against is None:
        return Outcome(target, None, f"{target.by} was not measured")
    return Outcome(target, value / against if against else float("inf"), why)


def _value(name: str, figures: Mapping[str, float], less: set[str]) -> tuple[float | None, str]:
    scenario, _, rest = name.rpartition("/")
    who, _, figure = rest.partition(":")
    if who != ANY_PEER:
        return figures.get(name), ""
    peers = {}
    for other, value in figures.items():
        place, _, end = other.rpartition("/")
        contestant, _, what = end.partition(":")
        if place == scenario and what == figure and is_peer(contestant):
            peers[contestant] = value
    if not peers:
        return None, ""
    best = (min if f"{scenario}:{figure}" in less else max)(peers, key=peers.__getitem__)
    return peers[best], best


def _rate(text: str, of: str, by: str, at_least: float) -> Target:
    return Target(text, f"{of}/{AIOTASKQ}:rate", f"{by}:rate", at_least=at_least)


TARGETS = [
    _rate("memory, end to end: of asyncio.Queue with ids and handlers", "memory/run", f"memory/run/{LIMIT}", 0.50),
    _rate("… with a timeout on each task, of the same", "memory/run.timeout", f"memory/run/{LIMIT}", 0.30),
    _rate("… of taskiq's broker in memory", "memory/run", "memory/run/taskiq", 4),
    _rate("… of huey's", "memory/run", "memory/run/huey", 3),
    _rate("… of the old thread design", "memory/run", "memory/run/old design", 2),
    _rate("facade, push: of run_coroutine_threadsafe", "facade/push", "facade/push/run_coroutine_threadsafe", 8),
    _rate("… of queue.Queue with uuid4", "facade/push", "facade/push/queue.Queue", 1.0),
    _rate("facade, a call that needs the loop: of a lock ping-pong", "facade/loop", f"facade/loop/{LIMIT}", 0.85),
    _rate("facade, a task's life in three threads: of the old design", "facade/cycle", "facade/cycle/old design", 1.0),
    _rate("store, set: of cachetools.TTLCache", "store/set", "store/set/cachetools.TTLCache", 2),
    _rate("… get", "store/get", "store/get/cachetools.TTLCache", 3),
    Target("… a sweep of 1,000 of 100,000 keys holds the loop", f"store/sweep/{AIOTASKQ}:hold", at_most=1.0, unit="ms"),
    _rate("SQLite, 100 producers: of raw, one a commit", "sqlite/push.many", f"sqlite/push.one/{LIMIT}", 6),
    _rate("… one producer", "sqlite/push.one", f"sqlite/push.one/{LIMIT}", 0.45),
    _rate("… 500 in a call: of raw, 500 a commit", "sqlite/push.bulk", f"sqlite/push.bulk/{LIMIT}", 0.60),
    _rate("… drain: of huey with fsync", "sqlite/drain.10", "sqlite/drain.10/huey", 8),
    _rate("… push, run and finish: of huey with fsync", "sqlite/run", "sqlite/run/huey", 8),
    Target("… push to start, workers idle, p50", f"sqlite/latency/{AIOTASKQ}:p50", at_most=0.8, unit="ms"),
    _rate("PostgreSQL, 50 producers: of the best peer", "postgresql/push.many", f"postgresql/push.many/{ANY_PEER}", 5),
    _rate("… one producer", "postgresql/push.one", f"postgresql/push.one/{ANY_PEER}", 1.0),
    _rate("… drain, 10 at a time: of pgqueuer", "postgresql/drain.10", "postgresql/drain.10/pgqueuer", 3),
    _rate("… 100 at a time", "postgresql/drain.100", "postgresql/drain.100/pgqueuer", 1.3),
    _rate("… in two processes", "postgresql/drain.two", "postgresql/drain.two/pgqueuer", 1.3),
    *(
        Target(
            f"… push to start{where}, {name}: of the best peer",
            f"postgresql/{scene}/{AIOTASKQ}:{name}",
            f"postgresql/{scene}/{ANY_PEER}:{name}",
            at_most=1.0,
        )
        for scene, where in (("latency", ""), ("latency.two", " in another process"))
        for name in ("p50", "p99")
    ),
    _rate("Redis, 50 producers: of saq", "redis/push.many", "redis/push.many/saq", 3),
    _rate("… drain, 100 at a time: of taskiq's streams", "redis/drain.100", "redis/drain.100/taskiq", 8),
    _rate("… in two processes", "redis/drain.two", "redis/drain.two/taskiq", 6),
    *(
        Target(
            f"{family}, drain before 200,000: of that before 10,000",
            f"{family}/backlog/{AIOTASKQ}:200,000",
            f"{family}/backlog/{AIOTASKQ}:10,000",
            at_least=0.80,
            full_size=True,
        )
        for family in FAMILIES
        if family in ("memory", "sqlite", "postgresql", "mysql", "redis")
    ),
    Target(
        "10,000 schedules on SQLite: fired",
        f"scheduler/fire.10000/{AIOTASKQ}:fired",
        at_least=99.9,
        unit="%",
        full_size=True,
    ),
    Target("… late, p99", f"scheduler/fire.10000/{AIOTASKQ}:p99", at_most=50.0, unit="ms", full_size=True),
    Target(
        "1,000 schedules, time of a core: of APScheduler 3",
        f"scheduler/fire.1000/{AIOTASKQ}:cpu",
        "scheduler/fire.1000/APScheduler:cpu",
        at_most=0.5,
        full_size=True,
    ),
    _rate("schedules added, many at once: of APScheduler 3", "scheduler/add", "scheduler/add/APScheduler", 20),
    Target("import aiotaskq", f"startup/import/{AIOTASKQ}:ms", at_most=250.0, unit="ms"),
    Target("aiotaskq --help", f"startup/help/{AIOTASKQ}:ms", at_most=200.0, unit="ms"),
]

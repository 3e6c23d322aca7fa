"""What aiotaskq must reach beside its peers and the limit, as data: two measurements of one run and their ratio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.case import AIOTASKQ, LIMIT, is_peer

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


def _waits(text: str, scene: str, peer: str, **wanted: float) -> list[Target]:
    """Return a target for each of these figures: how many times as good as the peer's it must be."""
    return [
        Target(f"{text}, {name}: of {peer}", f"{scene}/{AIOTASKQ}:{name}", f"{scene}/{peer}:{name}", at_most=1 / least)
        for name, least in wanted.items()
    ]


PRIORITIES = "queue.PriorityQueue"
GATES = {"sqlite": (0.40, 0.40), "postgresql": (0.40, 0.40), "mysql": (0.30, 0.30), "redis": (0.40, 0.40)}
AT_GATES = (  # which least of these, the figure, that of no gates, and what the target is called
    (0, "hot", "none", "at one gate, of none"),
    (0, "hot", "none, 40 at a time", "at one gate of 40, of none with 40 claimed at a time"),
    (1, "1,000 gates", "none", "at 1,000 gates, of none"),
)
BACKLOGS = {"memory": 0.85, "sqlite": 0.80, "postgresql": 0.90, "mysql": 0.80, "redis": 0.80}

TARGETS = [
    # Three quarters of an asyncio.Queue that keeps a status of each task, which reaches 0.56 of this limit.
    _rate("memory, end to end: of asyncio.Queue with ids and handlers", "memory/run", f"memory/run/{LIMIT}", 0.42),
    _rate("… with a timeout on each task, of the same", "memory/run.timeout", f"memory/run/{LIMIT}", 0.45),
    _rate("… 500 pushed in a call, of the same with put_nowait", "memory/run.bulk", f"memory/run.bulk/{LIMIT}", 0.55),
    _rate("… of taskiq's broker in memory", "memory/run", "memory/run/taskiq", 4),
    _rate("… of huey's", "memory/run", "memory/run/huey", 3),
    _rate("… of the old thread design with three threads", "memory/run", "memory/run.threads/old design", 2.5),
    Target("… a waiting task, of 100,000", f"memory/weight/{AIOTASKQ}:bytes", at_most=600.0, unit="bytes"),
    _rate("facade, push: of run_coroutine_threadsafe", "facade/push", "facade/push/run_coroutine_threadsafe", 8),
    _rate("… of queue.Queue with uuid4", "facade/push", "facade/push/queue.Queue", 1.0),
    _rate("… from the main thread", "facade/push.main", "facade/push.main/queue.Queue", 0.8),
    Target(
        "… with lines at DEBUG off: of that in their default state",
        f"facade/log/{AIOTASKQ}:off",
        f"facade/push/{AIOTASKQ}:rate",
        at_least=0.95,
    ),
    _rate("facade, a call that needs the loop: of a lock ping-pong", "facade/loop", f"facade/loop/{LIMIT}", 0.85),
    *(
        _rate(
            f"facade, a task's life in {threads}: of queue.PriorityQueue with uuid4", name, f"{name}/{PRIORITIES}", 1.0
        )
        for threads, name in (("one thread", "facade/cycle.one"), ("three", "facade/cycle"))
    ),
    _rate("store, set: of cachetools.TTLCache", "store/set", "store/set/cachetools.TTLCache", 2),
    _rate("… get", "store/get", "store/get/cachetools.TTLCache", 5),
    _rate(
        "… set from a thread: of the same with a lock", "store/set.thread", "store/set.thread/cachetools.TTLCache", 1.0
    ),
    Target("… a sweep of 1,000 of 100,000 keys holds the loop", f"store/sweep/{AIOTASKQ}:hold", at_most=1.0, unit="ms"),
    _rate("SQLite, 100 producers: of raw, one a commit", "sqlite/push.many", f"sqlite/push.one/{LIMIT}", 6),
    # Three quarters of persist-queue, which reaches 0.89 of this limit.
    _rate("… one producer", "sqlite/push.one", f"sqlite/push.one/{LIMIT}", 0.67),
    _rate("… 500 in a call: of raw, 500 a commit", "sqlite/push.bulk", f"sqlite/push.bulk/{LIMIT}", 0.60),
    _rate("… drain, 100 at a time: of raw", "sqlite/drain.100", f"sqlite/drain.100/{LIMIT}", 0.38),
    _rate("… 10 at a time: of huey with fsync", "sqlite/drain.10", "sqlite/drain.10/huey", 8),
    _rate("… push, run and finish: of huey with fsync", "sqlite/run", "sqlite/run/huey", 8),
    _rate("… with one producer", "sqlite/run.one", "sqlite/run.one/huey", 1.0),
    *_waits("… push to start in another process", "sqlite/latency.two", "honker (NORMAL)", p50=0.7, p99=0.5),
    *_waits("… in the same process", "sqlite/latency", "honker (NORMAL)", p50=1.0, p99=1.0),
    _rate("PostgreSQL, 50 producers: of the best peer", "postgresql/push.many", f"postgresql/push.many/{ANY_PEER}", 5),
    _rate("… one producer: of pgqueuer", "postgresql/push.one", "postgresql/push.one/pgqueuer", 1.1),
    _rate("… 500 in a call", "postgresql/push.bulk", "postgresql/push.bulk/pgqueuer", 1.0),
    _rate("… drain, 10 at a time: of pgqueuer", "postgresql/drain.10", "postgresql/drain.10/pgqueuer", 4),
    _rate("… 100 at a time", "postgresql/drain.100", "postgresql/drain.100/pgqueuer", 1.6),
    _rate("… in two processes", "postgresql/drain.two", "postgresql/drain.two/pgqueuer", 1.8),
    _rate("… of one process", "postgresql/drain.two", f"postgresql/drain.100/{AIOTASKQ}", 1.4),
    *_waits("… push to start", "postgresql/latency", ANY_PEER, p50=1.0, p99=1.0),
    *_waits("… in another process, every 15 ms", "postgresql/latency.two", ANY_PEER, p50=1.0, p99=1.0),
    *_waits("… every 120 ms", "postgresql/latency.slow", ANY_PEER, p50=1.0),
    *(
        Target(
            f"{family}, drain beside 5,000,000 ended tasks: of that beside none",
            f"{family}/kept/{AIOTASKQ}:5,000,000",
            f"{family}/kept/{AIOTASKQ}:none",
            at_least=0.90,
            full_size=True,
        )
        for family in ("sqlite", "postgresql")
    ),
    *(
        Target(
            f"{family}, a heartbeat with 10,000 running tasks: {name}",
            f"{family}/heartbeat/{AIOTASKQ}:{name}",
            at_most=1.0,
            unit=unit,
            full_size=name == "writes",
        )
        for family in ("sqlite", "postgresql", "mysql")
        for name, unit in (("rows", "rows"), ("writes", "ms"))
    ),
    # Three quarters of what it was.
    Target("a task in PostgreSQL: table and indexes", f"postgresql/weight/{AIOTASKQ}:kept", at_most=776, unit="bytes"),
    Target("… write-ahead log", f"postgresql/weight/{AIOTASKQ}:wal", at_most=1_552, unit="bytes"),
    _rate("Redis, 50 producers: of saq", "redis/push.many", "redis/push.many/saq", 3),
    _rate("… one producer: of dramatiq", "redis/push.one", "redis/push.one/dramatiq", 0.9),
    _rate("… drain, 100 at a time: of XREADGROUP with XACK", "redis/drain.100", f"redis/drain.100/{LIMIT}", 0.35),
    _rate("… of taskiq's streams", "redis/drain.100", "redis/drain.100/taskiq", 8),
    _rate("… in two processes", "redis/drain.two", "redis/drain.two/taskiq", 6),
    *_waits("… push to start", "redis/latency", ANY_PEER, p50=1.0),
    *_waits("… in another process", "redis/latency.two", ANY_PEER, p50=0.8),
    *(
        Target(
            f"{family}, drain before 200,000: of that before 10,000",
            f"{family}/backlog/{AIOTASKQ}:200,000",
            f"{family}/backlog/{AIOTASKQ}:10,000",
            at_least=least,
            full_size=True,
        )
        for family, least in BACKLOGS.items()
    ),
    *(
        Target(
            f"{family}, push to end: {text}",
            f"{family}/gates/{AIOTASKQ}:{name}",
            f"{family}/gates/{AIOTASKQ}:{none}",
            least[place],
        )
        for family, least in GATES.items()
        for place, name, none, text in AT_GATES
    ),
    *(
        Target(
            f"{family}, {verb} beside 1,000,000 parked tasks: CPU time, that beside none divided by it",
            f"{family}/parked/{AIOTASKQ}:{verb}",
            at_least=0.95,
            full_size=True,
        )
        for family in ("sqlite", "postgresql", "mysql", "redis")
        for verb in ("push", "claim", "settle")
    ),
    Target(
        "10,000 schedules on SQLite: fired",
        f"scheduler/fire.10000/{AIOTASKQ}:fired",
        at_least=99.9,
        unit="%",
        full_size=True,
    ),
    *(
        Target(f"{text}, {name}", f"scheduler/{scene}/{AIOTASKQ}:{name}", at_most=most, unit=unit, full_size=True)
        for text, scene, wanted in (
            ("1,000 schedules on SQLite", "fire.1000", (4.0, 9.0, 25.0)),
            ("10,000 schedules on SQLite", "fire.10000", (12.0, 40.0, 50.0)),
        )
        for (name, unit), most in zip(
            (("p50", "ms late"), ("p99", "ms late"), ("cpu", "% of a core")), wanted, strict=True
        )
    ),
    Target("… the next times of a cron expression", f"scheduler/cron/{AIOTASKQ}:rate", at_least=30_000, unit="times/s"),
    _rate("schedules added, many at once: of APScheduler 3", "scheduler/add", "scheduler/add/APScheduler", 20),
    Target("import aiotaskq", f"startup/import/{AIOTASKQ}:ms", at_most=100.0, unit="ms"),
    Target("aiotaskq --help", f"startup/help/{AIOTASKQ}:ms", at_most=130.0, unit="ms"),
    Target("… to the first task in a new SQLite file", f"startup/first.sqlite/{AIOTASKQ}:ms", at_most=250.0, unit="ms"),
]

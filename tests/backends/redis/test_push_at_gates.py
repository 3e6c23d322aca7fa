"""Redis: the short script for pushes of tasks that only wait for a slot leaves the store as the long one does."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiotaskq.backends.base import Change
from aiotaskq.backends.redis import backend as module
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.at_gates import words_at_gates
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task
from tests.support.rows import LEASE, NOW, new
from tests.support.servers import Server, Valkey

CAP = Bounds(cap=2)
_seqs = itertools.count(NOW + 10)
_ids = itertools.count()


def row(key: str = "a", bounds: Bounds = CAP, due: int = NOW, **fields: Any) -> Task:
    values = {"task_id": f"t{next(_ids):05d}", "seq": next(_seqs), "flow": Flow(gates=((key, bounds),)), **fields}
    return parked(new(**values), due)


Before = Callable[[RedisBackend], Awaitable[object]]


async def nothing(backend: RedisBackend) -> None:
    pass


async def one_holds(backend: RedisBackend) -> None:
    await backend.push([row(task_id="first", seq=NOW, due=NOW - 9)])


async def one_shares(backend: RedisBackend) -> None:
    await backend.push([row(task_id="first", bounds=Bounds(window=2), seq=NOW, due=NOW - 9)])


async def some_wait(backend: RedisBackend) -> None:
    await backend.push([row(task_id=f"early{n}", seq=NOW + n, due=NOW - 9) for n in range(4)])


async def all_have_ended(backend: RedisBackend) -> None:
    await some_wait(backend)
    while tasks := await backend.claim("w", NOW + 1, 10, lease_until=LEASE):
        await backend.update([Change(task, settle(task, Completed(), NOW + 2)) for task in tasks])


async def is_paused(backend: RedisBackend) -> None:
    await backend.set_paused("default", True)


async def one_waits_in_a_paused_queue(backend: RedisBackend) -> None:
    await backend.set_paused("q", True)
    await backend.push([row(queue="q")])


def changed(**change: Any) -> Before:
    async def before(backend: RedisBackend) -> None:
        await backend.gates.change("a", GateChange(**change), NOW - 5)

    return before


async def opened_again(backend: RedisBackend) -> None:
    await one_holds(backend)
    await changed(closed_until=NOW + SECOND)(backend)
    await changed(closed_until=NOW - 5)(backend)


def three(**fields: Any) -> list[Task]:
    return [row(**fields) for _ in range(3)]


def shuffled() -> list[Task]:
    rows = [row(due=NOW - n % 3) for n in range(5)]
    random.Random(1).shuffle(rows)
    return rows


SHORT: dict[str, tuple[Before, Callable[[], list[Task]]]] = {
    "a new gate": (nothing, three),
    "one row": (nothing, lambda: [row()]),
    "many gates": (nothing, lambda: [row(f"g{n % 7}:é", Bounds(cap=n % 7)) for n in range(40)]),
    "a fair share": (nothing, lambda: [*three(bounds=Bounds(window=2)), row("b", Bounds(cap=3, window=2), NOW - 7)]),
    "other lanes": (nothing, lambda: [row("a", queue="q"), row("b", queue="p:é", priority=-3), row("c", priority=5)]),
    "not in claim order": (nothing, shuffled),
    "more than a command takes": (nothing, lambda: [row(f"g{n % 3}", Bounds(cap=1_000)) for n in range(4_100)]),
    "a slot is held": (one_holds, three),
    "a slot is held that would be needed": (one_holds, lambda: [row(), row()]),
    "a slot of a fair share is held": (one_shares, lambda: [row(bounds=Bounds(window=2), due=NOW - n) for n in (1, 2)]),
    "rows wait": (some_wait, three),
    "all slots are free again": (all_have_ended, three),
    "bounds of an operator": (changed(bounds={"cap": 1}), three),
    "a closed gate that is open again": (opened_again, three),
}

LONG: dict[str, tuple[Before, Callable[[], list[Task]]]] = {
    "a known id": (one_holds, lambda: [row(), row(task_id="first")]),
    "other bounds": (some_wait, lambda: three(bounds=Bounds(cap=3))),
    "bounds of an operator with a rate": (changed(bounds={"cap": None, "interval": 1_000}), three),
    "few may wait, an operator says": (changed(bounds={"cap": 1, "max_waiting": 5}), three),
    "a closed gate": (changed(closed_until=NOW + SECOND), three),
    "a paused queue": (is_paused, three),
    "rows of a paused queue wait": (one_waits_in_a_paused_queue, three),
}

NEVER: dict[str, Callable[[], list[Task]]] = {
    "no gate": lambda: [row(), new()],
    "two gates": lambda: [row(flow=Flow(gates=(("a", CAP), ("b", CAP))))],
    "a rate": lambda: three(bounds=Bounds(cap=2, interval=5)),
    "few may wait": lambda: three(bounds=Bounds(cap=2, max_waiting=4)),
    "no slots": lambda: three(bounds=Bounds()),
    "a delay": lambda: three(due=NOW + SECOND),
    "an expiry": lambda: three(expires_at=LEASE),
    "a key": lambda: [row(unique_key="u")],
    "a group": lambda: [row(flow=Flow(gates=(("a", CAP),), group="g"))],
    "two lanes at a gate": lambda: [row(), row(queue="q")],
    "bounds that differ": lambda: [row(), row(bounds=Bounds(cap=5))],
    "an id twice": lambda: [row(task_id="t"), row(task_id="t")],
    "a gate that it has passed": lambda: [row().replace(run_at=NOW, due_at=None)],
    "a started task": lambda: [row(fence=1)],
}


@pytest.fixture
def called(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> list[scripts.Script]:
    found: list[scripts.Script] = []
    original = backend._redis.evaluate

    async def evaluate(script: scripts.Script, *args: Any) -> Any:
        found.append(script)
        return await original(script, *args)

    monkeypatch.setattr(backend._redis, "evaluate", evaluate)
    return found


def kept(server: Server, prefix: str) -> dict[str, object]:
    """Every key of the store with its value."""
    assert isinstance(server, Valkey)
    found: dict[str, object] = {}
    for name in server.ask("KEYS", f"{{{prefix}}}:*"):
        match server.ask("TYPE", name).decode():
            case "hash":
                found[name.decode()] = server.ask("HGETALL", name)
            case "zset":
                found[name.decode()] = server.ask("ZRANGE", name, 0, -1, "WITHSCORES")
            case "set":
                found[name.decode()] = set(server.ask("SMEMBERS", name))
            case "string":
                found[name.decode()] = server.ask("GET", name)
    return found


@pytest.mark.parametrize("case", SHORT)
async def test_the_short_script_writes_what_the_long_one_does(
    case: str,
    backend: RedisBackend,
    server: Server,
    prefix: str,
    called: list[scripts.Script],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, make = SHORT[case]
    rows = make()

    async def push() -> dict[str, object]:
        await before(backend)
        called.clear()
        assert await backend.push(rows) == rows
        return kept(server, prefix)

    short = await push()
    assert called == [scripts.PUSH_AT_GATES]
    server.drop(prefix)
    await backend._redis.evaluate(scripts.OPEN, scripts.FORMAT)
    monkeypatch.setattr(module, "words_at_gates", lambda _tasks: None)
    long = await push()
    assert called == [scripts.PUSH_GATED]
    assert short == long


@pytest.mark.parametrize("case", LONG)
async def test_what_the_short_script_leaves_the_long_one_does(
    case: str, backend: RedisBackend, called: list[scripts.Script]
) -> None:
    before, make = LONG[case]
    await before(backend)
    rows = make()
    called.clear()
    stored = await backend.push(rows)
    assert called == [scripts.PUSH_AT_GATES, scripts.PUSH_GATED]
    assert [task.task_id for task in stored] == [task.task_id for task in rows]
    assert None not in await backend.get([task.task_id for task in rows])


@pytest.mark.parametrize("case", NEVER)
def test_other_pushes_do_not_try_the_short_script(case: str) -> None:
    assert words_at_gates(NEVER[case]()) is None

"""A process that crashes before or after any write: another one brings its work to the end of an undisturbed run.

The process is a TaskQ with a worker in virtual time. Its *n*-th write is not done, or done without an answer, and from
then on it reaches the store no more: what it was doing is lost with it. A second process starts an hour later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from aiotaskq import BatchFailed, Limit, Rate, TaskQ, current_batch, current_task
from aiotaskq.core.groups import CANCEL, FAIL, RUN
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.task import Task, new_task
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.testing import START, Kit, virtual
from tests.runtime.crashes import PROCESS, Process
from tests.testing.backoffs import STEADY

PARENTS = {"b": "a", "c": "b", "d": "c", "g": "e", "h": "f"}


class World:
    """What is outside of all processes: what the handlers did, and which pushes have returned."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.problems: list[str] = []
        self.acked: set[int] = set()
        self.latest: list[int] = []

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[None]:
        self.started.append(name)
        parent = PARENTS.get(name)
        if parent is not None and parent not in self.ended:
            self.problems.append(f"{name} started before {parent} had ended")
        try:
            yield
        finally:
            self.ended.append(name)


def register(kit: Kit, world: World) -> None:
    """The handlers: each writes down its runs and takes a second."""
    tq, at_work = kit.tq, Counter[str]()

    @tq.task(backoff=STEADY)
    async def step(name: str, fails: int = 0) -> str:
        with world.running(name):
            await kit.clock.sleep(1)
        if current_task().task.retry_count < fails:
            raise ConnectionError("not yet")
        return name

    @tq.task(limit=Limit(1, key="key", name="one of"), backoff=STEADY)
    async def limited(name: str, key: str, fails: int = 0) -> str:
        at_work[key] += 1
        if at_work[key] > 1:
            world.problems.append(f"{at_work[key]} of {key} at a time")
        with world.running(name):
            await kit.clock.sleep(1)
        at_work[key] -= 1
        if current_task().task.retry_count < fails:
            raise ConnectionError("not yet")
        return name

    @tq.task(rate=Rate(1, per=2.0, weight="tokens", burst=2))
    async def rated(name: str, tokens: int) -> str:
        with world.running(name):
            return name

    @tq.task
    async def done(name: str) -> list[str]:
        with world.running(name):
            return [str(each.status) for each in await current_task().results()]

    @tq.task(batch=3, within=0.5, backoff=STEADY)
    async def batched(items: list[str]) -> list[str]:
        contexts = current_batch()
        await kit.clock.sleep(1)
        again = {n for n, item in enumerate(items) if item == "fails" and contexts[n].task.retry_count == 0}
        if again:
            raise BatchFailed({n: ConnectionError("not yet") for n in again}, list(items))
        return list(items)

    @tq.task
    async def latest(value: int) -> int:
        world.latest.append(value)
        return value


def task_of(tq: TaskQ, kind: str, name: str, **params: Any) -> Task:
    handler = tq._registered.handlers[kind]
    retries = params.pop("retries", 2)
    task = new_task(kind, {"name": name, **params}, now=tq.queue.clock.now(), task_id=name, max_retries=retries)
    return task if handler.gating is None else handler.gating.gated(task)


def group_of(tq: TaskQ) -> Outline:
    """A group with limits, with a group in it that fails."""
    inner = Outline(
        group_id="inner",
        nodes=(
            Node("0", task_of(tq, "step", "i0")),
            Node("1", task_of(tq, "limited", "i1", key="y", fails=1, retries=0)),
        ),
        then=task_of(tq, "done", "never"),
        on_failure=task_of(tq, "done", "inner has failed"),
    )
    nodes = [Node(str(n), task_of(tq, "limited", f"m{n}", key="xy"[n % 2], fails=n == 1)) for n in range(3)]
    return Outline(
        group_id="outer",
        nodes=(*nodes, Node("3", inner)),
        then=task_of(tq, "done", "never"),
        on_failure=task_of(tq, "done", "outer has ended"),
    )


def graph_of(tq: TaskQ) -> Outline:
    """A chain of which one is retried, and two tasks whose parents fail."""
    after = {"b": {"a": CANCEL}, "c": {"b": CANCEL}, "d": {"c": CANCEL}, "g": {"e": RUN}, "h": {"f": FAIL}}
    nodes = [
        Node(name, task_of(tq, "step", name, fails=name in "bef", retries=2 * (name not in "ef")), after.get(name, {}))
        for name in "abcdefgh"
    ]
    return Outline(
        group_id="graph", nodes=tuple(nodes), named=True, on_failure=task_of(tq, "done", "the graph has ended")
    )


async def push(tq: TaskQ, number: int) -> bool:
    """Do the push with this number; False if there is none. A repeated one has the same ids."""
    match number:
        case 0:
            await tq.queue.backend.groups.push(plan(group_of(tq), tq.queue.clock.now()))
        case 1:
            await tq.queue.backend.groups.push(plan(graph_of(tq), tq.queue.clock.now()))
        case 2:
            await tq.queue.backend.push([task_of(tq, "rated", f"r{n}", tokens=1 + n % 2) for n in range(3)])
        case 3:
            for name in ("fails", "b1", "b2", "b3"):
                await tq.push("batched", {"items": name}, task_id=name)
        case 4 | 5 | 6:
            await tq.push("latest", {"value": number}, debounce=2.0, max_wait=10, key="k")
        case _:
            return False
    return True


async def live(process: Process, world: World, url: str, hours: int) -> None:
    """Push what was not acknowledged yet, and work until nothing is left to do or the process has crashed."""
    PROCESS.set(process)
    start = START + timedelta(hours=hours)
    options = {"lease": 30.0, "heartbeat": 8.0, "reap_interval": 10.0, "poll_interval": 5.0}
    with contextlib.suppress(DatabaseUnavailable):
        async with virtual(url=url, start=start, concurrency=4, scheduler=False, **options) as kit:
            register(kit, world)
            number = 0
            while number in world.acked or await push(kit.tq, number):
                world.acked.add(number)
                number += 1
                await kit.advance(0.1)
            for _ in range(60):
                await kit.advance(2)
                rows = await kit.tasks()
                if all(row.final for row in rows):
                    return
            world.problems += [f"{row.task_id} is {row.status}, waits {row.waits}" for row in rows if not row.final]


async def outcome(url: str, crashes: int) -> tuple[dict[str, Any], list[Any]]:
    """What is in the store when all is done: each task but the debounced ones, groups, and slots of gates."""
    async with TaskQ(url) as tq:
        rows = await tq.find(limit=1_000)
        groups = await tq.queue.backend.groups.get(["outer", "inner", "graph"])
        gates = await tq.queue.backend.gates.find()
    found: dict[str, Any] = {
        row.task_id: (row.type, row.status, row.result, row.retry_count) for row in rows if row.type != "latest"
    }
    assert max(row.crashes for row in rows) <= crashes
    last = [row for row in rows if row.type == "latest"]
    found["latest"] = {(row.status, row.unique_key) for row in last if row.status != "completed"}
    for group in groups:
        assert group is not None
        found[group.group_id] = (group.total, group.remaining, group.failed, group.cancelled, group.generation)
    return found, [(each.gate.key, each.held, each.waiting) for each in gates if each.held or each.waiting]


def run(make_url: Callable[[], str], *processes: Process) -> tuple[World, Any]:
    """Let processes live one after the other on an empty store."""
    world, url = World(), make_url()
    for hours, process in enumerate(processes):
        asyncio.run(live(process, world, url, hours))
    return world, asyncio.run(outcome(url, len(processes) - 1))


def check(make_url: Callable[[], str], written: bool, every: int = 1, crashes: int = 1) -> None:
    """Crash at each write, or at ``every`` so many; as many processes as ``crashes`` do that, one after the other."""
    undisturbed = Process()
    world, wanted = run(make_url, undisturbed)
    assert world.problems == [] and world.latest == [6]
    assert Counter(world.started).most_common(1)[0][1] == 2  # what was retried
    found, slots = wanted
    assert slots == []
    assert found["outer"] == (4, 0, 1, 0, 1) and found["graph"] == (8, 0, 3, 0, 1)
    assert "never" not in str(found)
    at = 0
    while at := at + every:
        processes = [Process(at, written=written) for _ in range(crashes)]
        world, came = run(make_url, *processes, Process())
        if not processes[0].dead:
            break
        assert world.problems == [], f"write {at}"
        assert came == wanted, f"write {at}"
        assert world.latest[-1] == 6, f"write {at}: {world.latest}"
    assert at > 50


@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("make_url", "every"), [("durable_fake", 3), ("sqlite", 15)], indirect=["make_url"])
def test_a_crash_at_any_write_changes_no_outcome(make_url: Callable[[], str], every: int, written: bool) -> None:
    check(make_url, written, every)


@pytest.mark.soak
@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("make_url", ["durable_fake", "sqlite"], indirect=True)
@pytest.mark.timeout(600)
def test_two_crashes_at_any_write_change_no_outcome(make_url: Callable[[], str], written: bool) -> None:
    check(make_url, written, crashes=2)

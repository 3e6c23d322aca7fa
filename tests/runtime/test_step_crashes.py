"""A handler with steps, sleeps and events in a process that crashes before or after any write."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from aiotaskq import EventTimeout, TaskQ, current_task, sleep_for, step, wait_event
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.testing import START, Kit, virtual
from tests.runtime.crashes import PROCESS, Process
from tests.testing.backoffs import STEADY


class World:
    """What is outside of all processes."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.effects: Counter[str] = Counter()
        self.seen: dict[str, set[Any]] = {}
        """By step, what the handler got of it."""
        self.acked: set[int] = set()

    def see(self, name: str, value: Any) -> Any:
        self.seen.setdefault(name, set()).add(value)
        return value


def register(kit: Kit, world: World) -> None:
    @kit.tq.task
    async def child(number: int) -> int:
        return number

    async def effect(name: str) -> int:
        world.effects[name] += 1
        return next(world.numbers)

    async def push() -> str:
        return (await child.push(number=next(world.numbers))).task_id

    @kit.tq.task(backoff=STEADY)
    async def order() -> list[Any]:
        for _ in range(2):
            world.see("charge", await step("charge", effect, "charge"))
        world.see("child", await step("child", push))
        if current_task().task.retry_count == 0:
            raise ConnectionError("not yet")
        await sleep_for("nag", minutes=5)
        approved = world.see("approved", await wait_event("approved"))
        try:
            await wait_event("never", timeout=300)
        except EventTimeout:
            world.see("late", True)
        return [approved, world.see("mail", await step("mail", effect, "mail"))]


async def live(process: Process, world: World, url: str, hours: int) -> None:
    """Do what was not acknowledged yet, and work until the order has ended or the process has crashed."""
    PROCESS.set(process)
    options: dict[str, Any] = {
        "lease": 300.0,
        "heartbeat": 100.0,
        "reap_interval": 100.0,
        "poll_interval": 100.0,
        "retention": None,
    }
    with contextlib.suppress(DatabaseUnavailable):
        start = START + timedelta(hours=hours)
        async with virtual(url=url, start=start, concurrency=4, scheduler=False, history=False, **options) as kit:
            register(kit, world)
            if 0 not in world.acked:
                await kit.tq.push("order", {}, task_id="order")
                world.acked.add(0)
            for number in range(24):
                if 1 not in world.acked and number == 10:
                    await kit.tq.emit("approved", 7)
                    world.acked.add(1)
                await kit.advance(40)
                if (await kit.tq.get("order")).final:
                    return


def run(make_url: Callable[[], str], *processes: Process) -> tuple[World, Any]:
    """Let processes live one after the other on an empty store; return the order as it is then, and the children."""
    world, url = World(), make_url()

    async def outcome() -> Any:
        async with TaskQ(url) as tq:
            children = await tq.find(limit=100)
            return await tq.get("order"), [task for task in children if task.type == "child"], await tq.steps("order")

    for hours, process in enumerate(processes):
        asyncio.run(live(process, world, url, hours))
    return world, asyncio.run(outcome())


@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("make_url", "every"), [("durable_fake", 1), ("sqlite", 6)], indirect=["make_url"])
def test_a_crash_at_any_write_repeats_one_step_at_most(make_url: Callable[[], str], every: int, written: bool) -> None:
    at = 0
    while True:
        crashed = Process(at, written=written)
        world, (task, children, steps) = run(make_url, crashed, *([Process()] if at else []))
        if at and not crashed.dead:
            break
        assert task.status == "completed", f"write {at}: {task.error_message}"
        assert (task.result[0], task.retry_count, len(children)) == (7, 1, 1), f"write {at}"
        found = {(each.kind, each.label): each.value for each in steps}
        assert [each.label for each in steps if each.kind == "step"] == ["charge", "charge#2", "child", "mail"]
        # Whatever a run has got of a step is what every other run gets.
        assert world.seen == {
            "charge": {found["step", "charge"], found["step", "charge#2"]},
            "child": {children[0].task_id},
            "approved": {7},
            "late": {True},
            "mail": {task.result[1]},
        }, f"write {at}"
        repeated = world.effects - Counter(charge=2, mail=1)
        assert repeated.total() <= (1 if at else 0), f"write {at}: {repeated}"
        at += every
    assert at > 15

"""The events of what follows from the ends of tasks: callbacks, cascades and groups."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from aiotaskq import TaskQ, Workflow, current_task
from aiotaskq.app.handle import TaskCall
from aiotaskq.runtime.hooks import NAMES, HookCall
from tests.support.machine import within

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'tasks.db'}"


def call(type: str, **params: Any) -> TaskCall[Any]:
    return TaskCall(type, params, {})


def listened(tq: TaskQ) -> list[tuple[str, str]]:
    """The names of all events, and the types of their tasks or the states of their groups."""
    heard: list[tuple[str, str]] = []

    def note(event: HookCall) -> None:
        what = event.task.type if event.task is not None else event.group.status if event.group is not None else ""
        heard.append((event.name, str(what)))

    for name in NAMES:
        tq.on(name, note)
    return heard


def app(url: str) -> TaskQ:
    tq = TaskQ(url)

    @tq.task(max_retries=0)
    async def charge(broken: bool = False) -> None:
        if broken:
            raise RuntimeError("no")

    @tq.task
    async def send() -> None:
        pass

    @tq.task
    async def report() -> None:
        pass

    @tq.task
    async def alert() -> None:
        pass

    return tq


async def test_callbacks_and_ends_of_groups_are_events(url: str) -> None:
    tq = app(url)
    heard = listened(tq)
    async with tq.running(concurrency=1):
        made = await tq.group([call("charge"), call("charge")], then=call("report"))
        await tq.queue.groups.wait(made.group_id, within(20))
        async with asyncio.timeout(within(20)):
            while ("completed", "report") not in heard or ("group_ended", "completed") not in heard:
                await asyncio.sleep(0)
    assert heard.count(("pushed", "report")) == 1
    assert heard.count(("group_ended", "completed")) == 1


async def test_what_a_failure_ends_is_an_event(url: str) -> None:
    tq = app(url)
    heard = listened(tq)
    order = Workflow(on_failure=call("alert"))
    order.add("charge", call("charge", broken=True))
    order.add("send", call("send"), after="charge")
    order.add("report", call("report"), after="send", on_failure="fail")
    order.add("last", call("charge"), after="report", on_failure="run")
    async with tq.running():
        made = await tq.start(order)
        send = await made.task("send")
        await tq.queue.wait_for_end(send.task_id, within(20))  # another one has ended it
        await tq.queue.groups.wait(made.group_id, within(20))
        async with asyncio.timeout(within(20)):
            while ("pushed", "alert") not in heard or ("group_ended", "failed") not in heard:
                await asyncio.sleep(0)
    assert heard.count(("cancelled", "send")) == heard.count(("failed", "report")) == 1
    assert heard.count(("failed", "charge")) == heard.count(("completed", "charge")) == 1
    assert [name for name, _ in heard].count("group_progress") >= 1


async def test_a_cancel_and_an_empty_group_are_events_before_the_close(url: str) -> None:
    tq = app(url)
    heard = listened(tq)
    async with tq:
        await tq.group([], then=call("report"))
        order = Workflow().add("charge", call("charge")).add("send", call("send"), after="charge")
        made = await tq.start(order)
        await (await made.task("charge")).cancel()
    assert heard.count(("group_ended", "completed")) == heard.count(("pushed", "report")) == 1
    assert heard.count(("cancelled", "charge")) == heard.count(("cancelled", "send")) == 1
    assert ("group_ended", "cancelled") in heard


async def test_added_members_are_events_once(url: str) -> None:
    tq = app(url)
    heard = listened(tq)

    @tq.task(max_retries=1, backoff=0)
    async def spread() -> None:
        await current_task().add_to_group([call("send"), call("send")])
        if current_task().task.retry_count == 0:
            raise RuntimeError("once")

    async with tq.running():
        made = await tq.group([call("spread")])
        await tq.queue.groups.wait(made.group_id, within(20))
    assert heard.count(("pushed", "send")) == 2


async def test_a_group_in_a_transaction_of_the_caller_is_an_event_at_its_commit(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    tq = app(url)
    heard = listened(tq)
    async with tq:
        engine = create_engine(url)
        with engine.connect() as connection:
            await tq.group([], then=call("report"), session=connection)
            await asyncio.sleep(0)
            assert heard == []
            connection.commit()
        engine.dispose()
        async with asyncio.timeout(within(20)):
            while len(heard) < 2:
                await asyncio.sleep(0)
    assert sorted(heard) == [("group_ended", "completed"), ("pushed", "report")]

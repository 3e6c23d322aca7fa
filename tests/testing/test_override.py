"""``override``: an application's own queue is replaced in a test, and put back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import aiotaskq.sync
from aiotaskq import TaskQ, current_task
from aiotaskq.core.task import Task
from aiotaskq.errors import QueueFull, ValidationError, WrongLoop
from aiotaskq.testing import Kit, VirtualClock, override, virtual
from aiotaskq.testing.harness import opened


async def test_override_replaces_and_restores_the_store(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/app.db", timezone="Asia/Shanghai", maxsize=2, when_full="raise")
    heard: list[str] = []

    @tq.task(queue="mails")
    async def mail(to: str) -> str:
        return to

    @tq.on("pushed")
    def told(event: Any) -> None:
        heard.append(event.task.params["to"])

    @tq.middleware
    async def around(task: Task, call_next: Callable[[Task], Any]) -> Any:
        return f"<{await call_next(task)}>"

    scheduler, before = tq._scheduler, dict(vars(tq))
    with override(tq) as pushes:
        await mail.push(to="ann")
        assert tq._scheduler is not scheduler
        await mail.push(to="bob")
        with pytest.raises(QueueFull):
            await mail.push(to="eve")
        assert tq.timezone == "Asia/Shanghai" and repr(tq) == "TaskQ('memory://durable-fake')"
        assert [task.status for task in await tq.find()] == ["pending", "pending"]  # no worker runs
    assert vars(tq) == before and not (tmp_path / "app.db").exists()
    assert [task.params["to"] for task in pushes.assert_pushed(mail, queue="mails", count=2)] == ["ann", "bob"]
    assert heard == ["ann", "bob"]
    async with virtual(tq) as kit:
        assert await (await mail.push(to="carl")).result() == "<carl>"
        with override(tq) as pushes:
            await mail.push(to="dora")
            assert [task.status for task in await tq.find()] == ["pending"]  # its workers stay with their store
        pushes.assert_pushed(mail, {"to": "dora"})
        kit.assert_pushed(mail, {"to": "carl"})
    assert vars(tq) == before


async def test_override_with_a_test_database(tmp_path: Path) -> None:
    tq = TaskQ("postgresql://nobody@localhost:1/nothing")

    @tq.task
    async def work() -> int:
        return 1

    async with virtual(tq, f"sqlite:///{tmp_path}/test.db"):
        assert await (await work.push()).result() == 1
    assert (tmp_path / "test.db").exists()


async def test_schedules_of_a_queue_in_memory_are_replaced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default they are in the process's database."""
    monkeypatch.chdir(tmp_path)
    tq = TaskQ("memory://")

    @tq.schedule(interval=10)
    @tq.task
    async def work() -> None: ...

    async with virtual(tq) as kit:
        await kit.advance(30)
        kit.assert_pushed(work, count=3)
    assert list(tmp_path.iterdir()) == []


def test_override_refuses_other_objects() -> None:
    with pytest.raises(ValidationError, match=r"override: an aiotaskq\.TaskQ is needed \(got str\)"):
        override("sqlite:///app.db").__enter__()  # type: ignore[arg-type]


def test_a_kit_belongs_to_one_loop() -> None:  # E12
    tq = TaskQ("sqlite:///never-opened.db")
    kits: list[Kit] = []

    @tq.task
    async def work() -> int:
        return 1

    async def first() -> None:
        async with virtual(tq) as kit:
            kits.append(kit)
            assert await (await work.push()).result() == 1
            with pytest.raises(WrongLoop, match="another event loop"):
                await asyncio.to_thread(asyncio.run, kit.drain())

    async def abandoned() -> None:
        with override(tq):
            await tq.open()
            await work.push()

    for _ in range(3):
        asyncio.run(first())
        asyncio.run(abandoned())
    assert len({id(kit.clock) for kit in kits}) == 3


async def test_a_debounced_task_is_recorded_as_its_last_call_has_made_it(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/app.db")
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")

    tq.elsewhere("other")

    @tq.task(debounce=5, merge="list", key="box")
    async def mail(box: int, readers: list[str]) -> None: ...

    with override(tq) as pushes:
        for reader in ("ann", "bob"):
            await mail.push(1, [reader])
        await tq.push_many([mail.call(1, ["eve"]), mail.call(2, ["zoe"])])
        async with AsyncSession(engine) as session:
            for reader in ("kim", "lou"):
                await mail.options(session=session).push(3, [reader])
            await session.execute(text("SELECT 1"))
            await session.commit()
        await tq.push("other", {}, unique_key="k")
        await tq.push("other", {"same": "key"}, unique_key="k")
    await engine.dispose()
    pushes.assert_pushed(mail, count=3)
    pushes.assert_pushed(mail, {"box": 1, "readers": ["ann", "bob", "eve"]}, count=1)
    pushes.assert_pushed(mail, {"box": 3, "readers": ["kim", "lou"]}, count=1)
    pushes.assert_pushed("other", {}, count=1)
    pushes.assert_not_pushed("other", {"same": "key"})


def test_the_queue_of_a_blocking_application(tmp_path: Path) -> None:
    tq = aiotaskq.sync.TaskQ(f"sqlite:///{tmp_path}/app.db")

    @tq.task
    def greet(name: str) -> str:
        return name

    with override(tq) as pushes:
        handle = greet.push(name="ann")
        tq.group([greet.call(name="bob")], then=greet.call(name="end"))
        with tq:
            assert handle.status() == "pending" and tq.count(type="greet") == 2
    pushes.assert_pushed(greet, count=2)
    pushes.assert_pushed(greet, {"name": "ann"}, count=1)
    assert not (tmp_path / "app.db").exists() and "app.db" in repr(tq)
    wrong: Any = tq
    refused = pytest.raises(ValidationError, match=r"for aiotaskq\.sync there is override")
    with refused, opened(Kit, wrong, None, clock=VirtualClock(0)):
        pass
    with tq:
        greet.push(name="real")
        assert tq.count(type="greet") == 1


@pytest.mark.parametrize("url", [None, "sqlite:///{}/app.db"])
async def test_a_transaction_sees_what_it_has_pushed(tmp_path: Path, url: str | None) -> None:
    """In the store of a test as in a database: keys, debounced calls, and the end of a task in a session."""
    tq = TaskQ(f"sqlite:///{tmp_path}/app.db")
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    lists: list[list[str]] = []

    @tq.task(debounce=5, merge="list", key="box")
    async def mail(box: int, readers: list[str]) -> None:
        lists.append(readers)

    @tq.task(max_retries=0)
    async def order(end: bool) -> int:
        async with AsyncSession(engine) as session:
            await current_task().complete(session, 17)
            await (session.commit() if end else session.rollback())
        return 0

    async with virtual(tq, url and url.format(tmp_path)) as kit:
        first = await mail.push(1, ["ann"])
        async with AsyncSession(engine) as session:
            added = [await mail.options(session=session).push(box, [f"bob {box}"]) for box in (1, 2, 2)]
            one, two, other = [
                await order.options(session=session, unique_key=key, delay=60).push(end=True) for key in "aab"
            ]
            assert (one.created, two.created, other.created) == (True, False, True)
            assert one.task_id == two.task_id and added[0].task_id == first.task_id
            assert [each.created for each in added] == [False, True, False]
            groups = [await tq.group([order.call(end=True)], group_id="g", session=session) for _ in range(2)]
            assert [each.created for each in groups] == [True, False]
            told = [await tq.emit("told", number, session=session) for number in (1, 2)]
            assert told == [True, False]
            assert len(await tq.find()) == 1
            await session.rollback()
            (again,) = await tq.push_many([order.options(unique_key="a").call(end=True)], session=session)
            assert again.created, "what was rolled back holds no key"
            await mail.options(session=session).push(1, ["eve"])
            await session.commit()
        assert (await first.task()).params["readers"] == ["ann", "eve"]
        await kit.drain()
        assert (await again.task()).result == 17
        lost = await order.push(end=False)
        await kit.drain()
        assert (await lost.task()).status == "failed", "it was completed in a transaction that was rolled back"
        await kit.advance(6)
    assert lists == [["ann", "eve"]]
    await engine.dispose()

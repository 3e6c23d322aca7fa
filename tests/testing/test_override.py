"""``override``: an application's own queue is replaced in a test, and put back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import QueueFull, TaskQ, ValidationError, WrongLoop
from aiotaskq.core.task import Task
from aiotaskq.testing import Kit, override, virtual


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

    scheduler, before = tq.scheduler, dict(vars(tq))
    with override(tq) as pushes:
        await mail.push(to="ann")
        assert tq.scheduler is not scheduler
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
    with pytest.raises(ValidationError, match=r"override: an aiotaskq\.TaskQ is needed \(got builtins\.str\)"):
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

"""Handlers in interpreters of their own, from Python 3.14 on."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from aiotaskq import TaskFailed, TaskQ
from aiotaskq.core.status import Status
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.hooks import HookCall
from tests.runtime.worker import computing
from tests.support.machine import within
from tests.support.waiting import eventually

needs_314 = pytest.mark.skipif(sys.version_info < (3, 14), reason="needs Python 3.14")


@pytest.fixture
def tq() -> TaskQ:
    return TaskQ("memory://")


def decorated() -> int:
    return 1


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="needs a Python before 3.14")
def test_an_older_python_is_told_at_the_registration(tq: TaskQ) -> None:
    with pytest.raises(ValidationError, match=r"executor: 'interpreter' needs Python 3\.14 \(this is 3\.1\d\)"):
        tq.task(executor="interpreter")(computing.double)


@needs_314
async def test_a_handler_runs_in_an_interpreter_of_its_own(tq: TaskQ) -> None:
    where = tq.task(executor="interpreter")(computing.interpreter)
    double = tq.task(executor="interpreter")(computing.double)
    async with tq.running(concurrency=2):
        assert await (await where.push()).result(within(60)) != computing.interpreter()
        assert await (await double.push(number=21)).result(within(60)) == 42


@needs_314
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("ValueError", "ValueError: as asked"),
        ("SystemExit", "the handler raised SystemExit: as asked"),
        ("StopIteration", "the handler raised StopIteration: as asked"),
    ],
)
async def test_what_a_handler_raises_fails_its_task_only(tq: TaskQ, kind: str, said: str) -> None:
    fails = tq.task(executor="interpreter", max_retries=3, retry_on=KeyError)(computing.fails)
    double = tq.task(executor="interpreter")(computing.double)
    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match=said):
            await (await fails.push(kind=kind)).result(within(60))
        assert await (await double.push(number=1)).result(within(60)) == 2


@needs_314
async def test_a_result_that_cannot_leave_its_interpreter_is_told(tq: TaskQ) -> None:
    odd = tq.task(executor="interpreter", max_retries=0)(computing.odd)
    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match="NotShareableError"):
            await (await odd.push()).result(within(60))


@needs_314
def test_what_no_interpreter_could_load_is_refused_at_the_registration(tq: TaskQ) -> None:
    with pytest.raises(ValidationError, match="cannot be found by another interpreter"):
        tq.task(executor="interpreter")(lambda: 1)
    with pytest.raises(ValidationError, match=r"decorated cannot be loaded .*since 'TaskFailed' in its module"):
        tq.task(executor="interpreter")(decorated)


@needs_314
async def test_late_interpreters_hold_their_slots_and_are_counted(
    tq: TaskQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    alarms: list[HookCall] = []
    tq.on("exhausted", alarms.append)
    hold = tq.task(executor="interpreter", timeout=0.5, max_retries=0)(computing.hold)
    async with tq.running(concurrency=6), asyncio.timeout(within(60)):
        assert tq.worker is not None
        handles = [await hold.push(folder=str(tmp_path)) for _ in range(3)]
        await eventually(lambda: len(alarms) == 1)
        await eventually(lambda: tq.worker.occupancy().busy == 1)
        held = tq.worker.occupancy()
        assert (held.interpreters, held.overdue_interpreters, held.processes) == (1, 1, 0)
        (tmp_path / "release").touch()
        for handle in handles:
            with pytest.raises(TaskFailed, match=r"timed out after 0\.5 s"):
                await handle.result()
    assert len(list(tmp_path.glob("began-*"))) == 1


@needs_314
async def test_a_cancel_waits_for_the_handler(tq: TaskQ, tmp_path: Path) -> None:
    hold = tq.task(executor="interpreter")(computing.hold)
    async with tq.running(concurrency=1), asyncio.timeout(within(60)):
        handle = await hold.push(folder=str(tmp_path))
        await eventually(lambda: bool(list(tmp_path.glob("began-*"))))
        assert await handle.cancel()
        assert (await handle.task()).status is Status.RUNNING
        (tmp_path / "release").touch()
        await handle.result()  # as that of a thread: the handler has done its work

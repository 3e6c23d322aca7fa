"""Handlers in threads and in processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from aiotaskq import TaskFailed, TaskQ, current_task
from aiotaskq.app.internal import RunOptions, internal
from aiotaskq.core.status import Status
from aiotaskq.errors import ValidationError
from aiotaskq.types import ExitCode
from tests.support.machine import within
from tests.support.programs import ROOT
from tests.support.waiting import eventually


@pytest.mark.parametrize("kind", ["StopIteration", "SystemExit", "KeyboardInterrupt"])
async def test_an_exit_of_the_program_is_a_failure_in_a_thread(tq: TaskQ, kind: str) -> None:
    @tq.task(max_retries=0)
    def legacy() -> None:
        raise {"StopIteration": StopIteration, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[kind]

    @tq.task
    async def quick() -> int:
        return 1

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match=f"the handler raised {kind}"):
            await (await legacy.push()).result(within(30))
        assert await (await quick.push()).result(within(30)) == 1


async def test_an_exception_outside_of_exception_fails_its_task_only(tq: TaskQ) -> None:
    class Stop(BaseException):
        pass

    @tq.task(max_retries=0)
    async def odd() -> None:
        raise Stop("now")

    @tq.task
    async def quick() -> int:
        return 1

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match="Stop: now"):
            await (await odd.push()).result(within(30))
        assert await (await quick.push()).result(within(30)) == 1


in_processes = TaskQ("memory://")


@in_processes.task(executor="process", max_retries=0)
def dies() -> None:
    os._exit(3)


async def test_a_handler_that_takes_its_process_down_is_poison_and_harms_no_other() -> None:  # A4
    async with in_processes.running(concurrency=1):
        with pytest.raises(TaskFailed, match="poison"):
            await (await dies.push()).result(within(60))
        assert await (await process_id.push()).result(within(30)) != os.getpid()


@in_processes.task(executor="process", max_retries=0)
def process_id(fail: bool = False) -> int:
    if fail:
        current_task()
    return os.getpid()


async def test_process_executor() -> None:
    async with in_processes.running(concurrency=1):
        assert await (await process_id.push()).result(within(30)) != os.getpid()
        with pytest.raises(TaskFailed, match=r"NotFound: current_task\(\): there is no task in a process of its own"):
            await (await process_id.push(fail=True)).result(within(30))
    with pytest.raises(ValidationError, match="cannot be found by another process"):
        in_processes.task(executor="process")(lambda: 1)


ORPHANED = """
import asyncio
from tests.runtime.worker.test_executors import in_processes, process_id

async def main():
    async with in_processes.running(concurrency=1):
        print(await (await process_id.push()).result(), flush=True)
        await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_child_processes_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:  # A4
    (tmp_path / "orphaned.py").write_text(ORPHANED)
    worker = await asyncio.create_subprocess_exec(
        sys.executable, tmp_path / "orphaned.py", cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=PIPE
    )
    assert worker.stdout is not None
    async with asyncio.timeout(within(60)):
        child = int(await worker.stdout.readline())
        worker.kill()
        await worker.wait()
    try:
        async with asyncio.timeout(within(10)):
            assert await worker.stdout.read() == b""  # at its end: the child, too, has let go of the pipe
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        raise


async def test_child_processes_ended_by_a_stop_are_no_crash(tmp_path: Path) -> None:  # D7
    from concurrent.futures.process import BrokenProcessPool

    tq = TaskQ(f"sqlite:///{tmp_path}/pool.db", poll_interval=0.05)
    started, die = asyncio.Event(), asyncio.Event()

    @tq.task
    async def in_a_process() -> None:
        started.set()
        await die.wait()
        raise BrokenProcessPool("its process was signalled, too")

    async with tq:
        handle = await in_a_process.push()
        stop = asyncio.Event()
        running = asyncio.ensure_future(internal(tq).run_until(stop, RunOptions(1)))
        await started.wait()
        stop.set()
        await eventually(lambda: tq.worker is not None and tq.worker.runner.stopping)
        die.set()
        assert await running is ExitCode.RELEASED
        await tq.open()
        task = await handle.task()
    assert (task.status, task.crashes, task.retry_count) == (Status.PENDING, 0, 0)

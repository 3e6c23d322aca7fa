"""A SQLite store in other event loops, forked children, killed processes and scripts that never close it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.core.task import TaskFilter
from aiotaskq.errors import (
    WrongLoop,
)
from tests.backends.sql.sqlite.stores import ENV, assert_lock_free
from tests.support import nursery
from tests.support.machine import within
from tests.support.rows import NOW, new


async def test_a_second_loop_is_refused(backend: SqlBackend) -> None:  # E12
    await backend.push([new()])

    def in_another_loop() -> str:
        async def use() -> str:
            async with asyncio.timeout(within(30)):
                with pytest.raises(WrongLoop) as raised:
                    await backend.push([new()])
                with pytest.raises(WrongLoop):
                    await backend.open()
            return str(raised.value)

        return asyncio.run(use())

    message = await asyncio.to_thread(in_another_loop)
    assert "is open in another event loop; make one object per loop" in message
    await backend.push([new()])  # the first is none the worse
    assert (await backend.stats(NOW)).ready == 2
    await backend.close()

    async def after_the_close() -> int:
        await backend.open()
        ready = (await backend.stats(NOW)).ready
        await backend.close()
        return ready

    assert await asyncio.to_thread(lambda: asyncio.run(after_the_close())) == 2


def collect(*functions: Any) -> None:
    """Drop what these closures refer to now, while its warning is ignored."""
    for function in functions:
        for cell in function.__closure__:
            with contextlib.suppress(AttributeError):
                cell.cell_contents.database._connections = None
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("closed", [True, False])
def test_the_next_loop_opens_it_afresh(url: str, path: Path, closed: bool) -> None:  # E12
    backend = SqlBackend(url)

    async def use() -> int:
        async with asyncio.timeout(within(30)):
            await backend.open()
            await backend.push([new()])
            ready = (await backend.stats(NOW)).ready
            if closed:
                await backend.close()
            return ready

    assert [asyncio.run(use()) for _ in range(3)] == [1, 2, 3]
    assert_lock_free(path)
    collect(use)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_loop_that_ends_in_the_middle_leaves_no_lock(url: str, path: Path) -> None:  # E5, F3
    backend = SqlBackend(url)

    async def leave(delay: float) -> None:
        await backend.open()
        pushes = [asyncio.ensure_future(backend.push([new() for _ in range(300)])) for _ in range(3)]
        await asyncio.sleep(delay)
        del pushes

    for delay in (0, 0.001, 0.002, 0.004, 0.008, 0.016):
        asyncio.run(leave(delay))
        assert_lock_free(path)

    async def count() -> int:
        async with asyncio.timeout(within(30)):
            ready = (await backend.stats(NOW)).ready
            await backend.close()
            return ready

    assert asyncio.run(count()) % 300 == 0
    collect(leave)


FORK = """
import asyncio, os, sys
from aiotaskq.backends import connect
from aiotaskq.core.task import new_task

backend = connect(sys.argv[1])
loop = asyncio.new_event_loop()
push = lambda name: backend.push([new_task(name, now=1)])
loop.run_until_complete(push("before"))
pids = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        asyncio.run(push(f"child-{number}"))
        sys.exit(0)
    pids.append(pid)
for number in range(5):
    loop.run_until_complete(push("parent"))
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
loop.run_until_complete(push("after"))
loop.run_until_complete(backend.close())
loop.close()
"""


def run_script(script: str, *args: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    env = {**ENV, "PYTHONWARNINGS": "ignore"}
    return nursery.run(
        [sys.executable, "-c", script, *args], env=env, capture_output=True, text=True, timeout=within(timeout)
    )


async def test_a_forked_child_makes_connections_of_its_own(url: str, path: Path) -> None:  # E1, E2
    done = run_script(FORK, url)
    assert (done.returncode, done.stderr) == (0, "")
    backend = SqlBackend(url)
    names = sorted(task.type for task in await backend.find(TaskFilter(), 100))
    assert names == ["after", "before", "child-0", "child-1", "child-2", *["parent"] * 5]
    await backend.close()
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    raw.close()


PUSHER = """
import asyncio, sys
from aiotaskq.backends import connect
from aiotaskq.core.task import new_task

async def main(url):
    backend = connect(url)
    while True:
        (task,) = await backend.push([new_task("t", {"x": "y" * 300}, now=1)])
        print(task.task_id, flush=True)  # acknowledged

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
async def test_what_was_acknowledged_survives_kill_9(url: str, path: Path) -> None:
    acknowledged: list[str] = []
    for lines in (3, 17, 41):
        process = nursery.Popen(
            [sys.executable, "-c", PUSHER, url], stdout=subprocess.PIPE, env=ENV, text=True, bufsize=1
        )
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split("\n")[:-1]  # a last line that was cut is no answer
        process.wait()
        process.stdout.close()
    assert len(acknowledged) >= 61
    backend = SqlBackend(url)
    there = await backend.get(acknowledged)
    assert None not in there
    # At most the push in flight of each process is there without its answer having been read.
    assert len(acknowledged) <= (await backend.stats(NOW)).ready <= len(acknowledged) + 3
    await backend.close()
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    raw.close()


END = """
import asyncio, sys
from aiotaskq.backends import connect
from aiotaskq.core.task import new_task

async def main(url, how):
    backend = connect(url)
    await backend.push([new_task(how, now=1)])
    if how == "exit":
        sys.exit(3)
    if how == "error":
        raise SystemError("on purpose")

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("exit", 3), ("error", 1)])
async def test_a_script_that_never_closes_ends(url: str, how: str, code: int) -> None:  # E5
    begin = time.monotonic()
    done = run_script(END, url, how)
    assert time.monotonic() - begin < within(8)
    assert done.returncode == code
    if how == "error":
        assert done.stderr.strip().endswith("SystemError: on purpose")
        assert done.stderr.count("Traceback") == 1
    else:
        assert done.stderr == ""
    backend = SqlBackend(url)
    assert [task.type for task in await backend.find(TaskFilter(), 5)] == [how]
    await backend.close()

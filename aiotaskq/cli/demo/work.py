"""The demo's handlers: what its tasks do."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiotaskq.app.handle import TaskFunction
from aiotaskq.app.taskq import TaskQ
from aiotaskq.runtime.context import current_task

QUEUE = "demo"
FILE, FLAKY, BROKEN, REPORT, TWO_SECONDS, ONCE, LEGACY = (
    f"demo.{name}" for name in ("file", "fails_twice", "fails_always", "report", "two_seconds", "once", "legacy")
)
LEDGER = "AIOTASKQ_DEMO_LEDGER"
"""Environment variable: a file to which the path of each finished file is added. For tests of what runs twice."""
_BLOCK = 256 * 1024


class Handlers:
    """The registered handlers that the demo pushes itself."""

    def __init__(self, tq: TaskQ, folder: Path, pause: float, report: Callable[[], None]) -> None:
        ledger = os.environ.get(LEDGER)

        @tq.task(name=FILE, queue=QUEUE)
        def file(path: str) -> dict[str, Any]:
            """Runs in a thread: it is a ``def``."""
            result = squeeze(folder / path)
            time.sleep(pause)
            if ledger:
                with open(ledger, "a", encoding="utf-8") as out:
                    out.write(f"{path}\n")
            return result

        @tq.task(name=FLAKY, queue=QUEUE, max_retries=3, backoff=0.2)
        async def fails_twice() -> str:
            attempt = current_task().task.retry_count + 1
            if attempt < 3:
                raise ConnectionError(f"attempt {attempt} fails on purpose; the third will do")
            return f"done at attempt {attempt}"

        @tq.task(name=BROKEN, queue=QUEUE, max_retries=1, backoff=0.2)
        async def fails_always() -> None:
            raise RuntimeError("this task fails on purpose: look at it among the dead letters")

        # Before the files in the queue, or the report of the first second would come after the last file.
        @tq.task(name=REPORT, queue=QUEUE, priority=-1)
        async def every_second() -> None:
            report()

        @tq.task(name=TWO_SECONDS, queue=QUEUE, priority=-1)
        async def two_seconds() -> None:
            pass

        @tq.task(name=ONCE, queue=QUEUE, priority=-1)
        async def once() -> None:
            pass

        @tq.task(name=LEGACY, queue=QUEUE)
        def legacy(number: int) -> int:
            return number * number

        self.file: TaskFunction[..., Any, dict[str, Any]] = file
        self.fails_twice: TaskFunction[..., Any, str] = fails_twice
        self.fails_always: TaskFunction[..., Any, None] = fails_always


def squeeze(path: Path) -> dict[str, Any]:
    """Hash, measure and compress a file in memory, block by block; a file that cannot be read any more is skipped."""
    digest = hashlib.sha256()
    gzip = zlib.compressobj(level=6, wbits=31)  # 31: with the header of a .gz file
    size = compressed = 0
    try:
        with open(path, "rb") as source:
            while block := source.read(_BLOCK):
                digest.update(block)
                size += len(block)
                compressed += len(gzip.compress(block))
    except OSError as error:
        return {"skipped": str(error.strerror)}
    return {"bytes": size, "gzip_bytes": compressed + len(gzip.flush()), "sha256": digest.hexdigest()}


def push_as_before(url: str, run: str, count: int) -> list[str]:
    """Push tasks as dicts, blocking, as an old script does in its thread; return their ids.

    One that an earlier process of this run has brought to its end is not pushed again: it would run again.
    """
    from aiotaskq.sync import DatabaseQueue, NotFound

    queue = DatabaseQueue(url)
    ids = [f"{run}-legacy-{number}" for number in range(1, count + 1)]
    try:
        for number, task_id in enumerate(ids, 1):
            try:
                ended = queue.get(task_id).final
            except NotFound:
                ended = False
            if not ended:
                queue.push_task({"type": LEGACY, "params": {"number": number}, "task_id": task_id, "queue": QUEUE})
        return ids
    finally:
        queue.close()

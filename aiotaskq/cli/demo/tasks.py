"""The demo's handlers, and the blocking script that pushes some of its tasks."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.demo.files import BROKEN, FILE, FILES, FLAKY, OTHERS, REPORT, SQUARE, TICK
from aiotaskq.runtime.context import current_task
from aiotaskq.sync.taskq import TaskQ as BlockingTaskQ

LEDGER = "AIOTASKQ_DEMO_LEDGER"
"""Environment variable: a file to which the path of each finished file is added. For tests of what runs twice."""


def register(tq: TaskQ, folder: Path, pause: float, report: Callable[[], None]) -> None:
    """Register the handlers; each file takes ``pause`` seconds longer, and a schedule calls ``report``."""
    ledger = os.environ.get(LEDGER)

    @tq.task(name=FILE, queue=FILES)
    def file(path: str) -> dict[str, Any]:  # a def: it runs in a thread
        try:
            with open(folder / path, "rb") as source:
                result = {"sha256": hashlib.file_digest(source, "sha256").hexdigest(), "bytes": source.tell()}
        except OSError as error:  # it was there when the folder was searched
            result = {"skipped": str(error.strerror)}
        time.sleep(pause)
        if ledger:
            with open(ledger, "a", encoding="utf-8") as out:
                out.write(f"{path}\n")
        return result

    @tq.task(name=FLAKY, queue=OTHERS, max_retries=3, backoff=0.2)
    async def fails_twice() -> str:
        attempt = current_task().task.retry_count + 1
        if attempt < 3:
            raise ConnectionError(f"attempt {attempt} fails on purpose; the third will do")
        return f"done at attempt {attempt}"

    @tq.task(name=BROKEN, queue=OTHERS, max_retries=1, backoff=0.2)
    async def fails_always() -> None:
        raise RuntimeError("this task fails on purpose: look at it among the dead letters")

    @tq.task(name=REPORT, queue=OTHERS)
    async def every_second() -> None:
        report()

    @tq.task(name=TICK, queue=OTHERS)
    async def tick() -> None:
        pass

    @tq.task(name=SQUARE, queue=OTHERS)
    def square(number: int) -> int:
        return number * number


def push_blocking(url: str, run: str, count: int) -> list[str]:
    """Push tasks as a script without asyncio does; return their idempotency keys."""
    keys = [f"{run}-square-{number}" for number in range(1, count + 1)]
    with BlockingTaskQ(url) as tq:
        for number, key in enumerate(keys, 1):
            tq.push(SQUARE, {"number": number}, queue=OTHERS, idempotency_key=key)
    return keys

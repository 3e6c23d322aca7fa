"""A handler that keeps log records, and one run of a task."""

from __future__ import annotations

import logging
from typing import Any

from aiotaskq import TaskQ
from tests.support.machine import within

SECRET = "S3CRET"


class Kept(logging.Handler):
    """A handler of the standard library that keeps formatted records."""

    def __init__(self) -> None:
        super().__init__(0)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(module)s %(message)s"))
        self.written: list[str] = []
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.written.append(self.format(record))


async def run_one(tq: TaskQ, handler: Any, **params: Any) -> str:
    async with tq.running(concurrency=2):
        task_id: str = (await handler.push(**params)).task_id
        await tq.queue.wait_for_end(task_id, within(30))
    return task_id

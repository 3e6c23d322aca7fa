"""Tasks for worker processes: I/O in coroutines, blocking code in threads, work for the CPU in processes, a resource.

`aiotaskq run app:tq --concurrency 20 --processes 2` runs workers; `python app.py` pushes, runs workers itself and
prints the results.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiotaskq import Backoff, TaskQ, injected
from aiotaskq.types import HookCall, Task

tq = TaskQ("sqlite:///work.db")


class Mailer:
    """A connection that the handlers of a worker share."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, to: str) -> None:
        """Send a mail."""
        self.sent.append(to)


@tq.resource
async def mailer() -> AsyncIterator[Mailer]:
    """Open the connection when a worker starts; after the yield, it would be closed."""
    yield Mailer()


@tq.task(queue="mail", max_retries=5, backoff=Backoff(base=2, limit=600), timeout=30)
async def send_mail(to: str, mailer: Mailer = injected()) -> str:
    """Wait for the network in a coroutine: many at a time."""
    await mailer.send(to)
    return f"sent to {to}"


@tq.task
def read_slowly(seconds: float) -> str:
    """Call blocking code in a thread."""
    time.sleep(seconds)
    return "read"


@tq.task(executor="process", priority=10)
def digest(text: str) -> str:
    """Use the CPU in a process of its own."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@tq.middleware
async def measured(task: Task, call_next: Callable[[Task], Awaitable[Any]]) -> Any:
    """Wrap each run."""
    began = time.perf_counter()
    try:
        return await call_next(task)
    finally:
        slow = time.perf_counter() - began > 60
        if slow:
            print(f"{task.type} was slow")


@tq.on("failed")
def tell(event: HookCall) -> None:
    """Hear of dead letters."""
    print(f"dead letter: {event.task}")


async def main() -> None:
    """Push three tasks and print their results."""
    async with tq.running(concurrency=10):
        handles = [await send_mail.push(to="ann@example.com"), await read_slowly.push(0.01), await digest.push("text")]
        print(await asyncio.gather(*(handle.result(timeout=60) for handle in handles)))


if __name__ == "__main__":
    asyncio.run(main())

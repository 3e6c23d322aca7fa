"""A middleware wraps each run, and a hook hears of each end: ``python hook.py``."""

import asyncio
from typing import Any

from aiotaskq import TaskQ

tq = TaskQ("memory://")
told = asyncio.Event()
tq.on("completed", lambda event: told.set())  # "failed" hears of dead letters


@tq.middleware
async def around(task: Any, call_next: Any) -> Any:
    return f"{task.type}: {await call_next(task)}"


@tq.task
async def greet() -> str:
    return "Hello!"


async def main() -> None:
    async with tq.running():
        print(await (await greet.push()).result(timeout=10))
        await told.wait()


asyncio.run(main())

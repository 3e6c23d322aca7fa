"""A handler says when it runs again, and why: ``python retry_after.py``."""

import asyncio

from aiotaskq import Retry, TaskQ, current_task

tq = TaskQ("memory://")


@tq.task(max_retries=5)
async def fetch() -> str:
    if current_task().task.retry_count == 0:
        raise Retry("429 Too Many Requests", after=0.2)
    return "fetched"


async def main() -> None:
    async with tq.running():
        handle = await fetch.push()
        await handle.result(timeout=10)
        for attempt in await handle.attempts():
            print(attempt.number, attempt.outcome, attempt.error)


asyncio.run(main())

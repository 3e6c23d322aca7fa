"""A handler that raises runs again, with growing pauses: ``python retry.py``."""

import asyncio

from aiotaskq import Backoff, TaskQ, current_task

tq = TaskQ("memory://")


@tq.task(max_retries=5, backoff=Backoff(base=0.1, factor=2), retry_on=(ConnectionError,))
async def fetch() -> str:
    if (failures := current_task().task.retry_count) < 2:
        raise ConnectionError("not yet")
    return f"fetched after {failures} failures"


async def main() -> None:
    async with tq.running():
        print(await (await fetch.push()).result(timeout=10))


asyncio.run(main())

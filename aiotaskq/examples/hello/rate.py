"""At most ten tasks a second begin: ``python rate.py``."""

import asyncio
import time

from aiotaskq import Rate, TaskQ

tq = TaskQ("memory://")


@tq.task(rate=Rate(10, per=1))
async def call() -> float:
    return time.monotonic()


async def main() -> None:
    handles = [await call.push() for _ in range(5)]
    async with tq.running(concurrency=10):
        times = [await handle.result(timeout=10) for handle in handles]
    print("spread:", times[-1] - times[0] > 0.3)


asyncio.run(main())

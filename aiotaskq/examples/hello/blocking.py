"""A plain function runs in a thread, or in a process: ``python blocking.py``."""

import asyncio
import time

from aiotaskq import TaskQ

tq = TaskQ("memory://")


@tq.task
def wait() -> str:
    time.sleep(0.1)
    return "the event loop was free"


@tq.task(executor="process")
def count(n: int) -> int:
    return sum(range(n))


async def main() -> None:
    async with tq.running():
        print(await (await wait.push()).result(timeout=10))
        print(await (await count.push(n=1_000)).result(timeout=30))


if __name__ == "__main__":
    asyncio.run(main())

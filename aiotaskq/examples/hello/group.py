"""Many tasks side by side, and one when all have ended: ``python group.py``."""

import asyncio

from aiotaskq import TaskQ, current_task

tq = TaskQ("memory://")


done = asyncio.Event()


@tq.task
async def price(product: int) -> int:
    return product * 100


@tq.task
async def report() -> None:
    print("sum:", sum([each.result for each in await current_task().results()]))
    done.set()


async def main() -> None:
    async with tq.running():
        await tq.group([price.call(n) for n in range(10)], then=report.call())
        await done.wait()


asyncio.run(main())

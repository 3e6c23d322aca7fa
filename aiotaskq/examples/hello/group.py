"""Many tasks side by side, and one that gets their results: ``python group.py``."""

import asyncio

from aiotaskq import TaskQ, injected

tq = TaskQ("memory://")


@tq.task
async def price(product: int) -> int:
    return product * 100


@tq.task
async def report(results: list[int] = injected()) -> str:
    return f"sum: {sum(results)}"


async def main() -> None:
    async with tq.running():
        group = await tq.group([price.call(n) for n in range(10)], then=report.call())
        print(await group.result(timeout=10))


asyncio.run(main())

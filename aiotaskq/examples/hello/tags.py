"""Tags: names with values by which tasks are found: ``python tags.py``."""

import asyncio

from aiotaskq import TaskQ

tq = TaskQ("memory://")


@tq.task(tags={"team": "shop"})
async def bill(order: int) -> str:
    return f"bill {order}"


async def main() -> None:
    async with tq.running():
        for order in (17, 18):
            handle = await bill.options(tags={"order": str(order)}).push(order=order)
            await handle.result(timeout=60)
    (task,) = await tq.find(tags={"order": "18"})
    print(task.result, task.tags)
    print(await tq.count(tags={"team": "shop"}))


asyncio.run(main())

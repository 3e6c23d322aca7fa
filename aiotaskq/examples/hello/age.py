"""What has waited for long goes first, whatever its priority: ``python age.py``."""

import asyncio

from aiotaskq import TaskQ

tq = TaskQ("memory://", reap_interval=0.1)
ran: list[str] = []


@tq.task(priority=9, age=0.5)
async def report() -> None:
    ran.append("report")


@tq.task
async def order() -> None:
    await asyncio.sleep(0.1)
    ran.append("order")


async def main() -> None:
    handles = await tq.push_many([report.call(), *[order.call() for _ in range(30)]])
    async with tq.running(concurrency=1):
        for handle in handles:
            await handle.result(timeout=60)
    print("the report has run before the last order:", ran[-1] == "order")


asyncio.run(main())

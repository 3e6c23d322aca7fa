"""An event pushes a task of each handler that has subscribed to it: ``python subscribe.py``."""

import asyncio

from aiotaskq import TaskQ

tq = TaskQ("memory://")
done = asyncio.Event()


@tq.task(on="order.placed")
async def mail(order: dict[str, str]) -> None:
    print("mail to", order["name"])


@tq.task(on="order.placed", priority=1)
async def ship(order: dict[str, str], key: str) -> None:
    print("ship", key)
    done.set()


async def main() -> None:
    await tq.emit("order.placed:17", {"name": "Ann"})
    async with tq.running(concurrency=1):
        await done.wait()


asyncio.run(main())

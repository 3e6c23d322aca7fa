"""A task waits for an event, for days if need be: ``python event.py``."""

import asyncio

from aiotaskq import TaskQ, wait_event

tq = TaskQ("memory://")


@tq.task
async def order(number: int) -> str:
    approval = await wait_event(f"approved:{number}", timeout=7 * 86_400)
    return f"approved by {approval['by']}"


async def main() -> None:
    async with tq.running():
        handle = await order.push(number=17)
        await tq.emit("approved:17", {"by": "Ann"})
        print(await handle.result(timeout=10))


asyncio.run(main())

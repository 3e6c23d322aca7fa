"""Of the calls with the same value one waits: ``python unique.py``."""

import asyncio

from aiotaskq import TaskQ

tq = TaskQ("memory://")


@tq.task(unique="customer", unique_while="pending")
async def bill(customer: str) -> str:
    return f"bill of {customer}"


async def main() -> None:
    async with tq.running():
        first, again, other = await tq.push_many([bill.call("ann"), bill.call("ann"), bill.call("bob")])
        print(first.created, again.created, other.created)
        print(await again.result(timeout=10))


asyncio.run(main())

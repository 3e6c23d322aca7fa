"""At most one task of a tenant at a time, in all processes: ``python limit.py``."""

import asyncio

from aiotaskq import Limit, TaskQ

tq = TaskQ("memory://")


running: list[str] = []


@tq.task(limit=Limit(1, key="tenant"))
async def export(tenant: str) -> None:
    running.append(tenant)
    print(tenant, "alone:", running.count(tenant) == 1)
    await asyncio.sleep(0.1)
    running.remove(tenant)


async def main() -> None:
    handles = [await export.push(tenant=tenant) for tenant in ("ann", "ann", "bob")]
    async with tq.running(concurrency=10):
        for handle in handles:
            await handle.result(timeout=10)


asyncio.run(main())

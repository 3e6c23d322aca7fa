"""One task after the other; each gets the result before it: ``python chain.py``."""

import asyncio

from aiotaskq import Parent, TaskQ, chain, injected

tq = TaskQ("memory://")


@tq.task
async def load(name: str) -> str:
    return name.upper()


@tq.task
async def save(parent: Parent[str] = injected()) -> str:
    return f"saved {parent.result}"


async def main() -> None:
    async with tq.running():
        group = await tq.start(chain(load.call("book"), save.call()))
        print(await group.result(timeout=10))


asyncio.run(main())

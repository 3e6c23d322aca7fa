"""Run a task later, and one before others: ``python delay.py``."""

import asyncio

from aiotaskq import TaskQ

tq = TaskQ("memory://")


@tq.task
async def say(what: str) -> None:
    print(what)


async def main() -> None:
    late = await say.options(delay=1).push(what="a second later")
    await say.push(what="second")
    await say.options(priority=-1).push(what="first: the smaller number")
    async with tq.running(concurrency=1):
        await late.result(timeout=10)


asyncio.run(main())

"""Run a task on a schedule: ``python cron.py`` waits for the next second."""

import asyncio

from aiotaskq import TaskQ

tq = TaskQ("memory://")


ticked = asyncio.Event()


@tq.schedule(cron="* * * * * *")  # with six fields the first one is seconds
async def tick() -> None:
    ticked.set()


async def main() -> None:
    async with tq.running():
        await ticked.wait()
        print([schedule.name for schedule in await tq.schedules.list()])


asyncio.run(main())

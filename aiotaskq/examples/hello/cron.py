"""Run tasks on schedules: ``python cron.py`` waits for the next second."""

import asyncio

from aiotaskq import TaskQ

tq = TaskQ("memory://")


ticked = asyncio.Event()


@tq.schedule(cron="* * * * * *")  # with six fields the first one is seconds
async def tick() -> None:
    ticked.set()


# Missed by less than six hours, it is made up for; while one runs, none begins.
@tq.schedule(cron="30 2 * * *", timezone="Asia/Shanghai", catch_up=6 * 3600, overlap="skip")
async def report() -> None: ...


async def main() -> None:
    async with tq.running():
        await ticked.wait()
        print([schedule.name for schedule in await tq.schedules.list()])


asyncio.run(main())

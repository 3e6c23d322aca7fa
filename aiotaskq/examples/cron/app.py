"""Cron jobs: a report each night, a check each minute, a reminder at one time; with policies for what goes wrong.

`aiotaskq run app:tq` runs them in any number of processes, each due time once. `python app.py` declares and lists them.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from aiotaskq import TaskQ

tq = TaskQ("sqlite:///jobs.db", timezone="Asia/Shanghai")


@tq.schedule(cron="30 2 * * *", overlap="skip", catch_up=6 * 3600)
@tq.task(max_retries=3, timeout=3600, queue="reports")
async def report() -> str:
    """Run each night. After an outage the latest missed run is made up for, unless it is over six hours late."""
    return "report"


@tq.schedule(interval=60, misfire="skip")
async def check() -> None:
    """Run each minute; missed checks are of no use later."""


@tq.schedule(cron="0 9 * * mon-fri", timezone="Europe/Berlin", name="standup-berlin", params={"room": "Berlin"})
@tq.schedule(cron="0 9 * * mon-fri", timezone="America/New_York", name="standup-new-york", params={"room": "New York"})
@tq.task
async def remind(room: str) -> str:
    """Run by the clock of each place, also when that changes for summer."""
    return f"stand-up in {room}"


@tq.schedule(at=datetime(2100, 1, 1, tzinfo=UTC), params={"room": "anywhere"}, name="new-century")
@tq.task(name="once")
async def once(room: str) -> str:
    """Run a single time."""
    return room


async def main() -> None:
    """Declare the schedules, and print them."""
    async with tq.running(concurrency=1):
        for schedule in sorted(await tq.schedules.list(), key=lambda each: each.name):
            print(f"{schedule.name}: {schedule.cron_expression or schedule.interval_seconds or 'once'}")


if __name__ == "__main__":
    asyncio.run(main())

"""Test a month in a moment: ``pytest test_virtual.py``."""

import asyncio

from aiotaskq import TaskQ
from aiotaskq.testing import virtual

tq = TaskQ("sqlite:///app.db")  # no test opens it


@tq.schedule(cron="0 9 * * mon-fri", timezone="Europe/Berlin")
async def report() -> None: ...


async def month() -> None:
    async with virtual(tq) as kit:
        await kit.advance(days=31)
        kit.assert_pushed(report, count=22)


def test_a_month_of_reports() -> None:
    asyncio.run(month())

"""Tasks and schedules with long names, many states and errors, for the tests of what screens look like."""

from __future__ import annotations

import asyncio
import random

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task

HOUR = 3_600 * SECOND
TYPES = ("mail", "billing.invoices.render_monthly_statement_for_all_tenants", "生成月度报表并发送给所有客户", "ocr")
QUEUES = ("default", "a-very-long-queue-name-for-large-imports-from-partners", "慢任务")
ERRORS = (
    "ConnectionError: the mail server smtp.internal.example.com does not answer after 30 s; 3 attempts\nTraceback",
    "ValueError: 账单金额不能为负数：客户编号 1024，账期 2026-10，请检查源数据并重新运行导入任务",
)
OWNER = "worker-render-host-17.eu.internal-4242-0123456789ab-ba9876543210"


def tasks(now: int) -> list[Task]:
    """Return forty tasks in every state, some pushed in the same millisecond."""
    chance = random.Random(1)
    found = []
    for number in range(40):
        status = list(Status)[number % 6]
        at = now - number * HOUR // 4 - number * 17 * SECOND
        begun = status in (Status.RUNNING, Status.COMPLETED, Status.FAILED)
        ended = status not in (Status.RUNNING, Status.PENDING)
        burst = number in (6, 7, 8)
        moment = f"{(now if burst else at) // 1_000:012x}"
        found.append(
            Task(
                task_id=f"{moment[:8]}-{moment[8:]}-7abc-a123-{chance.randrange(16**12):012x}",
                type=TYPES[number % 4],
                queue=QUEUES[number % 3],
                status=status,
                params={"customer": number, "text": "x" * number},
                created_at=at // SECOND,
                seq=at,
                run_at=now + (number - 10) * HOUR if status is Status.PENDING else at,
                retry_count=number % 3,
                started_at=(at + SECOND) // SECOND if begun else None,
                began_at=at + SECOND if begun else None,
                completed_at=(at + 90 * SECOND) // SECOND if ended else None,
                ended_at=at + number * number * SECOND // 3 + SECOND if ended else None,
                error_message=ERRORS[number // 6 % 2] if status is Status.FAILED else None,
                lease_owner=OWNER.replace("4242", str(4242 + number % 2)) if status is Status.RUNNING else None,
                lease_until=now + (30 - number * 2) * SECOND if status is Status.RUNNING else None,
                progress={"done": number, "total": 100, "message": "页 pages"} if status is Status.RUNNING else None,
            )
        )
    return found


async def fill(url: str, now: int) -> None:
    """Write them into a store; ``now`` in microseconds."""
    schedules = [
        new_schedule("nightly statements of every tenant", TYPES[1], "cron", {"key": 1}, None, "0 2 * * MON-FRI",
                     timezone="America/Argentina/Buenos_Aires", now=now),
        new_schedule("每周清理", "mail", "interval", None, 400_000, max_runs=1_000, task_id="cleanup", now=now + 9),
        new_schedule("once", "ocr", "once", {}, None, None, now // SECOND + 86_400, now=now + 2 * SECOND),
    ]  # fmt: skip
    async with TaskQ(url) as tq:
        await tq.queue.backend.push(tasks(now))
        await tq._scheduler.add(schedules)
        await tq.schedules.pause("cleanup")
        await tq.pause(QUEUES[1])


def make(url: str, now: int) -> None:
    """Write them into a store, from a program without an event loop."""
    asyncio.run(fill(url, now))

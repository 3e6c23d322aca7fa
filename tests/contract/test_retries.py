"""On each store: the pause that a handler chooses before a retry, and the end of a task that snoozes too often."""

from __future__ import annotations

from datetime import timedelta

from aiotaskq import Retry, Status, TaskQ, current_task
from aiotaskq.testing import START, virtual
from tests.support.backends import Store
from tests.testing.backoffs import STEADY


async def test_a_handler_chooses_the_pause_of_each_retry(store: Store) -> None:
    tq = TaskQ(store.url, retention=None)
    raised = [Retry("busy", after=60), Retry(after=timedelta(hours=1)), Retry("as usual"), Retry("enough", after=60)]
    ran: list[float] = []

    @tq.task(max_retries=3, retry_on=(), backoff=STEADY)
    async def fetch() -> None:
        ran.append((kit.now - START).total_seconds())
        raise raised[len(ran) - 1]

    async with virtual(tq, store.url, concurrency=1, scheduler=False) as kit:
        handle = await fetch.push()
        await kit.drain(delayed=True)
        row, attempts = await kit.task(handle), await handle.attempts()
    assert ran == [0, 60, 3660, 3670]
    assert (row.status, row.retry_count) == (Status.FAILED, 3)
    assert [(each.outcome, each.error) for each in attempts] == [
        ("failed", "Retry: busy"),
        ("failed", "Retry: after 3600 s"),
        ("failed", "Retry: as usual"),
        ("failed", "Retry: enough"),
    ]


async def test_a_task_that_snoozes_too_often_fails(store: Store) -> None:
    tq = TaskQ(store.url, retention=None)
    runs: list[int] = []

    @tq.task(max_retries=3, max_snoozes=25, backoff=STEADY)
    async def poll() -> None:
        runs.append(current_task().task.fence)
        if len(runs) == 3:
            raise ConnectionError("no")
        current_task().snooze(60)

    async with virtual(tq, store.url, concurrency=1, scheduler=False) as kit:
        handle = await poll.push()
        for rerun in range(2):
            await kit.drain(delayed=True)
            row = await kit.task(handle)
            assert (row.status, row.retry_count) == (Status.FAILED, 1 - rerun)
            assert row.error_message == "too_many_snoozes: it has snoozed 25 times, as often as max_snoozes allows"
            assert [each.snoozes for each in await handle.attempts()] == [*range(7, 26), 0]
            assert len(runs) == 3 + 26 * (rerun + 1)
            await tq.retry(handle.task_id)  # the count starts anew

"""Handlers with ``batch`` on each store: a worker claims enough for a batch, and each row ends by itself."""

from __future__ import annotations

from aiotaskq import BatchFailed, TaskQ
from aiotaskq.testing import virtual
from tests.support.backends import Store
from tests.testing.backoffs import STEADY


async def test_one_slot_gets_a_whole_batch_and_each_row_its_own_outcome(store: Store) -> None:
    calls: list[list[int]] = []
    tq = TaskQ(store.url, retention=None)

    @tq.task(batch=40, within=60, backoff=STEADY)
    async def work(items: list[int]) -> list[int]:
        calls.append(items)
        if len(calls) == 1:
            raise BatchFailed({7: ConnectionError("later"), 9: ConnectionError("later")}, items)
        return items

    async with virtual(tq, store.url, concurrency=1, scheduler=False) as kit:
        handles = await tq.push_many([work.call(n) for n in range(45)])
        await kit.advance(1)
        assert calls == [list(range(40))]
        await kit.advance(120)
        assert sorted(calls[1]) == [7, 9, *range(40, 45)] and len(calls) == 2
        rows = [await kit.task(handle) for handle in handles]
        assert [row.result for row in rows] == list(range(45))
        assert [n for n, row in enumerate(rows) if (row.retry_count, row.fence) != (0, 1)] == [7, 9]

"""Results that cannot be decoded are errors with the reason, on each durable store: never None."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aiotaskq.sync
from aiotaskq import Status, TaskQ, Workflow
from aiotaskq.core.codec import Codec
from aiotaskq.errors import ValidationError
from tests.support.backends import Store
from tests.support.codecs import Keyed
from tests.support.machine import within


@pytest.mark.parametrize(
    ("codec", "why"),
    [(Keyed("other"), r"cannot be decoded \(LookupError\)"), (None, "coded, and no codec is set")],
    ids=["wrong key", "no key"],
)
async def test_a_result_that_cannot_be_decoded_is_an_error(shared_store: Store, codec: Codec | None, why: str) -> None:
    right = TaskQ(shared_store.url, codec=Keyed("k"), poll_interval=0.05, history=False)

    @right.task
    async def made(n: int) -> int | None:
        return n or None

    @right.task
    async def child() -> int:
        return 3

    flow = Workflow().add("a", made.call(n=1)).add("b", made.call(n=2)).add("c", child.call(), after=["a", "b"])
    async with right.running(concurrency=2), asyncio.timeout(within(30)):
        handle, nothing, group = await made.push(n=7), await made.push(n=0), await right.start(flow)
        assert [await handle.result(), await nothing.result(), await group.result()] == [7, None, [1, 2, 3]]
        *_, last = [task async for _, task in right.queue.groups.members(group.group_id)]
        assert last is not None and last.flow is not None

    async with TaskQ(shared_store.url, codec=codec, history=False) as wrong:
        error = rf"the result of task [-\w]+ cannot be read: .*{why}"
        with pytest.raises(ValidationError, match=error):
            await wrong.handle(handle.task_id).result(within(5))
        assert (await wrong.get(handle.task_id)).status is Status.COMPLETED
        assert await wrong.handle(nothing.task_id).result(within(5)) is None, "a handler that returned nothing"
        with pytest.raises(ValidationError, match=error):
            await wrong.group_handle(group.group_id).result(within(5))
        for read in (wrong.queue.groups.outcomes_for, wrong.queue.groups.parents):
            with pytest.raises(ValidationError, match=error):
                await read(last)

    def blocking() -> Any:
        with aiotaskq.sync.TaskQ(shared_store.url, codec=codec, history=False) as twin:
            return twin.handle(handle.task_id).result(within(5))

    with pytest.raises(ValidationError, match=error):
        await asyncio.to_thread(blocking)
    async with TaskQ(shared_store.url, codec=Keyed("new", "k"), history=False) as again:
        assert await again.handle(handle.task_id).result(within(5)) == 7, "it is kept"


async def test_a_result_that_another_program_has_damaged_is_an_error(sql_store: Store) -> None:
    tq = TaskQ(sql_store.url, poll_interval=0.05, history=False)

    @tq.task
    async def made() -> int:
        return 7

    async with tq.running(concurrency=1), asyncio.timeout(within(30)):
        handle = await made.push()
        assert await handle.result() == 7
        sql_store.execute("UPDATE task_queue SET result = '{7'")
        with pytest.raises(ValidationError, match="cannot be read: result is not JSON"):
            await handle.result()

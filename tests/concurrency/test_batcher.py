"""Group commit: calls that arrive during a call go together into the next one; errors reach their own caller only."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence

import pytest

from aiotaskq.concurrency.batcher import Batcher
from aiotaskq.errors import DatabaseUnavailable
from tests.support.machine import within


class Writer:
    """A verb that takes lists: it doubles numbers, and is held up while ``gate`` is closed."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.down = False

    async def __call__(self, items: list[int]) -> list[int]:
        assert self.running == 0, "two calls at once"
        self.running += 1
        try:
            self.calls.append(list(items))
            await self.gate.wait()
            if self.down:
                raise DatabaseUnavailable("down")
            if any(item < 0 for item in items):
                raise ValueError(f"bad: {[item for item in items if item < 0]}")
            return [item * 2 for item in items]
        finally:
            self.running -= 1


async def test_one_caller_is_one_call() -> None:
    writer = Writer()
    assert await Batcher(writer).add([1, 2, 3]) == [2, 4, 6]
    assert writer.calls == [[1, 2, 3]]


async def test_concurrent_callers_share_a_call() -> None:
    writer = Writer()
    batch = Batcher(writer)
    answers = await asyncio.gather(*(batch.add([n, n + 1]) for n in range(100)))
    assert answers == [[2 * n, 2 * n + 2] for n in range(100)]
    assert len(writer.calls) == 1


async def test_what_comes_meanwhile_goes_together() -> None:
    writer = Writer()
    batch = Batcher(writer)
    writer.gate.clear()
    callers = [asyncio.create_task(batch.add([0]))]
    await asyncio.sleep(0.01)
    callers += [asyncio.create_task(batch.add([n])) for n in range(1, 10)]
    await asyncio.sleep(0.01)
    assert writer.calls == [[0]]
    writer.gate.set()
    assert await asyncio.gather(*callers) == [[2 * n] for n in range(10)]
    assert writer.calls == [[0], list(range(1, 10))]


async def test_a_lone_caller_writes_in_its_own_task_and_others_wait_for_it() -> None:
    writer = Writer()
    batch = Batcher(writer, direct=True)
    assert await batch.add([0]) == [0]  # now it is known to be alone
    flusher = batch._flusher
    assert await batch.add([1]) == [2] and batch._flusher is flusher
    writer.gate.clear()
    lone = asyncio.create_task(batch.add([2]))
    await asyncio.sleep(0)
    others = [asyncio.create_task(batch.add([n])) for n in (3, 4)]
    await asyncio.sleep(0)
    assert writer.calls[-1] == [2]
    lone.cancel()
    await asyncio.gather(lone, return_exceptions=True)
    writer.gate.set()
    assert await asyncio.gather(*others) == [[6], [8]]
    assert writer.calls == [[0], [1], [2], [3, 4]]
    with pytest.raises(ValueError, match="bad"):
        await asyncio.gather(batch.add([-1]))
    assert await batch.add([5]) == [10]


async def test_the_limit_never_cuts_a_callers_items_apart() -> None:
    writer = Writer()
    batch = Batcher(writer, limit=10)
    sizes = [4, 4, 4, 25, 1, 9, 1]
    answers = await asyncio.gather(*(batch.add([1] * size) for size in sizes))
    assert [len(answer) for answer in answers] == sizes
    assert [len(call) for call in writer.calls] == [8, 4, 25, 10, 1]


async def test_an_error_fails_its_own_caller_only() -> None:  # A15
    writer = Writer()
    batch = Batcher(writer)
    answers = await asyncio.gather(*(batch.add([n]) for n in (1, -2, 3, -4, 5)), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, list)] == [[2], [6], [10]]
    assert [str(answer) for answer in answers if isinstance(answer, ValueError)] == ["bad: [-2]", "bad: [-4]"]
    assert await batch.add([6]) == [12]  # and the batch lives on


async def test_an_unreachable_store_fails_all_callers_at_once() -> None:  # F20
    # One by one, each would wait for its own timeout: five hundred callers for hours.
    writer = Writer()
    batch = Batcher(writer)
    writer.down = True
    answers = await asyncio.gather(*(batch.add([n]) for n in range(500)), return_exceptions=True)
    assert all(isinstance(answer, DatabaseUnavailable) for answer in answers)
    assert len(writer.calls) == 1
    writer.down = False
    assert await batch.add([1]) == [2]


async def test_a_cancelled_caller_cancels_no_other() -> None:  # D1
    writer = Writer()
    batch = Batcher(writer)
    writer.gate.clear()
    callers = [asyncio.create_task(batch.add([n])) for n in range(5)]
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(batch.add([n])) for n in range(5, 10)]
    await asyncio.sleep(0.01)
    callers[2].cancel()
    waiting[0].cancel()
    await asyncio.sleep(0.01)
    assert callers[2].cancelled() and waiting[0].cancelled()
    writer.gate.set()
    answers = await asyncio.gather(*callers, *waiting, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, list)] == [[2 * n] for n in range(10) if n not in (2, 5)]
    assert await batch.add([11]) == [22]


@pytest.mark.parametrize("steps", range(8))
async def test_cancelled_at_each_step(steps: int) -> None:  # D1
    writer = Writer()
    batch = Batcher(writer)
    victim = asyncio.create_task(batch.add([1]))
    other = asyncio.create_task(batch.add([2]))
    for _ in range(steps):
        await asyncio.sleep(0)
    arrived = victim.cancel()
    assert await other == [4]
    (answer,) = await asyncio.gather(victim, return_exceptions=True)
    assert isinstance(answer, asyncio.CancelledError) if arrived else answer == [2]
    assert await batch.add([3]) == [6]


async def test_no_caller_is_left_waiting_when_the_loop_ends() -> None:
    writer = Writer()
    batch = Batcher(writer)
    writer.gate.clear()
    callers = [asyncio.create_task(batch.add([n])) for n in range(3)]
    await asyncio.sleep(0.01)
    callers.append(asyncio.create_task(batch.add([9])))
    await asyncio.sleep(0)
    assert batch._flusher is not None
    batch._flusher.cancel()  # as the end of the loop does
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 4
    writer.gate.set()
    assert await batch.add([1]) == [2]


def test_a_batch_left_by_a_dead_loop_does_not_hang() -> None:  # E12
    async def never(items: list[int]) -> list[int]:
        await asyncio.Event().wait()
        return items

    async def quick(items: list[int]) -> list[int]:
        return items

    batch = Batcher(never)
    loop = asyncio.new_event_loop()
    caller = loop.create_task(batch.add([1]))
    loop.run_until_complete(asyncio.sleep(0.01))
    batch._write = quick

    async def second() -> list[int]:
        async with asyncio.timeout(within(30)):
            return await batch.add([2])

    assert asyncio.run(second()) == [2]
    caller.cancel()
    loop.run_until_complete(asyncio.gather(caller, return_exceptions=True))
    loop.close()


async def test_the_flusher_is_not_collected() -> None:  # D2
    async def slow(items: Sequence[int]) -> list[int]:
        for _ in range(5):
            gc.collect()
            await asyncio.sleep(0.001)
        return list(items)

    batch = Batcher(slow)
    async with asyncio.timeout(within(10)):
        assert await asyncio.gather(*(batch.add([n]) for n in range(3))) == [[0], [1], [2]]

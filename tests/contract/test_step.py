"""``insert`` and ``step``: the same as ``push`` and ``exchange`` of one task, where a store never waits."""

from __future__ import annotations

import asyncio
import random

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.base import Change, Claim
from aiotaskq.backends.listeners import ENDED, READY
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.core.outcome import Cancelled, Completed, Failed, Outcome, Released, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.errors import LeaseLost
from tests.support.backends import STORES, Store
from tests.support.machine import within
from tests.support.rows import NOW, completed, ids, new, pushed, read, running


async def test_these_stores_have_it(store: Store) -> None:
    assert isinstance(store.backend, MemoryBackend) == STORES[store.name].direct


# ---- against exchange ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_any_sequence_leaves_the_rows_that_exchange_leaves(
    store: Store, direct: MemoryBackend, seed: int
) -> None:
    one, other = direct, connect(store.url)
    dice = random.Random(seed)
    ran: list[Task | None] = [None]
    now = NOW
    for number in range(400):
        now += dice.choice((0, 0, 1, SECOND))
        if dice.random() < 0.6:
            task = new(
                priority=dice.choice((0, 0, 0, 1)),
                run_at=now + dice.choice((0, 0, 0, 3 * SECOND)),
                queue=dice.choice("ab"),
                params={"n": number},
                expires_at=dice.choice((None, None, now + 2 * SECOND)),
                unique_key=dice.choice((None, None, "u")),
                idempotency_key=dice.choice((None, f"i{number // 9}")),
            )
            stored, (expected,) = one.insert(task), await other.push([task])
            assert (stored is task, stored) == (expected is task, expected)
        if dice.random() < 0.1:
            paused = dice.random() < 0.5
            await one.set_paused("a", paused)
            await other.set_paused("a", paused)
        queues = dice.choice((None, None, (), ("a",), ("b", "a")))
        before = ran.pop(dice.randrange(len(ran)))
        if before is not None and dice.random() < 0.1:
            await one.request_cancel([before.task_id])
            await other.request_cancel([before.task_id])
        after = None if before is None else settle(before, outcome(dice, number), now)
        changes = [] if before is None or after is None else [Change(before, after)]
        if changes and dice.random() < 0.1:
            assert await one.delete([changes[0].before.task_id]) == await other.delete([changes[0].before.task_id])
        held, claimed = await other.exchange(changes, Claim("me", now, 0 if queues == () else 1, queues=queues or None))
        if held == [False]:
            with pytest.raises(LeaseLost):
                one.step("me", now, queues, before, after)
            found = one.step("me", now, queues)
        else:
            found = one.step("me", now, queues, before, after)
        assert ([] if found is None else [found]) == claimed
        ran += [found, None] if found is not None else [None]
        assert await one.find(TaskFilter(), 1_000) == await other.find(TaskFilter(), 1_000)
        assert await one.stats(now) == await other.stats(now)
        assert await one.next_run_at(now) == await other.next_run_at(now)


def outcome(dice: random.Random, number: int) -> Outcome:
    return dice.choice((Completed({"n": number}), Completed(), Completed(), Failed("e"), Released("r"), Cancelled()))


# ---- each promise ----------------------------------------------------------------------------------------------------


async def test_nothing_waits(direct: MemoryBackend) -> None:
    assert direct.step("me", NOW) is None


async def test_a_lost_task_is_not_written_and_nothing_is_claimed(direct: MemoryBackend) -> None:
    task = await running(direct)
    await direct.delete([task.task_id])
    other = await pushed(direct)
    with pytest.raises(LeaseLost, match=task.task_id):
        direct.step("me", NOW, None, task, completed(task))
    assert await direct.get([task.task_id]) == [None]
    assert await read(direct, other) == other


async def test_a_task_completes_although_its_cancel_was_requested(direct: MemoryBackend) -> None:
    task = await running(direct)
    await direct.request_cancel([task.task_id])
    direct.step("me", NOW, None, task, completed(task))
    assert await read(direct, task) == completed(task)


async def test_progress_that_was_reported_stays(direct: MemoryBackend) -> None:
    task = await running(direct)
    await direct.report([(task.task_id, task.fence, {"done": 3})])
    direct.step("me", NOW, None, task, completed(task))
    assert await read(direct, task) == completed(task).replace(progress={"done": 3})


async def test_a_unique_key_is_free_and_an_idempotency_key_is_not(direct: MemoryBackend) -> None:
    task = await running(direct, unique_key="u", idempotency_key="i")
    direct.step("me", NOW, None, task, completed(task))
    again = new(unique_key="u")
    assert ids(await direct.push([again, new(idempotency_key="i")])) == [again.task_id, task.task_id]


async def test_what_is_retried_may_be_claimed_in_the_same_step(direct: MemoryBackend) -> None:
    task = await running(direct)
    back = settle(task, Released("again"), NOW)
    found = direct.step("me", NOW, None, task, back)
    assert found is not None and (found.task_id, found.fence) == (task.task_id, 2)


async def test_hints(direct: MemoryBackend, hints: list[tuple[str, list[str]]]) -> None:
    task, other = await running(direct), await running(direct)
    hints.clear()
    direct.step("me", NOW, None, task, completed(task))
    assert hints == [(ENDED, [task.task_id])]
    hints.clear()
    direct.step("me", NOW, (), other, settle(other, Released("again"), NOW))
    assert [kind for kind, _ in hints] == [READY]
    direct.insert(new())
    assert [kind for kind, _ in hints] == [READY] * 2


async def test_it_wakes_another_consumer_for_the_tasks_that_become_due(direct: MemoryBackend) -> None:
    consumer = direct.arrivals()
    assert consumer is not None
    await direct.push([new(run_at=NOW + SECOND) for _ in range(2)])
    consumer.clear()
    waiting = asyncio.ensure_future(consumer.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert direct.step("me", NOW + SECOND) is not None
    await asyncio.wait_for(waiting, within(5))
    consumer.close()


async def test_the_queue_is_joined_when_all_have_ended(direct: MemoryBackend) -> None:
    tasks = [await pushed(direct) for _ in range(3)]
    queue: asyncio.Queue[Task] = direct.queues["default"]
    joined = asyncio.ensure_future(queue.join())
    before = None
    for expected in (*ids(tasks), None):
        await asyncio.sleep(0)
        assert not joined.done()
        after = None if before is None else completed(before)
        before = direct.step("me", NOW, None, before, after)
        assert (None if before is None else before.task_id) == expected
    await asyncio.wait_for(joined, within(5))
    assert (await direct.stats(NOW)).counts[Status.COMPLETED] == 3

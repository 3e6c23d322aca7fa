"""Redis whose answer is lost: nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.scripts import script
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task, TaskFilter
from aiotaskq.errors import DatabaseUnavailable, TaskConflict
from tests.backends.redis.faults.proxied import opened, persist, through
from tests.support.machine import watchdog, within
from tests.support.proxy import Proxy
from tests.support.rows import LEASE, NOW, completed, ids, new, pushed, read, running
from tests.support.servers import Valkey


@pytest.mark.parametrize("deliver", [False, True])
async def test_a_push_whose_answer_is_lost_is_repeated(proxy: Proxy, deliver: bool) -> None:  # A20
    async with opened(through(proxy)) as backend:
        await pushed(backend)
        for number in range(1, 6):
            tasks = [new(unique_key=f"u{number}"), new(idempotency_key=f"i{number}"), new()]
            proxy.cut_on(script("push").sha.encode(), deliver=deliver)
            stored = await backend.push(tasks)
            assert all(a is b for a, b in zip(stored, tasks, strict=True))
            assert proxy.cuts == number
            assert await backend.count_ready(NOW) == 1 + 3 * number


class _Mute:
    """Cuts the connection of every push, whose answers are lost."""

    def __init__(self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        original = RedisConnections.evaluate

        async def evaluate(redis: RedisConnections, name: str, *args: Any) -> Any:
            if name == "push":
                proxy.cut_on(script(name).sha.encode())
            return await original(redis, name, *args)

        monkeypatch.setattr(RedisConnections, "evaluate", evaluate)


async def test_a_push_that_raises_may_be_repeated_with_its_ids(
    server: Valkey, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:  # A20
    async with TaskQ(server.url("a")) as outside, TaskQ(through(proxy)) as tq:
        await tq.push("job")  # else the server does not know the script yet, and runs nothing
        with monkeypatch.context() as patch:
            _Mute(proxy, patch)
            with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1") as one:
                await tq.push("job")
            with pytest.raises(DatabaseUnavailable) as many:
                await tq.push_many([("job", {"n": n}) for n in range(3)])
            assert proxy.cuts == 4
            pushes = (tq.push("job") for _ in range(3))
            refused = await asyncio.gather(*pushes, return_exceptions=True)  # two of one batch, each has its own id
        assert len(one.value.task_ids) == 1 and len(many.value.task_ids) == 3
        assert [len(error.task_ids) for error in refused if isinstance(error, DatabaseUnavailable)] == [1, 1, 1]
        assert (await outside.stats()).counts["pending"] == 8
        (task_id,) = one.value.task_ids
        handle = await tq.push("job", task_id=task_id)
        assert (handle.task_id, handle.created) == (task_id, False)
        calls = [{"type": "job", "params": {"n": n}, "task_id": name} for n, name in enumerate(many.value.task_ids)]
        assert [handle.created for handle in await tq.push_many(calls)] == [False] * 3
        assert (await outside.stats()).counts["pending"] == 8
        _, task = await outside.queue.backend.claim("o", NOW * 2, 2)
        assert task.task_id == task_id
        await outside.queue.backend.update([Change(task, completed(task))])
        with pytest.raises(TaskConflict, match="is completed"):  # it was stored, and has run
            await tq.push("job", task_id=task_id)
        assert (await outside.stats()).counts["pending"] == 6


async def test_a_silent_server_is_not_asked_twice(proxy: Proxy) -> None:
    async with TaskQ(through(proxy, 0.3)) as tq:
        await tq.push("job")  # else the server does not know the script yet, and runs nothing
        connections = proxy.accepted
        proxy.drop_replies()
        with pytest.raises(DatabaseUnavailable) as refused:
            await tq.push("job")
        assert proxy.accepted == connections
        proxy.heal()
        (task_id,) = refused.value.task_ids
        assert not (await persist(tq.push, "job", task_id=task_id)).created


@pytest.mark.parametrize("deliver", [False, True])
async def test_an_ack_that_is_lost_is_repeated(server: Valkey, proxy: Proxy, deliver: bool) -> None:  # G-5, A3
    tq = TaskQ(through(proxy), lease=within(30))
    ran: list[int] = []

    @tq.task(name="job")
    async def job(n: int) -> int:
        if n == 1:
            proxy.cut_on(script("exchange").sha.encode(), deliver=deliver)
        ran.append(n)
        return n

    async with TaskQ(server.url("a")) as outside, tq.running():
        for number in (0, 1, 2):
            handle = await outside.push("job", {"n": number})
            assert await handle.result(timeout=watchdog()) == number
        assert (ran, proxy.cuts) == ([0, 1, 2], 1)
        assert (await outside.stats()).counts["running"] == 0


async def test_a_claim_whose_answer_is_lost_comes_back(server: Valkey, proxy: Proxy) -> None:  # G-5
    tq = TaskQ(through(proxy), lease=within(1), poll_interval=0.2)
    ran: list[int] = []

    @tq.task(name="job")
    async def job(n: int) -> None:
        ran.append(n)

    async with TaskQ(server.url("a")) as outside, tq.running():
        await (await outside.push("job", {"n": 0})).result(timeout=watchdog())
        proxy.cut_on(script("exchange").sha.encode())
        handle = await outside.push("job", {"n": 1})
        await handle.result(timeout=watchdog())
        task = await outside.get(handle.task_id)
        assert (ran, task.crashes, task.retry_count) == ([0, 1], 0, 0)


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_acknowledged_writes_survive_a_crash_of_the_server(server: Valkey, how: str) -> None:  # G-11, A20
    acknowledged: dict[str, Task] = {}
    stopped = asyncio.Event()
    async with opened(server.url("a")) as backend:

        async def produce(number: int) -> None:
            while not stopped.is_set():
                tasks = [new(params={"producer": number}) for _ in range(random.randint(1, 5))]
                await persist(backend.push, tasks)
                acknowledged.update((task.task_id, task) for task in tasks)
                if len(acknowledged) % 7 == 0:
                    claimed = await persist(backend.claim, f"o{number}", NOW, 3, lease_until=LEASE)
                    ended = [Change(task, completed(task)) for task in claimed]
                    held = await persist(backend.update, ended)
                    acknowledged.update(
                        (change.after.task_id, change.after) for change, ok in zip(ended, held, strict=True) if ok
                    )

        producers = [asyncio.ensure_future(produce(number)) for number in range(8)]
        for _ in range(3):
            enough = len(acknowledged) + 50
            while len(acknowledged) < enough:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.restart, how)
        stopped.set()
        await asyncio.gather(*producers)
        rows = await persist(backend.get, list(acknowledged))
        for row, task in zip(rows, acknowledged.values(), strict=True):
            assert row is not None, "an acknowledged task is lost"
            assert row.params == task.params
            assert row.status is task.status or task.status is Status.PENDING
        everything = await backend.find(TaskFilter(), 100_000)
        assert len(everything) == len(set(ids(everything))) == len(acknowledged)
        stats = await backend.stats(NOW)
        assert sum(stats.counts.values()) == len(everything)
        assert stats.ready == stats.counts["pending"] == await backend.count_ready(NOW)


async def test_fences_rise_through_a_crash_of_the_server(server: Valkey) -> None:  # B10, B11
    async with opened(server.url("a")) as backend:
        first = await running(backend, lease_until=NOW + 5)
        await asyncio.to_thread(server.restart, "immediate")
        (late,) = await persist(backend.overdue, NOW + 5, 5)
        assert late == first
        back = first.replace(status=Status.PENDING, lease_owner=None, lease_until=None, crashes=1)
        assert await backend.update([Change(late, back, lease_over=True)]) == [True]
        (second,) = await backend.claim("second", NOW + 6, 1, lease_until=LEASE)
        await asyncio.to_thread(server.restart, "immediate")
        zombie = [Change(first, completed(first, result="late"), then=(new(),)), Change(first, back)]
        assert await persist(backend.update, zombie) == [False, False]
        assert await backend.report([(first.task_id, first.fence, {"n": 1})]) == [False]
        assert await read(backend, first) == second
        assert second.fence == first.fence + 1

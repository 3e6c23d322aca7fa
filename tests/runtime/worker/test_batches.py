"""Handlers with ``batch``: one call for the items of many tasks, each of which ends by its own rules."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import (
    BatchFailed,
    Parent,
    Status,
    TaskFailed,
    TaskQ,
    chain,
    current_batch,
    current_task,
    injected,
)
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.testing import Kit, inline, virtual
from aiotaskq.types import Task
from tests.support.machine import within
from tests.testing.backoffs import STEADY


@pytest.fixture(params=["durable_fake", "memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return {"durable_fake": None, "memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/kit.db"}[request.param]


@pytest.fixture
async def kit(url: str | None) -> AsyncIterator[Kit]:
    async with virtual(url=url, concurrency=2) as made:
        yield made


@dataclass
class Item:
    n: int


class Client:
    name = "c"


def client() -> Client:
    return Client()


async def ends(kit: Kit, handles: list[Any]) -> list[str]:
    return [str((await kit.task(handle)).status) for handle in handles]


async def test_a_full_batch_is_called_at_once_and_a_part_of_one_after_a_while(kit: Kit) -> None:
    calls: list[tuple[float, list[int]]] = []
    start = kit.now

    @kit.tq.task(batch=5, within=0.5)
    async def double(items: list[Item]) -> list[Item]:
        calls.append(((kit.now - start).total_seconds(), [item.n for item in items]))
        assert [context.task.params for context in current_batch()] == [{"items": {"n": item.n}} for item in items]
        with pytest.raises(NotFound, match="current_batch"):
            current_task()
        return [Item(2 * item.n) for item in items]

    handles = await kit.tq.push_many([double.call(Item(n)) for n in range(12)])
    await kit.advance(0)
    assert calls == [(0.0, [0, 1, 2, 3, 4]), (0.0, [5, 6, 7, 8, 9])]
    await kit.advance(0.499)
    assert len(calls) == 2
    await kit.advance(0.001)
    assert calls[2:] == [(0.5, [10, 11])]
    assert [await handle.result() for handle in handles] == [Item(2 * n) for n in range(12)]


async def test_a_batch_takes_one_slot(kit: Kit) -> None:
    batches, others, most = 0, 0, 0

    @kit.tq.task(batch=4, within=1)
    async def many(items: list[int]) -> None:
        nonlocal batches, most
        batches += 1
        most = max(most, batches + others)
        await kit.clock.sleep(10)
        batches -= 1

    @kit.tq.task
    async def one() -> None:
        nonlocal others, most
        others += 1
        most = max(most, batches + others)
        await kit.clock.sleep(10)
        others -= 1

    handles = [*await kit.tq.push_many([many.call(n) for n in range(8)])]
    handles += await kit.tq.push_many([one.call() for _ in range(4)])
    await kit.advance(5)
    assert (batches, others) == (2, 0)
    assert kit.tq.worker is not None and kit.tq.worker.occupancy().busy == 2
    await kit.advance(60)
    assert most == 2 and set(await ends(kit, handles)) == {"completed"}


async def test_the_items_that_failed_are_retried_alone(kit: Kit) -> None:
    calls: list[list[int]] = []

    @kit.tq.task(batch=4, within=1, backoff=STEADY, retry_on=ConnectionError)
    async def work(items: list[int]) -> list[int]:
        calls.append(items)
        if len(calls) == 1:
            raise BatchFailed({1: ConnectionError("later"), 3: ValueError("never")}, [n * 10 for n in items])
        return [n * 100 for n in items]

    handles = [await work.push(n) for n in range(4)]
    await kit.drain(delayed=True)
    assert calls == [[0, 1, 2, 3], [1]]
    assert [await handle.result() for handle in handles[:3]] == [0, 100, 20]
    with pytest.raises(TaskFailed, match="ValueError: never"):
        await handles[3].result()
    assert [attempt.error for attempt in await handles[1].attempts()] == ["ConnectionError: later", None]


async def test_an_error_fails_each_by_its_own_rules(kit: Kit) -> None:
    @kit.tq.task(batch=3, within=1, backoff=STEADY)
    async def work(items: list[int]) -> list[int]:
        raise ConnectionError("down")

    handles = [await work.options(max_retries=n).push(n) for n in range(3)]
    await kit.drain(delayed=True)
    rows = [await kit.task(handle) for handle in handles]
    assert [(row.status, row.retry_count) for row in rows] == [(Status.FAILED, n) for n in range(3)]
    texts = {row.error_message.replace("\n", "") for row in rows if row.error_message}
    assert len(texts) == 1 and texts.pop().count("raise ConnectionError") == 1


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ([1], "invalid_results: the handler returned 1 results for 2 items"),
        ({"a": 1}, "invalid_results: the handler returned dict and not a list"),
        (BatchFailed({2: ValueError()}), "invalid_results: BatchFailed: an exception for an index below 2"),
    ],
)
async def test_what_does_not_fit_the_items_is_not_retried(returned: Any, text: str) -> None:
    async with virtual() as kit:

        @kit.tq.task(batch=2)
        async def work(items: list[int]) -> Any:
            if isinstance(returned, Exception):
                raise returned
            return returned

        handles = [await work.push(n) for n in range(2)]
        await kit.drain()
        for row in [await kit.task(handle) for handle in handles]:
            assert (row.status, row.retry_count) == (Status.FAILED, 0)
            assert row.error_message is not None and text in row.error_message


async def test_a_cancelled_item_leaves_its_batch(kit: Kit) -> None:
    calls: list[list[int]] = []

    @kit.tq.task(batch=3, within=10)
    async def work(items: list[int]) -> list[int]:
        calls.append(items)
        await kit.clock.sleep(10)
        return items

    handles = [await work.push(n) for n in range(2)]
    await kit.advance(1)
    assert await handles[0].cancel()  # while it is gathered
    await kit.advance(10)
    assert calls == [[1]]
    assert await ends(kit, handles) == ["cancelled", "running"]
    handles += [await work.push(n) for n in range(2, 5)]
    await kit.advance(1)
    assert calls[1:] == [[2, 3, 4]]
    assert await handles[3].cancel()  # while the handler runs
    await kit.advance(10)
    assert await ends(kit, handles) == ["cancelled", "completed", "completed", "cancelled", "completed"]


async def test_a_lost_task_leaves_its_batch_and_nothing_of_it_is_written(kit: Kit) -> None:
    @kit.tq.task(batch=2)
    async def work(items: list[int]) -> list[int]:
        await kit.clock.sleep(10)
        return items

    handles = [await work.push(n) for n in range(2)]
    await kit.advance(1)
    assert kit.tq.worker is not None
    kit.tq.worker.executions[handles[0].task_id].interrupt("lost")
    await kit.advance(10)
    assert await ends(kit, handles) == ["running", "completed"] and not kit.tq.worker.executions


async def test_a_timeout_begins_with_the_call_and_ends_only_its_own_task(kit: Kit) -> None:
    ended: list[str] = []

    @kit.tq.task(batch=2, within=10, max_retries=0)
    async def work(items: list[int]) -> list[int]:
        try:
            await kit.clock.sleep(6)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return items

    handles = [await work.options(timeout=timeout).push(1) for timeout in (5, 7)]
    await kit.advance(7)
    assert await ends(kit, handles) == ["failed", "completed"] and not ended
    handles = [await work.options(timeout=5).push(1)]
    await kit.advance(16)
    assert await ends(kit, handles) == ["failed"] and ended == ["cancelled"]


async def test_a_thread_runs_a_batch_and_is_waited_for(kit: Kit) -> None:
    threads: list[int] = []

    @kit.tq.task(batch=3, within=0.5)
    def work(items: list[int]) -> list[int]:
        threads.append(threading.get_ident())
        return [sum(items)] * len(current_batch())

    handles = [await work.push(n) for n in range(3)]
    await kit.drain()
    assert [await handle.result() for handle in handles] == [3, 3, 3]
    assert len(threads) == 1 and threads[0] != threading.get_ident()


async def test_what_is_gathered_is_run_before_the_worker_stops() -> None:
    async with virtual() as kit:
        calls: list[list[int]] = []

        @kit.tq.task(batch=3, within=1000)
        async def work(items: list[int]) -> None:
            calls.append(items)

        handles = [await work.push(n) for n in range(2)]
        await kit.advance(1)
        assert kit.tq.worker is not None and not calls
        stopping = asyncio.ensure_future(kit.tq.worker.stop())
        await kit.advance(1)
        await stopping
        assert calls == [[0, 1]] and await ends(kit, handles) == ["completed"] * 2


async def test_a_shutdown_gives_a_batch_back() -> None:
    async with virtual() as kit:

        @kit.tq.task(batch=2)
        async def work(items: list[int]) -> None:
            await kit.clock.sleep(1000)

        handles = [await work.push(n) for n in range(2)]
        await kit.advance(1)
        assert kit.tq.worker is not None
        stopping = asyncio.ensure_future(kit.tq.worker.stop(drain=5))
        await kit.advance(6)
        await stopping
        rows = [await kit.task(handle) for handle in handles]
        assert [(row.status, row.retry_count) for row in rows] == [(Status.PENDING, 0)] * 2


async def test_middleware_and_resources() -> None:
    seen: list[Any] = []
    tq = TaskQ("memory://")
    tq.resource(client)

    @tq.middleware
    async def around(task: Task, call_next: Any) -> Any:
        seen.append((task.params["items"], result := await call_next(task)))
        return result

    @tq.task(batch=2, within=1)
    async def work(items: list[int], client: Client = injected()) -> list[str]:
        return [f"{client.name}{n}" for n in items]

    async with virtual(tq) as kit:
        await tq.push_many([work.call(n) for n in range(2)])
        await kit.drain()
    assert sorted(seen) == [(0, "c0"), (1, "c1")]


async def test_tasks_that_were_claimed_ahead_join_a_batch_whose_handler_came_late(kit: Kit) -> None:
    @kit.tq.task
    async def quick() -> None: ...

    await kit.tq.push_many([quick.call() for _ in range(200)])
    await kit.drain()
    calls: list[int] = []

    @kit.tq.task(batch=5, within=60)
    async def late(n: list[int]) -> None:
        calls.append(len(n))

    await kit.tq.push_many([late.call(n) for n in range(5)])
    await kit.drain()
    assert calls == [5]


async def test_the_items_of_a_batch_are_the_results_of_the_tasks_before(kit: Kit) -> None:
    calls: list[list[Item]] = []

    @kit.tq.task
    async def make(n: int) -> Item:
        return Item(n)

    @kit.tq.task(batch=3, within=0.5)
    async def double(parent: list[Parent[Item]] = injected()) -> list[int]:
        items = [each.result for each in parent]
        calls.append(items)
        return [2 * each.n for each in items]

    @kit.tq.task
    async def text(parent: Parent[int] = injected()) -> str:
        return f"<{parent.result}>"

    started = [await kit.tq.start(chain(make.call(n), double.call(injected()), text.call())) for n in range(3)]
    alone = await double.push(Parent("a", "by hand", Item(9)))
    orphan = await double.push(injected())
    await kit.drain()
    assert [(await each.result())[1:] for each in started] == [[2 * n, f"<{2 * n}>"] for n in range(3)]
    assert await alone.result() == 18
    assert sorted(each.n for call in calls for each in call) == [0, 1, 2, 9] and len(calls) == 2
    with pytest.raises(TaskFailed, match="invalid_params: double\\(\\) needs 'parent'"):
        await orphan.result()


async def test_a_slot_that_a_late_known_batch_frees_is_used_at_once(url: str | None) -> None:
    tq, calls = TaskQ("memory://"), asyncio.Semaphore(0)

    @tq.middleware
    async def held(task: Task, call_next: Any) -> Any:
        if task.type == "double":
            await calls.acquire()
        return await call_next(task)

    async with virtual(tq, url, concurrency=2) as kit:  # the worker has started, and knows of no batch

        @tq.task(batch=3, within=0.5)
        async def double(items: list[int]) -> list[int]:
            return [2 * n for n in items]

        @tq.task
        async def other() -> None: ...

        await tq.pause("default")
        gathered = await tq.push_many([double.call(1), double.call(2)])
        last = await other.push()
        await tq.resume("default")
        await kit.advance(0)
        for _ in gathered:
            assert await ends(kit, [last, *gathered]) == ["pending", "running", "running"]  # each has a slot
            calls.release()
            await kit.advance(0)
        assert await ends(kit, [last, *gathered]) == ["completed", "running", "running"]
        await kit.drain()
        assert [await each.result() for each in gathered] == [2, 4]


async def test_inline_mode_calls_with_one_item() -> None:
    async with inline() as mode:

        @mode.tq.task(batch=10, within=5)
        async def work(items: list[int]) -> list[int]:
            return [n + len(items) for n in items]

        assert await (await work.push(5)).result() == 6
        assert await work([1, 2]) == [3, 4]


def refused(function: Any, text: str, **options: Any) -> None:
    with pytest.raises(ValidationError, match=text):
        TaskQ("memory://").task(**options)(function)


def test_registrations_that_are_refused() -> None:
    async def two(a: list[int], b: int) -> None: ...
    async def one(items: list[int]) -> None: ...
    async def no_list(item: int) -> None: ...
    async def beside(items: list[int], parent: list[Parent[int]] = injected()) -> None: ...

    refused(two, "with batch it takes one parameter", batch=2)
    refused(beside, "a list of items; name that one 'parent'", batch=2)
    refused(no_list, "parameter 'item' is a list of items; annotate it as list", batch=2)
    refused(one, "batch: ", batch=0)
    refused(one, "within: ", batch=2, within=-1)
    refused(one, "within: it is about batch", within=1)


def test_params_are_checked_item_by_item() -> None:
    tq = TaskQ("memory://")

    @tq.task(batch=2)
    async def work(items: list[Item]) -> None: ...

    with pytest.raises(ValidationError, match=r"params\.items"):
        work.call({"n": "x"})  # type: ignore[arg-type]
    assert work.call(Item(1)).params == {"items": {"n": 1}}


async def test_a_batch_gathered_before_a_suspension_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with virtual(lease=30, heartbeat=10, poll_interval=5) as kit:
        calls: list[tuple[int, list[int]]] = []

        @kit.tq.task(batch=5, within=2)
        async def work(items: list[int]) -> None:
            calls.append((current_batch()[0].task.fence, items))

        handles = [await work.push(n) for n in range(2)]
        await kit.advance(1)
        ticks = kit.clock.ticks
        monkeypatch.setattr(kit.clock, "ticks", lambda: ticks() + 60_000_000)  # no timer has run meanwhile
        await kit.advance(1)
        assert calls == []
        await kit.advance(60)
        assert calls == [(2, [0, 1])]
        assert await ends(kit, handles) == ["completed"] * 2


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit("closed")], ids=["exit", "generator_exit"])
async def test_an_exit_in_a_batch_fails_its_tasks_as_in_a_single_handler(
    kit: Kit, batch: int | None, error: BaseException
) -> None:
    async def work(items: list[int]) -> None:
        raise error

    options: Any = {"batch": batch, "within": 1} if batch else {}
    kit.tq.task(name="work", **options)(work)
    handles = await kit.tq.push_many([("work", {"items": n if batch else [n]}) for n in range(3)])
    await kit.drain(delayed=True)
    rows = [await kit.task(handle) for handle in handles]
    # It is no ConnectionError or the like: not retried.
    assert [(row.status, row.retry_count) for row in rows] == [(Status.FAILED, 0)] * 3
    assert all(f"{type(error).__name__}: {error}" in str(row.error_message) for row in rows)


@pytest.mark.parametrize("batch", [None, 3])
def test_an_interrupt_in_a_batch_ends_the_program_as_in_a_single_handler(
    batch: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    tq = TaskQ("memory://")
    begun: list[Any] = []

    async def work(items: list[int]) -> None:
        begun.append(items)
        raise KeyboardInterrupt

    options: Any = {"batch": batch, "within": 60} if batch else {}
    tq.task(name="work", **options)(work)

    async def program() -> None:
        async with tq.running(concurrency=1, scheduler=False):
            await tq.push_many([("work", {"items": n if batch else [n]}) for n in range(batch or 1)])
            await asyncio.sleep(within(60))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(program())
    gc.collect()
    assert len(begun) == 1
    assert not caplog.messages  # as that an exception was never retrieved
    rows = asyncio.run(tq.find())
    assert {row.status for row in rows} == {Status.RUNNING}  # nothing is written: it comes back when its lease ends

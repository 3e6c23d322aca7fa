"""``TaskQ.push`` and the operator's verbs on memory and SQLite: keys, delays, expiry, results."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import ResultTimeout, Status, TaskQ
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import IllegalTransition
from aiotaskq.core.task import SECOND
from aiotaskq.errors import NotFound, TaskConflict, UnknownHandler, ValidationError
from tests.runtime.queue.reaping import reap


@pytest.fixture(params=["memory", "sqlite"])
async def tq(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/t.db"
    async with TaskQ(url, clock=VirtualClock()) as made:
        yield made


async def test_unique_and_idempotency_keys(tq: TaskQ) -> None:
    first = await tq.push("t", unique_key="u", idempotency_key="i")
    assert first.created
    for options in ({"unique_key": "u"}, {"idempotency_key": "i"}, {"unique_key": "u", "idempotency_key": "other"}):
        again = await tq.push("t", **options)  # type: ignore[arg-type]
        assert (again.task_id, again.created) == (first.task_id, False)
    both = await asyncio.gather(*[tq.push("t", unique_key="many") for _ in range(50)])
    assert len({handle.task_id for handle in both}) == 1 and sum(handle.created for handle in both) == 1
    await tq.cancel(first.task_id)
    assert (await tq.push("t", unique_key="u")).created  # A18: the lock is the live row itself
    assert not (await tq.push("t", idempotency_key="i")).created


async def test_retry_does_not_break_uniqueness(tq: TaskQ) -> None:
    first = await tq.push("t", unique_key="u")
    await tq.cancel(first.task_id)
    second = await tq.push("t", unique_key="u")
    with pytest.raises(TaskConflict, match="newer task holds its unique key"):
        await tq.retry(first.task_id)
    await tq.cancel(second.task_id)
    assert await (await tq.retry(first.task_id)).status() is Status.PENDING


async def test_delay_at_and_expiry(tq: TaskQ) -> None:  # B1
    clock: VirtualClock = tq.queue.clock  # type: ignore[assignment]
    later = await tq.push("t", delay=60)
    dying = await tq.push("t", expires=30)
    assert await tq.queue.get_queue_size() == 1
    clock._now += 31 * SECOND
    assert await tq.queue.pop_task(0) is None
    await reap(tq.queue)
    assert await dying.status() is Status.EXPIRED
    clock._now += 29 * SECOND - 1
    assert await tq.queue.pop_task(0) is None
    clock._now += 1
    task = await tq.queue.pop_task(0)
    assert task is not None and task["task_id"] == later.task_id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": -1}, "delay: must be at least 0 seconds"),
        ({"delay": float("inf")}, "delay: inf is not a number"),
        ({"delay": 1, "at": 5}, "delay, at: give one of the two"),
        ({"at": "soon"}, "at: epoch seconds or an aware datetime"),
        ({"unique_key": ""}, "unique_key: must not be empty"),
        ({"unique_key": "a\nb"}, "unique_key: control characters"),
        ({"queue": 4}, "queue: a string is needed"),
        ({"priority": 2**40}, "priority: 1099511627776 is not in"),
        ({"colour": "red"}, "push: unknown option colour; use delay"),
        ({"max_retries": 1.0}, "max_retries: an int is needed"),
    ],
)
async def test_bad_push_options(tq: TaskQ, options: dict[str, Any], message: str) -> None:  # I9
    with pytest.raises(ValidationError) as caught:
        await tq.push("t", {}, **options)
    assert str(caught.value).startswith(message)
    assert sum((await tq.stats()).counts.values()) == 0


async def test_unknown_handler_names_the_near_one(tq: TaskQ) -> None:
    @tq.task
    async def send_mail(to: str) -> None: ...

    with pytest.raises(
        UnknownHandler, match="no handler is registered for 'send_mial'; did you mean 'send_mail'\\?"
    ) as caught:
        await tq.push("send_mial")
    assert isinstance(caught.value, LookupError) and isinstance(caught.value, ValueError)
    tq.elsewhere("of.another.service")
    await tq.push("of.another.service")
    with pytest.raises(TypeError, match=r"send_mail\(\) missing 1 required positional argument: 'to'"):
        await send_mail.push()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'cc'"):
        await send_mail.push(to="x", cc="y")  # type: ignore[call-arg]


async def test_push_many_is_all_or_none(tq: TaskQ) -> None:  # A15
    with pytest.raises(ValidationError):
        await tq.push_many([("t", {}), ("", {}), ("t", {})])
    with pytest.raises(ValidationError, match="push_many: each item"):
        await tq.push_many(["t"])  # type: ignore[list-item]
    assert sum((await tq.stats()).counts.values()) == 0
    handles = await tq.push_many([("t", {"n": 1}), {"type": "t", "params": {"n": 2}, "priority": -1}])
    assert [(await handle.task()).params["n"] for handle in handles] == [1, 2]
    assert await tq.push_many([]) == []
    popped = await tq.queue.pop_task(0)
    assert popped is not None and popped["params"]["n"] == 2


async def test_operators_verbs(tq: TaskQ) -> None:
    handles = [await tq.push("t", {"n": n}, queue="a" if n % 2 else "b") for n in range(6)]
    newest_first = [handle.task_id for handle in reversed(handles)]
    assert [task.task_id for task in await tq.find()] == newest_first
    page = await tq.find(limit=2)
    assert [t.task_id for t in await tq.find(limit=2, after=page[-1].task_id)] == newest_first[2:4]
    await tq.pause("a")
    assert (await tq.stats()).paused == await tq.queue.paused() == ["a"]
    assert [(await tq.queue.pop_task(0))["params"]["n"] for _ in range(3)] == [0, 2, 4]  # type: ignore[index]
    assert await tq.queue.pop_task(0) is None
    await tq.resume("a")
    assert await tq.queue.get_queue_size() == 3
    assert await tq.cancel(handles[1].task_id) is True
    assert await tq.cancel(handles[1].task_id) is False
    assert await tq.cancel(handles[2].task_id) is True, "it runs, and is asked to stop"
    with pytest.raises(TaskConflict, match="only failed, cancelled or expired"):
        await tq.retry(handles[3].task_id)
    for missing in (tq.get, tq.cancel, tq.retry):
        with pytest.raises(NotFound, match="there is no task nobody"):
            await missing("nobody")
    with pytest.raises(ValidationError, match="only ended tasks are purged, not running"):
        await tq.purge(status="running")
    with pytest.raises(ValidationError, match="status: 'done' is unknown; use pending"):
        await tq.find(status="done")
    for verb in (tq.purge, tq.find):
        with pytest.raises(ValidationError, match="status: an empty list names none"):
            await verb(status=[])
    for limit in (0, 100_001):
        with pytest.raises(ValidationError, match=f"limit: {limit} is not in"):
            await tq.find(limit=limit)
    with pytest.raises(NotFound):
        await tq.find(after="gone")
    with pytest.raises(ValidationError, match="params: a dict is needed"):
        await tq.push_many([{"type": "t", "params": []}])
    assert await tq.purge(status="cancelled", older_than=10) == 0
    assert await tq.purge(status=["cancelled", "failed"], type="t") == 1
    stats = await tq.stats()
    assert stats.counts == {"pending": 2, "running": 3, "completed": 0, "failed": 0, "cancelled": 0, "expired": 0}
    assert (stats.ready, stats.queues) == (2, {"a": {"pending": 2}, "b": {"running": 3}})
    assert stats.oldest_age == 0.0


async def test_result_waits_and_gives_up(tmp_path: Path) -> None:
    tq = TaskQ("memory://")
    handle = await tq.push("t")
    with pytest.raises(ResultTimeout, match=r"is pending after 0\.01 s"):
        await handle.result(0.01)
    with pytest.raises(TimeoutError):
        await handle.result(0)
    with pytest.raises(NotFound):
        await tq.handle("nobody").result(1)
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0)
    await handle.cancel()
    with pytest.raises(Exception, match="cancelled"):
        await waiting


async def test_illegal_transitions_raise(tq: TaskQ) -> None:
    from aiotaskq.core.outcome import Completed

    handle = await tq.push("t")
    with pytest.raises(IllegalTransition, match="is pending: Completed is not possible"):
        await tq.queue.settle(await handle.task(), Completed())

"""Heartbeats, progress, cancel requests, and the operator's verbs; opening and closing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import text

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.listeners import CANCEL, ENDED, READY
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, TaskFilter
from aiotaskq.errors import ClosedError
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, ended, new, pushed, read, running


async def test_report_stores_progress_of_what_is_held(backend: Backend) -> None:
    held, finished, waiting = await running(backend), await ended(backend), await pushed(backend)
    progress: dict[str, Any] = {"done": 1, "total": 3, "message": "é🙂"}
    answers = await backend.report(
        [
            (held.task_id, held.fence, progress),
            (held.task_id, held.fence + 1, {"zombie": True}),
            (finished.task_id, finished.fence, progress),
            (waiting.task_id, waiting.fence, progress),
            ("missing", 1, progress),
        ]
    )
    assert answers == [True, False, False, False, False]
    assert await read(backend, held) == held.replace(progress=progress)
    assert await read(backend, finished) == finished
    assert await read(backend, waiting) == waiting
    assert await backend.report([(held.task_id, held.fence, {"done": 2})]) == [True]
    assert (await read(backend, held)).progress == {"done": 2}
    assert await backend.report([]) == []


async def test_request_cancel_flags_running_tasks(backend: Backend, hints: list[Any]) -> None:
    task, finished, waiting = await running(backend), await ended(backend), await pushed(backend)
    hints.clear()
    ids = [task.task_id, finished.task_id, waiting.task_id, "missing"]
    assert await backend.request_cancel(ids) == [True, False, False, False]
    assert [kind for kind, _ in hints] == [CANCEL]
    assert task.task_id in hints[0][1]
    assert await read(backend, task) == task.replace(cancel_requested=True)
    assert await read(backend, finished) == finished
    assert await read(backend, waiting) == waiting
    assert await backend.request_cancel([task.task_id]) == [True]  # asking twice is asking


# ---- purge, delete, pause -----------------------------------------------------------------------------------------


async def test_purge_deletes_final_tasks_only(backend: Backend) -> None:
    kept = [await running(backend), await pushed(backend)]
    for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED):
        await ended(backend, status, priority=-1)
    assert await backend.purge(TaskFilter(status=(Status.PENDING, Status.RUNNING)), 100) == 0
    assert await backend.purge(TaskFilter(), 100) == 4
    assert await backend.find(TaskFilter(), 100) == kept[::-1]


async def test_purge_keeps_what_was_brought_back(backend: Backend) -> None:  # F23
    for status in (Status.FAILED, Status.CANCELLED, Status.EXPIRED):
        back = await ended(backend, status, priority=-1)
        gone = await ended(backend, status, priority=-1)
        after = back.replace(status=Status.PENDING, completed_at=None)
        assert await backend.update([Change(back, after)]) == [True]
        assert await backend.purge(TaskFilter(status=(status,)), 10) == 1
        assert await backend.get([back.task_id, gone.task_id]) == [after, None]
        await backend.delete([back.task_id])


@pytest.mark.stores("sqlite", "postgresql", "mysql")  # in the others nothing comes between the look and the deletion
async def test_purge_keeps_what_is_brought_back_meanwhile(sql_store: Store) -> None:  # F23
    backend = sql_store.backend
    back, gone = await ended(backend, Status.FAILED), await ended(backend, Status.FAILED)
    engine = sync_engine(sql_store.url)
    with engine.connect() as operator:
        words = "UPDATE task_queue SET status = 'pending', completed_at = NULL WHERE task_id = :i"
        operator.execute(text(words), {"i": back.task_id})
        purge = asyncio.create_task(backend.purge(TaskFilter(), 10))
        await asyncio.wait([purge], timeout=0.2)
        assert not purge.done(), "it waits for the operator's transaction"
        operator.commit()
    assert await purge == 1
    assert await backend.get([gone.task_id]) == [None]
    assert (await read(backend, back)).status is Status.PENDING
    engine.dispose()


async def test_purge_limit(backend: Backend) -> None:  # F23
    for _ in range(10):
        await ended(backend)
    assert [await backend.purge(TaskFilter(), 4) for _ in range(4)] == [4, 4, 2, 0]


async def test_purge_filters(backend: Backend) -> None:
    a = await ended(backend, Status.FAILED, type="a", queue="q")
    b = await ended(backend, Status.COMPLETED, type="b")
    assert await backend.purge(TaskFilter(completed_before=NOW // SECOND), 10) == 0
    assert await backend.purge(TaskFilter(type="a", queue="other"), 10) == 0
    assert await backend.purge(TaskFilter(status=(Status.FAILED,), type="a", queue="q"), 10) == 1
    assert await backend.get([a.task_id, b.task_id]) == [None, b]
    assert await backend.purge(TaskFilter(completed_before=NOW // SECOND + 1), 10) == 1


async def test_delete_forgets_whatever_the_status(backend: Backend) -> None:
    tasks = [
        await ended(backend, idempotency_key="a"),
        await running(backend, unique_key="b"),
        await pushed(backend, unique_key="c"),
    ]
    assert await backend.delete([*(task.task_id for task in tasks), "missing"]) == 3
    assert await backend.delete([tasks[0].task_id]) == 0
    assert await backend.delete([]) == 0
    assert await backend.get([task.task_id for task in tasks]) == [None] * 3
    assert sum((await backend.stats(NOW)).counts.values()) == 0
    assert await backend.claim("o", NOW, 5) == []
    assert await backend.overdue(LEASE * 2, 5) == []
    again = [new(idempotency_key="a"), new(unique_key="b"), new(unique_key="c")]
    assert all(a is b for a, b in zip(await backend.push(again), again, strict=True))


async def test_delete_of_very_many(backend: Backend) -> None:
    tasks = await backend.push([new() for _ in range(1_300)])
    assert await backend.delete([task.task_id for task in tasks]) == 1_300
    assert await backend.count_ready(NOW) == 0


async def test_paused(backend: Backend, hints: list[Any]) -> None:
    assert await backend.paused() == []
    for queue in ("b", "a", "ä", "b"):
        await backend.set_paused(queue, True)
    assert await backend.paused() == ["a", "b", "ä"]
    hints.clear()
    await backend.set_paused("b", False)
    assert (READY, []) in hints
    assert await backend.paused() == ["a", "ä"]
    await backend.set_paused("never", False)
    assert await backend.paused() == ["a", "ä"]


async def test_a_pause_is_seen_by_every_process(shared_store: Store) -> None:
    other = await shared_store.another()
    await shared_store.backend.push([new()])
    await shared_store.backend.set_paused("default", True)
    assert await other.paused() == ["default"]
    assert await other.claim("o", NOW, 5) == []
    await other.set_paused("default", False)
    assert len(await shared_store.backend.claim("o", NOW, 5)) == 1


# ---- hints, open, close ---------------------------------------------------------------------------------------------


async def test_a_listener_can_leave(backend: Backend) -> None:
    heard: list[str] = []
    stop = backend.listeners.listen(lambda kind, names: heard.append(kind))
    await pushed(backend)
    assert heard == [READY]
    stop()
    stop()
    await pushed(backend)
    assert heard == [READY]


async def test_a_listener_receives_the_kinds_that_it_named(backend: Backend) -> None:
    heard: list[str] = []
    stop = backend.listeners.listen(lambda kind, names: heard.append(kind), ENDED, CANCEL)
    task = await running(backend)
    await backend.request_cancel([task.task_id])
    (task,) = [row for row in await backend.get([task.task_id]) if row is not None]
    assert await backend.update([Change(task, task.replace(status=Status.CANCELLED))]) == [True]
    assert heard == [CANCEL, ENDED]
    stop()
    backend.listeners.receive(ENDED)
    assert heard == [CANCEL, ENDED]


async def test_a_hint_comes_after_the_commit(sql_store: Store) -> None:  # A11
    seen: list[str] = []  # only SQL can be looked at without waiting

    def listener(kind: str, names: object) -> None:
        rows = sql_store.execute("SELECT status FROM task_queue")
        seen.extend(f"{kind} {status}" for (status,) in rows)

    sql_store.backend.listeners.listen(listener)
    task = await running(sql_store.backend)
    done = task.replace(status=Status.COMPLETED)
    assert await sql_store.backend.update([Change(task, done)]) == [True]
    assert seen == ["ready pending", "ended completed"]


async def test_opening_again_is_harmless(backend: Backend) -> None:
    task = await pushed(backend)
    await backend.open()
    await backend.open()
    assert await read(backend, task) == task


async def test_closing_again_is_harmless(backend: Backend) -> None:
    await backend.close()
    await backend.close()


async def test_a_closed_store_raises_until_it_is_opened(durable_store: Store) -> None:
    backend = durable_store.backend
    task = await pushed(backend)
    await backend.close()
    verbs: list[Any] = [
        backend.push([new()]),
        backend.claim("o", NOW, 1),
        backend.update([Change(task, task)]),
        backend.report([("a", 1, {})]),
        backend.request_cancel(["a"]),
        backend.get(["a"]),
        backend.find(TaskFilter(), 1),
        backend.ids_with_prefix(["a"], 1),
        backend.overdue(NOW, 1),
        backend.next_run_at(NOW),
        backend.count_ready(NOW),
        backend.stats(NOW),
        backend.active(["a"]),
        backend.purge(TaskFilter(), 1),
        backend.delete(["a"]),
        backend.set_paused("q", True),
        backend.paused(),
        backend.values.put([("k", 1, None)]),
        backend.values.get(["k"], NOW),
        backend.values.delete(["k"], NOW),
        backend.values.keys(NOW),
        backend.values.count(NOW),
        backend.values.expire(NOW, 1),
        backend.values.clear(),
    ]
    verbs += [backend.schedules.get(["a"]), backend.schedules.all(), backend.schedules.due(NOW, 1)]
    verbs += [backend.schedules.next_due(), backend.schedules.delete(["a"])]
    for verb in verbs:
        with pytest.raises(ClosedError, match="closed"):
            await verb
    await backend.open()
    assert await read(backend, task) == task


async def test_cancelling_names_the_running_tasks_with_a_cancel_request(backend: Backend) -> None:  # D9
    asked, left = await running(backend), await running(backend)
    waiting = await pushed(backend, run_at=NOW + SECOND)
    await backend.request_cancel([asked.task_id, waiting.task_id])
    assert await backend.cancelling([left.task_id, asked.task_id, waiting.task_id, "unknown"]) == [asked.task_id]
    assert await backend.cancelling([]) == []
    stopped = asked.replace(status=Status.CANCELLED, cancel_requested=True)
    assert await backend.update([Change(asked, stopped)]) == [True]
    assert await backend.cancelling([asked.task_id]) == []


async def test_another_has_the_same_rows_and_its_own_connections(backend: Backend) -> None:
    other = backend.another()
    await other.open()
    try:
        task = await pushed(other)
        assert await read(backend, task) == task
    finally:
        await other.close()
    assert await read(backend, task) == task


async def test_the_clock_of_the_store_is_one_that_goes(backend: Backend) -> None:
    first, second = await backend.ping(), await backend.ping()
    if first is None:
        assert second is None
    else:
        assert second is not None
        # About now, in microseconds: a database that answers in its own zone's time would be hours off.
        assert abs(first - time.time_ns() // 1000) < 600 * SECOND
        assert 0 <= second - first < 60 * SECOND


async def test_a_received_wake_up_is_not_sent_again(backend: Backend, hints: list[tuple[str, list[str]]]) -> None:
    passed: list[str] = []
    backend.listeners.forward = lambda kind, _names: passed.append(kind)
    backend.listeners.receive(READY)
    assert (hints, passed) == ([(READY, [])], [])
    backend.listeners.notify(READY)
    assert (hints, passed) == ([(READY, [])] * 2, [READY])

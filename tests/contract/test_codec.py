"""A codec on each durable store: what is written with it is read with it, and nothing is lost without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from msgspec.structs import replace
from sqlalchemy import text

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Change, Claim, Room, ScheduleChange, Schedules
from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.codec import Codec
from aiotaskq.core.ids import new_id
from aiotaskq.core.outcome import Completed, Failed, Outcome, Released, Requeued, attempts_of, settle
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task, TaskFilter
from aiotaskq.errors import NotSupported, TaskFailed
from aiotaskq.runtime.copy import copy
from aiotaskq.runtime.recode import Recoded, recode
from aiotaskq.runtime.recode import recode_schedules as recode_each
from tests.contract.test_roundtrip import ON_ONE_STORE, apart, exactly
from tests.contract.test_roundtrip import tasks as any_tasks
from tests.support.backends import Store
from tests.support.codecs import Keyed
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, new, new_schedule, read
from tests.support.small_store.rows import STORES

SECRET = "a secret 🙂"
PARAMS = {"text": SECRET}


class Opened:
    """Opens backends with codecs on one store, and closes them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._backends: list[Backend] = []

    async def __call__(self, codec: Codec | None) -> Backend:
        backend = connect(self.store.url, codec=codec)
        await backend.open()
        self._backends.append(backend)
        return backend

    async def close(self) -> None:
        for backend in self._backends:
            await backend.close()


@pytest.fixture
async def opened(durable_store: Store) -> AsyncIterator[Opened]:
    made = Opened(durable_store)
    yield made
    await made.close()


async def stored_text(store: Store) -> str:
    """Everything that the store keeps about tasks and schedules."""
    if store.is_sql:
        return str([store.execute(f"SELECT * FROM {table}") for table in ("task_queue", "scheduler_task")])
    if store.name == "small":
        rows = STORES[store.url]
        return str(msgspec.json.encode([rows.tasks, rows.schedules]))
    redis: Any = store.backend
    root = redis._redis.root
    keys = ("body", "state", "progress", "schedules")
    return str([await redis._redis.command("HGETALL", root + key) for key in keys])


async def lived(backend: Backend, **fields: Any) -> tuple[Task, Task]:
    """A completed task, and one that waits for its retry; both with secrets in every column."""
    given: dict[str, Any] = {"params": PARAMS, "extra": {"own": SECRET}, "max_retries": 9, **fields}
    await backend.push([new(**given), new(**given)])
    tasks = await backend.claim("owner", NOW, 2, lease_until=LEASE)
    assert await backend.report([(task.task_id, task.fence, {"done": 1, "message": SECRET}) for task in tasks])
    ends: tuple[Outcome, ...] = (Completed([SECRET]), Failed("ValueError: no"))
    changes = [Change(task, settle(task, end, NOW + 5)) for task, end in zip(tasks, ends, strict=True)]
    assert await backend.update(changes) == [True, True]
    done, waits = [await read(backend, task) for task in tasks]
    assert (done.result, done.status, waits.status) == ([SECRET], Status.COMPLETED, Status.PENDING)
    return done, waits


def secrets_of(task: Task) -> tuple[Any, ...]:
    return task.params, task.extra, task.progress, task.result, attempts_of(task), task.undecodable


async def test_every_verb_writes_coded_and_reads_plain(opened: Opened) -> None:
    backend = await opened(Keyed("k"))
    done, waits = await lived(backend)
    assert secrets_of(done)[:4] == (PARAMS, {"own": SECRET}, {"done": 1, "message": SECRET}, [SECRET])
    assert [attempt.error for attempt in waits.attempts] == ["ValueError: no"]
    assert await backend.find(TaskFilter(), 10) == [waits, done]
    kept = await stored_text(opened.store)
    assert "a secret" not in kept and "ValueError: no" in kept, "error_message is readable, and params are not"
    assert "$aiotaskq1$" in kept and '"number"' not in kept, "nor are attempts"
    other = backend.another()
    await other.open()
    assert await other.get([done.task_id]) == [done]
    await other.close()
    late = waits.run_at
    assert await backend.least_ready(late, 5) == [waits]
    (again,) = await backend.claim("owner", late, 1, lease_until=late + 1)
    assert again.params == PARAMS and again.attempts == waits.attempts
    assert await backend.overdue(late + 1, 5) == [again]
    changes = [Change(again, settle(again, Failed("second"), late))]
    held, claimed = await backend.exchange(changes, Claim("owner", late, 0))
    assert (held, claimed) == ([True], [])
    assert [attempt.error for attempt in (await read(backend, again)).attempts] == ["ValueError: no", "second"]
    fresh = new(params=PARAMS)
    stored, _, claimed = await backend.push_and_claim([fresh], Claim("owner", NOW, 1, lease_until=LEASE))
    assert stored[0] is fresh and claimed[0].params == PARAMS
    changes = [Change(claimed[0], settle(claimed[0], Completed(PARAMS), late))]
    assert (await backend.push_and_claim([new()], Claim("owner", NOW, 0), changes))[1] == [True]
    assert (await read(backend, claimed[0])).result == PARAMS


async def test_what_a_transaction_pushes_is_coded_and_returned_plain(opened: Opened) -> None:
    backend = await opened(Keyed("k"))
    first, second = new(params=PARAMS, unique_key="u"), new(params=PARAMS, unique_key="u")
    (stored,) = await backend.store.transact(lambda tx: push(tx, [first]))
    (there,) = await backend.store.transact(lambda tx: push(tx, [second]))
    assert stored is first
    assert (there.task_id, there.params, there.coded) == (first.task_id, PARAMS, None)
    assert "a secret" not in await stored_text(opened.store)


async def test_a_key_is_given_up_and_a_waiting_task_changed_in_code(opened: Opened) -> None:
    backend = await opened(Keyed("k"))
    runs = new(unique_key="k", params=PARAMS, extra={"own": SECRET})
    await backend.push([runs])
    (runs,) = await backend.claim("owner", NOW, 1, lease_until=LEASE)
    assert await backend.update([Change(runs, runs.replace(unique_key=None))]) == [True]
    waits = new(unique_key="k", run_at=LEASE)
    assert (await backend.push([waits]))[0] is waits
    assert await backend.update([Change(waits, waits.replace(params=PARAMS, fence=1))]) == [True]
    assert "a secret" not in await stored_text(opened.store)
    assert (await read(backend, runs)).replace(unique_key="k") == runs
    assert await read(backend, waits) == waits.replace(params=PARAMS, fence=1)


async def test_attempts_are_written_only_when_there_is_one_more(opened: Opened, sql_store: Store) -> None:
    backend = await opened(Keyed("k"))
    _done, waits = await lived(backend)

    def stored() -> str:
        ((text,),) = sql_store.execute("SELECT attempts FROM task_queue WHERE task_id = :id", id=waits.task_id)
        return str(text)

    before = stored()
    assert before.startswith("$aiotaskq1$")
    (again,) = await backend.claim("owner", waits.run_at, 1, lease_until=waits.run_at + 1)
    assert await backend.update([Change(again, settle(again, Completed(1), waits.run_at))]) == [True]
    assert stored() == before
    assert [attempt.outcome for attempt in attempts_of(await read(backend, waits))] == ["failed", "completed"]


async def test_a_push_returns_what_stands_for_it(opened: Opened) -> None:
    backend = await opened(Keyed("k"))
    first, twin = new(params=PARAMS, idempotency_key="i"), new(params={"n": 2}, idempotency_key="i")
    stored = await backend.push([first, twin])
    assert stored[0] is first
    (row,) = await backend.push([twin])
    assert row.task_id == first.task_id and row.params == PARAMS and row.undecodable is None
    bounded = new(params=PARAMS)
    (stored_there,) = await backend.push([bounded], Room(5, NOW, (Change(first, first.replace(priority=3)),)))
    assert stored_there is bounded
    assert (await read(backend, first)).priority == 3 and (await read(backend, first)).params == PARAMS


async def test_content_of_another_push_is_written_coded(opened: Opened) -> None:
    backend = await opened(Keyed("k"))
    (task,) = await backend.push([new(params={"n": 1})])
    (task,) = await backend.claim("owner", NOW, 1, lease_until=LEASE)
    after = settle(task, Released("stopped"), NOW).replace(params=PARAMS, extra={"own": SECRET})
    follow_up = new(params=PARAMS)
    assert await backend.update([Change(task, after, (follow_up,))]) == [True]
    assert (await read(backend, task)).params == (await read(backend, follow_up)).params == PARAMS
    assert "a secret" not in await stored_text(opened.store)


async def test_without_its_codec_a_row_is_kept_and_reported(opened: Opened) -> None:
    done, waits = await lived(await opened(Keyed("k")), max_retries=2)
    for codec, why in ((None, "coded, and no codec is set"), (Keyed("other"), "cannot be decoded (LookupError)")):
        backend = await opened(codec)
        for task in (done, waits):
            row = await read(backend, task)
            assert why in (row.undecodable or "") and (row.params, row.result, row.progress) == ({}, None, None)
            assert "params" in (row.coded or {})
    backend = await opened(None)
    late = waits.run_at
    (claimed,) = await backend.claim("owner", late, 9, lease_until=late + 5)
    failed = settle(claimed, Failed("undecodable", retryable=False), late)
    assert failed.status is Status.FAILED
    assert await backend.update([Change(claimed, failed)]) == [True]
    row = await read(backend, waits)
    assert await backend.update([Change(row, settle(row, Requeued(), late))]) == [True]
    kept = await read(await opened(Keyed("new", "k")), waits)
    assert secrets_of(kept) == secrets_of(waits), "with the key again, all of it is there"
    assert secrets_of(await read(await opened(Keyed("k")), done)) == secrets_of(done)


async def test_a_worker_without_the_codec_fails_it_at_once(shared_store: Store) -> None:
    far = TaskQ(shared_store.url, codec=Keyed("k"), poll_interval=0.05)
    tq = TaskQ(shared_store.url, poll_interval=0.05)
    runs: list[str] = []

    @tq.task(max_retries=5, backoff=0.01)
    async def work(text: str = "") -> None:
        runs.append(text)

    async with far, tq.running(concurrency=1):
        handle = await far.push("work", PARAMS)
        with pytest.raises(TaskFailed, match="undecodable: params: coded, and no codec is set"):
            await handle.result(within(30))
        row = await handle.task()
        await work.push(text="plain")
        assert (row.status, row.retry_count, row.params) == (Status.FAILED, 0, PARAMS)
        assert row.undecodable is None


async def test_plain_rows_and_coded_ones_mix(opened: Opened) -> None:
    plain = await lived(await opened(None))
    backend = await opened(Keyed("k"))
    coded = await lived(backend)
    for task in (*plain, *coded):
        assert secrets_of(await read(backend, task)) == secrets_of(task)


@pytest.fixture
async def keyed(opened: Opened) -> Backend:
    return await opened(Keyed("k"))


@ON_ONE_STORE
@given(drawn=any_tasks)
async def test_any_task(keyed: Backend, drawn: Task) -> None:
    task = apart(drawn)
    assert (await keyed.push([task]))[0] is task
    (row,) = await keyed.get([task.task_id])
    assert row == task
    for field in ("params", "extra", "result", "progress"):
        assert exactly(getattr(row, field), getattr(task, field)), field


async def test_the_durable_fake_uses_it_and_keeps_plain_values() -> None:
    tq = TaskQ("memory://durable-fake", codec=Keyed("k"))
    async with tq:
        assert (await (await tq.push("t", PARAMS)).task()).params == PARAMS
        backend = tq.queue.backend
        assert backend.codec is not None
        backend.codec = Broken()
        with pytest.raises(ZeroDivisionError):
            await tq.push("t", PARAMS)


class Broken(Keyed):
    def encode(self, data: bytes, /) -> bytes:
        raise ZeroDivisionError


async def test_in_memory_it_is_not_used() -> None:
    async with TaskQ("memory://", codec=Broken("k")) as tq:
        handle = await tq.push("t", PARAMS)
        assert (await handle.task()).params == PARAMS
        with pytest.raises(NotSupported, match="this store has no codec"):
            await tq.queue.backend.recode([handle.task_id])


# ---- a new key ------------------------------------------------------------------------------------------------------


async def recoded(backend: Backend, **fields: Any) -> Recoded:
    done = Recoded(undecodable=[], locked=[], **fields)
    await recode(backend, SystemClock(), done, lambda _looked, _total: None)
    return done


async def test_all_rows_are_written_with_the_new_key(opened: Opened) -> None:
    plain = await lived(await opened(None))
    old = await lived(await opened(Keyed("old")))
    (pushed,) = await (await opened(Keyed("old"))).push([new(params=PARAMS, progress={"done": 0})])
    done = await recoded(await opened(Keyed("new", "old")))
    assert (done.tasks, done.undecodable, done.locked) == (5, [], [])
    only_new = await opened(Keyed("new"))
    for task in (*plain, *old, pushed):
        row = await read(only_new, task)
        assert row.replace(params=task.params) == task and secrets_of(row) == secrets_of(task)
    assert "a secret" not in await stored_text(opened.store)
    assert (await recoded(await opened(Keyed("new")))).tasks == 5, "it is safe to repeat"
    newest = await only_new.find(TaskFilter(), 2)
    assert (await recoded(await opened(Keyed("new")), last=newest[-1].task_id)).tasks == 3, "and to continue"


async def test_callbacks_of_groups_are_written_with_the_new_key(opened: Opened) -> None:
    old = await opened(Keyed("old"))
    callback = new(type="then", params=PARAMS, seq=NOW)
    alert = new(type="alert", params=PARAMS, seq=NOW)
    done, fails = (Outline(group_id=new_id(), nodes=(), then=callback, on_failure=alert) for _ in range(2))
    for made, name in ((done, "completes"), (fails, "fails")):
        assert await old.groups.push(plan(replace(made, nodes=(Node("0", new(type=name)),)), NOW))
    member = new(queue="other")
    lost = Outline(group_id=new_id(), nodes=(Node("0", member),), then=callback)
    assert await (await opened(Keyed("lost"))).groups.push(plan(lost, NOW))
    assert await old.groups.push(plan(Outline(group_id=new_id(), nodes=(Node("0", new(queue="other")),)), NOW))
    both = await opened(Keyed("new", "old"))
    answer = await recoded(both)
    assert (answer.groups, answer.undecodable) == (2, [member.task_id, lost.group_id]), "one has no callback"
    assert await both.groups.recode([]) == await both.groups.recode(["none"]) == (0, [])
    backend = await opened(Keyed("new"))
    for task in await backend.claim("o", NOW, 9, queues=["default"], lease_until=LEASE):
        end = Completed(None) if task.type == "completes" else Failed("no", retryable=False)
        assert await backend.update([Change(task, settle(task, end, NOW))]) == [True]
    called = await backend.claim("o", NOW, 9, queues=["default"], lease_until=LEASE)
    found = {task.type: (task.params, task.undecodable) for task in called}
    assert found == {"then": (PARAMS, None), "alert": (PARAMS, None)}
    (group,) = await backend.groups.get([lost.group_id])
    assert group is not None and group.then is not None and group.then.coded, "what cannot be decoded stays"
    with pytest.raises(NotSupported, match="has no codec"):
        await (await opened(None)).groups.recode([lost.group_id])


async def test_what_cannot_be_decoded_stays(opened: Opened) -> None:
    lost = await lived(await opened(Keyed("lost")))
    good = await lived(await opened(Keyed("old")))
    before = await stored_text(opened.store)
    done = await recoded(await opened(Keyed("new", "old")))
    assert done.tasks == 2 and sorted(done.undecodable) == sorted(task.task_id for task in lost)
    again = await opened(Keyed("lost"))
    for task in lost:
        assert secrets_of(await read(again, task)) == secrets_of(task)
    assert secrets_of(await read(await opened(Keyed("new")), good[0])) == secrets_of(good[0])
    assert before != await stored_text(opened.store)


async def test_a_store_without_a_codec_refuses(opened: Opened) -> None:
    with pytest.raises(NotSupported, match="has no codec"):
        await recoded(await opened(None))


async def test_what_is_written_meanwhile_is_not_overwritten(opened: Opened) -> None:
    """Tasks are claimed, report progress, fail, complete, are pushed and deleted while all rows are rewritten."""
    old, both = Keyed("old"), Keyed("new", "old")
    writer, backend = await opened(old), await opened(both)
    await writer.push([new(params={"n": n, "text": SECRET}, max_retries=1) for n in range(60)])
    ended = asyncio.Event()
    finished: dict[str, Task] = {}

    async def work() -> None:
        now = NOW
        while len(finished) < 50:
            now += 10_000_000_000
            tasks = await writer.claim("owner", now, 10, lease_until=now + 60_000_000)
            assert all(task.undecodable is None for task in tasks)
            await writer.report([(task.task_id, task.fence, {"done": task.params["n"]}) for task in tasks])
            ends = [Failed("once") if not task.attempts else Completed(task.params) for task in tasks]
            changes = [Change(task, settle(task, end, now)) for task, end in zip(tasks, ends, strict=True)]
            assert all(await writer.update(changes))
            finished.update({change.after.task_id: change.after for change in changes if change.after.final})
        ended.set()

    writer.codec = Keyed("old", "new")  # a worker that was started with both keys, the old one first
    working = asyncio.create_task(work())
    passes = 0
    while not ended.is_set() or not passes:
        if working.done():
            await working
        done = await recoded(backend)
        assert done.undecodable == []
        passes += 1
    await working
    assert (await recoded(backend)).locked == []
    reader = await opened(Keyed("new"))
    rows = await reader.find(TaskFilter(), 100)
    assert len(rows) == 60 and all(row.undecodable is None for row in rows)
    ended_rows = [row for row in rows if row.task_id in finished]
    for row in ended_rows:
        assert (row.status, row.result) == (Status.COMPLETED, row.params)
        # A report does not wait for a row that is being rewritten.
        assert row.progress in (None, {"done": row.params["n"]}) and len(row.attempts) == 1
    assert any(row.progress is not None for row in ended_rows)


@pytest.mark.stores("redis")  # in SQL the row is locked from the read to the write
async def test_a_row_that_changes_between_the_read_and_the_write_is_read_again(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await opened(Keyed("old"))
    backend: Any = await opened(Keyed("new", "old"))
    (task,) = await writer.push([new(params=PARAMS)])
    (task,) = await writer.claim("owner", NOW, 1, lease_until=LEASE)
    run = backend._redis.run
    meddle: list[Callable[[], Awaitable[object]]] = []

    async def meddled(name: str, *words: Any, **options: Any) -> Any:
        if name == "commit" and meddle:
            await meddle.pop()()
        return await run(name, *words, **options)

    monkeypatch.setattr(backend._redis, "run", meddled)
    failed = settle(task, Failed("once"), NOW)
    edited = failed.replace(params={"n": 2}, extra={})
    meddle.append(lambda: writer.report([(task.task_id, task.fence, {"done": 7})]))
    assert await backend.recode([task.task_id]) == [True]
    meddle.append(lambda: writer.request_cancel([task.task_id]))
    assert await backend.recode([task.task_id]) == [True]
    task = await read(writer, task)
    assert task.cancel_requested
    meddle.append(lambda: writer.update([Change(task, failed)]))
    writer.codec = Keyed("old", "new")
    assert await backend.recode([task.task_id]) == [True]
    meddle.append(lambda: writer.update([Change(failed, edited)]))
    assert await backend.recode([task.task_id]) == [True]
    row = await read(backend, task)
    assert meddle == []
    assert (row.retry_count, row.progress, row.params) == (1, {"done": 7}, {"n": 2})


@pytest.mark.stores("postgresql", "mysql")  # SQLite locks the whole file, and a write waits for it
async def test_a_locked_row_is_left_for_later(opened: Opened, sql_store: Store) -> None:
    old = await opened(Keyed("old"))
    held, free = await old.push([new(params=PARAMS), new(params=PARAMS)])
    engine = sync_engine(sql_store.url)
    backend = await opened(Keyed("new", "old"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE task_queue SET priority = 7 WHERE task_id = :id"), {"id": held.task_id})
        assert await backend.recode([held.task_id, "nobody", free.task_id]) == [False, None, True]
    engine.dispose()
    assert await backend.recode([held.task_id]) == [True]
    assert (await read(await opened(Keyed("new")), held)).priority == 7


# ---- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.stores("sqlite", "postgresql", "mysql", "redis")  # those whose schedules have a codec
async def test_schedules_and_what_they_fire(opened: Opened, schedules: Schedules, durable_store: Store) -> None:
    backend = await opened(Keyed("old"))
    first, second = new_schedule(params=PARAMS), new_schedule(params={})
    assert await backend.schedules.add([first, second]) == [first, second]
    assert await backend.schedules.get([first.task_id, second.task_id]) == [first, second]
    task = new(params=PARAMS, scheduler_task_id=first.task_id)
    after = first.replace(run_count=1, outbox=(task,), version=first.version)
    assert await backend.schedules.change([ScheduleChange(first, after, (new(params=PARAMS),))]) == [True]
    (row,) = await backend.schedules.undelivered(5)
    assert (row.params, row.outbox, row.enabled) == (PARAMS, (task,), True)
    assert [row.params for row in await backend.find(TaskFilter(), 5)] == [PARAMS]
    assert "a secret" not in await stored_text(durable_store)
    edited = row.replace(params={"text": SECRET, "n": 2}, outbox=())
    assert await backend.schedules.change([ScheduleChange(row, edited)]) == [True]
    without = await opened(None)
    lost, plain = await without.schedules.get([first.task_id, second.task_id])
    assert lost is not None and (lost.params, lost.enabled) == ({}, False) and plain == second
    assert await without.schedules.change([ScheduleChange(lost, lost.replace(priority=4))]) == [True]
    both = await opened(Keyed("new", "old"))
    done = Recoded(undecodable=[], locked=[])
    await recode_each(both.schedules, SystemClock(), done)
    assert (done.schedules, done.undecodable) == (2, [])
    latest = await opened(Keyed("new"))
    (found,) = await latest.schedules.get([first.task_id])
    assert found is not None and (found.params, found.priority) == ({"text": SECRET, "n": 2}, 4)
    with pytest.raises(NotSupported, match="has no codec"):
        await without.schedules.recode([first.task_id])


async def test_a_copy_has_another_codec(opened: Opened, tmp_path: Any) -> None:
    done, waits = await lived(await opened(Keyed("here")))
    target, other = (connect(f"sqlite:///{tmp_path}/{name}.db", codec=Keyed("there")) for name in ("a", "b"))
    try:
        copied = await copy(await opened(Keyed("here")), target, NOW)
        assert (copied.tasks, copied.uncopied) == (2, [])
        assert await target.get([done.task_id, waits.task_id]) == [done, waits]
        copied = await copy(await opened(None), other, NOW)
        assert copied.tasks == 0 and len(copied.uncopied) == 2
    finally:
        await target.close()
        await other.close()

"""Large values in a blob store, on each durable store: read where they are needed, swept when they are not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import Status, TaskQ, current_task, group, injected
from aiotaskq.backends import connect
from aiotaskq.backends.base import Change
from aiotaskq.backends.sql.engines import parse_url
from aiotaskq.codecs import Folder
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import Failed, settle
from aiotaskq.core.plan import plan
from aiotaskq.core.task import SECOND, TaskFilter
from aiotaskq.errors import DatabaseUnavailable, TaskConflict, TaskFailed, ValidationError
from aiotaskq.operations.table import Access
from aiotaskq.operations.tasks import Listed, list_
from aiotaskq.runtime.blobs import INTERVAL, BlobSweep, sweep
from aiotaskq.runtime.copy import copy
from aiotaskq.runtime.recode import Recoded, recode
from tests.contract.test_groups import LATER, outline
from tests.support.backends import Store
from tests.support.blobs import Place
from tests.support.codecs import Keyed
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, new, read

HOUR = 3600 * SECOND
DAY = 24 * HOUR
TEXT = "large " * 20_000
LARGE = {"text": TEXT}


@pytest.fixture
async def place(durable_store: Store, tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(durable_store, tmp_path / "blobs")
    yield made
    await made.close()


async def test_params_and_results_go_there_and_come_back(place: Place) -> None:
    tq = place.tq(Keyed("k"))
    seen: list[int] = []

    @tq.task
    async def turn(text: str) -> str:
        seen.append(len(current_task().task.params["text"]))
        return text[::-1]

    async with tq.running(concurrency=2), asyncio.timeout(within(30)):
        handle, small = await turn.push(text=TEXT), await turn.push(text="ab")
        assert await handle.result() == TEXT[::-1] and await small.result() == "ba"
        assert len(place.files) == 2 and sorted(seen) == [2, len(TEXT)]
        assert all(b"large" not in file.read_bytes() for file in place.files), "they are encrypted"
        assert all(file.stat().st_mode & 0o777 == 0o600 for file in place.files)
        reads = place.folder.reads
        listed = {task.task_id: task for task in await tq.find(blobs=False)}
        assert place.folder.reads == reads, "a list reads none"
        assert listed[handle.task_id].params == {} and "in a blob" in (listed[handle.task_id].undecodable or "")
        assert listed[small.task_id].params == {"text": "ab"}
        task = await handle.task()
        assert (task.params["text"], task.result, task.undecodable) == (TEXT, TEXT[::-1], None)
        assert [each.result for each in await tq.find(limit=2)] == ["ba", TEXT[::-1]]
        again = await tq.rerun(handle.task_id)
        assert await again.result() == TEXT[::-1]
    without = TaskQ(place.store.url, codec=Keyed("k"), history=False)
    async with without:
        assert "cannot be decoded" in ((await without.get(handle.task_id)).undecodable or "")


async def test_rows_are_short_and_each_verb_takes_them(place: Place) -> None:
    backend = await place.open()
    task = new(params=LARGE, max_retries=3, unique_key="u")
    (stored,) = await backend.push([task])
    assert stored is task and len(place.files) == 1
    (there,) = await backend.push([new(params=LARGE, unique_key="u")])
    assert there.task_id == task.task_id and place.folder.reads == 0
    (claimed,) = await backend.claim("owner", NOW, 1, lease_until=LEASE)
    assert claimed.params == {} and len(str(claimed.coded)) < 300
    assert await backend.whole([claimed]) == [claimed.replace(params=LARGE, coded=None, undecodable=None)]
    lost = settle(claimed, Failed("lost"), NOW)
    assert [each.error for each in lost.attempts] == ["lost"], "what was not read is no reason to forget attempts"
    assert await backend.update([Change(claimed, lost)]) == [True]
    row = await read(backend, task)
    (whole,) = await backend.whole([row], ("result",))
    assert whole.undecodable == row.undecodable, "params were not asked for"
    (whole,) = await backend.whole([row])
    assert whole.params == LARGE and [each.error for each in whole.attempts] == ["lost"]
    edited = whole.replace(params={"text": TEXT + "!"}, fence=whole.fence + 1)
    assert await backend.update([Change(whole, edited)]) == [True]
    (whole,) = await backend.whole([await read(backend, task)])
    assert whole.params == {"text": TEXT + "!"}


async def test_groups_callbacks_and_parents(place: Place) -> None:
    tq = place.tq()

    @tq.task
    async def part(text: str) -> str:
        return text + "."

    @tq.task
    async def more(text: str) -> str:
        await current_task().add_to_group([part.call(text=TEXT)])
        return text

    @tq.task
    async def total(text: str) -> list[Any]:
        return [len(text), *[len(each.result) for each in await current_task().results()]]

    async with tq.running(concurrency=2), asyncio.timeout(within(60)):
        handle = await tq.start(group([more.call(text=TEXT), part.call(text=TEXT)], then=total.call(text=TEXT)))
        assert await handle.result() == [len(TEXT), len(TEXT), len(TEXT) + 1, len(TEXT) + 1]
        callback = await handle.callback()
        assert callback is not None
        members = await tq.queue.groups.outcomes_for(await callback.task())
        assert [len(each.result) for each in members][:1] == [len(TEXT)]


async def test_tasks_with_tags_and_parents_of_their_own(place: Place) -> None:
    tq = place.tq()

    @tq.task
    async def size(text: str) -> int:
        return len(text)

    async with tq.running(concurrency=1), asyncio.timeout(within(60)):
        first = await size.options(delay=3600, tags={"order": "17"}).push(text=TEXT)
        second = await size.options(after=[first], tags={"order": "17"}).push(text=TEXT)
        assert place.files
        found = await tq.find(tags={"order": "17"})
        assert [row.task_id for row in found] == [second.task_id, first.task_id]
        await tq.edit(first.task_id, delay=0)
        assert await second.result() == len(TEXT)


async def test_an_aged_task_keeps_them_and_so_does_a_lost_one(place: Place) -> None:
    async with place.tq() as tq:

        @tq.task(name="slow", age=3600)
        async def slow(text: str) -> None: ...

        now = tq.queue.clock.now()
        (task,) = await tq.queue.backend.push([new(type="slow", params=LARGE, run_at=now - 2 * HOUR, max_retries=3)])
        await tq.queue.reaper.reap()
        assert (await tq.get(task.task_id)).aged_from == task.priority
        await tq.queue.backend.claim("owner", now + SECOND, 1, lease_until=1)
        tq.queue.handlers = {}
        await tq.queue.reaper.reap()
        lost = await tq.get(task.task_id)
        assert (lost.status, lost.aged_from, lost.params) == (Status.PENDING, None, LARGE)
        assert [each.outcome for each in lost.attempts] == ["lost"]


async def test_a_pop_reads_them(place: Place) -> None:
    async with place.tq() as tq:
        handle = await tq.push("t", LARGE)
        place.folder.away = True
        with pytest.raises(DatabaseUnavailable):
            await tq.queue.pop_task(0)
        place.folder.away = False
        await tq.queue.claims.undone(within(5))
        assert (await handle.task()).status is Status.PENDING, "it was given back"
        popped = await tq.queue.pop_task(0)
        assert popped is not None and popped["params"] == LARGE
        await tq.queue.task_done()


async def test_a_list_leaves_them_out_and_shows_no_error(place: Place) -> None:
    async with place.tq() as tq:
        handle, other = await tq.push("t", LARGE), await tq.push("t", {"n": 1})
        access = Access(tq, show_args=True)
        reads = place.folder.reads
        page = await list_(access, Listed(params=True))
        assert place.folder.reads == reads
        views = {view.task_id: view for view in page.tasks}
        assert (views[handle.task_id].params, views[handle.task_id].error) == (UNSET, None)
        assert views[other.task_id].params == {"n": 1}
    async with TaskQ(place.store.url) as without:
        task = await without.get(handle.task_id)
        assert task.undecodable == "params: in a blob, and no blobs are set"


async def test_a_session_pushes_them(place: Place, sql_store: Store) -> None:
    tq = place.tq()
    async with tq:
        engine = create_async_engine(parse_url(sql_store.url))
        async with AsyncSession(engine) as session:
            handle = await tq.push("t", LARGE, session=session)
            assert len(place.files) == 1
            await session.commit()
        await engine.dispose()
        assert (await handle.task()).params == LARGE


async def test_a_debounced_call_joins_them(place: Place) -> None:
    tq = place.tq()
    async with tq:
        calls = [await tq.push("t", {"items": [TEXT, n]}, key="k", debounce=60, merge="list") for n in (1, 2)]
        assert (await calls[1].task()).params == {"items": [TEXT, 1, TEXT, 2]}


async def test_a_copy_to_another_store(place: Place, tmp_path: Path) -> None:
    here = await place.open(Keyed("here"))
    (task,) = await here.push([new(params=LARGE)])
    made = plan(outline(then=None, on_failure=new(params={**LARGE, "n": 1})), NOW)
    await here.groups.push(made)
    there = await place.open(Keyed("there"), f"sqlite:///{tmp_path}/there.db")
    assert (await copy(here, there, NOW)).tasks == 1
    await here.purge(TaskFilter(), 10)
    await here.delete([task.task_id])
    await here.groups.purge(LATER, 10)
    place.now += 3 * DAY
    assert await sweep(here) == 2, "the blobs of the other store are its own"
    (row,) = await there.whole([await read(there, task)])
    assert row.params == LARGE
    (copied,) = await there.groups.get([made.groups[0].group_id])
    assert copied is not None and copied.on_failure is not None
    (callback,) = await there.whole([copied.on_failure])
    assert callback.params == {**LARGE, "n": 1}


async def test_a_recode_moves_them(place: Place) -> None:
    plain = connect(place.store.url, codec=Keyed("old"))
    await plain.open()
    (task,) = await plain.push([new(params=LARGE)])
    await plain.close()
    for keys in (("new", "old"), ("newer", "new")):
        backend = await place.open(Keyed(*keys))
        done = Recoded(undecodable=[], locked=[])
        await recode(backend, VirtualClock(), done, lambda _looked, _total: None)
        assert (done.tasks, done.undecodable) == (1, [])
    (row,) = await (latest := await place.open(Keyed("newer"))).whole([await read(latest, task)])
    assert row.params == LARGE and len(place.files) == 2


async def test_a_shared_blob_goes_with_the_last_task(place: Place) -> None:
    backend = await place.open()
    first, second, third = new(params=LARGE), new(params=LARGE), new(params={**LARGE, "n": 3})
    await backend.push([first, second, third])
    assert len(place.files) == 2
    place.now += 2 * DAY
    assert await sweep(backend) == 0
    await backend.delete([first.task_id])
    assert await sweep(backend) == 0 and len(place.files) == 2
    await backend.delete([second.task_id])
    assert await sweep(backend) == 1 and len(place.files) == 1
    assert (await backend.whole([await read(backend, third)]))[0].params["n"] == 3


async def test_what_is_young_stays_and_a_later_use_writes_it_anew(place: Place) -> None:
    backend = await place.open()
    (task,) = await backend.push([new(params=LARGE)])
    await backend.delete([task.task_id])
    for hours, left in ((1, 1), (23, 1)):
        place.now = NOW + hours * HOUR
        assert await sweep(backend) == 0 and len(place.files) == left
    place.now = NOW + 26 * HOUR
    later = new(params=LARGE)
    await backend.push([later])
    assert await sweep(backend) == 1, "the old one, which no new push can be about to use"
    assert (await backend.whole([await read(backend, later)]))[0].params == LARGE


async def test_an_uncommitted_write_leaves_one_that_is_swept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = await place.open()

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(backend).__mro__[2], "push", kill)
        with pytest.raises(Killed):
            await backend.push([new(params=LARGE)])
    (place.files[0].parent / "tmpabc").write_bytes(b"half")
    assert len(place.files) == 2 and await backend.find(TaskFilter(), 5) == []
    place.now += 2 * DAY
    assert await sweep(backend) == 2 and place.files == []
    assert [path.name for path in place.root.iterdir()] == [path.name for path in place.root.glob("*-*")]


async def test_callbacks_of_groups_are_references(place: Place) -> None:
    tq = place.tq()
    async with tq:
        handle = await tq.start(group([tq.call("other", {})], then=tq.call("then", LARGE)))
        backend = await place.open()
        place.now = max(place.now, tq.queue.clock.now()) + 2 * DAY
        assert await sweep(backend) == 0 and len(place.files) == 1
        await handle.cancel()


async def test_nothing_is_deleted_where_something_cannot_be_read(place: Place, sql_store: Store) -> None:
    backend = await place.open()
    first, second = new(params=LARGE), new(params={"n": 1})
    await backend.push([first, second])
    await backend.delete([first.task_id])
    place.now += 2 * DAY
    sql_store.execute("UPDATE task_queue SET params = '{damaged' WHERE task_id = :id", id=second.task_id)
    with pytest.raises(TaskConflict, match="no blob is deleted"):
        await sweep(backend)
    assert len(place.files) == 1


async def test_pages_are_read_though_tasks_are_deleted_meanwhile(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = await place.open()
    monkeypatch.setattr("aiotaskq.runtime.blobs.CHUNK", 2)
    tasks = [new(params=LARGE if n == 0 else {"n": n}) for n in range(7)]
    for task in tasks:
        await backend.push([task])
    place.now += 2 * DAY
    find = backend.find
    deleted = iter(tasks[:0:-1])

    async def finding(where: TaskFilter, limit: int) -> Sequence[Any]:
        page = await find(where, limit)
        await backend.delete([task.task_id for task, _ in zip(deleted, range(2), strict=False)])
        return page

    monkeypatch.setattr(backend, "find", finding)
    assert await sweep(backend) == 0 and len(place.files) == 1


@pytest.mark.parametrize("damage", ["missing", "altered"])
async def test_a_missing_or_altered_blob_makes_a_dead_letter_that_can_be_retried(place: Place, damage: str) -> None:
    tq = place.tq()
    runs: list[str] = []

    @tq.task(max_retries=5)
    async def work(text: str) -> None:
        runs.append(text)

    async with tq:
        handle = await work.push(text=TEXT)
    (file,) = place.files
    kept = file.read_bytes()
    file.unlink() if damage == "missing" else file.write_bytes(kept[::-1])
    async with tq.running(concurrency=1), asyncio.timeout(within(30)):
        with pytest.raises(TaskFailed, match=f"undecodable: params: its blob .* {damage}"):
            await handle.result()
        task = await handle.task()
        assert (task.status, task.retry_count, runs) == (Status.FAILED, 0, [])
        assert damage in (task.undecodable or "")
        file.write_bytes(kept)
        await tq.retry(handle.task_id)
        await handle.result()
        assert runs == [TEXT] and (await handle.task()).params == {"text": TEXT}


async def test_a_store_out_of_reach_fails_no_task(place: Place) -> None:
    tq = place.tq()

    @tq.task
    async def work(text: str) -> str:
        return "done"

    async with tq:
        handle = await work.push(text=TEXT)
        place.folder.away = True
        with pytest.raises(DatabaseUnavailable, match=r"blobs: .*Folder\(.*no route to host") as caught:
            await work.push(text=TEXT)
        assert len(caught.value.task_ids) == 1
        with pytest.raises(DatabaseUnavailable):
            await handle.task()
        assert await (await work.push(text="short")).cancel(), "short ones go on"
        async with tq.running(concurrency=1), asyncio.timeout(within(30)):
            while not (row := await tq.queue.read(handle.task_id)) or row.due_at is None:
                await asyncio.sleep(0.01)
            assert (row.status, row.retry_count) == (Status.PENDING, 0), "it is put off"
            place.folder.away = False
            assert await handle.result() == "done"


async def test_parents_out_of_reach_fail_no_task(place: Place) -> None:
    tq = place.tq()

    @tq.task
    async def work() -> str:
        return TEXT

    @tq.task(max_retries=0)
    async def follow(results: list[str] = injected()) -> list[int]:
        return [len(each) for each in results]

    async with tq.running(concurrency=1), asyncio.timeout(within(30)):
        parent = await work.push()
        assert await parent.result() == TEXT
        place.folder.away = True
        child = await follow.options(after=[parent]).push()
        while not (row := await tq.queue.read(child.task_id)) or row.due_at is None:
            await asyncio.sleep(0.01)
        assert (row.status, row.retry_count) == (Status.PENDING, 0), "it is put off"
        place.folder.away = False
        assert await child.result() == [len(TEXT)]


async def test_the_loop_goes_on_meanwhile(place: Place) -> None:
    class Slow(Folder):
        """Waits in each verb until the loop has had a turn."""

        def put(self, name: str, data: bytes) -> None:
            wait()
            super().put(name, data)

        def get(self, name: str) -> bytes | None:
            wait()
            return super().get(name)

    loop = asyncio.get_running_loop()

    def wait() -> None:
        turn = threading.Event()
        loop.call_soon_threadsafe(turn.set)
        assert turn.wait(within(20)), "the loop is blocked"

    tq = TaskQ(place.store.url, blobs=Slow(place.root), poll_interval=0.05, history=False)

    @tq.task
    async def work(text: str) -> str:
        return text

    async with tq.running(concurrency=2), asyncio.timeout(within(60)):
        handle = await tq.start(group([work.call(text=TEXT)], then=work.call(text=TEXT)))
        assert await handle.result() == TEXT
        assert len((await tq.find())[0].params["text"]) == len(TEXT)


async def test_one_process_sweeps_at_a_time_in_virtual_time(place: Place) -> None:
    clock = VirtualClock(NOW)
    first, second = await place.open(), await place.open()
    clock.watch(lambda: [*first.pending(), *second.pending()])
    (task,) = await first.push([new(params=LARGE)])
    await first.delete([task.task_id])
    swept: list[str] = []
    sweeps = [BlobSweep(backend, clock) for backend in (first, second)]
    for name, each in zip("ab", sweeps, strict=True):
        begin = each._begin

        async def beginning(begin: Any = begin, name: str = name) -> bool:
            begins: bool = await begin()
            swept.extend([name] if begins else [])
            return begins

        each._begin = beginning  # type: ignore[method-assign]
        await each.start()
    place.now += 2 * DAY
    await clock.advance(INTERVAL)
    assert len(swept) == 1 and place.files == []
    await clock.advance(INTERVAL)
    assert len(swept) == 2
    for each in sweeps:
        await each.stop()


async def test_params_may_be_longer(place: Place) -> None:
    async with place.tq() as tq:
        handle = await tq.push("t", {"text": "x" * 1_000_000})
        assert len((await handle.task()).params["text"]) == 1_000_000
    async with TaskQ(place.store.url) as tq:
        with pytest.raises(ValidationError, match="store a reference"):
            await tq.push("t", {"text": "x" * 1_000_000})


@pytest.mark.parametrize("url", ["memory://", "memory://durable-fake"])
async def test_in_memory_they_are_not_used(url: str, tmp_path: Path) -> None:
    async with TaskQ(url, blobs=Folder(tmp_path / "blobs")) as tq:
        handle = await tq.push("t", LARGE)
        assert (await handle.task()).params == LARGE and not (tmp_path / "blobs").exists()

"""Notes on each store: numbered in their order, written by the run that has the task alone, bounded, gone with it."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.listeners import NOTED
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.core.codec import Zlib
from aiotaskq.core.notes import MAX_NOTE, MAX_NOTES, MAX_SIZE, LogEntry, NewNote, NewNotes
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, ended, pushed, running


def lines(*texts: str) -> tuple[NewNote, ...]:
    return tuple(NewNote(NOW + number, "log", text) for number, text in enumerate(texts))


def of(task: Task, *texts: str) -> NewNotes:
    return NewNotes(task.task_id, task.fence, lines(*texts))


async def texts(backend: Backend, task: Task) -> list[str]:
    return [note.text for note in await backend.notes.read(task.task_id, 0, 2 * MAX_NOTES)]


async def test_what_is_added_is_read_in_order(backend: Backend) -> None:
    one, other = await running(backend), await running(backend)
    assert await backend.notes.add([]) == []
    assert await backend.notes.read(one.task_id, 0, 10) == await backend.notes.last(one.task_id, 10) == []
    assert await backend.notes.add([of(other, "x"), of(one, "a", "é 🙂\n  b ")]) == [True, True]
    data = NewNote(NOW + 7, "data", '{"token":"w x"}')
    assert await backend.notes.add([NewNotes(one.task_id, one.fence, (data,))]) == [True]
    found = await backend.notes.read(one.task_id, 0, 10)
    assert found == [
        LogEntry(1, NOW, "log", "a"),
        LogEntry(2, NOW + 1, "log", "é 🙂\n  b "),
        LogEntry(3, NOW + 7, "data", '{"token":"w x"}'),
    ]
    assert found[2].data == {"token": "w x"}
    assert await texts(backend, other) == ["x"]
    for after in range(5):
        assert await backend.notes.read(one.task_id, after, 10) == found[after:]
        assert await backend.notes.read(one.task_id, after, 1) == found[after : after + 1]
        assert await backend.notes.last(one.task_id, after + 1) == found[-after - 1 :]


async def test_only_the_run_that_has_the_task_writes(backend: Backend, hints: list[Any]) -> None:
    held, finished, waiting = await running(backend), await ended(backend), await pushed(backend)
    zombie = NewNotes(held.task_id, held.fence - 1, lines("zombie"))
    missing = NewNotes("missing", 1, lines("nothing"))
    hints.clear()
    assert await backend.notes.add([of(finished, "late"), zombie, of(waiting, "early"), missing]) == [False] * 4
    assert NOTED not in [kind for kind, _ in hints]
    assert await backend.notes.add([zombie], last=True) == [False]
    assert await backend.notes.add([of(finished, "late"), of(held, "now")]) == [False, True]
    assert (NOTED, [held.task_id]) in hints
    assert [await texts(backend, each) for each in (held, finished, waiting)] == [["now"], [], []]


async def test_the_last_notes_of_a_run_that_has_completed_its_task(backend: Backend) -> None:
    task = await ended(backend)
    assert await backend.notes.add([of(task, "late")]) == [False]
    assert await backend.notes.add([NewNotes(task.task_id, task.fence - 1, lines("zombie"))], last=True) == [False]
    assert await backend.notes.add([of(task, "last")], last=True) == [True]
    assert await texts(backend, task) == ["last"]
    failed = await ended(backend, status=Status.FAILED)
    assert await backend.notes.add([of(failed, "last")], last=True) == [False]


async def test_numbers_go_on_in_the_next_run(backend: Backend) -> None:
    first = await running(backend)
    await backend.notes.add([of(first, "a", "b")])
    again = first.replace(status=Status.PENDING, lease_owner=None, lease_until=None, run_at=NOW)
    assert await backend.update([Change(first, again)]) == [True]
    (second,) = await backend.claim("w2", NOW, 1, lease_until=NOW + LEASE)
    assert await backend.notes.add([of(first, "zombie")]) == [False]
    assert await backend.notes.add([of(second, "c")]) == [True]
    assert [(note.n, note.text) for note in await backend.notes.read(first.task_id, 0, 9)] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
    ]


async def test_the_oldest_go_where_there_are_too_many(backend: Backend) -> None:
    task, other = await running(backend), await running(backend)
    await backend.notes.add([of(other, "stays")])
    every = [str(number) for number in range(1, MAX_NOTES + 8)]
    for start in range(0, len(every), 600):
        assert await backend.notes.add([of(task, *every[start : start + 600])]) == [True]
    found = await backend.notes.read(task.task_id, 0, 2 * MAX_NOTES)
    assert [(note.n, note.text) for note in found] == [(n, str(n)) for n in range(8, MAX_NOTES + 8)]
    assert [note.n for note in await backend.notes.read(task.task_id, 2, 2)] == [8, 9]
    assert [note.n for note in await backend.notes.read(task.task_id, MAX_NOTES + 6, 2)] == [MAX_NOTES + 7]
    assert await texts(backend, other) == ["stays"]


async def test_part_of_a_write_goes(backend: Backend) -> None:
    task = await running(backend)
    await backend.notes.add([of(task, *map(str, range(1, MAX_NOTES - 9)))])
    for start in (MAX_NOTES - 9, MAX_NOTES + 41):
        assert await backend.notes.add([of(task, *map(str, range(start, start + 50)))]) == [True]
        found = await backend.notes.read(task.task_id, 0, 2 * MAX_NOTES)
        assert [(note.n, note.text) for note in found] == [
            (n, str(n)) for n in range(start + 50 - MAX_NOTES, start + 50)
        ]
    many = [str(n) for n in range(MAX_NOTES + 91, 2 * MAX_NOTES + 102)]
    assert await backend.notes.add([of(task, *many)]) == [True], "more than a task keeps"
    assert await texts(backend, task) == many[-MAX_NOTES:]


async def test_the_oldest_go_where_they_are_too_long(backend: Backend) -> None:
    task = await running(backend)
    long = "é" * (MAX_NOTE // 2)
    for _ in range(4):
        await backend.notes.add([of(task, *[long] * 20)])
    found = await backend.notes.read(task.task_id, 0, 2 * MAX_NOTES)
    sizes = sum(len(note.text.encode()) for note in found)
    assert MAX_SIZE - 2 * MAX_NOTE <= sizes <= MAX_SIZE
    assert [note.n for note in found] == list(range(81 - len(found), 81))


async def test_notes_go_with_their_task(backend: Backend) -> None:
    kept, deleted, dropped, purged = [await running(backend) for _ in range(4)]
    await backend.notes.add([of(each, "a") for each in (kept, deleted, dropped, purged)])
    for each in (dropped, purged):
        done = each.replace(status=Status.COMPLETED, completed_at=NOW // SECOND, lease_owner=None, lease_until=None)
        assert await backend.update([Change(each, done)]) == [True]
    assert await texts(backend, purged) == ["a"]
    assert await backend.delete([deleted.task_id]) == 1
    assert await backend.delete([dropped.task_id], ended=True) == 1
    assert await backend.purge(TaskFilter(status=(Status.COMPLETED,)), 10) == 1
    assert [await texts(backend, each) for each in (kept, deleted, dropped, purged)] == [["a"], [], [], []]
    again = await running(backend, task_id=deleted.task_id)
    await backend.notes.add([of(again, "new")])
    assert [(note.n, note.text) for note in await backend.notes.read(again.task_id, 0, 9)] == [(1, "new")]


async def test_two_writers_lose_nothing(shared_store: Store) -> None:
    backends = [shared_store.backend, await shared_store.another()]
    task = await running(backends[0])

    async def write(backend: Backend, name: str) -> None:
        for number in range(10):
            assert await backend.notes.add([of(task, f"{name}{number}")], last=True) == [True]

    async with asyncio.timeout(within(30)):
        await asyncio.gather(*(write(backend, name) for backend, name in zip(backends, "ab", strict=True)))
    found = await backends[0].notes.read(task.task_id, 0, 100)
    assert [note.n for note in found] == list(range(1, 21))
    for name in "ab":
        assert [note.text for note in found if note.text[0] == name] == [f"{name}{number}" for number in range(10)]


async def test_a_codec_encodes_the_texts(durable_store: Store) -> None:
    backend = durable_store.backend
    task = await running(backend)
    backend.notes.codec = Zlib(over=0)
    await backend.notes.add([of(task, "secret " * 100, "$aiotaskq1$ no code")])
    assert await texts(backend, task) == ["secret " * 100, "$aiotaskq1$ no code"]
    backend.notes.codec = None
    stored = await texts(backend, task)
    assert "secret" not in stored[0]
    assert len(stored[0]) < 100


async def test_a_task_whose_row_is_locked_is_not_waited_for(sql_store: Store) -> None:
    backend = sql_store.backend
    if sql_store.name == "sqlite":  # there a transaction has the whole database
        assert await backend.notes.add([of(await running(backend), "a")]) == [True]
        return
    task, free = await running(backend), await running(backend)
    engine = sync_engine(sql_store.url)
    with engine.begin() as connection:
        connection.execute(text("SELECT * FROM task_queue WHERE task_id = :id FOR UPDATE"), {"id": task.task_id})
        assert await backend.notes.add([of(task, "a"), of(free, "b")]) == [None, True]
    engine.dispose()
    assert await backend.notes.add([of(task, "a")]) == [True]
    assert await texts(backend, task) == ["a"]

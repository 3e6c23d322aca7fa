"""Wake-ups between processes on SQL: which process receives which, how soon, and the options that turn them off."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.base import Change
from aiotaskq.backends.listeners import CANCEL, ENDED, READY, TAKEN
from aiotaskq.backends.sql import postgresql_notifier as sql_gap
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.postgresql_notifier import BURST, BUSY, CHANNEL, LONG, SHORT, SIZE, messages
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from tests.backends.sql.notifiers.watched import Ears, listeners, watching
from tests.support.backends import STORES, Store
from tests.support.machine import watchdog, within
from tests.support.programs import ROOT
from tests.support.rows import LEASE, NOW, new
from tests.support.waiting import eventually

# ---- what is heard --------------------------------------------------------------------------------------------------


async def test_hints_of_another_process_are_received(store: Store) -> None:
    other = await store.another()
    ears = await watching(store.backend)
    await other.push([new()])
    await ears.until(READY)
    (task,) = await other.claim("o", NOW, 1, lease_until=LEASE)
    ears.forget()
    await other.update([Change(task, task.replace(status=Status.COMPLETED, completed_at=NOW // SECOND))])
    await ears.until(ENDED)
    assert all(names in ((), (task.task_id,)) for kind, names in ears.heard if kind == ENDED)


async def test_a_claim_makes_room(store: Store) -> None:
    other = await store.another()
    ears = await watching(store.backend)
    await other.push([new()])
    await ears.until(READY)
    ears.forget()
    await other.claim("o", NOW, 1, lease_until=LEASE)
    other.listeners.notify(TAKEN)  # as a bounded queue does
    await ears.until(TAKEN)


async def test_a_cancel_comes_with_its_ids(postgresql: Store) -> None:
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    tasks = await other.push([new(task_id=f"漢字-{n}-" + "x" * 25) for n in range(700)])
    await other.claim("o", NOW, 700, lease_until=LEASE)
    await ears.until(READY)
    ears.forget()
    ids = [task.task_id for task in tasks]
    assert all(await other.request_cancel(ids))
    async with asyncio.timeout(watchdog()):  # many messages, since one has room for some 7,900 bytes
        while [name for kind, names in ears.heard if kind == CANCEL for name in names] != ids:
            ears.event.clear()
            await ears.event.wait()
    assert len(ears.heard) > 3


async def test_own_notifications_are_ignored(postgresql: Store) -> None:
    other = await postgresql.another()
    ours, theirs = await watching(postgresql.backend), await watching(other)
    await postgresql.backend.push([new()])
    await theirs.until(READY)
    await asyncio.sleep(0.1)  # an echo would come on the heels
    assert ours.heard == [(READY, ())]


async def test_messages_of_other_programs_are_ignored(postgresql: Store) -> None:
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    for words in ("", "ready", "[]", '["a","b"]', '["x",{"unknown":["a"]}]', '["x",{"ready":[1]}]', "{", "x" * 7000):
        postgresql.execute("SELECT pg_notify(:channel, :words)", channel=CHANNEL, words=words)
    await other.push([new()])
    await ears.until(READY)
    assert ears.heard == [(READY, ())]


def test_messages_fit() -> None:
    for names in ([], ["a"], [f"{n:036}" for n in range(1_000)], ["\x00漢" * 17 + str(n) for n in range(300)]):
        texts = list(messages("me", CANCEL, names))
        assert all(len(each.encode()) <= SIZE < 8_000 for each in texts)
        assert [name for each in texts for name in json.loads(each)[1][CANCEL]] == names


async def test_very_many_ends_are_sent_without_names(postgresql: Store) -> None:
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    other.listeners.forward(ENDED, [str(n) for n in range(5_000)])
    await ears.until(ENDED)
    assert ears.heard == [(ENDED, ())]


# ---- how soon -------------------------------------------------------------------------------------------------------


PUSHER = """
import asyncio, sys, time
from aiotaskq.backends import connect
from aiotaskq.core.task import Task, new_id

async def main(url):
    backend = connect(url)
    await backend.open()
    number = 0
    while await asyncio.to_thread(sys.stdin.readline):
        number += 1
        task = Task(task_id=new_id(), type="t", created_at=1, run_at=1, seq=number)
        await backend.push([task])
        print(time.monotonic(), flush=True)
    await backend.close()

asyncio.run(main(sys.argv[1]))
"""


PACE = 0.015  # seconds between what was heard and the next push


SOON = {"sqlite": 0.05, "postgresql": 0.012}


async def test_another_process_wakes_this_one_soon(store: Store, tmp_path: Path) -> None:
    ears = await watching(store.backend)
    script = tmp_path / "pusher.py"
    script.write_text(PUSHER)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), store.url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None and process.stdout is not None
    late = []
    for _ in range(50):
        ears.forget()
        process.stdin.write(b"push\n")
        await ears.until(READY)
        heard = time.monotonic()
        late.append(heard - float(await process.stdout.readline()))
        await asyncio.sleep(PACE)
    process.stdin.close()
    assert await process.wait() == 0
    assert statistics.median(late) < within(SOON[store.name]), late
    assert sum(each > within(1.0) for each in late) == 0  # what polling would have taken, at most


async def test_hints_are_merged(postgresql: Store) -> None:  # F11
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    start = time.monotonic()
    for _ in range(20):
        await asyncio.gather(*(other.push([new()]) for _ in range(64)))
    spent = time.monotonic() - start
    await ears.until(READY)
    await asyncio.sleep(0.2)
    gap = LONG if 20 * 64 / spent > 2 * BUSY else SHORT  # a slow machine pushes too seldom to be under load
    assert 1 <= len(ears.heard) <= 2 * BURST + (spent + 0.2) / gap


@pytest.mark.parametrize("kind", [READY, ENDED])
async def test_a_call_with_many_tasks_is_load(postgresql: Store, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(sql_gap, "SHORT", 3600.0)
    monkeypatch.setattr(sql_gap, "LONG", 3600.0)
    monkeypatch.setattr(sql_gap, "BUSY", 50 / 3600)
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    for count in (1, 100):
        tasks = await other.push([new() for _ in range(count)])
        if kind == ENDED:
            other.listeners.notify(ENDED, [task.task_id for task in tasks])
        await ears.until(READY, kind)
        ears.forget()
    other.listeners.notify(kind)
    await asyncio.sleep(0.2)
    assert ears.heard == []
    for sender in list(other._notifier._senders.values()):  # type: ignore[attr-defined]
        sender.cancel()  # its pause is an hour


async def test_a_few_notifications_are_sent_at_once(postgresql: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_gap, "SHORT", 3600.0)
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    for kind in [READY] * BURST + [ENDED]:  # another kind waits for no gap of this one
        ears.forget()
        other.listeners.notify(kind)
        await ears.until(kind)
    ears.forget()
    other.listeners.notify(READY)
    await asyncio.sleep(0.2)
    assert ears.heard == []
    for sender in list(other._notifier._senders.values()):  # type: ignore[attr-defined]
        sender.cancel()  # its pause is an hour


async def test_a_push_sends_its_notification_in_its_statement_or_later(
    postgresql: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_gap, "SHORT", 3600.0)
    other: Any = await postgresql.another()
    ears = await watching(postgresql.backend)
    database = other.database
    writes: list[str] = []
    original = database.write

    async def write(*args: Any, **options: Any) -> Any:
        writes.append("begin")
        answer = await original(*args, **options)
        writes.append("end")
        return answer

    database.write = write
    for number in range(1, BURST + 1):
        tasks = await other.push([new(), new()])
        await ears.until(READY)
        ears.forget()
        assert writes == ["begin", "end"] * number  # in one statement
    assert await other.push(tasks) == tasks  # the gap does not allow another one now
    assert writes == ["begin", "end"] * (BURST + 1)
    await eventually(lambda: other._notifier._senders)
    for sender in list(other._notifier._senders.values()):
        sender.cancel()  # its pause is an hour


async def test_a_push_with_a_notification_conflicts_with_a_row(postgresql: Store) -> None:
    other = await postgresql.another()
    heard = Ears(other)
    first, second = new(task_id="a", unique_key="k"), new(task_id="b")
    assert await other.push([first]) == [first]
    met = await other.push([new(task_id="c", unique_key="k"), second])
    assert [task.task_id for task in met] == ["a", "b"]
    assert heard.heard == [(READY, ())] * 2  # this process itself is told as well


# ---- where it is off ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["notify=off", "pooler=transaction"])
async def test_it_can_be_off(postgresql: Store, option: str) -> None:  # F9, F11
    quiet = SqlBackend(f"{postgresql.url}?{option}")
    await quiet.open()
    try:
        heard = Ears(quiet)
        await quiet.watch()
        ears = await watching(postgresql.backend)
        await quiet.push([new()])
        await postgresql.backend.push([new()])
        await asyncio.sleep(0.2)
        assert ears.heard == [(READY, ())] and heard.heard == [(READY, ())]  # each hears itself
        assert len(listeners(postgresql)) == 1
    finally:
        await quiet.close()


def test_it_is_on_or_off() -> None:
    with pytest.raises(ValidationError, match="notify"):
        connect("postgresql://h/d?notify=maybe")


async def test_mysql_polls(tmp_path: Path) -> None:
    async with STORES["mysql"](tmp_path) as store:
        other = await store.another()
        ears = Ears(store.backend)
        await store.backend.watch()
        await other.push([new()])
        await asyncio.sleep(0.1)
        assert ears.heard == []

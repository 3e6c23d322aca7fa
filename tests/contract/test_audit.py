"""The audit log on each store: what operators have changed, the newest first, within its bounds."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.audit import KIND
from aiotaskq.backends.base import Backend
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.core.audit import MAX_AGE, MAX_TARGETS, MAX_TEXT, AuditEntry, audit_entry
from aiotaskq.core.task import SECOND
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.audit import audit
from tests.support.backends import Store
from tests.support.logs import logged
from tests.support.rows import NOW


def entry(at: int = NOW, *targets: str, action: str = "pause-queue", actor: str = "mara") -> AuditEntry:
    return audit_entry(at, "dashboard", action, actor, targets or ("mail",))


async def test_what_is_added_is_read_the_newest_first(backend: Backend) -> None:
    assert await backend.audit.read(10) == []
    texts = ("50%_\\ 'x' \"y\"", "城 \u2028\n👩‍👩‍👧", "")
    given = [entry(NOW + 2), entry(NOW + 5, *texts, actor="übersetzt "), entry(NOW + 1), entry(NOW + 5)]
    for each in given:
        await backend.audit.add(each)
    newest = sorted(given, key=lambda each: (each.at, each.id), reverse=True)
    assert await backend.audit.read(10) == newest
    assert await backend.audit.read(2) == newest[:2]


async def test_old_entries_go_and_those_beyond_the_number(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.backends.audit.MAX_ENTRIES", 4)
    given = [entry(NOW + number) for number in range(6)]
    for each in given:
        await backend.audit.add(each)
    assert await backend.audit.read(10) == given[:1:-1]
    last = entry(NOW + 5 + MAX_AGE * SECOND)
    await backend.audit.add(last)
    assert await backend.audit.read(10) == [last]


async def test_an_entry_that_cannot_be_read_hides_no_other(backend: Backend) -> None:
    first, last = entry(NOW), entry(NOW + 20)
    await backend.audit.add(first)
    texts = ["", "{", '{"id":"\\ud800"}', "[" * 100_000, '"x"', '{"id":"x","at":1}', f'{{"door":"web","at":{NOW}}}']
    damaged = [SideRow(f"{NOW + number:020d} id{number}", text) for number, text in enumerate(texts, 1)]
    await backend.side.put(KIND, [*damaged, SideRow("no time", "?")])
    await backend.audit.add(last)
    read = await backend.audit.read(100)
    assert [each for each in read if each.undecodable is None] == [last, first]
    unreadable = [each for each in read if each.undecodable]
    assert {(each.id, each.at) for each in unreadable} == {
        ("no time", 0),
        *((each.name, NOW + number) for number, each in enumerate(damaged, 1)),
    }
    assert {(each.door, each.action, each.targets) for each in unreadable} == {("unknown", "", ())}


async def test_entries_of_many_writers_are_all_there(backend: Backend) -> None:
    given = [entry(NOW + number % 3) for number in range(24)]
    await asyncio.gather(*(backend.audit.add(each) for each in given))
    assert {each.id for each in await backend.audit.read(100)} == {each.id for each in given}


async def test_a_change_in_one_process_is_read_in_another(store: Store) -> None:
    async with TaskQ(store.url) as tq:
        seen: list[dict[str, object]] = []
        tq.on("operated")(lambda event: seen.append(event.detail))
        await audit(tq.queue, "cli", "tasks.retry", "mara@db1", ["task 1"])
        await audit(tq.queue, "api", "tasks.push", "", ["task 2"])  # the work of programs
        assert [each["action"] for each in seen] == ["tasks.retry", "tasks.push"]
        if store.backend.shared and store.name != "durable_fake":
            (found,) = await store.backend.audit.read(10)
            assert replace(found, id="", at=0) == AuditEntry(
                id="", at=0, door="cli", action="tasks.retry", actor="mara@db1", targets=("task 1",), count=1
            )


async def test_a_change_stays_made_though_its_entry_cannot_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_args: object) -> None:
        raise DatabaseUnavailable("gone")

    async with TaskQ("memory://") as tq:
        monkeypatch.setattr(tq.queue.backend.audit, "add", fails)
        with logged("ERROR") as lines:
            await audit(tq.queue, "cli", "pause-queue", "mara", ["mail"])
    assert "the audit log has no entry of it" in lines[0]


def test_an_entry_is_bounded() -> None:
    found = entry(NOW, *(f"{number}" for number in range(MAX_TARGETS + 7)), actor="x" * 10_000)
    assert (len(found.targets), found.count, len(found.actor)) == (MAX_TARGETS, MAX_TARGETS + 7, MAX_TEXT)
    assert entry(NOW, "a\0\ud800b").targets == ("a\ufffd?b",)

"""Failed tasks by type and error, and that the tasks of one row are retried together, on each store."""

from __future__ import annotations

import pytest

from aiotaskq import TaskQ
from aiotaskq.core.instants import to_iso
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.operations import failures as module
from aiotaskq.operations import operate
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.failures import PERIODS, FailureList
from aiotaskq.operations.table import Access, perform, read
from tests.support.backends import Store
from tests.support.rows import new

MINUTE = 60 * SECOND
BAD = "ValueError: row {} is bad\n\nTraceback (most recent call last):\n …"


async def failed(tq: TaskQ, ago: int, kind: str, error: str | None, **fields: object) -> str:
    """Store a task that has failed so many minutes ago; return its id."""
    at = tq.queue.clock.now() - ago * MINUTE
    known = {"status": Status.FAILED, "completed_at": at // SECOND, "ended_at": at, "error_message": error}
    row = new(**{"task_id": f"{kind}-{ago}", "type": kind, "created_at": at // SECOND, **known, **fields})
    await tq.queue.backend.push([row])
    return row.task_id


async def fill(tq: TaskQ) -> None:
    """Store eight tasks that have failed with four errors, and one that was cancelled."""
    for ago in (240, 30, 20, 10):
        await failed(tq, ago, "a", BAD.format(ago))
    await failed(tq, 9, "a", "ValueError: no row", queue="mail")
    await failed(tq, 8, "b", BAD.format(8))
    await failed(tq, 7, "b", "KeyError: 'k'")
    await failed(tq, 6, "b", "KeyError: 'k'", queue="mail")
    await failed(tq, 5, "a", BAD.format(5), status=Status.CANCELLED)


async def hidden(tq: TaskQ) -> FailureList:
    operation = OPERATIONS["failures.list"]
    found: FailureList = await perform(operation, Access(tq), read(operation, {}), "api", "")
    return found


def rows(found: FailureList) -> list[tuple[str, str, int, str]]:
    return [(each.type, each.error, each.count, each.task_id) for each in found.failures]


async def test_failed_tasks_are_grouped_by_type_and_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ", 3)
    async with TaskQ(store.url) as tq:
        await fill(tq)
        found = await operate(tq, "failures.list")
        assert rows(found) == [
            ("a", "ValueError: row # is bad", 4, "a-10"),
            ("b", "KeyError: 'k'", 2, "b-6"),
            ("b", "ValueError: row # is bad", 1, "b-8"),
            ("a", "ValueError: no row", 1, "a-9"),
        ]
        assert (found.errors, found.read, found.more) == (4, 8, False)
        most, twice, *_ = found.failures
        task = await tq.get("a-240")
        assert most.first_at == found.begin == to_iso(task.ended_at)
        assert most.last_at == to_iso((await tq.get("a-10")).ended_at)
        assert 600 < found.seconds < 620 and len(most.periods) == PERIODS
        assert (most.periods[0], sum(most.periods[20:]), sum(most.periods)) == (1, 3, 4)
        assert twice.periods[-1] == 2
        by_type = [("a", "ValueError", 5), ("b", "KeyError", 2), ("b", "ValueError", 1)]
        assert [each[:3] for each in rows(await hidden(tq))] == by_type


async def test_the_newest_failed_tasks_that_match_are_read(store: Store) -> None:
    async with TaskQ(store.url) as tq:
        await fill(tq)
        found = await operate(tq, "failures.list", queue="mail")
        assert {each[:3] for each in rows(found)} == {("a", "ValueError: no row", 1), ("b", "KeyError: 'k'", 1)}
        found = await operate(tq, "failures.list", type="b", limit=2)
        assert (rows(found), found.read, found.more) == ([("b", "KeyError: 'k'", 2, "b-6")], 2, True)
        found = await operate(tq, "failures.list", type="b", limit=3)
        assert (found.errors, found.read, found.more) == (2, 3, False)
        since = tq.queue.clock.now() / SECOND - 8.5 * 60
        assert (await operate(tq, "failures.list", since=since)).read == 3
        nothing = await operate(tq, "failures.list", type="none")
        assert (nothing.failures, nothing.read, nothing.more, nothing.begin) == ([], 0, False, None)


async def test_all_tasks_of_a_row_are_retried(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.runtime.queue.bulk.RETRY_CHUNK", 2)
    async with TaskQ(store.url) as tq:
        await fill(tq)
        row = (await operate(tq, "failures.list")).failures[0]
        given = {"type": row.type, "same_error": row.error}
        assert (await operate(tq, "tasks.retry_many", **given, dry_run=True)).count == row.count == 4
        assert (await operate(tq, "tasks.retry_many", **given)).count == 4
        assert {task.task_id for task in await tq.find(status="pending")} == {"a-240", "a-30", "a-20", "a-10"}
        assert (await operate(tq, "tasks.retry_many", **given)).count == 0
        assert [each[1] for each in rows(await operate(tq, "failures.list", type="a"))] == ["ValueError: no row"]
        entries = await tq.queue.backend.audit.read(9)
        assert [each.targets for each in entries] == [
            ("filter: type=a same_error=ValueError: row # is bad", "count: 4")
        ]
        assert (await operate(tq, "tasks.retry_many", same_error=row.error)).count == 1, "of every type"


async def test_where_messages_are_hidden_a_row_is_retried_by_the_type_of_its_error(store: Store) -> None:
    async with TaskQ(store.url) as tq:
        await fill(tq)
        operation = OPERATIONS["tasks.retry_many"]
        for error, count in (("ValueError", 6), ("ValueError: no row", 0), ("Value", 0)):
            given = read(operation, {"same_error": error, "dry_run": True})
            assert (await perform(operation, Access(tq), given, "api", "")).count == count
        with pytest.raises(ValidationError, match="same_error"):
            read(operation, {"same_error": ""})

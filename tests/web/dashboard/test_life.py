"""What happens to tasks in other processes, as the events page reads it from each store."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from aiotaskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.core.outcome import Backoff, Cancelled, Completed, Failed, LeaseExpired, Outcome, Released, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import TaskFailed
from aiotaskq.web.dashboard import happened as life_module
from aiotaskq.web.dashboard.happened import Life, life_of, newest_first
from tests.support.backends import STORES
from tests.support.machine import within
from tests.support.rows import NOW, new
from tests.web.dashboard.conftest import Browse

SHARED = [name for name, kind in STORES.items() if kind.shared and not kind.same_as]


@pytest.fixture(params=SHARED)
async def stored(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    async with STORES[request.param](tmp_path) as store:
        yield store


def seen(life: Life, of: Task | None = None) -> list[tuple[str, int]]:
    """The names and instants, in the order in which they happened."""
    events = [each for each in newest_first(life.latest) if of is None or each.task_id == of.task_id]
    return [(each.name, each.at) for each in reversed(events)]


async def test_starts_retries_and_ends_in_another_process_are_seen(stored: Any) -> None:
    async with TaskQ(stored.url) as tq:
        life, now, backend = Life(tq), tq.queue.clock.now() - 60 * SECOND, stored.backend
        task = new(created_at=now // SECOND, seq=now, run_at=now, max_retries=1)
        await backend.push([task])
        await life.look()
        assert seen(life) == [("pushed", now)]
        (running,) = await backend.claim("w", now + 1, 1)
        await life.look()
        assert seen(life) == [("pushed", now), ("started", now + 1)]
        waiting = settle(running, Failed("Boom: no", True, Backoff(), 1.0), now + 2)
        assert await backend.update([Change(running, waiting)]) == [True]
        await life.look()
        assert seen(life)[2:] == [("retried", now + 2)]
        (running,) = await backend.claim("w", now + 3600 * SECOND, 1)
        ended = settle(running, Failed("Boom: again", True, Backoff(), 1.0), now + 3600 * SECOND + 1)
        assert await backend.update([Change(running, ended)]) == [True]
        await life.look()
        assert seen(life)[3:] == [("started", now + 3600 * SECOND), ("failed", now + 3600 * SECOND + 1)]
        assert [each.error for each in newest_first(life.latest) if each.error] == ["Boom: again", "Boom: no"]


async def test_a_look_lists_few_and_counts_more(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life_module, "SHOWN", 2)
    monkeypatch.setattr(life_module, "COUNTED", 5)
    async with TaskQ(stored.url) as tq:
        life, backend = Life(tq), stored.backend
        # Tasks that ended in one second have no order, so each has a second of its own.
        seconds = itertools.count(tq.queue.clock.now() // SECOND)

        async def complete(count: int) -> None:
            await backend.push([new(status=Status.COMPLETED, completed_at=next(seconds)) for _ in range(count)])

        async def more() -> list[tuple[int, bool]]:
            before = {each.at for each in life.latest if each.more}
            await life.look()
            return [(each.more, each.at_least) for each in life.latest if each.more and each.at not in before]

        await complete(4)
        assert await more() == []  # what was before the first look is in the list of tasks
        await complete(4)
        assert await more() == [(2, False)]
        await complete(9)
        assert await more() == [(3, True)]
        assert await more() == []
        found = await backend.last_ended(Status.COMPLETED, 100)
        await backend.delete(found[:3])
        assert await more() == []  # older ones have moved up


RUN = replace(new(), status=Status.RUNNING, began_at=NOW, fence=1)
ENDS: list[tuple[Outcome, list[str]]] = [
    (Completed(None), ["started", "completed"]),
    (Failed("Boom: no", retryable=False), ["started", "failed"]),
    (Cancelled("cancelled"), ["started", "cancelled"]),
    (LeaseExpired(), ["started", "lost"]),
    (Released("the worker stops", ran=True), ["started", "released"]),
]


@pytest.mark.parametrize(("outcome", "names"), ENDS, ids=[type(each).__name__ for each, _ in ENDS])
def test_each_end_of_a_run_is_one_event(outcome: Outcome, names: list[str]) -> None:
    found = newest_first(life_of(settle(RUN, outcome, NOW + 5)))
    assert [each.name for each in reversed(found)] == ["pushed", *names]
    assert found[0].at == NOW + 5


def test_a_task_that_another_program_ended_has_no_more_than_its_seconds() -> None:
    task = new(status=Status.CANCELLED, created_at=NOW // SECOND - 9, seq=0, completed_at=NOW // SECOND)
    assert [(each.name, each.at) for each in life_of(task)] == [("pushed", NOW - 9 * SECOND), ("cancelled", NOW)]


async def test_an_event_of_this_process_is_listed_once(browse: Browse, tq: TaskQ) -> None:
    await browse.get("activity")
    task = await tq.push("greet", {"name": "nobody"})
    async with tq.running(1, scheduler=False):
        with pytest.raises(TaskFailed):
            await task.result(timeout=within(5))
    for name in ("pushed", "started", "failed"):
        reply = await browse.get("activity", params={"format": "json", "name": name})
        assert [each["task_id"] for each in reply.json()["happened"]] == [task.task_id], name

"""What an open page costs: few statements for each update, and due times that are computed once."""

from __future__ import annotations

from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core import firing
from aiotaskq.core.task import SECOND
from aiotaskq.web.dashboard import live
from aiotaskq.web.dashboard.counts import Kept
from aiotaskq.web.dashboard.site import Dashboard
from tests.support.rows import worker_info
from tests.support.statements import at_each_statement
from tests.web.dashboard.conftest import Browse
from tests.web.dashboard.test_million import asked

COUNTS = 7  # statements that count tasks, in all
ROUNDS = 10
BOUNDS = {
    "": COUNTS,
    "workers": 3,
    "settings": 0,
    "queues": COUNTS,
    "schedules": 1,
    "tasks": COUNTS + 1,
    "failures": COUNTS,
    "activity": 10,
}


@pytest.mark.parametrize(("page", "most"), BOUNDS.items())
async def test_an_update_takes_few_statements(tq: TaskQ, monkeypatch: pytest.MonkeyPatch, page: str, most: int) -> None:
    monkeypatch.setattr(live, "INTERVAL", 0.0)
    monkeypatch.setattr(live, "SHARE", 10**9)
    backend, now = tq.queue.backend, tq.queue.clock.now()
    assert isinstance(backend, SqlBackend)
    for number in range(6):
        await backend.workers.register(worker_info(f"w{number}", busy=1, lease_until=now + 600 * SECOND))
        await tq.push("greet", {"name": "x"}, queue=f"q{number}")
        await backend.claim(f"w{number}", now + SECOND, 1)
        await tq.push("greet", {"name": "x"}, queue=f"q{number}")
        await tq.schedules.add("n", "greet", params={"name": "x"}, interval=60)
    statements = 0

    def execute(_statement: str) -> None:
        nonlocal statements
        statements += 1

    dashboard = Dashboard(tq, allow=lambda _request, _action: True)
    assert (await dashboard.respond(asked(page, 0))).status_code == 200  # the first one reads all
    connections = await backend.database.connections()
    with at_each_statement(connections.sync_engine, execute):
        for _ in range(ROUNDS):
            assert (await dashboard.respond(asked(page, 0))).status_code == 200
    assert statements <= most * ROUNDS


async def test_the_due_times_of_a_schedule_are_computed_once(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule_id = (await tq.schedules.add("n", "greet", params={"name": "x"}, cron="*/15 * * * *")).task_id
    computed, following = [0], firing.following

    def count(schedule: Any, instant: int) -> int:
        computed[0] += 1
        return following(schedule, instant)

    monkeypatch.setattr(firing, "following", count)
    first = (await browse.get("schedules?format=json")).json()["schedules"][0]
    assert len(first["marks"]) >= 95 and computed[0] >= 95
    computed[0] = 0
    again = (await browse.get("schedules?format=json")).json()["schedules"][0]
    assert len(again["marks"]) >= 95 and computed[0] == 0
    await tq.schedules.update(schedule_id, cron="0 */6 * * *")
    changed = (await browse.get("schedules?format=json")).json()["schedules"][0]
    assert len(changed["marks"]) == 4 and computed[0] > 0
    await tq.schedules.pause(schedule_id)
    assert (await browse.get("schedules?format=json")).json()["schedules"][0]["marks"] == []


async def test_the_due_times_of_an_interval(browse: Browse, tq: TaskQ) -> None:
    await tq.schedules.add("n", "greet", params={"name": "x"}, interval=7_200)
    (row,) = (await browse.get("schedules?format=json")).json()["schedules"]
    assert len(row["marks"]) in (11, 12) and {each["kind"] for each in row["marks"]} == {"due"}


async def test_of_many_answers_the_latest_are_kept() -> None:
    answers, found = Kept(SystemClock().ticks, 3), iter(range(9))

    async def read() -> int:
        return next(found)

    assert [await answers.get(name, 60, read) for name in "abcd"] == [0, 1, 2, 3]
    assert [await answers.get(name, 60, read) for name in "dcba"] == [3, 2, 1, 4]


async def test_what_is_kept_is_read_anew_after_a_change() -> None:
    answers, found = Kept(SystemClock().ticks), iter(range(9))

    async def read() -> int:
        return next(found)

    assert [await answers.get("a", 60, read) for _ in range(2)] == [0, 0]
    assert [await answers.get("a", 0, read), await answers.get("a", 60, read)] == [1, 1]
    answers.forget()
    assert await answers.get("a", 60, read) == 2

    async def overtaken() -> int:
        answers.forget()
        return next(found)

    assert await answers.get("b", 60, overtaken) == 3
    assert await answers.get("b", 60, read) == 4

"""The pages of schedules where the tasks are in Redis: the schedules are there, too, or in a database beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotaskq import TaskQ
from aiotaskq.core.task import SECOND
from aiotaskq.web.dashboard.attention import LATE
from tests.support.backends import redis
from tests.web.dashboard.conftest import Browse, in_starlette, send


@pytest.fixture(params=["redis", "sqlite"])
async def tq(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TaskQ]:
    async with redis(tmp_path) as store:
        schedules = None if request.param == "redis" else f"sqlite:///{tmp_path}/schedules.db"
        async with TaskQ(store.url, schedules=schedules, timezone="UTC") as tq:
            yield tq


async def test_schedules_are_shown_changed_and_late(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    await tq.schedules.add("Ping", "greet", interval=60, schedule_id="ping")
    page = "schedule?id=ping"
    async with in_starlette(tq) as browse:
        assert await says(browse, "schedules", "Ping") and await says(browse, page, "greet")
        for action in ("schedules.pause", "schedules.resume", "schedules.run_now"):
            answer = await send(browse, action, page, schedule="ping")
            assert answer.status_code < 400, answer.text
        (task,) = await tq.find(scheduler_task_id="ping")
        assert (await browse.get(f"task?id={task.task_id}")).status_code == 200
        assert await says(browse, "settings", "its clock, tables and settings have no fault")
        assert not await says(browse, "", "is late")
    real = tq.queue.clock.now
    monkeypatch.setattr(tq.queue.clock, "now", lambda: real() + 70 * SECOND + LATE)
    async with in_starlette(tq) as browse:
        assert await says(browse, "", "The schedule Ping is late")


async def says(browse: Browse, page: str, text: str) -> bool:
    answer = await browse.get(page)
    assert answer.status_code == 200, answer.text
    return text in answer.text

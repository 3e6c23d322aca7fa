"""The dashboard over a million tasks: each page, and 20 open tabs, take a bounded share of a core."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from starlette.requests import Request

from aiotaskq import TaskQ
from aiotaskq.core.gate import GateChange
from aiotaskq.core.history import DAY, HOUR, KEEP_DAYS, Period, Sums, rolls, widened
from aiotaskq.core.task import SECOND
from aiotaskq.web.dashboard.site import MENU, Dashboard
from tests.backends.sql.plans import analyze, fill, start
from tests.support.rows import NOW
from tests.web.dashboard.conftest import in_starlette

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1_800)]

ROWS, WAITING, KEYS, TYPES, QUEUES = 1_000_000, 100_000, 10_000, 200, 5
AT_ONCE = 100  # writes in flight
PAGE = 0.2  # seconds of a core
TABS, SHARE, WATCHED = 20, 0.05, 60.0
FILTERS = ("status=pending", "status=completed", "type=none", "queue=none", "error=none", "status=pending&type=none")
FILTERS += ("status=pending&reason=delayed", "status=completed&sort=ended")
PAST = [f"{page}span={span}" for page in ("?", "types?", "?by=type&") for span in ("24h", "7d", "90d")]
PAST += ["type?name=t010&span=90d", "queue?name=q1&span=90d"]
OTHERS = ("limits?key=k99", "values?prefix=k99", "groups?status=failed", "tasks?schedule=none")


@pytest.fixture(params=["sqlite", "postgresql"])
async def full(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TaskQ]:
    """A store with a million tasks that have ended, and many that wait, gates and values."""
    engine = await asyncio.to_thread(start, request.param, tmp_path, "million")
    ended = {"status": "completed", "completed_at": lambda n: NOW // SECOND - n, "run_at": NOW}
    await asyncio.to_thread(fill, engine, ROWS, "done-", **ended)
    await asyncio.to_thread(fill, engine, WAITING, "wait-", status="pending", run_at=lambda n: NOW + n)
    await asyncio.to_thread(analyze, engine)
    url = engine.url.render_as_string(hide_password=False)
    engine.dispose()
    async with TaskQ(url.replace("+psycopg", "").replace("+pysqlite", "")) as tq:
        for first in range(0, KEYS, AT_ONCE):
            names = [f"k{number:05}" for number in range(first, first + AT_ONCE)]
            change = GateChange(bounds={"cap": 1})
            await asyncio.gather(*(tq.queue.backend.gates.change(name, change, NOW) for name in names))
            await asyncio.gather(*(tq.values.set_public(name, first) for name in names))
        await write_history(tq)
        yield tq


async def write_history(tq: TaskQ) -> None:
    """Write what workers would have, had the tasks of all types ended evenly over the days for which it is kept."""
    chance, end = random.Random(0), tq.queue.clock.now()
    days: list[Period] = []
    for roll in rolls(end):
        for at in range(roll.before, end, roll.seconds * SECOND):
            made = periods(at, roll.seconds, chance)
            await tq.queue.backend.history.add(made)
            if roll.seconds == HOUR:
                days += [widened(period, DAY) for period in made]
        end = roll.before
    await tq.queue.backend.history.add(days)


def periods(at: int, seconds: int, chance: random.Random) -> list[Period]:
    found: dict[tuple[int, str], list[int]] = {}
    for _ in range(round(ROWS * seconds / KEEP_DAYS)):
        number, kind = chance.randrange(TYPES), "failed" if chance.random() < 0.02 else "completed"
        found.setdefault((number, kind), []).append(int(1_000 * 1.05**number * chance.lognormvariate(0, 0.4)))
    made = []
    for (number, kind), runs in found.items():
        sums = Sums()
        sums.add_runs(runs, [int(chance.expovariate(1 / 20_000)) for _ in runs])
        made.append(sums.period((at, seconds, f"q{number % QUEUES}", f"t{number:03}", kind, "")))
    return made


async def test_each_page_takes_little_time(full: TaskQ) -> None:
    spent = {}
    async with in_starlette(full, show_args=True) as browse:
        for address in (*(each.name for each in MENU), *(f"tasks?{query}" for query in FILTERS), *PAST, *OTHERS):
            times = []
            for _ in range(5):
                began = time.process_time()
                reply = await browse.get(address)
                times.append(time.process_time() - began)
                assert reply.status_code == 200, address
            spent[address] = statistics.median(times)
    assert [address for address, seconds in spent.items() if seconds > PAGE] == [], spent


def asked(page: str, visitor: int) -> Request:
    """Return the request of an open page for what has changed."""
    scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/live", "path_params": {"name": "live"}}
    cookie = f"aiotaskq_session=visitor{visitor}".encode()
    return Request({**scope, "query_string": f"page={page}".encode(), "headers": [(b"cookie", cookie)]})


@pytest.mark.parametrize("same", [True, False], ids=["same-page", "own-pages"])
async def test_open_tabs_take_a_small_share_of_a_core(full: TaskQ, same: bool) -> None:
    dashboard, updates = Dashboard(full, allow=lambda _request, _action: True), [0]

    async def tab(number: int) -> None:
        page = "tasks" if same else MENU[number % len(MENU)].name
        while True:
            reply = await dashboard.respond(asked(page, 0 if same else number))
            updates[0] += reply.status_code == 200
            await asyncio.sleep(msgspec.json.decode(reply.body)["again"])

    await dashboard.respond(asked("tasks", 0))
    began = time.process_time()
    async with asyncio.TaskGroup() as group:
        tabs = [group.create_task(tab(number)) for number in range(TABS)]
        await asyncio.sleep(WATCHED)
        spent = time.process_time() - began
        for each in tabs:
            each.cancel()
    assert updates[0] >= TABS
    assert spent / WATCHED < SHARE

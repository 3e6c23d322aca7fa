"""Gates on PostgreSQL beside transactions that have locked a gate or a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from aiotaskq.backends.base import Change, Claim
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.rows import TASKS, new_rows
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked, passed
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from tests.backends.sql.plans import POSTGRESQL, SERVERS
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, ids, new
from tests.support.sql import tx_on

LATER = NOW + SECOND
LOCK = sa.text("SELECT 1 FROM aiotaskq_gate WHERE key = 'hot' FOR UPDATE")
WAITING = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


class Place:
    """A backend on a new database, and another connection to it."""

    def __init__(self, url: str) -> None:
        self.backend = SqlBackend(url)
        self.engine = sync_engine(url, isolation_level="READ COMMITTED")

    async def open(self) -> None:
        await self.backend.open()

    async def close(self) -> None:
        await self.backend.close()
        self.engine.dispose()

    def execute(self, sql: str) -> None:
        with self.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql(sql)

    async def behind(self, connection: sa.Connection, call: Any, write: Any) -> Any:
        """Begin a call that waits for the lock of the gate, which ``connection`` has; then write there and commit."""
        task = asyncio.ensure_future(call)
        async with asyncio.timeout(within(10)):
            while not _waiting(self.engine):
                await asyncio.sleep(0.01)
        write(connection)
        connection.commit()
        async with asyncio.timeout(within(10)):
            return await task

    async def states(self) -> dict[str, int]:
        """How many tasks hold a slot of the gate, and how many wait there."""
        (state,) = await self.backend.gates.find(["hot"])
        return {"held": state.held, "waiting": state.waiting}


def _waiting(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.execute(WAITING).scalar())


@pytest.fixture(params=POSTGRESQL)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    server = SERVERS[request.param](durable=False)
    server.drop("gate_locks")
    made = Place(server.create("gate_locks"))
    await made.open()
    yield made
    await made.close()
    server.drop("gate_locks")


def gated(number: int, cap: int = 1, key: str = "hot", **fields: Any) -> Task:
    return parked(new(flow=Flow(gates=((key, Bounds(cap=cap)),)), seq=NOW + number, **fields), NOW)


def insert(task: Task) -> Any:
    return lambda connection: tx_on(connection).insert_new(TASKS, *new_rows([task]))


def end(task: Task) -> Any:
    ended = sa.update(TASKS).where(TASKS.c.task_id == task.task_id).values(status="completed", live_gate=None)
    return lambda connection: connection.execute(ended)


def completed(tasks: Sequence[Task]) -> list[Change]:
    return [Change(task, settle(task, Completed(), LATER)) for task in tasks]


async def claimed(backend: SqlBackend, limit: int = 9) -> list[Task]:
    return await backend.claim("w", LATER, limit, lease_until=LEASE)


async def exchanged(backend: SqlBackend, tasks: Sequence[Task], limit: int = 9) -> list[Task]:
    held, more = await backend.exchange(completed(tasks), Claim("w", LATER, limit, lease_until=LEASE))
    assert all(held)
    return more


@pytest.mark.parametrize("at_a_gate", [True, False])
async def test_an_exchange_reads_all_that_a_claimed_task_has(place: Place, at_a_gate: bool) -> None:
    fields: dict[str, Any] = {"usage": {"tokens": 5}}
    waiting = gated(1, **fields) if at_a_gate else new(seq=NOW + 1, run_at=LATER, **fields)
    await place.backend.push([gated(0), waiting])
    first = await place.backend.claim("w", NOW, 1, lease_until=LEASE)
    (task,) = await exchanged(place.backend, first)
    assert (task.task_id, task.usage) == (waiting.task_id, {"tokens": 5})


async def test_a_push_counts_the_slots_that_were_taken_while_it_waited_for_the_gate(place: Place) -> None:
    await place.backend.push([gated(0)])
    await exchanged(place.backend, await claimed(place.backend))
    other, mine = passed(gated(1), NOW), gated(2)
    with place.engine.connect() as connection:
        connection.execute(LOCK)
        await place.behind(connection, place.backend.push([mine]), insert(other))
    assert await place.states() == {"held": 1, "waiting": 1}


async def test_a_push_takes_the_slot_that_was_left_while_it_waited_for_the_gate(place: Place) -> None:
    await place.backend.push([gated(0)])
    (running,) = await claimed(place.backend)
    mine = gated(1)
    with place.engine.connect() as connection:
        connection.execute(LOCK)
        await place.behind(connection, place.backend.push([mine]), end(running))
    assert await place.states() == {"held": 1, "waiting": 0}
    assert ids(await claimed(place.backend)) == [mine.task_id]


async def test_an_end_hands_on_to_what_was_pushed_while_it_waited_for_the_gate(place: Place) -> None:
    await place.backend.push([gated(0)])
    running = await claimed(place.backend)
    other = gated(1)
    with place.engine.connect() as connection:
        connection.execute(LOCK)
        call = place.backend.exchange(completed(running), Claim("w", LATER, 9, lease_until=LEASE))
        held, tasks = await place.behind(connection, call, insert(other))
    assert (held, ids(tasks)) == ([True], [other.task_id])
    assert await place.states() == {"held": 1, "waiting": 0}


async def test_an_end_without_a_claim_counts_under_the_lock(place: Place) -> None:
    await place.backend.push([gated(number, 2) for number in range(4)])
    first, second = await claimed(place.backend)
    with place.engine.connect() as connection:
        connection.execute(LOCK)
        call = place.backend.update(completed([first]))
        assert await place.behind(connection, call, end(second)) == [True]
    assert await place.states() == {"held": 2, "waiting": 0}
    assert len(await claimed(place.backend)) == 2


async def test_a_task_that_another_transaction_has_locked_is_passed_over(place: Place) -> None:
    tasks = [gated(number) for number in range(3)]
    await place.backend.push(tasks)
    first = await claimed(place.backend)
    with place.engine.connect() as connection:
        connection.execute(sa.select(TASKS.c.task_id).where(TASKS.c.task_id == tasks[1].task_id).with_for_update())
        assert ids(await exchanged(place.backend, first)) == [tasks[2].task_id]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_database_with_another_isolation_level_stays_exact(place: Place, level: str) -> None:
    place.execute(f"ALTER DATABASE gate_locks SET default_transaction_isolation = '{level}'")
    await place.backend.close()
    await place.open()
    await place.backend.push([gated(0)])
    running = await claimed(place.backend)
    other, mine = gated(1), gated(2)
    with place.engine.connect() as connection:
        connection.execute(LOCK)
        call = place.backend.exchange(completed(running), Claim("w", LATER, 9, lease_until=LEASE))
        held, tasks = await place.behind(connection, call, insert(other))
    assert (held, ids(tasks)) == ([True], [other.task_id])
    with place.engine.connect() as connection:
        connection.execute(LOCK)
        await place.behind(connection, place.backend.push([mine]), end(tasks[0]))
    assert await place.states() == {"held": 1, "waiting": 0}


async def test_a_claim_returns_whatever_a_task_has(place: Place) -> None:
    rich = {"extra": {"a": "é"}, "on_success": "s", "timeout": 1.5, "scheduler_task_id": "x", "priority": 3}
    tasks = [gated(0), gated(1, **rich), new(**rich)]
    await place.backend.push(tasks[:2])
    first = await claimed(place.backend)
    (passed_on,) = await exchanged(place.backend, first)
    assert [passed_on] == await place.backend.get([tasks[1].task_id])
    await place.backend.push(tasks[2:])
    (plain,) = await exchanged(place.backend, [passed_on])
    assert [plain] == await place.backend.get([tasks[2].task_id])
    assert plain.status is Status.RUNNING and plain.extra == rich["extra"]


async def test_tasks_of_other_programs_without_a_priority_are_claimed_last(place: Place) -> None:
    bare = new(run_at=NOW)
    await place.backend.push([gated(0), bare])
    place.execute(f"UPDATE task_queue SET priority = NULL WHERE task_id = '{bare.task_id}'")
    (first,) = await claimed(place.backend, 1)
    assert ids(await exchanged(place.backend, [first])) == [bare.task_id]

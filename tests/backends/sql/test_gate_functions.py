"""The functions of gates on PostgreSQL: one round trip, exact beside other transactions, and not needed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from aiotaskq.backends.base import Change
from aiotaskq.backends.sql import gates
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.insert import insert_new
from aiotaskq.backends.sql.rows import OTHERS, TASKS, new_rows
from aiotaskq.core.gate import PARKED, Bounds, Flow
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked, passed
from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.models import FUNCTIONS, Base, function_texts
from tests.backends.sql.plans import POSTGRESQL, SERVERS
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, ids, new

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
        self.sent: list[str] = []

    async def open(self) -> None:
        await self.backend.open()
        connections: Any = await self.backend.database.connections()

        def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "task_queue" in statement or "aiotaskq_gate" in statement or "aiotaskq_enter" in statement:
                self.sent.append(statement)

        sa.event.listen(connections.sync_engine, "before_cursor_execute", note)

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
    server.drop("gate_functions")
    made = Place(server.create("gate_functions"))
    await made.open()
    yield made
    await made.close()
    server.drop("gate_functions")


def gated(number: int, cap: int = 1, key: str = "hot", **fields: Any) -> Task:
    return parked(new(flow=Flow(gates=((key, Bounds(cap=cap)),)), seq=NOW + number, **fields), NOW)


def insert(task: Task) -> Any:
    return lambda connection: insert_new(connection, TASKS, *new_rows([task]))


def end(task: Task) -> Any:
    ended = sa.update(TASKS).where(TASKS.c.task_id == task.task_id).values(status="completed", live_gate=None)
    return lambda connection: connection.execute(ended)


def completed(tasks: Sequence[Task]) -> list[Change]:
    return [Change(task, settle(task, Completed(), LATER)) for task in tasks]


async def claimed(backend: SqlBackend, limit: int = 9) -> list[Task]:
    return await backend.claim("w", LATER, limit, lease_until=LEASE)


async def exchanged(backend: SqlBackend, tasks: Sequence[Task], limit: int = 9) -> list[Task]:
    held, more = await backend.exchange(completed(tasks), "w", LATER, limit, lease_until=LEASE)
    assert all(held)
    return more


async def test_a_push_and_an_exchange_are_one_statement_each(place: Place) -> None:
    tasks = [gated(number, 2) for number in range(6)]
    await place.backend.push(tasks[:1])  # asks whether the functions are there
    place.sent.clear()
    await place.backend.push(tasks[1:])
    assert len(place.sent) == 1 and "aiotaskq_enter" in place.sent[0]
    first = await claimed(place.backend)
    place.sent.clear()
    assert ids(await exchanged(place.backend, first)) == ids(tasks[2:4])
    assert len(place.sent) == 1 and "aiotaskq_hand_on" in place.sent[0]
    assert await place.states() == {"held": 2, "waiting": 2}


@pytest.mark.parametrize("at_a_gate", [True, False])
async def test_an_exchange_reads_all_that_a_claimed_task_has(place: Place, at_a_gate: bool) -> None:
    fields: dict[str, Any] = {"usage": {"tokens": 5}}
    waiting = gated(1, **fields) if at_a_gate else new(seq=NOW + 1, run_at=LATER, **fields)
    await place.backend.push([gated(0), waiting])
    first = await place.backend.claim("w", NOW, 1, lease_until=LEASE)
    (task,) = await exchanged(place.backend, first)
    assert (task.task_id, task.usage) == (waiting.task_id, {"tokens": 5})


@pytest.mark.parametrize("column", [*OTHERS, "crashes", "cancel_requested"])
def test_the_function_of_an_end_looks_at_each_column_that_a_claim_may_leave_out(column: str) -> None:
    lists = re.findall(r"CASE WHEN coalesce\((.+?)IS NULL THEN NULL ELSE", _function("aiotaskq_hand_on"), re.DOTALL)
    assert len(lists) == 2 and all(f"t.{column}" in re.findall(r"t\.\w+", each) for each in lists)


def _function(name: str) -> str:
    return next(text for text in function_texts("postgresql") if f"FUNCTION {name}(" in text)


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
        call = place.backend.exchange(completed(running), "w", LATER, 9, lease_until=LEASE)
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


async def test_a_gate_that_was_missed_is_due_until_it_is_admitted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The function hands nothing on to a task with another flow. Here the process is cut off before it admits the gate.
    other = gated(1).replace(flow=Flow(gates=(("hot", Bounds(cap=1)), ("more", Bounds(cap=1)))))
    await place.backend.push([gated(0)])
    running = await claimed(place.backend)
    await place.backend.push([other])

    def cut_off(*_: object) -> None:
        raise DatabaseUnavailable("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(gates, "_look_again", cut_off)
        assert await exchanged(place.backend, running) == []
    assert await place.states() == {"held": 0, "waiting": 1}
    await place.backend.gates.admit(LATER, 9)
    assert ids(await claimed(place.backend)) == [other.task_id]


async def test_a_task_that_another_transaction_has_locked_is_passed_over(place: Place) -> None:
    tasks = [gated(number) for number in range(3)]
    await place.backend.push(tasks)
    first = await claimed(place.backend)
    with place.engine.connect() as connection:
        connection.execute(sa.select(TASKS.c.task_id).where(TASKS.c.task_id == tasks[1].task_id).with_for_update())
        assert ids(await exchanged(place.backend, first)) == [tasks[2].task_id]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_database_with_another_isolation_level_stays_exact(place: Place, level: str) -> None:
    place.execute(f"ALTER DATABASE gate_functions SET default_transaction_isolation = '{level}'")
    await place.backend.close()
    await place.open()
    await place.backend.push([gated(0)])
    running = await claimed(place.backend)
    other, mine = gated(1), gated(2)
    with place.engine.connect() as connection:
        connection.execute(LOCK)
        call = place.backend.exchange(completed(running), "w", LATER, 9, lease_until=LEASE)
        held, tasks = await place.behind(connection, call, insert(other))
    assert (held, ids(tasks)) == ([True], [other.task_id])
    with place.engine.connect() as connection:
        connection.execute(LOCK)
        await place.behind(connection, place.backend.push([mine]), end(tasks[0]))
    assert await place.states() == {"held": 1, "waiting": 0}


async def test_all_works_without_the_functions(place: Place) -> None:
    for name in FUNCTIONS["postgresql"]:
        place.execute(f"DROP FUNCTION {name}")
    tasks = [gated(number) for number in range(3)]
    await place.backend.push(tasks)
    (running,) = await claimed(place.backend)
    assert ids(await exchanged(place.backend, [running])) == [tasks[1].task_id]
    assert await place.states() == {"held": 1, "waiting": 1}


async def test_a_role_that_may_not_call_them_does_without(place: Place) -> None:
    for name in FUNCTIONS["postgresql"]:
        place.execute(f"REVOKE EXECUTE ON FUNCTION {name} FROM PUBLIC")
    place.execute("DROP ROLE IF EXISTS gate_worker")
    place.execute("CREATE ROLE gate_worker LOGIN")
    try:
        place.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO gate_worker")
        backend = SqlBackend(str(place.engine.url.set(drivername="postgresql", username="gate_worker")))
        await backend.open()
        tasks = [gated(number) for number in range(2)]
        await backend.push(tasks)
        assert ids(await exchanged(backend, await claimed(backend))) == [tasks[1].task_id]
        await backend.close()
    finally:
        place.execute("DROP OWNED BY gate_worker")
        place.execute("DROP ROLE gate_worker")


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


async def test_they_go_with_the_tables(place: Place) -> None:
    count = sa.text("SELECT count(*) FROM pg_proc WHERE proname LIKE 'aiotaskq%'")
    with place.engine.connect() as connection:
        assert connection.execute(count).scalar() == len(FUNCTIONS["postgresql"])
        Base.metadata.drop_all(connection)
        assert connection.execute(count).scalar() == 0
        Base.metadata.create_all(connection)
        assert connection.execute(count).scalar() == len(FUNCTIONS["postgresql"])


def test_parked_is_written_in_them_as_a_number() -> None:
    assert all(str(PARKED) in text for text in function_texts("postgresql"))

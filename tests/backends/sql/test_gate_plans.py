"""Each statement of gates reads little more than it moves, however many tasks wait there: plans and counts of rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from aiotaskq.backends.flow.gates import Admitted, admit_touched
from aiotaskq.backends.sql.claim import stats
from aiotaskq.backends.sql.rows import GATES as GATE_ROWS
from aiotaskq.backends.sql.rows import SLOTS, TASKS, json_text, new_rows
from aiotaskq.backends.sql.tasks import find
from aiotaskq.core.gate import PARKED, Bounds, Flow, Gate, Starts
from aiotaskq.core.parking import parked
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, TaskFilter
from tests.backends.sql.plans import DATABASES, PRIMARY, Cost, Verb, analyze, cost, fill, fill_all, start
from tests.support.rows import NOW, new
from tests.support.sql import tx_on

WAITING = 20_000
GATES = 100
HELD = 3
BOUNDS = Bounds(cap=HELD + 2)
INDEXES = {"ix_task_queue_gate", "ix_aiotaskq_slot_task", "aiotaskq_slot_pkey", "aiotaskq_gate_pkey"} | PRIMARY
# What was found by an index, and only that, may be sorted, or be read by its place in the table.
FOUND = re.compile(
    r"(Incremental )?Sort of |Bitmap (Heap|Index) Scan of (task_queue|aiotaskq_slot|)$|Tid Scan |USE TEMP B-TREE"
    r"|range ix_task_queue_gate: "
)
SMALL = [f"tenant:{number}" for number in range(GATES)]


@pytest.fixture(scope="module", params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    """One gate at which very many wait, and many at each of which some do; each has free slots."""
    made = start(request.param, tmp_path_factory.mktemp("gates"), "gate_plans")
    fill_all(made, finished=20_000, future=2_000)

    def gate_of(n: Any) -> Any:
        return sa.literal("tenant:") + sa.cast(n % GATES, sa.String(20))

    parked = {"status": "pending", "run_at": PARKED, "due_at": NOW - SECOND, "priority": 0}
    _fill(made, WAITING, "hot-", "hot", **parked)
    _fill(made, 20 * GATES, "small-", gate_of, **parked)
    held = {"status": "running", "run_at": NOW, "priority": 0}
    _fill(made, HELD, "busy-", "hot", **held)
    _fill(made, HELD * GATES, "held-", gate_of, **held)
    with made.begin() as connection:
        tx_on(connection).add_gates([Gate(key=key, bounds=BOUNDS) for key in ("hot", *SMALL)])
        tx_on(connection).insert_new(SLOTS, ("gate", "task_id"), [("wide", f"held-{n}") for n in range(HELD * GATES)])
    analyze(made)
    yield made
    made.dispose()


def _fill(engine: sa.Engine, count: int, prefix: str, gate: Any, **columns: Any) -> None:
    flow = json_text(Flow(gates=(("hot", BOUNDS),)))
    fill(engine, count, prefix, flow=flow, gate=gate, live_gate=gate, created_at=NOW // SECOND, **columns)


def by_indexes(found: Cost, *more: str) -> bool:
    """Whether every statement finds its rows by an index."""
    automatic = {name for name in found.indexes if name.startswith("sqlite_autoindex_") or name.isdigit()}
    return found.indexes - automatic <= INDEXES.union(more) and not [
        each for each in found.detours if not FOUND.match(each)
    ]


def admit(*keys: str) -> Verb:
    def verb(connection: sa.Connection) -> set[str]:
        return set(admitted(connection, *keys).ready)

    return verb


def admitted(connection: sa.Connection, *keys: str) -> Admitted:
    tx = tx_on(connection)
    tx.touched.now, tx.touched.keys, tx.touched.known = NOW, dict.fromkeys(keys), dict.fromkeys(keys)
    found = admit_touched(tx)
    assert found is not None
    return found


def test_a_slot_of_a_gate_at_which_many_wait_costs_no_look_at_them(engine: sa.Engine) -> None:
    ready, found = cost(engine, admit("hot"))
    assert ready == {"hot-0", "hot-1"}
    assert by_indexes(found) and "ix_task_queue_gate" in found.indexes, (found.indexes, found.detours)
    assert found.reads <= 100, found.statements


def by_one_index(found: Cost) -> bool:
    """Whether no more is read than all that an index of rows in some states has."""
    whole = {each.rpartition(" ")[2] for each in found.detours if each.startswith("SCAN")}
    return whole <= {"ix_task_queue_gate", "ix_task_queue_held", "ix_task_queue_ended"}


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_parked_tasks_are_counted_and_listed_by_the_index_of_their_gates(engine: sa.Engine) -> None:
    ready = sa.text("SELECT sql FROM sqlite_master WHERE name = 'ix_task_queue_ready'")
    with engine.begin() as connection:
        assert f"+run_at < {PARKED}" in str(connection.execute(ready).scalar())
        # A child waits for its parents at no gate.
        child = new(task_id="child", run_at=PARKED, seq=NOW + 1, waits=1)
        tx_on(connection).insert_new(TASKS, *new_rows([child.replace(flow=Flow(parents=(("parent", "p"),)))]))
    try:
        counted, found = cost(engine, lambda c: stats(tx_on(c), NOW))
        assert counted.counts["pending"] == WAITING + 20 * GATES + 3 * 2_000 + 1
        assert {"ix_task_queue_ready", "ix_task_queue_gate"} <= found.indexes
        assert by_one_index(found), found.detours
        page, found = cost(engine, lambda c: find(tx_on(c), TaskFilter(status=(Status.PENDING,)), 10))
        assert page[0].task_id == "child" and len(page) == 10
        assert by_one_index(found), found.detours
    finally:
        with engine.begin() as connection:
            connection.execute(sa.delete(TASKS).where(TASKS.c.task_id == "child"))


def test_many_gates_are_admitted_by_as_many_statements_as_one(engine: sa.Engine) -> None:
    _, alone = cost(engine, admit(SMALL[0]))
    ready, found = cost(engine, admit(*SMALL))
    assert ready == {f"small-{n}" for n in range(2 * GATES)}
    assert by_indexes(found), (found.indexes, found.detours)
    assert found.reads <= 60 * GATES, found.statements
    # Another one may ask at which of them a task waits.
    assert len(found.statements) <= len(alone.statements) + 1 <= 5


def _asleep(engine: sa.Engine) -> None:
    """Ready tasks of one queue behind as many gates as there are: half of them have passed another gate before."""
    rows = []
    for n in range(GATES):
        gates = ((f"asleep:{n}", BOUNDS),) if n % 2 else ((f"first:{n}", BOUNDS), (f"asleep:{n}", BOUNDS))
        flow, key = json_text(Flow(gates=gates)), f"asleep:{n}"
        row = {"task_id": f"asleep-{n}", "task_type": "t", "params": "{}", "queue": "asleep", "seq": NOW + n}
        row |= {"status": "pending", "run_at": NOW, "priority": 0, "created_at": NOW // SECOND}
        rows.append(row | {"flow": flow, "gate": key, "live_gate": key})
    with engine.begin() as connection:
        connection.execute(sa.insert(TASKS), rows)
        tx_on(connection).add_gates([Gate(key=f"asleep:{n}", bounds=BOUNDS) for n in range(GATES)])
        tx_on(connection).insert_new(
            SLOTS, ("gate", "task_id"), [(f"first:{n}", f"asleep-{n}") for n in range(0, GATES, 2)]
        )


def test_a_queue_with_many_gates_is_paused_by_as_many_statements_as_one(engine: sa.Engine) -> None:
    _asleep(engine)

    def verb(count: int) -> Verb:
        keys = sorted(f"asleep:{n}" for n in range(count))

        def parked(connection: sa.Connection) -> int:
            tx = tx_on(connection)
            tx.touched.park(keys, "asleep")
            admit_touched(tx)
            return len(tx.touched.due)

        return parked

    freed, few = cost(engine, verb(2))
    assert freed == 3
    freed, found = cost(engine, verb(GATES))
    assert freed == GATES + GATES // 2
    assert by_indexes(found), (found.indexes, found.detours)
    assert len(found.statements) == len(few.statements) <= 3, found.statements


def test_what_is_waited_for_is_counted_by_the_index(engine: sa.Engine) -> None:
    def verb(connection: sa.Connection) -> Any:
        tx = tx_on(connection)
        more = tx.with_more_waiting({"hot": 5, "none": 0, SMALL[1]: 30})
        return tx.held(["hot", "wide"]), tx.counts(["wide"]), more

    answer, found = cost(engine, verb)
    assert answer == ({"hot": HELD}, {"wide": (HELD * GATES, 0)}, {"hot"})  # none waits at the wide one
    assert by_indexes(found), (found.indexes, found.detours)
    assert found.reads <= 300 * GATES, found.statements


def test_what_holds_and_what_waits_is_counted_by_the_index_in_one_statement(engine: sa.Engine) -> None:
    answer, found = cost(engine, lambda c: tx_on(c).counts(["hot", "none", "wide", SMALL[1]]))
    assert answer == {"hot": (HELD, WAITING), "none": (0, 0), "wide": (HELD * GATES, 0), SMALL[1]: (HELD, 20)}
    assert by_indexes(found), (found.indexes, found.detours)
    assert len(found.statements) == 1, found.statements


def test_the_starts_of_a_rate_are_found_by_the_index(engine: sa.Engine) -> None:
    gates = [Gate(key=key, bounds=Bounds(interval=SECOND)) for key in ("hot", "wide")]

    def verb(connection: sa.Connection) -> Any:
        started = sa.update(TASKS).where(TASKS.c.task_id.in_(["busy-0", "held-0"])).values(began_at=NOW)
        connection.execute(started)
        waits = sa.update(TASKS).where(TASKS.c.task_id.in_(["busy-1", "held-1"])).values(status="pending")
        connection.execute(waits)
        return tx_on(connection).starts(gates, NOW)

    answer, found = cost(engine, verb)
    assert answer == dict.fromkeys(("hot", "wide"), Starts(1, [(NOW, 1)]))
    assert by_indexes(found), (found.indexes, found.detours)
    assert found.reads <= 60 * GATES, found.statements


def test_tasks_that_are_not_due_cost_nothing_whatever_their_priorities(engine: sa.Engine) -> None:
    """Neither an end at their gate, nor what is asked for the time of the next one."""

    def verb(count: int) -> Verb:
        flow = Flow(gates=(("hot", BOUNDS),))
        delayed = [new(task_id=f"late-{n}", flow=flow, priority=-1 - n, seq=NOW) for n in range(count)]

        def late(connection: sa.Connection) -> tuple[set[str], int | None]:
            tx_on(connection).insert_new(TASKS, *new_rows([parked(task, NOW + 60 * SECOND) for task in delayed]))
            connection.execute(sa.update(GATE_ROWS).where(GATE_ROWS.c.key == "hot").values(next_at=NOW - 1))
            done = admitted(connection, "hot")
            next_at = sa.select(GATE_ROWS.c.next_at).where(GATE_ROWS.c.key == "hot")
            assert done.has_next_at and connection.scalar(next_at) == NOW + 60 * SECOND
            return set(done.ready), tx_on(connection).next_due("hot")

        return late

    answer, few = cost(engine, verb(2))
    assert answer == ({"hot-0", "hot-1"}, NOW + 60 * SECOND)
    answer, many = cost(engine, verb(300))
    assert answer == ({"hot-0", "hot-1"}, NOW + 60 * SECOND)
    assert by_indexes(many), (many.indexes, many.detours)
    reading = [[each for each in found.statements if not each.startswith("INSERT")] for found in (few, many)]
    assert len(reading[0]) == len(reading[1])

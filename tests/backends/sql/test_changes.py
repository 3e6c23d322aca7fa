"""Changes as rows to write: whatever the group of a change, its row becomes what the change says."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from aiotaskq.backends.base import Change
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.changes import ENDING, GUARD, groups, hoisted, in_one
from aiotaskq.backends.sql.rows import CLAIM, CONTENT, FLOW, OTHERS, STATE, TASKS, content, flow_columns, state
from aiotaskq.backends.sql.tasks import get, update_tasks
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.groups import GroupState
from aiotaskq.core.outcome import Cancelled, Completed, Failed, HandedBack, LeaseExpired, Outcome, Released, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Attempt, Task
from aiotaskq.models import Base
from tests.backends.sql.plans import POSTGRESQL, analyze, cost, fill, sqlite_counted, start
from tests.support.rows import LEASE, NOW, new
from tests.support.sql import tx_on

RUNNING = {"status": Status.RUNNING, "fence": 3, "lease_owner": "o", "lease_until": LEASE, "began_at": NOW}
BEFORE: tuple[dict[str, Any], ...] = (
    {},
    {"unique_key": "u", "extra": {"a": 1}},
    {"error_message": "ValueError: no", "retry_count": 1, "attempts": (Attempt(number=1, outcome="failed"),)},
    {"cancel_requested": True},
    {"result": 1, "progress": {"n": 1}},
)
OUTCOMES: tuple[Outcome, ...] = (
    *(Completed(), Completed({"n": [1, None]}), Failed("ValueError: no"), Failed("no", retryable=False)),
    *(Released("stop"), Released("stop", delay=5, put_off=True), Cancelled(), LeaseExpired()),
    HandedBack(new(params={"n": 2}, priority=7)),
)


def changes() -> list[Change]:
    made = []
    for number, (fields, outcome) in enumerate(itertools.product(BEFORE, OUTCOMES)):
        task = new(**{**RUNNING, **fields, "fence": number})
        made.append(Change(task, settle(task, outcome, NOW + number)))
    return made


def columns(task: Task) -> dict[str, Any]:
    return dict(zip(STATE + CONTENT + FLOW, state(task) + content(task) + flow_columns(task), strict=True))


@pytest.mark.parametrize("together", [True, False])
def test_the_row_becomes_what_the_change_says(together: bool) -> None:
    given = {change.before.task_id: change for change in changes()}
    found = list(groups(list(given.values()))) if together else [g for c in given.values() for g in groups([c])]
    for group in found:
        for row in group.rows:
            values = dict(zip(group.names + GUARD, row, strict=True))
            change = given.pop(values["b_id"])
            before, after = columns(change.before), columns(change.after)
            left = {name: value for name, value in after.items() if value != before[name]}
            assert left.items() <= values.items()
            assert all(values[name] == after[name] for name in group.names)
            assert (values["b_status"], values["b_fence"]) == ("running", change.before.fence)
            assert (values["b_final"], values["b_cancel"]) == (change.after.final, change.before.cancel_requested)
    assert given == {}


def test_runs_that_completed_go_in_one_statement() -> None:
    done = [change for change in changes() if change.after.status is Status.COMPLETED]
    plain = [change for change in done if not change.before.cancel_requested]
    (group,) = groups(plain)
    assert group.names == ENDING and len(group.rows) == len(plain) == 8
    assert in_one(plain) and not in_one(done) and not in_one([*plain, plain[0]])
    assert not in_one([*plain, Change(plain[0].before, plain[0].after, (new(),))])


def test_a_change_that_gives_a_task_its_first_gate_is_more_than_one_statement() -> None:
    task = new(params={"n": 1})
    assert in_one([Change(task, task.replace(priority=5))])
    assert not in_one([Change(task, task.replace(flow=Flow(gates=(("tenant", Bounds(cap=1)),))))])


def test_the_numbers_of_a_group_are_written_without_its_callbacks() -> None:
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    group = GroupState(group_id="g", total=2, remaining=2, then=new(task_id="then", params={"text": "x" * 1000}))
    said: list[str] = []
    with engine.begin() as connection:
        tx = tx_on(connection)
        tx.add_groups([group], [])
        sa.event.listen(connection, "before_cursor_execute", lambda *given: said.append(given[2]))
        tx.write_groups([replace(group, remaining=1)])
        assert said and "then_task" not in "".join(said)
        assert tx.groups(["g"])["g"] == replace(group, remaining=1)
        tx.write_groups([replace(group, remaining=1, then=None)], callbacks=True)
        assert tx.groups(["g"])["g"].then is None


@pytest.mark.parametrize(
    "fields", [{"params": {"n": True}}, {"extra": {"n": 1}}, {"priority": 5}, {"max_retries": 9}, {"lease_owner": "p"}]
)
def test_one_that_changes_more_is_compared(fields: dict[str, Any]) -> None:
    task = new(params={"n": 1}, **RUNNING)
    after = settle(task, Completed(), NOW).replace(**fields)
    (group,) = groups([Change(task, after)])
    assert group.names != ENDING
    written = dict(zip(group.names, group.rows[0], strict=False))
    (name,) = fields
    assert written[name] == columns(after)[name]


def test_what_is_the_same_in_all_rows_is_hoisted() -> None:
    same, names, differ = hoisted(("a", "b", "c"), [(1, 1), (1, 2), (None, None)])
    assert (same, names, differ) == ({"a": 1, "c": None}, ("b",), [(1, 2)])
    assert hoisted(("a", "b"), [(1,), (2,)]) == ({"a": 1, "b": 2}, (), [])


def test_a_claim_reads_each_column_or_knows_that_it_is_empty() -> None:
    by_claim = {"status", "started_at", "began_at", "lease_owner", "lease_until"}
    again = {"live_key", "live_gate"}  # say again what unique_key and gate say
    by_flow = {"gate", "waits"}  # of a ready task: none without gates, and no parents any more
    known = {*CLAIM, *OTHERS, "crashes", "cancel_requested"} | by_claim | again | by_flow
    assert known == {column.name for column in TASKS.columns}


@pytest.mark.parametrize("results", [[None] * 100, list(range(100))], ids=["none", "numbers"])
def test_on_sqlite_they_read_only_their_rows(results: list[Any], tmp_path: Path) -> None:
    engine = start("sqlite", tmp_path, "changes")
    lease = {"lease_owner": "o", "lease_until": LEASE, "run_at": NOW, "began_at": NOW, "started_at": NOW // SECOND}
    fill(engine, 5_000, "held-", status="running", fence=1, **lease)
    engine.dispose()

    async def settled() -> tuple[list[bool], int]:
        backend = SqlBackend(f"sqlite:///{tmp_path / 'changes'}.db")
        tasks = [task for task in await backend.get([f"held-{n}" for n in range(100)]) if task is not None]
        done = [Change(t, settle(t, Completed(r), NOW)) for t, r in zip(tasks, results, strict=True)]
        written = await backend.database.write(lambda c: sqlite_counted(c, lambda c: update_tasks(tx_on(c), done)))
        assert await backend.get([task.task_id for task in tasks]) == [change.after for change in done]
        await backend.close()
        return written

    held, steps = asyncio.run(settled())
    assert held == [True] * 100
    assert steps < 20 * 100


BY_IDS = {"Bitmap Heap Scan of task_queue", "Bitmap Index Scan of "}


# In a small table it takes less to read all rows; but the plan is kept when the table has grown.
@pytest.mark.parametrize(("many", "rows"), [(1, 5_000), (100, 5_000), (100, 300)])
@pytest.mark.parametrize("name", POSTGRESQL)
def test_on_postgresql_they_are_found_by_their_ids(name: str, many: int, rows: int, tmp_path: Path) -> None:
    engine = start(name, tmp_path, "changes")
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("ALTER DATABASE changes SET enable_seqscan = off")  # as on our own connections
    engine.dispose()
    fill(engine, rows, "held-", status="running", fence=1, lease_owner="o", run_at=NOW, began_at=NOW)
    for _ in ("before", "after"):
        with engine.connect() as connection:
            tasks = [task for task in get(tx_on(connection), [f"held-{n}" for n in range(many)]) if task is not None]
        for outcome in (Completed(), Failed("ValueError: no")):
            done = [Change(task, settle(task, outcome, NOW)) for task in tasks]
            held, found = cost(engine, lambda c, done=done: update_tasks(tx_on(c), done))  # type: ignore[misc]
            assert held == [True] * many
            assert found.indexes == {"task_queue_pkey"} and set(found.detours) <= (BY_IDS if many > 1 else set())
            # The index has entries of rows as they were before, which the first visit finds dead.
            assert many <= found.reads <= (many if many == 1 else 2 * many)
        analyze(engine)
    engine.dispose()

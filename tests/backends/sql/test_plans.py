"""Each statement of the SQL backend reads little more than it answers, however many rows there are: plans and counts.

The plans are those of the statements that are sent, before and after PostgreSQL and MySQL have collected statistics.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aiotaskq.backends.base import Change
from aiotaskq.backends.sql import claim as sql_claim
from aiotaskq.backends.sql import claim_statements, migrations
from aiotaskq.backends.sql import tasks as sql_tasks
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.claim import Claim
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, TaskFilter
from aiotaskq.models import Base, indexes_of
from tests.backends.sql.plans import (
    DATABASES,
    FINISHED,
    FUTURE,
    POSTGRESQL,
    PRIMARY,
    READY,
    SERVERS,
    WITH_STATISTICS,
    Filled,
    Verb,
    analyze,
    cost,
    cost_on,
    fill,
    fill_all,
    on,
    register,
    remove,
    start,
)
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, ids, new
from tests.support.sql import tx_on

# ---- the databases --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    filled = Filled(tmp_path_factory)
    yield filled
    filled.dispose()


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, databases: Filled) -> sa.Engine:
    """The filled database, before and after it has looked at its rows."""
    return databases.engine(*request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marked = metafunc.definition.iter_markers("parametrize")
    if "engine" in metafunc.fixturenames and all(mark.args[0] != "engine" for mark in marked):
        everywhere = on(*DATABASES)
        metafunc.parametrize(*everywhere.args, **everywhere.kwargs)


# ---- what a verb costs ----------------------------------------------------------------------------------------------


def claim(limit: int, queues: list[str] | None = None, at: int = NOW) -> Verb:
    return lambda connection: sql_claim.claim(tx_on(connection), Claim("o", at, limit, queues, LEASE))


def push(engine: sa.Engine, *tasks: Any) -> None:
    with engine.begin() as connection:
        tx_on(connection).insert(tasks)


# ---- claiming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 10])
def test_a_claim_reads_only_the_rows_it_returns(engine: sa.Engine, limit: int) -> None:
    due = [new(task_id=f"due-{n:03}", priority=n % 3 - 1, run_at=NOW - n) for n in range(200)]
    push(engine, *due)
    try:
        tasks, found = cost(engine, claim(limit))
    finally:
        remove(engine, "due-%")
    assert ids(tasks) == ids(sorted(due, key=lambda task: (task.priority, task.run_at))[:limit])
    assert found.indexes - PRIMARY == {READY}
    assert found.detours == []
    assert found.reads <= 100 + 15 * limit, found.statements


@pytest.mark.parametrize("queues", [None, ["default"], ["default", "mail"], ["nobody's"]])
def test_an_idle_claim_skips_delayed_rows(engine: sa.Engine, queues: list[str] | None) -> None:
    tasks, found = cost(engine, claim(10, queues))
    assert tasks == []
    assert found.indexes - PRIMARY == {READY}
    assert found.detours == []
    assert found.reads <= 60, found.statements
    assert len(found.statements) == (1 if engine.dialect.name != "mysql" else 4)


@on("sqlite", *POSTGRESQL)  # in MariaDB the heads come one by one
def test_the_order_does_not_depend_on_the_join(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # A hash join gives its rows in any order; PostgreSQL takes it now and then.
    push(engine, *(new(task_id=f"due-{n:02}", priority=n - 50) for n in range(40)))
    backwards = sa.select(claim_statements.FIRST_SPAN.subquery()).order_by(sa.text("step DESC"))
    monkeypatch.setattr(claim_statements, "FIRST_SPAN", backwards)
    try:
        tasks, _ = cost(engine, claim(25))
    finally:
        remove(engine, "due-%")
    assert ids(tasks) == [f"due-{n:02}" for n in range(25)]


def test_usually_a_claim_is_two_or_three_statements(engine: sa.Engine) -> None:
    push(engine, *(new(task_id=f"due-{n}", priority=-2) for n in range(20)))
    try:
        tasks, found = cost(engine, claim(10))
    finally:
        remove(engine, "due-%")
    assert len(tasks) == 10
    words = [statement.split()[0] for statement in found.statements][1:]
    assert words == (["WITH"] if engine.dialect.name == "postgresql" else ["SELECT", "UPDATE"])


@on(*POSTGRESQL)  # it alone says what it has changed, and skips what others have
@pytest.mark.parametrize("queues", [None, ["default"]])
def test_the_first_priority_is_claimed_in_one_statement(engine: sa.Engine, queues: list[str] | None) -> None:
    def claim_first(limit: int) -> Verb:
        return lambda connection: sql_claim.claim_first(tx_on(connection), Claim("o", NOW, limit, queues, LEASE))

    (tasks, more), found = cost(engine, claim_first(10))
    assert (tasks, more) == ([], True)
    assert found.detours == [] and found.reads <= 60
    first = [new(task_id=f"due-{n:03}", priority=-2, run_at=NOW - n) for n in range(200)]
    push(engine, *first, new(task_id="due-x", priority=-1))
    try:
        (tasks, more), found = cost(engine, claim_first(10))
        assert ids(tasks) == ids(sorted(first, key=lambda task: task.run_at)[:10])
        assert {(task.status, task.fence, task.lease_until) for task in tasks} == {(Status.RUNNING, 1, LEASE)}
        assert not more and len(found.statements) == 1
        assert found.indexes - PRIMARY == {READY} and found.detours == []
        assert found.reads <= 200, found.statements
        (tasks, more), _ = cost(engine, claim_first(250))
        assert len(tasks) == 200 and more
    finally:
        remove(engine, "due-%")


@on(*POSTGRESQL)
@pytest.mark.parametrize("pooler", ["", "?pooler=transaction"])
async def test_no_statement_is_compiled(engine: sa.Engine, pooler: str) -> None:
    # Before version 18 a disabled scan adds 1e10 to a plan's cost, and JIT compiles each plan above 1e5.
    push(engine, *(new(task_id=f"due-{n:03}", priority=n % 3 - 1, expires_at=NOW + 9) for n in range(200)))
    fill(engine, 200, "held-", status="running", lease_until=NOW - 1, fence=1, run_at=NOW)
    held = [(f"held-{n}", 1) for n in range(100)]
    verbs: dict[str, Verb] = {
        "claim": claim(10),
        "claim of queues": claim(10, ["default", "mail"]),
        "claim of the first": lambda c: sql_claim.claim_first(tx_on(c), Claim("o", NOW, 10, None, LEASE)),
        "report": lambda c: sql_tasks.report(tx_on(c), [(name, fence, {"n": 1}) for name, fence in held]),
        "request_cancel": lambda c: sql_tasks.request_cancel(tx_on(c), [name for name, _ in held]),
        "next_run_at": lambda c: sql_claim.next_run_at(tx_on(c), NOW, ["mail"]),
        "stats": lambda c: sql_claim.stats(tx_on(c), NOW),
        "overdue": lambda c: sql_tasks.overdue(tx_on(c), NOW, 100),
        "find": lambda c: sql_tasks.find(tx_on(c), TaskFilter(), 50),
        "active": lambda c: sql_tasks.active(tx_on(c), ["s"]),
        "purge": lambda c: sql_tasks.purge(tx_on(c), TaskFilter(), 500),
    }
    backend = SqlBackend(engine.url.render_as_string(hide_password=False) + pooler)
    try:
        await backend.open()
        for name, verb in verbs.items():
            _, found = await backend.database.write(lambda c, verb=verb: cost_on(c, verb))  # type: ignore[misc]
            assert found.statements, name
            assert [each for each in found.detours if each.startswith("compiled")] == [], name
    finally:
        await backend.close()
        remove(engine, "due-%")
        remove(engine, "held-%")


@pytest.mark.parametrize("name", POSTGRESQL)
def test_nothing_but_one_priority(name: str, tmp_path: Path) -> None:
    engine = start(name, tmp_path, "plans_one")

    def first(limit: int) -> tuple[int, bool]:
        with engine.connect() as connection:  # what it writes is rolled back
            tasks, more = sql_claim.claim_first(tx_on(connection), Claim("o", NOW, limit, None, LEASE))
        return len(tasks), more

    push(engine, *(new(task_id=f"due-{n}", priority=3) for n in range(5)))
    assert [first(3), first(5), first(9)] == [(3, False), (5, False), (5, False)]
    push(engine, new(task_id="due-late", priority=4, run_at=NOW + SECOND))
    assert first(9) == (5, True)
    remove(engine, "due-late")
    with engine.begin() as connection:
        values = {"task_id": "due-null", "task_type": "t", "created_at": 1, "priority": None, "run_at": NOW}
        connection.execute(sa.insert(TASKS).values(**values))
    assert first(9) == (5, True)
    engine.dispose()


def test_more_priorities_than_one_statement_looks_at(engine: sa.Engine) -> None:
    waiting = [
        new(task_id=f"many-{n:03}", priority=100 + n, run_at=NOW + SECOND) for n in range(claim_statements.SPAN * 3)
    ]
    due = [new(task_id=f"due-{n}", priority=150 + 100 * n) for n in range(3)]
    push(engine, *waiting, *due)
    try:
        tasks, found = cost(engine, claim(10))
    finally:
        remove(engine, "due-%")
        remove(engine, "many-%")
    assert ids(tasks) == ["due-0", "due-1", "due-2"]
    assert found.indexes - PRIMARY == {READY} and found.detours == []


def test_a_task_without_a_priority_is_claimed_too(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        values = {"task_id": "due-null", "task_type": "t", "created_at": 1, "priority": None, "run_at": NOW}
        connection.execute(sa.insert(TASKS).values(**values))
    push(engine, new(task_id="due-5", priority=5))
    try:
        tasks, found = cost(engine, claim(10))
        assert cost(engine, lambda c: sql_claim.next_run_at(tx_on(c), NOW, None))[0] == NOW
        assert cost(engine, lambda c: sql_claim.ready(tx_on(c), NOW, None))[0][0] == 2
    finally:
        remove(engine, "due-%")
    assert ids(tasks) == ["due-null", "due-5"]  # as a list it is in claim order, where none is 0
    assert found.detours == []


@on(*SERVERS)  # SQLite has one writer at a time
def test_two_claims_at_a_time_both_get_rows(engine: sa.Engine) -> None:  # F13, F14
    push(engine, *(new(task_id=f"due-{n:02}", seq=n) for n in range(20)))
    try:
        with engine.connect() as one, engine.connect() as other:
            first, second, third = claim(10)(one), claim(10)(other), claim(10)(other)
            one.rollback()
            other.rollback()
    finally:
        remove(engine, "due-%")
    assert ids(first) == [f"due-{n:02}" for n in range(10)]
    assert ids(second) == [f"due-{n:02}" for n in range(10, 20)]
    assert third == []


@pytest.mark.parametrize("name", POSTGRESQL)
def test_entries_that_a_snapshot_holds_are_passed_once(  # F10
    name: str, tmp_path: Path
) -> None:
    engine = start(name, tmp_path, "plans_held")
    churned = 3_000
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as reader:
        reader.execute(sa.select(sa.func.count()).select_from(TASKS))
        for batch in range(churned // 500):
            push(engine, *(new(run_at=NOW - 10_000 + batch) for _ in range(500)))
            with engine.begin() as connection:
                tasks = claim(500)(connection)
                assert len(tasks) == 500
                done = [Change(t, t.replace(status=Status.COMPLETED, completed_at=1, lease_until=None)) for t in tasks]
                assert all(sql_tasks.update_tasks(tx_on(connection), done))
        push(engine, new(task_id="due-1", priority=0), new(task_id="due-2", priority=1))
        with engine.connect() as connection:
            sent: list[tuple[str, Any]] = []
            sa.event.listen(engine, "before_cursor_execute", lambda *a: sent.append((a[2], a[3])))
            assert ids(claim(2)(connection)) == ["due-1", "due-2"]
            connection.rollback()
            touched = []
            for statement, parameters in sent[:3]:
                plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", parameters)
                text = "\n".join(line for (line,) in plan)
                pages = re.search(r"Buffers: shared hit=(\d+)", text)
                fetched = re.findall(r"Heap Fetches: (\d+)", text)
                touched.append((sum(map(int, fetched)), int(pages[1]) if pages else 0))
    engine.dispose()
    (heads, _), *locks = touched
    assert churned <= heads < 1.1 * churned  # once; a second walk would be 6,000
    assert [pages < 30 for _, pages in locks] == [True, True], touched


# ---- the other verbs ------------------------------------------------------------------------------------------------


def test_next_run_at(engine: sa.Engine) -> None:
    for queues in (None, ["default"]):
        at, found = cost(engine, lambda c, queues=queues: sql_claim.next_run_at(tx_on(c), NOW, queues))  # type: ignore[misc]
        assert at == NOW + 3600 * SECOND
        assert found.indexes - PRIMARY == {READY} and found.detours == []
        assert found.reads <= 60


def test_next_run_at_of_tasks_that_do_not_expire_reads_the_heads_alone(engine: sa.Engine) -> None:
    push(engine, new(task_id="due-1", run_at=NOW + 5))
    try:
        at, found = cost(engine, lambda c: sql_claim.next_run_at(tx_on(c), NOW, None))
        _, heads = cost(engine, lambda c: list(tx_on(c).dialect.heads(c)))
    finally:
        remove(engine, "due-%")
    assert at == NOW + 5
    assert found.statements == heads.statements


def test_next_run_at_behind_rows_that_cannot_be_claimed(engine: sa.Engine) -> None:
    gone = [new(task_id=f"due-{n}", priority=0, run_at=NOW - n, expires_at=NOW - 1) for n in range(5)]
    push(
        engine, *gone, new(task_id="due-b", queue="b", run_at=NOW + 5), new(task_id="due-c", queue="c", run_at=NOW + 9)
    )
    try:
        at, found = cost(engine, lambda c: sql_claim.next_run_at(tx_on(c), NOW, ["c", "default"]))
    finally:
        remove(engine, "due-%")
    assert at == NOW + 9
    assert found.detours == [] and found.reads <= 100


def test_counting_reads_what_is_ready(engine: sa.Engine) -> None:
    push(engine, *(new(task_id=f"due-{n}", priority=n % 2) for n in range(50)))
    try:
        (count, _), found = cost(engine, lambda c: sql_claim.ready(tx_on(c), NOW, None))
    finally:
        remove(engine, "due-%")
    assert count == 50
    assert found.indexes - PRIMARY == {READY}
    assert found.reads <= 300


@WITH_STATISTICS
def test_overdue_rows_are_found_among_many_live_ones(engine: sa.Engine) -> None:  # B7
    runs: dict[str, Any] = {"status": "running", "fence": 1, "run_at": NOW}
    fill(engine, 7_000, "held-", **runs, lease_owner="pop-1", lease_until=lambda n: NOW + 10**9 + n)
    fill(engine, 5, "dead-", **runs, lease_owner="pop-2", lease_until=lambda n: NOW - 5 + n)
    for prefix, count, owner in (("held-w1-", 7_000, "w1"), ("held-w2-", 7_000, "w2"), ("dead-w3-", 5, "w3")):
        fill(engine, count, prefix, **runs, lease_owner=owner)
    push(engine, new(task_id="dead-expired", expires_at=NOW - 10))
    # Another program has given these back.
    fill(engine, 1, "dead-left-", status="pending", expires_at=NOW - 9, lease_owner="w1")
    fill(engine, 1, "dead-until-", status="pending", expires_at=NOW - 8, lease_until=NOW)
    try:
        late, found = cost(engine, lambda c: register(c, "w1", "w2") or sql_tasks.overdue(tx_on(c), NOW, 500))
    finally:
        remove(engine, "held-%")
        remove(engine, "dead-%")
    assert sorted(ids(late)[:5]) == [f"dead-w3-{n}" for n in range(5)]
    assert ids(late)[5:] == ["dead-expired", "dead-left-0", "dead-until-0", *(f"dead-{n}" for n in range(5))]
    two = {"ix_task_queue_held", "ix_task_queue_expires"}
    assert ({"ix_task_queue_overdue"} if engine.dialect.name == "mysql" else two) <= found.indexes
    assert found.detours == []
    assert found.reads <= 150


@pytest.mark.parametrize(
    "where",
    [
        TaskFilter(),
        TaskFilter(status=(Status.COMPLETED,)),
        TaskFilter(status=(Status.FAILED, Status.COMPLETED, Status.CANCELLED)),
        TaskFilter(status=(Status.COMPLETED,), after="done-50000"),
        TaskFilter(status=(Status.FAILED,)),
    ],
    ids=["all", "one-status", "three", "behind", "none"],
)
@WITH_STATISTICS
def test_a_page_reads_only_its_rows(engine: sa.Engine, where: TaskFilter) -> None:
    page, found = cost(engine, lambda c: sql_tasks.find(tx_on(c), where, 50))
    expected = 0 if where.status == (Status.FAILED,) else 50
    assert len(page) == expected
    assert [task.seq for task in page] == sorted((task.seq for task in page), reverse=True)
    # What runs is read by an index with entries of runs that have ended, until it is vacuumed.
    assert [each for each in found.detours if "ix_task_queue_held" not in each] == []
    assert found.reads <= 20 * 50


@pytest.mark.parametrize(
    "where",
    [
        TaskFilter(),
        TaskFilter(status=(Status.COMPLETED,)),
        TaskFilter(status=(Status.COMPLETED,), completed_before=NOW // SECOND - 10**6 + 80_000),
        TaskFilter(completed_before=NOW // SECOND - 10**6 + 80_000, queue="mail"),
    ],
    ids=["all", "completed", "old", "of-a-queue"],
)
def test_a_batch_is_purged_without_sorting_the_rest(engine: sa.Engine, where: TaskFilter) -> None:  # F23
    (deleted, _), found = cost(engine, lambda c: sql_tasks.purge(tx_on(c), where, 1_000))
    assert deleted == 1_000
    assert found.indexes - PRIMARY == {"ix_task_queue_ended"}
    assert found.detours == []
    assert found.reads <= 20_000 if engine.dialect.name == "sqlite" else found.reads <= 5_000


def test_runs_of_a_schedule_that_still_go_on(engine: sa.Engine) -> None:
    push(engine, *(new(task_id=f"due-{n}", scheduler_task_id="s") for n in range(3)))
    try:
        counts, found = cost(engine, lambda c: sql_tasks.active(tx_on(c), ["s", "t"]))
    finally:
        remove(engine, "due-%")
    assert counts == {"s": 3, "t": 0} and found.indexes == {"ix_task_queue_fired"} and found.reads <= 60


def test_stats_read_no_rows_but_those_of_an_index(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        stats = sql_claim.stats(tx_on(connection), NOW)
    assert stats.counts["completed"] == FINISHED and stats.counts["pending"] == 3 * FUTURE
    assert stats.queues["mail"] == {"completed": FINISHED // 4} and (stats.ready, stats.oldest) == (0, None)
    if engine.dialect.name == "postgresql":
        return  # rows as short as these it reads as fast from the table
    _, found = cost(engine, lambda c: sql_claim.stats(tx_on(c), NOW))
    assert {READY, "ix_task_queue_ended"} <= found.indexes
    assert not any(each.startswith("ALL") for each in found.detours)


def test_mysql_finds_ids_one_by_one_in_a_small_table_too(tmp_path: Path) -> None:  # F12
    # Read from end to end, it would lock, or wait for, the rows of others.
    engine = start("mysql", tmp_path, "plans_small")
    push(engine, *(new(task_id=f"due-{n}") for n in range(300)))
    with engine.begin() as connection:
        tasks = claim(300)(connection)
    held = [(task.task_id, task.fence) for task in tasks[:299]]
    sent: list[tuple[str, Any]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *a: sent.append((a[2], a[3])))
    with engine.connect() as connection:
        assert sql_tasks.report(tx_on(connection), [(*key, {}) for key in held]) == [True] * 299
        assert sql_tasks.request_cancel(tx_on(connection), [task_id for task_id, _ in held]) == [True] * 299
        ways = []
        for statement, parameters in sent[:]:
            ways += connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).mappings().all()
    engine.dispose()
    assert len(ways) == 4
    assert {(way["type"], way["key"]) for way in ways} == {("range", "PRIMARY")}


# ---- the schema -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATABASES)
def test_migrations_and_models_make_the_same_indexes(name: str, tmp_path: Path) -> None:
    def indexes(connection: sa.Connection) -> list[Any]:
        found = sa.inspect(connection).get_indexes("task_queue")
        for each in found:
            # Spelled differently: SQLite keeps the text as it was written, in the same words.
            each["dialect_options"] = {k: str(v) for k, v in each.get("dialect_options", {}).items()}
        made: list[Any] = sorted(found, key=lambda each: str(each["name"]))
        if connection.dialect.name == "postgresql":
            made.append(connection.scalar(sa.text("SELECT reloptions FROM pg_class WHERE relname = 'task_queue'")))
            assert made[-1] == ["autovacuum_vacuum_scale_factor=0.01", "autovacuum_vacuum_threshold=2000"]
        return made

    migrated = start(name, tmp_path, "plans_schema")
    with migrated.begin() as connection:
        made = indexes(connection)
        assert migrations.current(connection) == migrations.HEAD
        TASKS.drop(connection)
        Base.metadata.create_all(connection, tables=[TASKS])
        assert indexes(connection) == made
    names = {each["name"] for each in made if isinstance(each, dict)}
    assert names == {str(each.name) for each in indexes_of(TASKS, name != "mysql")} and READY in names
    migrated.dispose()


# ---- a million ------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", DATABASES)
def test_a_claim_among_a_million(name: str, tmp_path: Path) -> None:
    """1,000,000 finished and 100,000 future rows: p99 of a claim is at most 20 ms."""
    engine = start(name, tmp_path, "plans_million")
    fill_all(engine, 1_000_000, 33_334)
    analyze(engine)
    push(engine, *(new(task_id=f"due-{n}") for n in range(2_000)))
    for limit in (1, 10, 0):
        spent = []
        for _ in range(300 if limit == 1 else 100):
            start_at = time.perf_counter()
            with engine.begin() as connection:
                tasks = sql_claim.claim(
                    tx_on(connection), Claim("o", NOW if limit else NOW - 10**12, limit or 10, None, LEASE)
                )
            spent.append(time.perf_counter() - start_at)
            assert len(tasks) == limit
        spent.sort()
        half, most = spent[len(spent) // 2], spent[int(len(spent) * 0.99)]
        print(f"{name}: {limit or 'no'} rows: p50 {half * 1000:.2f} ms, p99 {most * 1000:.2f} ms")  # noqa: T201
        assert most <= within(0.020)
    engine.dispose()

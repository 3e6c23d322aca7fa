"""Databases with many rows, and the plans and row counts of the statements that a verb sends."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aiotaskq.backends.side_rows import WORKER, SideRow
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.rows import TASKS, json_text
from aiotaskq.backends.sql.side_rows import SqlOwnedRows
from aiotaskq.core.task import SECOND
from tests.support.rows import NOW, worker_info
from tests.support.servers import Server, mariadb, postgresql, postgresql_jit
from tests.support.sql import tx_on

FINISHED = 100_000


FUTURE = 20_000  # of each of three priorities: what is due at -1, 0 and 1 lies behind those of the priority before


SERVERS: dict[str, Callable[..., Server]] = {
    "postgresql": postgresql,
    "postgresql_jit": postgresql_jit,
    "mysql": mariadb,
}


DATABASES = ("sqlite", *SERVERS)


POSTGRESQL = ("postgresql", "postgresql_jit")


READY = "ix_task_queue_ready"


Verb = Callable[[sa.Connection], Any]


def fill(engine: sa.Engine, count: int, prefix: str, **columns: Any) -> None:
    """Insert ``count`` rows in one statement; a column's value may be a function of the row's number."""
    digit: Any = sa.union_all(*(sa.select(sa.literal_column(str(value)).label("n")) for value in range(10)))
    digits = [digit.subquery(f"d{power}") for power in range(len(str(count - 1)))]
    number = sa.type_coerce(sum(each.c.n * 10**power for power, each in enumerate(digits)), sa.BigInteger)
    rows = sa.select(number.label("n")).subquery("numbers")
    n = sa.type_coerce(rows.c.n, sa.BigInteger)
    values = {
        "task_id": sa.literal(prefix) + sa.cast(n, sa.String(20)),
        "task_type": "t",
        "params": "{}",
        "created_at": sa.literal(NOW // SECOND, sa.BigInteger),
        "seq": NOW - 10 * count * SECOND + n,
        **{name: value(n) if callable(value) else value for name, value in columns.items()},
    }
    chosen = (sa.literal(value) if isinstance(value, str | int) else value for value in values.values())
    query = sa.select(*chosen).where(n < count)
    with engine.begin() as connection:
        connection.execute(sa.insert(TASKS).from_select(list(values), query, include_defaults=False))


def register(connection: sa.Connection, *owners: str) -> None:
    """Add workers to the registry."""
    SqlOwnedRows(tx_on(connection)).put(WORKER, [SideRow(owner, json_text(worker_info(owner))) for owner in owners])


def fill_all(engine: sa.Engine, finished: int = FINISHED, future: int = FUTURE) -> None:
    fill(
        engine,
        finished,
        "done-",
        status="completed",
        run_at=lambda n: NOW - 10**12 + n,
        completed_at=lambda n: NOW // SECOND - 10**6 + n,
        priority=lambda n: n % 3,
        queue=lambda n: sa.case((n % 4 == 0, "mail"), else_="default"),
    )
    for priority in (-1, 0, 1):
        run_at = {"run_at": lambda n: NOW + 3600 * SECOND + n, "expires_at": lambda n: NOW + 7200 * SECOND + n}
        fill(engine, future, f"late{priority}-", status="pending", priority=priority, **run_at)


def analyze(engine: sa.Engine) -> None:
    """Let the database look at its rows, as it does by itself after a while."""
    how = {"sqlite": "ANALYZE", "postgresql": "VACUUM ANALYZE", "mysql": "ANALYZE TABLE"}[engine.dialect.name]
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text(f"{how} task_queue"))


def remove(engine: sa.Engine, like: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.delete(TASKS).where(TASKS.c.task_id.like(like)))


def start(name: str, folder: Path, database: str) -> sa.Engine:
    """An engine on a new, migrated database. Raises Unavailable where there is no such server."""
    if name == "sqlite":
        url = f"sqlite:///{folder / database}.db"
    else:
        server = SERVERS[name](durable=False)
        server.drop(database)
        url = server.create(database)

    async def migrate() -> None:
        backend = SqlBackend(url)
        await backend.open()
        await backend.close()

    asyncio.run(migrate())
    options = {} if name == "sqlite" else {"isolation_level": "READ COMMITTED"}
    engine = sync_engine(url, enable_from_linting=False, **options)  # `fill` multiplies digits by digits
    if engine.dialect.name == "postgresql":
        # It would look at its rows again, also at those of the catalog, at a moment of its own; and while it looks,
        # its snapshot keeps dead entries in each index, which the statements of a test would then read.
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sa.text("ALTER SYSTEM SET autovacuum = off"))
            connection.execute(sa.text("SELECT pg_reload_conf()"))
            # As on our own connections.
            connection.execute(sa.text(f"ALTER DATABASE {database} SET max_parallel_workers_per_gather = 0"))
        engine.dispose()
    return engine


ORDER = [(name, moment) for name in DATABASES for moment in ("before", "after")]


def on(*names: str, after_alone: Collection[str] = ()) -> pytest.MarkDecorator:
    """Run a test on these databases, before and after they have looked at their rows: the fixture ``engine``."""
    moments = [(name, "before") for name in names if name not in after_alone] + [(name, "after") for name in names]
    return pytest.mark.parametrize("engine", sorted(moments, key=ORDER.index), indirect=True, ids="-".join)


# Without statistics PostgreSQL takes any condition for a rare one, and would rather sort. It looks within a minute.
WITH_STATISTICS = on(*DATABASES, after_alone=POSTGRESQL)


class Filled:
    """One database of a kind with many rows, made when it is first asked for."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._made: dict[str, tuple[str, sa.Engine]] = {}

    def engine(self, name: str, moment: str) -> sa.Engine:
        """The database ``before`` or ``after`` it has looked at its rows; in this order one database serves both."""
        had, engine = self._made.pop(name, (moment, None))
        if engine is not None and (had, moment) == ("after", "before"):  # what was seen is not forgotten
            engine.dispose()
            engine = None
        if engine is None:
            engine, had = self._fill(name), "before"
        if had != moment:
            analyze(engine)
        self._made[name] = moment, engine
        return engine

    def _fill(self, name: str) -> sa.Engine:
        engine = start(name, self._folders.mktemp("plans"), "plans")
        analyze(engine)  # empty
        fill_all(engine)
        return engine

    def dispose(self) -> None:
        for _, engine in self._made.values():
            engine.dispose()


class Cost:
    """The statements of a verb, the indexes that they go by, the ways that they should not go, and the rows read."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.indexes: set[str] = set()
        self.detours: list[str] = []
        self.reads = 0


def cost(engine: sa.Engine, verb: Verb) -> tuple[Any, Cost]:
    """Run a verb in a transaction that is rolled back, then explain each of its statements that reads."""
    with engine.connect() as connection:
        return cost_on(connection, verb)


def cost_on(connection: sa.Connection, verb: Verb) -> tuple[Any, Cost]:
    found = Cost()
    sent: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if not many:
            sent.append((statement, parameters))

    dialect = connection.dialect.name
    sa.event.listen(connection, "before_cursor_execute", note)
    try:
        answer, found.reads = COUNTED[dialect](connection, verb)
    finally:
        sa.event.remove(connection, "before_cursor_execute", note)
    connection.rollback()
    found.statements = [statement for statement, _ in sent if "task_queue" in statement]
    for statement, parameters in sent:
        if "task_queue" in statement and statement.startswith(("SELECT", "(SELECT", "WITH")):
            EXPLAIN[dialect](connection, statement, parameters, found)
    connection.rollback()
    return answer, found


def sqlite_counted(connection: sa.Connection, verb: Verb) -> tuple[Any, int]:
    steps = [0]

    def step() -> int:
        steps[0] += 1
        return 0

    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(step, 10)  # a row costs about ten instructions of its machine
    try:
        return verb(connection), steps[0]
    finally:
        driver.set_progress_handler(None, 0)


def sqlite_explain(connection: sa.Connection, statement: str, parameters: Any, found: Cost) -> None:
    for *_, detail in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
        found.indexes |= set(re.findall(r"INDEX (\w+)", detail))
        small = re.match(r"SCAN (steps|owners|page_|aiotaskq_queue|CONSTANT|without|json_each|wanted)", detail)
        # Up to a limit, as `reads` shows.
        newest = re.match("SCAN task_queue USING (COVERING )?INDEX ix_task_queue_pushed", detail)
        if "TEMP B-TREE" in detail or (detail.startswith("SCAN") and not small and not newest):
            found.detours.append(detail)


def postgresql_counted(connection: sa.Connection, verb: Verb) -> tuple[Any, int]:
    return verb(connection), 0  # counted where it is explained


def postgresql_explain(connection: sa.Connection, statement: str, parameters: Any, found: Cost) -> None:
    (plan,) = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters).scalars()
    (explained,) = json.loads(plan) if isinstance(plan, str) else plan
    if "JIT" in explained:
        found.detours.append(f"compiled: {explained['JIT']}")
    nodes = [explained["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        kind = node["Node Type"]
        if "Index Name" in node:
            found.indexes.add(node["Index Name"])
        sorts = "Sort" in kind and node["Actual Rows"] > 0  # such as of what runs, where nothing does
        if sorts or (kind == "Seq Scan" and node["Relation Name"] == "task_queue") or "Bitmap" in kind:
            found.detours.append(f"{kind} of {node.get('Relation Name', '')}")
        if "Scan" in kind and node.get("Relation Name") == "task_queue":
            loops, dropped = node["Actual Loops"], node.get("Rows Removed by Filter", 0)
            rows = round((node["Actual Rows"] + dropped) * loops)
            found.reads += rows
            blocks = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
            if blocks > 20 * loops + 5 * rows:  # a descent of the index takes four, a row one or two
                found.detours.append(f"{kind} of {blocks} blocks of {node.get('Index Name', 'task_queue')}")


def mysql_counted(connection: sa.Connection, verb: Verb) -> tuple[Any, int]:
    def read() -> int:
        rows = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
        return sum(int(count) for name, count in rows if not name.endswith("rnd_next"))  # of temporary tables

    before = read()
    return verb(connection), read() - before


def mysql_explain(connection: sa.Connection, statement: str, parameters: Any, found: Cost) -> None:
    for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).mappings():
        found.indexes |= {row["key"]} if row["key"] and str(row["key"]).startswith("ix_") else set()
        extra = str(row["Extra"])
        newest = row["key"] == "ix_task_queue_pushed"  # up to a limit, as `reads` shows
        scanned = row["type"] == "ALL" or (row["type"] == "index" and not newest)
        if row["table"] == "task_queue" and (scanned or "filesort" in extra):
            found.detours.append(f"{row['type']} {row['key']}: {extra}")


COUNTED = {"sqlite": sqlite_counted, "postgresql": postgresql_counted, "mysql": mysql_counted}


EXPLAIN = {"sqlite": sqlite_explain, "postgresql": postgresql_explain, "mysql": mysql_explain}


PRIMARY = {"task_queue_pkey", "PRIMARY", "sqlite_autoindex_task_queue_1", "sqlite_autoindex_aiotaskq_queue_1"}

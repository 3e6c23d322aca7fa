"""What the benchmarks read and write in a SQL store past the package: its tables as they stand, of any checkout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from benchmarks.system import System

TASKS = "task_queue"
Execute = Callable[[str], list[tuple[Any, ...]]]


@contextlib.contextmanager
def connected(system: System) -> Iterator[Execute]:
    """Give a function that executes one statement in the database of a contestant, committed when it returns."""
    connection = _connect(system)
    try:

        def execute(statement: str) -> list[tuple[Any, ...]]:
            cursor = connection.cursor()
            try:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
            finally:
                cursor.close()

        yield execute
    finally:
        connection.close()


def _connect(system: System) -> Any:
    if system.family == "sqlite":
        import sqlite3

        return sqlite3.connect(system.place, isolation_level=None, timeout=60)
    place = urlsplit(system.place)
    if system.family == "postgresql":
        import psycopg

        return psycopg.connect(system.place, autocommit=True)
    import pymysql

    where = {"host": place.hostname, "port": place.port or 3306, "user": "root", "database": place.path[1:]}
    return pymysql.connect(**where, autocommit=True)


def multiply(system: System, count: int) -> None:
    """Copy one task, of those that are there, until there are so many, each with its own id and place in the order."""
    with connected(system) as execute:
        columns = list(_columns(system, execute))
        ((before,),) = execute(f"SELECT count(*) FROM {TASKS}")
        new = {"task_id": _ID[system.family], **({"seq": "n"} if "seq" in columns else {})}
        quote = "`" if system.family == "mysql" else '"'  # "usage" is a word of its SQL
        names = {name: f"{quote}{name}{quote}" for name in columns}
        values = ", ".join(new.get(name, f"template.{quoted}") for name, quoted in names.items())
        numbers = _NUMBERS[system.family].format(count=max(0, count - before))
        execute(
            f"INSERT INTO {TASKS} ({', '.join(names.values())}) {numbers}"
            f" SELECT {values} FROM numbers, (SELECT * FROM {TASKS} LIMIT 1) AS template"
        )
        for statement in _AFTER.get(system.family, ()):
            execute(statement)


@contextlib.contextmanager
def beside(system: System) -> Iterator[str]:
    """Give the place of a second empty store beside that of a contestant, which is removed afterwards."""
    place = f"{system.place}_beside"
    if system.family in ("sqlite", "redis"):
        yield place  # in a folder, or under a prefix, that is removed with the first
        return
    name = urlsplit(place).path[1:]
    with connected(system) as execute:
        execute(f"CREATE DATABASE {name}")
        try:
            yield place
        finally:
            execute(f"DROP DATABASE {name}{' WITH (FORCE)' if system.family == 'postgresql' else ''}")


# Older than every id that is made by time, and below every number that is handed out while tasks are measured.
_ID = {
    "sqlite": "printf('01900000-0000-7000-8000-%012x', n)",
    "postgresql": "'01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0')",
    "mysql": "concat('01900000-0000-7000-8000-', lpad(lower(hex(n)), 12, '0'))",
}
_NUMBERS = {
    "mysql": "WITH numbers AS (SELECT seq AS n FROM seq_1_to_{count})",
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})",
    "postgresql": "WITH numbers AS (SELECT n FROM generate_series(1::bigint, {count}) AS n)",
}
_AFTER = {
    "sqlite": ("PRAGMA wal_checkpoint(TRUNCATE)",),
    # As the autovacuum would, within a minute.
    "postgresql": (f"VACUUM ANALYZE {TASKS}", "CHECKPOINT"),
    "mysql": (f"ANALYZE TABLE {TASKS}",),
}


def _columns(system: System, execute: Execute) -> Sequence[str]:
    if system.family == "sqlite":
        return [row[1] for row in execute(f"PRAGMA table_info({TASKS})")]
    query = (
        f"SELECT column_name FROM information_schema.columns WHERE table_name = '{TASKS}' AND is_generated = 'NEVER'"
        f" AND table_schema = {'current_schema()' if system.family == 'postgresql' else 'DATABASE()'}"
    )
    return [name for (name,) in execute(query)]


def footprint(execute: Execute) -> tuple[int, int]:
    """Return the bytes of all tables of PostgreSQL with their indexes, and how much WAL was written by now."""
    ((size,),) = execute(
        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    )
    ((wal,),) = execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    return int(size), int(wal)

"""What only SQL stores are asked: heartbeats of many running tasks, kept tasks that ended, bytes for each task."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import re
import sqlite3
import statistics
import time
from typing import Any, NamedTuple

from benchmarks.aiotaskq import Aiotaskq
from benchmarks.case import AIOTASKQ, Run, Sample, Unit, scenario
from benchmarks.cases.mysql import AiotaskqInMySQL
from benchmarks.cases.postgresql import AiotaskqInPostgreSQL
from benchmarks.cases.sqlite import AiotaskqInSQLite
from benchmarks.queues import PLACES, opened
from benchmarks.sql import connected, footprint, multiply
from benchmarks.system import BATCH

HELD = 10_000
KEPT = 5_000_000
BEAT = 1.0  # seconds between two heartbeats
SYSTEMS: tuple[type[Aiotaskq], ...] = (AiotaskqInSQLite, AiotaskqInPostgreSQL, AiotaskqInMySQL)


# ---- heartbeats -----------------------------------------------------------------------------------------------------


WRITES = re.compile(r"(?<!FOR )\bUPDATE\s|\bINSERT\s+INTO\b|\bDELETE\s+FROM\b", re.IGNORECASE)


class Beat(NamedTuple):
    """What one heartbeat wrote, the time of these statements, and that of those that only read until the next one."""

    rows: int
    writing: float
    reading: float


class Statements:
    """The statements of this process: of SQLite on all connections that are made inside, else of all engines."""

    def __init__(self, family: str) -> None:
        self._family = family
        self._seen: list[tuple[float, bool, int, float]] = []  # when, whether it writes, rows, seconds
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Statements:
        if self._family == "sqlite":
            self._listen_to_sqlite()
        else:
            self._listen_to_engines()
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()

    def clear(self) -> None:
        """Forget what was seen."""
        self._seen.clear()

    def _add(self, statement: str, began: float, rows: int) -> None:
        now, writes = time.perf_counter(), WRITES.search(statement) is not None
        self._seen.append((now, writes, max(0, rows) if writes else 0, now - began))

    def _listen_to_sqlite(self) -> None:
        add = self._add

        @functools.cache
        def noted(kind: Any) -> Any:
            class Cursor(kind):  # type: ignore[misc]
                def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                    began, before = time.perf_counter(), self.connection.total_changes
                    super().execute(sql, *parameters)
                    add(sql, began, self.connection.total_changes - before)
                    return self

                def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
                    began, before = time.perf_counter(), self.connection.total_changes
                    super().executemany(sql, parameters)
                    add(sql, began, self.connection.total_changes - before)
                    return self

            return Cursor

        class Connection(sqlite3.Connection):
            def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
                return super().cursor(noted(factory))

            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                return self.cursor().execute(sql, *parameters)  # type: ignore[no-any-return]

            def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
                return self.cursor().executemany(sql, parameters)  # type: ignore[no-any-return]

        connect = sqlite3.connect
        for module in (sqlite3, sqlite3.dbapi2):  # the latter is SQLAlchemy's
            self._exit.callback(setattr, module, "connect", connect)
            setattr(module, "connect", functools.partial(connect, factory=Connection))  # noqa: B010 - of any module

    def _listen_to_engines(self) -> None:
        from sqlalchemy import Engine, event

        def before(connection: Any, *_: Any) -> None:
            connection.info["began"] = time.perf_counter()

        def after(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            self._add(statement, connection.info.pop("began"), cursor.rowcount)

        for name, function in (("before_cursor_execute", before), ("after_cursor_execute", after)):
            event.listen(Engine, name, function)
            self._exit.callback(event.remove, Engine, name, function)

    def beats(self) -> list[Beat]:
        """Return the heartbeats that were seen from their beginning to the beginning of the next one."""
        starts, last = [], float("-inf")
        for number, (when, writes, _, took) in enumerate(self._seen):
            if writes:
                if when - took - last > 0.4 * BEAT:
                    starts.append(number)
                last = when
        groups = (self._seen[begin:end] for begin, end in itertools.pairwise(starts[1:]))
        return [
            Beat(
                sum(rows for _, _, rows, _ in group),
                sum(took for _, writes, _, took in group if writes),
                sum(took for _, writes, _, took in group if not writes),
            )
            for group in groups
        ]


async def heartbeat(kind: type[Aiotaskq], run: Run) -> Sample:
    """Per heartbeat of one worker that runs so many tasks: rows written, and the time of the statements."""
    from aiotaskq import TaskQ

    held, beats = run.of(HELD, 100), run.of(5, 2)
    started, end = 0, asyncio.Event()
    with Statements(kind.family) as statements:
        tq = TaskQ(kind(run.place).url(), lease=60 * BEAT, heartbeat=BEAT)

        @tq.task(name="hold")
        async def hold() -> None:
            nonlocal started
            started += 1
            await end.wait()

        async with tq, asyncio.timeout(240):
            for left in range(held, 0, -BATCH):
                await tq.push_many([("hold", {})] * min(BATCH, left))
            async with tq.running(concurrency=held, scheduler=False):
                try:
                    while started < held:  # noqa: ASYNC110 - of the handlers none knows that it is the last
                        await asyncio.sleep(0.05)
                    await asyncio.sleep(2 * BEAT)  # what was written with the claims is over
                    statements.clear()
                    while len(statements.beats()) < beats:  # noqa: ASYNC110 - nothing tells of them
                        await asyncio.sleep(BEAT / 4)
                finally:
                    end.set()
    rows, writing, reading = (statistics.median(each) for each in zip(*statements.beats(), strict=True))
    return Sample({"rows": rows, "writes": writing * 1000, "reads": reading * 1000}, beats * BEAT)


# ---- tasks that ended, and are kept ---------------------------------------------------------------------------------


async def kept(kind: type[Aiotaskq], run: Run) -> Sample:
    """The rate of a drain of 100 at a time, without and with so many tasks in the table that ended long before."""
    values = {}
    measured = run.of(20_000, 500)
    async with opened(kind, run.place) as system:
        for name, count in (("none", 0), (f"{KEPT:,}", run.of(KEPT, 2_000))):
            if count:
                await asyncio.to_thread(multiply, system, count)
            await system.fill(measured)
            system.tally.expect(measured)
            async with system.working(100):
                await system.drained()
                values[name] = measured / (time.perf_counter() - system.tally.first)
    return Sample(values)


# ---- bytes ----------------------------------------------------------------------------------------------------------


async def weight(kind: type[Aiotaskq], run: Run) -> Sample:
    """Push by 500, run 100 at a time, keep: what the tables and indexes grew by, and what went through the log."""
    count = run.of(50_000, 1_000)
    async with opened(kind, run.place) as system:
        with connected(system) as execute:
            execute("CHECKPOINT")
            size, wal = footprint(execute)
            await system.fill(count)
            system.tally.expect(count)
            async with system.working(100):
                await system.drained()
            grown, written = footprint(execute)
    return Sample({"kept": (grown - size) / count, "wal": (written - wal) / count})


def _register() -> None:
    beat = {"rows": Unit("rows", less=True), "writes": Unit("ms", less=True), "reads": Unit("ms", less=True)}
    for kind in SYSTEMS:
        family, place = kind.family, PLACES[kind.family]
        title = "a heartbeat with 10,000 running tasks"
        scene = scenario(family, "heartbeat", title, beat, size=1, place=place, warm_up=False, patience=2.0)
        scene.by(AIOTASKQ)(lambda run, kind=kind: heartbeat(kind, run))
    rates = {"none": Unit("tasks/s"), f"{KEPT:,}": Unit("tasks/s")}
    for kind in SYSTEMS[:2]:
        title = "drain, 100 at a time, beside ended tasks"
        scene = scenario(
            kind.family, "kept", title, rates, size=1, place=PLACES[kind.family], warm_up=False, patience=5.0
        )
        scene.by(AIOTASKQ)(lambda run, kind=kind: kept(kind, run))
    bytes_ = {"kept": Unit("bytes", less=True), "wal": Unit("bytes of WAL", less=True)}
    title = "a task that has run: table and indexes, log"
    scene = scenario("postgresql", "weight", title, bytes_, size=1, place="postgresql", warm_up=False)
    scene.by(AIOTASKQ, "psycopg")(lambda run: weight(AiotaskqInPostgreSQL, run))


_register()

"""Seeded faults: each breaks one promise of the package in the processes under test, and the harness must notice.

``install(name)`` patches the running process. If a patch no longer fits the package (a function was renamed, a
statement rewritten), it raises: a fault that does nothing would prove nothing.
"""

from __future__ import annotations

import asyncio
import functools
import random
import re
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import TextClause, text

from aiotaskq.backends import change as changes_of_rows
from aiotaskq.backends.base import Change, Claim
from aiotaskq.backends.sql import schedules as sql_schedules
from aiotaskq.backends.sql import sqlite_connections
from aiotaskq.backends.sql import tasks as sql_tasks
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.changes import GUARD
from aiotaskq.backends.sql.dialects import postgresql, sqlite
from aiotaskq.core.task import Task

FENCE_GUARD = r"(?:t\.)?\bfence = (CAST\(:b_fence AS bigint\)|r\.b_fence|:b_fence|j\.value ->> \d+)"
WINDOW = 0.15  # seconds; a fault that opens a window opens it wide, or a run of minutes might never meet it


def install(name: str) -> None:
    """Break what ``name`` says; nothing for the empty name."""
    if name:
        FAULTS[name]()


def replace(owner: Any, name: str, new: Any) -> None:
    """Patch what is there; raises AttributeError if it is not (any more)."""
    getattr(owner, name)
    setattr(owner, name, new)


def no_fence() -> None:
    """A write checks the status that was read, but not the fence."""

    def holds(row: Any, change: Any) -> bool:
        return bool(row.status == change.before.status)

    def break_statement(module: Any, name: str) -> None:
        statement = getattr(module, name)

        @functools.cache
        def broken(*names: tuple[str, ...]) -> TextClause:
            # The fence is still bound, and compared with nothing.
            whole, count = re.subn(FENCE_GUARD, r"\1 >= 0", statement(*names).text)
            assert count or names[1] == GUARD[:1], "the statement was rewritten: this fault would do nothing"
            return text(whole)

        replace(module, name, broken)

    replace(sql_tasks, "holds", holds)
    break_statement(sqlite, "guarded_statement")
    break_statement(sqlite, "ending_statement")
    break_statement(postgresql, "set_statement")


def late_owner() -> None:
    """A claim sets no owner; a second transaction does, a moment later."""
    original = SqlBackend._claim

    async def claim(self: SqlBackend, wanted: Claim) -> list[Task]:
        nobody: Any = None
        tasks = await original(self, wanted._replace(owner=nobody))
        changes = [Change(task, task.replace(lease_owner=wanted.owner)) for task in tasks]
        if changes:
            await asyncio.sleep(WINDOW)
            await self.update(changes)
        return [change.after for change in changes]

    replace(SqlBackend, "_claim", claim)


def deferred() -> None:
    """SQLite's transactions begin as readers and become writers when they first write."""

    def begin(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN DEFERRED").close()

    replace(sqlite_connections, "begin_immediate", begin)


def no_cas() -> None:
    """A schedule is advanced whatever became of it since it was read.

    Derived task ids hide that for as long as the rows are kept: the scenario that finds it purges ended tasks.
    """
    original = sql_schedules.SqlSchedules.change

    async def change(self: sql_schedules.SqlSchedules, changes: Sequence[Any]) -> list[bool]:
        await asyncio.sleep(random.uniform(0.0, 4 * WINDOW))
        return await original(self, changes)

    replace(changes_of_rows, "_guard", lambda row: None)
    replace(sql_schedules.SqlSchedules, "change", change)


FAULTS: dict[str, Callable[[], None]] = {
    "no-fence": no_fence,
    "late-owner": late_owner,
    "deferred": deferred,
    "no-cas": no_cas,
}

"""The transactions of callers that join the durable fake: what one has written, which only that one sees until then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiotaskq.core.task import Task


class AtCommit:
    """A write that is done when the transaction commits. A rollback forgets it, and with it what it has written."""

    def __init__(
        self, home: object, rows: Mapping[str, Task], write: Callable[[], None], group_id: str | None = None
    ) -> None:
        """``rows``: the tasks as they are in the transaction, by id; ``home`` is the store that they are of.

        ``group_id`` is that of a group that the write makes.
        """
        self.home, self.rows, self.group_id = home, rows, group_id
        self._write = write

    def __call__(self) -> None:
        """Do the write."""
        self._write()


async def write_at_commit(session: Any, write: Callable[[], None]) -> None:
    """Call ``write`` when the transaction of a session commits."""
    from aiotaskq.backends.sql.caller_session import at_commit

    await at_commit(session, write)


def _writes_in(session: Any, home: object) -> list[AtCommit]:
    from aiotaskq.backends.sql.caller_session import waiting_for_commit

    return [each for each in waiting_for_commit(session) if isinstance(each, AtCommit) and each.home is home]


def seen_in(session: Any, home: object) -> dict[str, Task]:
    """Return the tasks of a store that the transaction has written, by id, as they are in it."""
    rows: dict[str, Task] = {}
    for write in _writes_in(session, home):
        rows |= write.rows
    return rows


def makes_group(session: Any, home: object, group_id: str) -> bool:
    """Whether the transaction makes this group."""
    return any(write.group_id == group_id for write in _writes_in(session, home))


def conflicting(rows: Mapping[str, Task], task: Task, committed: Task | None) -> Task | None:
    """Return the row that conflicts with a new task: one of the transaction, or the one that is committed."""
    for row in rows.values():
        same_key = task.unique_key is not None and row.unique_key == task.unique_key and not row.final
        same_call = task.idempotency_key is not None and row.idempotency_key == task.idempotency_key
        if row.task_id == task.task_id or same_key or same_call:
            return row
    return None if committed is None or committed.task_id in rows else committed

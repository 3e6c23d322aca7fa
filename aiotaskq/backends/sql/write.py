"""Writes changes to rows that are there: many in one statement, or in one call of the driver."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from aiotaskq.backends.base import Change
from aiotaskq.backends.sql.insert import parts, record, small_enough
from aiotaskq.backends.sql.packet import check_rows, packet
from aiotaskq.backends.sql.prepared import place
from aiotaskq.backends.sql.rows import CONTENT, STATE, TASKS, content, json_text, state
from aiotaskq.core.task import Status

GUARD = ("b_id", "b_status", "b_fence", "b_final", "b_cancel")
# What may be another than was read while a task runs, under the same fence; all else is written only if it changes.
_LIVELY = frozenset({"status", "lease_until", "cancel_requested"})


class Group(NamedTuple):
    """Changes that write the same columns; ``rows`` are their values, and after these the guard's."""

    changes: Sequence[Change]
    names: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def _groups(changes: Sequence[Change]) -> Iterator[Group]:
    same = [change for change in changes if _same_content(change)]
    if same:
        yield _group(same, ())
    if others := [change for change in changes if not _same_content(change)]:
        yield _group(others, CONTENT)


def _same_content(change: Change) -> bool:
    return change.after.params is change.before.params and change.after.extra is change.before.extra


def _group(changes: Sequence[Change], more: tuple[str, ...]) -> Group:
    columns = list(zip(*[state(change.after) for change in changes], strict=True))
    names: tuple[str, ...] = STATE
    if all(change.before.status is Status.RUNNING for change in changes):
        # A third less for SQLite to do, and no entry of an index on what stays as it is.
        before = zip(*[state(change.before) for change in changes], strict=True)
        differ = [new != old or name in _LIVELY for new, old, name in zip(columns, before, STATE, strict=True)]
        columns = [values for values, changed in zip(columns, differ, strict=True) if changed]
        names = tuple([name for name, changed in zip(STATE, differ, strict=True) if changed])
    if more:
        columns += zip(*[content(change.after) for change in changes], strict=True)
    guards = [
        (
            change.before.task_id,
            change.before.status.value,
            change.before.fence,
            change.after.final,
            change.before.cancel_requested,
        )
        for change in changes
    ]
    return Group(changes, names + more, list(zip(*columns, *zip(*guards, strict=True), strict=True)))


def in_one(changes: Sequence[Change]) -> bool:
    """Whether ``write_guarded`` is all that there is to do, and one statement where many rows can be."""
    first = _same_content(changes[0])
    return (
        not any(change.then or change.lease_over or change.before.final for change in changes)
        and all(_same_content(change) is first for change in changes)
        and len({change.before.task_id for change in changes}) == len(changes)
        and small_enough(len(changes), (change.after.result for change in changes))
    )


def write_guarded(connection: Connection, changes: Sequence[Change]) -> list[bool] | None:
    """Write each change whose guard holds, and say which did; None, and nothing is written, if that cannot be told.

    There must be at most one for each row, and none whose guard is the lease.
    """
    return _GUARDED.get(connection.dialect.name, _cannot)(connection, changes)


def _cannot(_connection: Connection, _changes: Sequence[Change]) -> None:
    return None


@functools.cache
def _sqlite_words(names: tuple[str, ...]) -> str:
    return (
        f"UPDATE task_queue SET {', '.join(f'{name} = ?' for name in names)} "  # noqa: S608 - our own names
        "WHERE task_id = ? AND status = ? AND fence = ? AND (? OR cancel_requested = ?)"
    )


def _sqlite(connection: Connection, changes: Sequence[Change]) -> list[bool] | None:
    """Only how many held is known for many; so if one did not, all is taken back.

    Only in our own transaction: in another's, a savepoint may begin, and its end commit, one.
    """
    if len(changes) == 1:
        (group,) = _groups(changes)
        return [connection.exec_driver_sql(_sqlite_words(group.names), group.rows[0]).rowcount == 1]
    if not connection.get_execution_options().get("aiotaskq_begin"):
        return None
    connection.exec_driver_sql("SAVEPOINT aiotaskq_write")
    count = sum(
        connection.exec_driver_sql(_sqlite_words(group.names), group.rows).rowcount for group in _groups(changes)
    )
    if count < len(changes):
        connection.exec_driver_sql("ROLLBACK TO aiotaskq_write")
    connection.exec_driver_sql("RELEASE aiotaskq_write")
    return [True] * len(changes) if count == len(changes) else None


@functools.cache
def _postgresql_words(names: tuple[str, ...], value: str) -> str:
    guard = "b_id text, b_status text, b_fence bigint, b_final boolean, b_cancel boolean"
    return (
        f"UPDATE task_queue AS t SET {', '.join(f'{name} = r.{name}' for name in names)} "  # noqa: S608 - our own names
        f"FROM json_to_recordset({value}::text::json) AS r({record(TASKS, names)}, {guard}) "
        "WHERE t.task_id = r.b_id AND t.status = r.b_status AND t.fence = r.b_fence "
        "AND (r.b_final OR t.cancel_requested = r.b_cancel) RETURNING t.task_id"
    )


def _postgresql(connection: Connection, changes: Sequence[Change]) -> list[bool]:
    """A row that somebody else has is waited for, and its guard looked at again in what he leaves."""
    held: set[str] = set()
    # In the order of the ids, so that two writers of the same ones wait for each other in one direction only.
    for group in _groups(sorted(changes, key=lambda change: change.before.task_id)):
        names = group.names + GUARD
        words = _postgresql_words(group.names, place(connection))
        for rows in parts(names, group.rows):
            values = json_text([dict(zip(names, row, strict=True)) for row in rows])
            held.update(connection.exec_driver_sql(words, (values,)).scalars())
    return [change.before.task_id in held for change in changes]


_GUARDED: dict[str, Callable[[Connection, Sequence[Change]], list[bool] | None]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
}


def write(connection: Connection, changes: Sequence[Change]) -> None:
    """Write changes whose guard is known to hold: the rows are locked."""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        _postgresql(connection, changes)
        return
    value = place(connection)
    for group in _groups(changes):
        if dialect != "sqlite" and len(group.changes) > 1:
            _mysql(connection, group)
            continue
        check_rows(connection, (*group.names, *GUARD), group.rows)
        assignments = ", ".join(f"{name} = {value}" for name in group.names)
        words = f"UPDATE task_queue SET {assignments} WHERE task_id = {value}"  # noqa: S608 - our own names
        connection.exec_driver_sql(words, [row[: len(group.names) + 1] for row in group.rows])


def _mysql(connection: Connection, group: Group) -> None:
    """One statement for many rows, whose driver sends updates one by one; it locks nothing but these.

    An insert that updates what is there would do with fewer words, and lock the gaps in each unique index.
    """
    for rows in parts((*group.names, *GUARD), group.rows, packet(connection)):
        ids = [row[len(group.names)] for row in rows]
        cases = " ".join(["WHEN %s THEN %s"] * len(rows))
        assignments, values = [], []
        for name, column in zip(group.names, zip(*rows, strict=True), strict=False):
            if column == column[:1] * len(column):
                assignments.append(f"{name} = %s")
                values.append(column[0])
            else:
                assignments.append(f"{name} = CASE task_id {cases} END")
                values += [value for pair in zip(ids, column, strict=True) for value in pair]
        words = (
            f"UPDATE task_queue FORCE INDEX (PRIMARY) SET {', '.join(assignments)} "  # noqa: S608 - our own names
            f"WHERE task_id IN ({', '.join(['%s'] * len(ids))})"
        )
        connection.exec_driver_sql(words, tuple(values + ids))

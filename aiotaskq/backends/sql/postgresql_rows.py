"""Statements of PostgreSQL that insert or write many rows at once, some of them only where a guard holds."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Boolean, Float, Integer, String, TextClause, text

from aiotaskq.backends.sql.changes import GUARD
from aiotaskq.backends.sql.rows import TASKS, json_text
from aiotaskq.backends.sql.statement_size import Columns
from aiotaskq.core.task import RUNNING

# The rows as one JSON text: one statement for any number of them. VALUES lists would have thousands of parameters,
# executemany has no count, and for arrays asyncpg looks up their types on each new connection. What is the same in all
# rows is a parameter. Strings are not cast to their width: that would cut them.
_TYPES: Final = ((String, "text"), (Boolean, "boolean"), (Float, "double precision"), (Integer, "bigint"))
_GUARD_TYPES: Final = {
    **dict(zip(GUARD, ("text", "text", "bigint", "boolean", "boolean"), strict=True)),
    "b_task": "text",
    "b_seq": "bigint",
}
HOLDER: Final = ("b_task", "b_seq", "b_fence")
"""The columns of ``insert_held_statement`` that say which run of which task a row is of; they are in each row."""


class Source:
    """Where a statement takes its values from: ``names``, of which those in ``varying`` are in the rows.

    ``own`` has the types of those that are no columns of the table.
    """

    def __init__(
        self, table: Any, names: Sequence[str], varying: Sequence[str], own: Mapping[str, str] = _GUARD_TYPES
    ) -> None:
        types = {name: own.get(name) or _type(table.c[name].type) for name in names}
        self.values = {name: f"r.{name}" if name in varying else f"CAST(:{name} AS {types[name]})" for name in names}
        record = ", ".join(f"{name} {types[name]}" for name in varying)
        self.rows = f"json_to_recordset(CAST(CAST(:rows AS text) AS json)) AS r({record})" if varying else ""
        self.from_rows = f"FROM {self.rows}" if varying else ""


def _type(column: Any) -> str:
    return next(sql for python, sql in _TYPES if isinstance(column, python))


def varying_values(varying: Sequence[str], columns: Columns) -> dict[str, Any]:
    """Return the parameter of the rows, which have these columns."""
    return {"rows": json_text([dict(zip(varying, row, strict=True)) for row in zip(*columns, strict=True)])}


@functools.cache
def insert_statement(table: Any, names: tuple[str, ...], varying: tuple[str, ...], notify: bool) -> TextClause:
    source = Source(table, names, varying)
    new = (
        f"INSERT INTO {table.name} ({', '.join(names)}) "
        f"SELECT {', '.join(source.values.values())} {source.from_rows} ON CONFLICT DO NOTHING"
    )
    told = ", CASE WHEN count(*) > 0 THEN pg_notify(:channel, :message) END" if notify else ""
    return text(f"WITH new AS ({new} RETURNING 1) SELECT count(*){told} FROM new")  # noqa: S608


# The rows must be locked in the order in which they are given, or two writers might wait for each other. They are if
# the plan reads the table into a hash, and looks up one given row after the other. A plan that begins with the table
# locks in the order of its pages. Its estimated cost is the same where the index is large for its rows, as a backlog
# leaves it, unless many given rows are expected. The planner expects 100 from JSON, and 1,000 from a series of unknown
# length: a join of both is expected to have 100,000, and has as many as the JSON.
_ESTIMATED_AS_MANY = "generate_series(1, (SELECT 1))"


@functools.cache
def guarded_statement(names: tuple[str, ...], varying: tuple[str, ...]) -> TextClause:
    source = Source(TASKS, names + GUARD, varying)
    b_id, b_status, b_fence, b_final, b_cancel = [source.values[name] for name in GUARD]
    each, among = "", f"t.task_id = {b_id}"
    if "b_id" in varying:
        each = f"r AS MATERIALIZED (SELECT r.* FROM {source.rows}, {_ESTIMATED_AS_MANY}), "  # noqa: S608
        # As an array, too: a plan that was made while the table was small would read all of it, for a join.
        among += " AND t.task_id = ANY (ARRAY(SELECT b_id FROM r))"
    # The status as an expression, or all running rows might be read by their index, and locked in its order.
    write = (
        f"UPDATE task_queue AS t SET {', '.join(f'{name} = {source.values[name]}' for name in names)} "  # noqa: S608
        f"{'FROM r' if each else source.from_rows} WHERE {among} AND t.status || '' = {b_status} "
        f"AND t.fence = {b_fence} AND ({b_final} OR t.cancel_requested = {b_cancel}) RETURNING t.task_id"
    )
    # The ids only if not all rows were written: nearly always all are, and an answer with ids takes longer.
    some = "CASE WHEN count(*) < CAST(:count AS bigint) THEN coalesce(CAST(json_agg(task_id) AS text), '[]') END"
    return text(f"WITH {each}written AS ({write}) SELECT {some} FROM written")  # noqa: S608 - our own names


@functools.cache
def insert_held_statement(table: Any, names: tuple[str, ...], varying: tuple[str, ...]) -> TextClause:
    """Insert the rows of tasks that run with these fences; one that conflicts with another stays out.

    The answer is their number and, unless it is all, which runs have their task. A task is locked before its row is
    compared: one that another transaction has is waited for, and compared as that leaves it.
    """
    source = Source(table, (*names, *HOLDER), HOLDER + varying)
    held = (
        "SELECT t.task_id, t.seq, t.fence FROM task_queue AS t WHERE t.task_id = ANY (ARRAY(SELECT b_task FROM r)) "  # noqa: S608
        # A shared lock: a handler's own transaction may have one as well, by a step of it.
        f"AND t.status || '' = '{RUNNING.value}' ORDER BY t.task_id FOR SHARE"
    )
    mine = "r JOIN held ON held.task_id = r.b_task AND held.seq = r.b_seq AND held.fence = r.b_fence"
    new = (
        f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608 - our own names
        f"SELECT {', '.join(source.values[name] for name in names)} FROM {mine} ON CONFLICT DO NOTHING RETURNING 1"
    )
    which = f"SELECT coalesce(json_agg(json_build_array(r.b_task, r.b_seq, r.b_fence)), '[]') FROM {mine}"  # noqa: S608
    return text(
        f"WITH r AS MATERIALIZED (SELECT * FROM {source.rows}), held AS MATERIALIZED ({held}), new AS ({new}) "  # noqa: S608
        f"SELECT count(*), CASE WHEN count(*) < CAST(:count AS bigint) THEN CAST(({which}) AS text) END FROM new"
    )

"""The statements of PostgreSQL that call the functions of gates, which lock the gates before they count."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, TextClause, text

from aiotaskq.backends.sql.at_gates import Ended, Ending, Entering
from aiotaskq.backends.sql.changes import GUARD, hoisted
from aiotaskq.backends.sql.postgresql_rows import Source, guarded_statement, varying_values
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.backends.sql.statement_size import Columns
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.gate import PARKED

RANK: Final = "b_rank"
"""The place of a new task among those of its push at its gate, from 1 on; NULL for one without gates."""
SHARED: Final = "b_shared"
"""Whether its gate is a fair share."""


@functools.cache
def entering_statement(names: tuple[str, ...], varying: tuple[str, ...], notify: bool) -> TextClause:
    """Insert new tasks, of which the first ones at each gate pass it; ``names`` has all columns but ``live_gate``."""
    source = Source(TASKS, names, varying, {RANK: "bigint", SHARED: "boolean"})
    values = dict(source.values)
    rank, shared = values.pop(RANK), values.pop(SHARED)
    passes, due, values["live_gate"] = f"{rank} <= e.free", values["due_at"], values["gate"]
    floor = f"CASE WHEN {shared} THEN CAST(:at AS bigint) ELSE 0 END"
    values["run_at"] = f"CASE WHEN {passes} THEN greatest({due}, {floor}) ELSE {values['run_at']} END"
    values["due_at"] = f"CASE WHEN {passes} THEN NULL ELSE {due} END"
    new = (
        f"INSERT INTO task_queue ({', '.join(values)}) SELECT {', '.join(values.values())} "  # noqa: S608
        f"{source.from_rows or 'FROM (SELECT) AS r'} LEFT JOIN entered AS e ON e.gate = {values['gate']} "
        "WHERE EXISTS (SELECT FROM entered) ON CONFLICT DO NOTHING RETURNING run_at"
    )
    ready = f"count(*) FILTER (WHERE run_at < {PARKED})"
    told = f", CASE WHEN {ready} > 0 THEN pg_notify(:channel, :message) END" if notify else ""
    return text(
        "WITH entered AS MATERIALIZED (SELECT gate, free FROM aiotaskq_enter(:asked, :at)), "  # noqa: S608
        f"new AS ({new}) SELECT count(*), {ready}{told} FROM new"
    )


HAS_FUNCTIONS: Final = text(
    "SELECT bool_and(coalesce(has_function_privilege(f.id, 'EXECUTE'), false)) "
    "FROM (VALUES (to_regproc('aiotaskq_enter')), (to_regproc('aiotaskq_hand_on'))) AS f(id)"
)
"""Whether the functions of gates are there, and may be called."""


def insert_entering(
    connection: Connection,
    names: tuple[str, ...],
    columns: Columns,
    entering: Entering,
    notify: tuple[str, str] | None,
) -> tuple[int, int]:
    """See ``Dialect.insert_entering``."""
    named = [(name, values) for name, values in zip(names, columns, strict=True) if name != "live_gate"]
    named += [(RANK, tuple(entering.ranks)), (SHARED, tuple(entering.shared))]
    names, columns = tuple([name for name, _ in named]), [values for _, values in named]
    values, varying, columns = hoisted(names, columns)
    values |= varying_values(varying, columns) | {"asked": entering.gates, "at": entering.at}
    if notify is not None:
        values |= {"channel": notify[0], "message": notify[1]}
    (row,) = run(connection, entering_statement(names, varying, notify is not None), values).fetchall()
    return row[0], row[1]


def write_ending(connection: Connection, ending: Ending, values: Mapping[str, Any]) -> Ended | None:
    """See ``Dialect.write_ending``."""
    group = ending.group
    own, varying, columns = hoisted(group.names + GUARD, group.columns)
    ids = group.columns[len(group.names)]
    own |= varying_values(varying, columns) | {"count": len(ids), "asked": ending.gates}
    rows = run(connection, guarded_statement(group.names, varying, True), {**own, **values}).fetchall()
    some, count, *_ = rows[0]
    if count < 0:
        return None
    *_, missed, more = rows[-1]
    return Ended(
        ids if some is None else msgspec.json.decode(some),
        [row[2:-2] for row in rows if row[2] is not None],
        None if missed is None else msgspec.json.decode(missed),
        bool(more),
    )

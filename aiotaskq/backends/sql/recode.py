"""Rewriting the coded columns of rows with the present codec; plain functions over a transaction.

The rows are locked while they are read and written, so that no other write comes in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import bindparam, select, update

from aiotaskq.backends.sql.dialects.base import Tx
from aiotaskq.backends.sql.rows import TASKS, json_text, to_task
from aiotaskq.backends.sql.statement_size import check_rows, chunks
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import COLUMNS, decoded, encoded, verbatim


def recode_tasks(tx: Tx, ids: Sequence[str], codec: Codec) -> list[bool | None]:
    """Rewrite the rows of these tasks; return for each as ``Backend.recode``."""

    def columns(row: Any) -> dict[str, Any] | None:
        task = decoded(to_task(row), codec)
        if task.undecodable is not None:
            return None
        new = verbatim(encoded(task, codec))
        return {name: _text(name, getattr(new, name)) for name in COLUMNS}

    return rewrite(tx, TASKS, COLUMNS, ids, columns)


def _text(name: str, value: Any) -> str | None:
    empty = value is None or (name in ("extra", "attempts") and not value)
    return None if empty else json_text(value)


def rewrite(
    tx: Tx,
    table: Any,
    names: tuple[str, ...],
    ids: Sequence[str],
    columns: Callable[[Any], dict[str, Any] | None],
) -> list[bool | None]:
    key, connection = table.c.task_id, tx.connection
    statement = update(table).where(key == bindparam("b_id")).values({name: bindparam(name) for name in names})
    done: dict[str, bool | None] = {}
    for part in chunks(sorted(set(ids))):
        query = tx.dialect.by_id(select(table).where(key.in_(part)).order_by(key))
        there = {row.task_id: row for row in connection.execute(query.with_for_update(skip_locked=True))}
        rows = []
        for task_id, row in there.items():
            new = columns(row)
            done[task_id] = None if new is None else True
            if new is not None:
                rows.append({**new, "b_id": task_id})
        if rows:
            limit = tx.dialect.statement_limit(connection)
            check_rows(limit, tuple(rows[0]), [tuple(each.values()) for each in rows])
            connection.execute(statement, rows)
        missing = [task_id for task_id in part if task_id not in there]
        locked = set(connection.execute(select(key).where(key.in_(missing))).scalars()) if missing else set()
        done.update({task_id: False if task_id in locked else None for task_id in missing})
    return [done[task_id] for task_id in ids]

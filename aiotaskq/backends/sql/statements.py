"""How SQL is written and run in this folder.

A statement is a SQLAlchemy element with named parameters: ``select``, ``update`` and their like, or ``text`` for what
they cannot say (JSON recordsets, advisory locks, ``ON CONFLICT``). It is made once, at import or in a cached function.

:func:`run` and :func:`run_many` compile it once for each dialect and hand the driver the finished text. To build a
statement, find it in SQLAlchemy's cache and bind its values takes longer than SQLite takes to run it, so each statement
of a push, a claim or a settle goes this way. A statement with a list of values (``IN``) has another text for each
length of the list; it goes through ``Connection.execute``. A command without values (``PRAGMA``, ``SAVEPOINT``) goes to
the driver as it is.

One statement is written for the driver: MySQL's update of many rows, in ``dialects.mysql``. It has as many parameters
as values, and to compile that many takes longer than the server needs for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.engine import CursorResult

__all__ = ["run", "run_many"]


class _Compiled(NamedTuple):
    sql: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]
    """The values that the statement has of its own."""
    positional: bool


_compiled: weakref.WeakKeyDictionary[Any, dict[Any, _Compiled]] = weakref.WeakKeyDictionary()
"""By SQLAlchemy's dialect object, of which each engine has its own, and by statement."""


def _compile(connection: Connection, statement: Any) -> _Compiled:
    known = _compiled.setdefault(connection.dialect, {})
    found = known.get(statement)
    if found is None:
        compiled = statement.compile(dialect=connection.dialect)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        names = tuple(compiled.positiontup if compiled.positional else compiled.params)
        found = known[statement] = _Compiled(str(compiled), names, constants, compiled.positional)
    return found


def run(connection: Connection, statement: Any, values: Mapping[str, Any]) -> CursorResult[Any]:
    """Execute a statement that is kept for ever. The values of its parameters reach the driver as they are given."""
    sql, names, constants, positional = _compile(connection, statement)
    given = {**constants, **values}
    parameters = tuple([given[name] for name in names]) if positional else {name: given[name] for name in names}
    return connection.exec_driver_sql(sql, parameters)


def run_many(
    connection: Connection, statement: Any, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
) -> CursorResult[Any]:
    """Execute a statement that is kept for ever once for each row, whose values are in the order of ``names``.

    Every parameter of the statement must be one of the names.
    """
    sql, order, _constants, positional = _compile(connection, statement)
    parameters: list[Any]
    if not positional:
        parameters = [dict(zip(names, row, strict=True)) for row in rows]
    elif order == names:
        parameters = list(rows)
    else:
        pick = itemgetter(*[names.index(name) for name in order])
        parameters = [pick(row) if len(order) > 1 else (pick(row),) for row in rows]
    return connection.exec_driver_sql(sql, parameters[0] if len(parameters) == 1 else parameters)

"""Statements of SQLAlchemy as words and positions, each made once for a dialect, for those that must be quick.

To build a statement, find it in SQLAlchemy's cache and bind its values by name takes longer than SQLite takes to run
it: a claim of one took 0.6 ms of that, and 0.1 of SQLite.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import CursorResult

_known: weakref.WeakKeyDictionary[Any, dict[Any, tuple[str, tuple[str, ...], dict[str, Any], bool]]] = (
    weakref.WeakKeyDictionary()
)
_PLACES = {"qmark": "?", "numeric_dollar": "$1"}


def place(connection: Connection) -> str:
    """Return how the driver wants the place of a (PostgreSQL: of the only) value written."""
    return _PLACES.get(connection.dialect.paramstyle, "%s")


def run(connection: Connection, statement: Any, values: Mapping[str, Any]) -> CursorResult[Any]:
    """Execute a statement that is kept for ever, with values for its ``bindparam``; they reach the driver as given."""
    of_dialect = _known.setdefault(connection.dialect, {})
    found = of_dialect.get(statement)
    if found is None:
        compiled = statement.compile(dialect=connection.dialect)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        names = tuple(compiled.positiontup if compiled.positional else compiled.params)
        found = of_dialect[statement] = str(compiled), names, constants, compiled.positional
    words, names, constants, positional = found
    given = {**constants, **values}
    parameters = tuple([given[name] for name in names]) if positional else {name: given[name] for name in names}
    return connection.exec_driver_sql(words, parameters)

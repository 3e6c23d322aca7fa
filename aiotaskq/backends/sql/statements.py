"""How SQL is written and run in this folder.

A statement is a SQLAlchemy element with named parameters: ``select``, ``update`` and their like, or ``text`` for what
they cannot say (JSON recordsets, advisory locks, ``ON CONFLICT``). It is made once, at import or in a cached function.

:func:`run` and :func:`run_many` compile it once for each kind of database and hand the driver the finished text. To
build a statement, find it in SQLAlchemy's cache and bind its values takes longer than SQLite takes to run it, so each
statement of a push, a claim or a settle goes this way. A statement with a list of values (``IN``) has another text for
each length of the list; it goes through ``Connection.execute``. A command without values (``SAVEPOINT``) goes to the
driver as it is, by :func:`command`.

One statement is written for the driver: MySQL's update of many rows, in ``dialects.mysql``. It has as many parameters
as values, and to compile that many takes longer than the server needs for it.
"""

from __future__ import annotations

import re
import sqlite3
import weakref
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol

from sqlalchemy import Connection, exc

from aiotaskq.backends.sql.names import NAMES

DRIVER: Final = "aiotaskq_driver"
"""Execution option of a ``Connection``: the standard library's connection to SQLite under it, on which these
statements are executed. SQLAlchemy's result takes longer to make than SQLite needs for the statement."""


_NAMED: Final = re.compile(r"%\((\w+)\)s")


class Result(Protocol):
    """What both SQLAlchemy's result and the cursor of SQLite's driver have."""

    @property
    def rowcount(self) -> int:
        """How many rows were changed."""

    def fetchall(self) -> Sequence[Any]:
        """Return all rows."""


class _Compiled(NamedTuple):
    sql: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]
    """The values that the statement has of its own."""
    positional: bool


_compiled: dict[tuple[Any, ...], dict[Any, _Compiled]] = {}
"""By all that the text depends on beside the statement, and by statement: engines of one kind share it."""
_known: weakref.WeakKeyDictionary[Any, dict[Any, _Compiled]] = weakref.WeakKeyDictionary()
"""The entry of ``_compiled`` by SQLAlchemy's dialect object, of which each engine has its own."""


def _known_to(dialect: Any) -> dict[Any, _Compiled]:
    server = type(dialect), dialect.server_version_info, getattr(dialect, "is_mariadb", False)
    names = dialect.identifier_preparer.initial_quote, dialect.label_length, dialect.max_identifier_length
    known = _known[dialect] = _compiled.setdefault((*server, *names, dialect.paramstyle), {})
    return known


def _compile(connection: Connection, statement: Any) -> _Compiled:
    known = _known.get(connection.dialect)
    if known is None:
        known = _known_to(connection.dialect)
    found = known.get(statement)
    if found is None:
        compiled = statement.compile(dialect=connection.dialect)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        names = tuple(compiled.positiontup if compiled.positional else compiled.params)
        found = known[statement] = _Compiled(str(compiled), names, constants, compiled.positional)
    return found


def command(connection: Connection, sql: str) -> None:
    """Execute a command that has neither values nor a result."""
    _execute(connection, sql, ())


def run(connection: Connection, statement: Any, values: Mapping[str, Any]) -> Result:
    """Execute a statement that is kept for ever. The values of its parameters reach the driver as they are given."""
    sql, names, constants, positional = _compile(connection, statement)
    given = {**constants, **values}
    parameters = tuple([given[name] for name in names]) if positional else {name: given[name] for name in names}
    return _execute(connection, sql, parameters)


def run_many(connection: Connection, statement: Any, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> Result:
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
    return _execute(connection, sql, parameters[0] if len(parameters) == 1 else parameters)


def run_union(connection: Connection, statement: Any, values: Sequence[Mapping[str, Any]]) -> Result:
    """Execute the UNION ALL of a query with each of these values. MySQL's drivers take values by ``%s`` or a name."""
    sql, names, constants, positional = _compile(connection, statement)
    if not positional:
        sql, names = _NAMED.sub("%s", sql), tuple(_NAMED.findall(sql))
    given = [{**constants, **each} for each in values]
    parameters = tuple([each[name] for each in given for name in names])
    return _execute(connection, " UNION ALL ".join([f"({sql})"] * len(given)), parameters)


def _execute(connection: Connection, sql: str, parameters: Any) -> Result:
    options = connection.get_execution_options()
    driver = options.get(DRIVER)
    if driver is None:
        return connection.exec_driver_sql(sql, parameters)
    names = options.get(NAMES)
    return in_driver(driver, sql if names is None else names(sql), parameters)


def in_driver(driver: sqlite3.Connection, sql: str, parameters: Any) -> Result:
    """Execute a statement on a connection of SQLite's driver, of a list of parameters once for each."""
    try:
        if isinstance(parameters, list):
            return driver.executemany(sql, parameters)
        return driver.execute(sql, parameters)
    except sqlite3.Error as error:
        raise exc.DBAPIError.instance(sql, parameters, error, sqlite3.Error, hide_parameters=True) from error

"""What the tables are called where several applications share a database: in a schema, or with a prefix.

Statements name the tables as the models do; the names are replaced in the finished text of each statement. So no
connection has a state: a search path would be lost behind a pooler, and in a session of the caller's it is the
caller's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, event, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from aiotaskq.backends.url import TABLE_NAMES
from aiotaskq.models import OUR_TABLES

NAMES: Final = "aiotaskq_names"
"""Execution option of a ``Connection``: the ``Names`` of the tables that its statements are about."""
_TRANSLATED: Final = "schema_translate_map"
_LONG: Final = 4_096
"""Characters of a statement above which the new text is not kept: such a text has one part for each of many rows."""
_TABLES: Final = "|".join((*OUR_TABLES, "aiotaskq_version", "aiotaskq_clock", "aiotaskq_push"))
_OTHERS: Final = r"aiotaskq_push_insert|(?:ix|uq)_(?:task_queue|scheduler_task|aiotaskq)_\w+"
"""Indexes and triggers: within a schema they have names of their own anyway, and cannot be named with it."""


class Names:
    """The names of the tables of one store. What has such a name already stays as it is."""

    def __init__(self, schema: str | None = None, prefix: str = "") -> None:
        self.schema, self.prefix = schema, prefix
        self._before = prefix if schema is None else f'"{schema}".'
        self._named = re.compile(rf"(?<![\w.])(?:{_TABLES if schema else f'{_TABLES}|{_OTHERS}'})(?!\w)")
        self._kept = functools.lru_cache(1_024)(self._replaced)

    def __call__(self, sql: str) -> str:
        """Return the text of statements with these names."""
        return self._kept(sql) if len(sql) < _LONG else self._replaced(sql)

    def _replaced(self, sql: str) -> str:
        return self._named.sub(lambda found: self._before + found[0], sql)


def names_in(url: URL) -> Names | None:
    """Return the names in the query of a URL; None for those of the models."""
    schema, prefix = (url.query.get(option) for option in TABLE_NAMES)
    return Names(None if schema is None else str(schema), str(prefix or "")) if schema or prefix else None


def names_of(connection: Connection) -> Names | None:
    """Return the names on a connection; None for those of the models."""
    return connection.get_execution_options().get(NAMES)


def rename(engine: Engine | AsyncEngine) -> None:
    """Replace the names in each statement on an engine whose execution options have ``NAMES``."""
    target = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    event.listen(target, "before_cursor_execute", _renamed, retval=True)


@contextmanager
def named(connection: Connection, names: Names | None) -> Iterator[None]:
    """Replace the names in each statement on a connection of the caller's, within this block."""
    if names is None:
        yield
        return
    before = connection.get_execution_options()
    if not event.contains(connection, "before_cursor_execute", _renamed):
        event.listen(connection, "before_cursor_execute", _renamed, retval=True)
    # A map of the caller's would name a schema first, and that one would stay.
    connection.execution_options(**{NAMES: names, _TRANSLATED: None})
    try:
        yield
    finally:
        connection.execution_options(**{name: before.get(name) for name in (NAMES, _TRANSLATED)})


def _renamed(connection: Connection, _cursor: Any, sql: str, values: Any, *_rest: Any) -> tuple[str, Any]:
    names = names_of(connection)
    return sql if names is None else names(sql), values


class Tables:
    """Our tables as a database describes them, by their names in the models."""

    def __init__(self, connection: Connection) -> None:
        self._found, self._names = inspect(connection), names_of(connection) or Names()

    def has_table(self, table: str) -> bool:
        """Return whether the table is there."""
        return self._found.has_table(self._names.prefix + table, self._names.schema)

    def get_columns(self, table: str) -> list[Any]:
        """Return the columns of a table, as SQLAlchemy does."""
        return self._found.get_columns(self._names.prefix + table, self._names.schema)

    def index_names(self, table: str) -> set[str]:
        """Return the names of the indexes of a table."""
        found = self._found.get_indexes(self._names.prefix + table, self._names.schema)
        return {str(index["name"]).removeprefix(self._names.prefix) for index in found}

    def clear_cache(self) -> None:
        """Forget what was read: the database has changed."""
        self._found.clear_cache()

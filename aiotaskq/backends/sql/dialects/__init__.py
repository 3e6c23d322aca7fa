"""What differs between SQL databases: one module and one object for each.

A new database is a module here, with a subclass of :class:`~aiotaskq.backends.sql.dialects.base.Dialect` as its
``DIALECT``, and a row for each scheme of its URLs in ``aiotaskq.backends.url.SQL``. Nothing outside this folder asks
which database it talks to.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import cast

from sqlalchemy import Connection

from aiotaskq.backends.sql.dialects.base import Dialect
from aiotaskq.backends.url import SQL

__all__ = ["Dialect", "dialect_named", "dialect_of"]


@functools.cache
def dialect_named(scheme: str) -> Dialect:
    """Return the dialect for the scheme of a URL, or for the name of a SQLAlchemy dialect. Raises KeyError."""
    return cast(Dialect, import_module(f"{__name__}.{SQL[scheme]}").DIALECT)


def dialect_of(connection: Connection) -> Dialect:
    """Return the dialect of the database that a connection leads to."""
    return dialect_named(connection.dialect.name)

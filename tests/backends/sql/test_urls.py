"""Database URLs: the driver that each one gets, and URLs that are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiotaskq.backends.sql import connecting
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects import dialect_named
from aiotaskq.backends.sql.engines import parse_url, sync_engine
from aiotaskq.errors import (
    MissingExtra,
    ValidationError,
)


@pytest.mark.parametrize(
    ("url", "asynchronous", "synchronous"),
    [
        ("sqlite:///a.db", "sqlite+aiosqlite:///a.db", "sqlite+pysqlite:///a.db"),
        ("sqlite+pysqlite:////tmp/a.db", "sqlite+aiosqlite:////tmp/a.db", "sqlite+pysqlite:////tmp/a.db"),
        ("SQLite:///a.db", "sqlite+aiosqlite:///a.db", "sqlite+pysqlite:///a.db"),
        ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgres://u@h:1/d", "postgresql+asyncpg://u@h:1/d", "postgresql+psycopg://u@h:1/d"),
        ("postgresql+psycopg2://h/d", "postgresql+asyncpg://h/d", "postgresql+psycopg://h/d"),
        ("mysql://h/d?charset=utf8", "mysql+asyncmy://h/d", "mysql+pymysql://h/d"),
        ("mysql+pymysql://u@h/d", "mysql+asyncmy://u@h/d", "mysql+pymysql://u@h/d"),
        ("mariadb+mariadbconnector://h/d", "mysql+asyncmy://h/d", "mysql+pymysql://h/d"),
    ],
)
def test_the_driver_is_ours(url: str, asynchronous: str, synchronous: str) -> None:
    assert str(parse_url(url)) == asynchronous
    assert str(parse_url(url, sync=True)) == synchronous


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://", "url: memory is no SQL database; use sqlite:///, postgresql:// or mysql://"),
        ("redis://h", "url: redis is no SQL database; use sqlite:///, postgresql:// or mysql://"),
        (
            "sqlite://app.db",
            "url: sqlite://app.db names a host; write a file after three slashes, as in sqlite:///app.db",
        ),
        ("postgresql://u:secret@h:port/d", "url: cannot be parsed (got postgresql://u:***@h:port/d)"),
    ],
)
def test_a_url_that_is_not_valid(url: str, message: str) -> None:  # J9
    with pytest.raises(ValidationError) as raised:
        Database(url)
    assert str(raised.value) == message


@pytest.mark.parametrize("url", [5, "", None, "a.db", "oracle://h", "sqlite:a.db", "user:secret@host"])
def test_a_url_without_a_known_scheme(url: Any) -> None:
    with pytest.raises(ValidationError, match=r"^url: ") as raised:
        Database(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+aiosqlite:///:memory:"),
        *("sqlite:///file::memory:?uri=true", "sqlite:///file:x?mode=memory&uri=true"),
    ],
)
@pytest.mark.parametrize("make", [Database, sync_engine])
def test_sqlite_in_memory_is_refused(url: str, make: Callable[[str], object]) -> None:
    with pytest.raises(
        ValidationError, match="an in-memory SQLite database is lost with its connection; use memory://"
    ):
        make(url)


def test_a_driver_that_is_not_installed() -> None:
    def missing(url: object, **options: object) -> None:
        raise ModuleNotFoundError("No module named 'asyncmy'", name="asyncmy")

    with pytest.raises(MissingExtra, match=r"asyncmy is not installed; .*: pip install 'asyncmy>=[^']*' 'pymysql>="):
        connecting.create(missing, parse_url("mysql://h/d"), dialect_named("mysql").extras)

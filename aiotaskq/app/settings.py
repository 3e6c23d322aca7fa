"""The settings of the process-wide objects: the database and the queue. Read once, at the first use."""

from __future__ import annotations

import os
import threading
from typing import Any

import msgspec

from aiotaskq.backends.url import (
    DURABLE_FAKE,
    TABLE_NAMES,
    has_tables,
    is_lost_at_close,
    memory_options,
    scheme_of,
    with_table_names,
)
from aiotaskq.concurrency.loop_bound import after_fork
from aiotaskq.core.errors import check_key, check_seconds
from aiotaskq.core.masking import mask
from aiotaskq.errors import ClosedError, ValidationError

DATABASE = "AIOTASKQ_DATABASE_URL"
QUEUE = "AIOTASKQ_QUEUE_URL"
VISIBILITY = "AIOTASKQ_VISIBILITY_TIMEOUT"
VERSION = "AIOTASKQ_VERSION"
DEFAULT_URL = "sqlite:///aiotaskq.db"
MAX_VERSION = 64  # characters: each attempt that did not complete has it


class Settings(msgspec.Struct, frozen=True):
    """The resolved settings of the process."""

    database_text: str
    """The database URL as it was given, password included."""
    database_url: str
    """The same, to be opened: a relative SQLite path is absolute, so that a later ``chdir`` changes nothing."""
    named: bool
    """Whether the database was named, and is not the default file in the working directory."""
    queue_url: str
    """The store of the process-wide queue. If it is SQL, it is ``database_url``."""


_lock = threading.Lock()
_given: dict[str, str] = {}
_settings: Settings | None = None


def configure(*, database_url: str | None = None, queue_url: str | None = None) -> None:
    """Name the process's database and queue, instead of ``AIOTASKQ_DATABASE_URL`` and ``AIOTASKQ_QUEUE_URL``.

    To be called once, before ``engine``, ``SessionLocal``, ``get_db``, ``DATABASE_URL``, the process-wide queue or
    scheduler, or a ``Scheduler`` or ``DatabaseQueue`` without a URL is used. An argument of None leaves the variable in
    force.

    Raises ValidationError for a URL that cannot be used, and ClosedError after the first use or on a second call.
    """
    names = {DATABASE: ("database_url", database_url), QUEUE: ("queue_url", queue_url)}
    given = {variable: _checked(name, url) for variable, (name, url) in names.items() if url is not None}
    if DATABASE in given and not has_tables(given[DATABASE]):
        scheme = scheme_of(given[DATABASE])
        raise ValidationError(f"database_url: a SQL database is needed, as in sqlite:///app.db (got {scheme}://)")
    with _lock:
        if _settings is not None:
            raise ClosedError(
                f"configure(): {mask(_settings.database_text)} is in use already; call it before the first use of "
                "engine, SessionLocal, get_db, DATABASE_URL, a queue or a scheduler"
            )
        if _given:
            raise ClosedError("configure(): it was called before; name both URLs in one call")
        _resolve(given)  # raises here, and not at the first use, if the two do not fit together
        _given.update(given)


def settings() -> Settings:
    """Return the settings of the process, which are fixed by the first call.

    Raises ValidationError for a URL that cannot be used; then nothing is fixed.
    """
    global _settings
    if _settings is None:
        with _lock:
            if _settings is None:
                _settings = _resolve(_given)
    return _settings


def schedules_elsewhere(url: str) -> bool:
    """Return whether the schedules of a queue in this store are by default in the process's database, not beside it.

    So it is for a queue in memory or in Redis where ``configure()`` or a variable names a SQL database. No settings are
    fixed. Raises ValidationError.
    """
    if url.partition("?")[0] == DURABLE_FAKE:
        return False
    known = _settings or _resolve(_given)
    return not has_tables(url) and known.named and has_tables(known.database_url)


def default_url() -> str:
    """Return the URL of a ``TaskQ()``: that of the variable, else a file in the working directory."""
    return os.environ.get(DATABASE) or DEFAULT_URL


def version_of(given: str | None) -> str | None:
    """Return the version of the application: the given one, else that of the variable, else None.

    Raises ValidationError.
    """
    name, text = (VERSION, os.environ.get(VERSION) or None) if given is None else ("version", given)
    return None if text is None else check_key(name, text, MAX_VERSION)


def visibility_timeout() -> float:
    """Return the seconds after which an unsettled pop of a durable queue comes back. Raises ValidationError."""
    text = os.environ.get(VISIBILITY, "300")
    try:
        seconds: Any = float(text)
    except ValueError:
        seconds = text
    return check_seconds(VISIBILITY, seconds, zero=False)


def _resolve(given: dict[str, str]) -> Settings:
    urls = {
        name: given.get(name) or _checked(name, text)
        for name in (DATABASE, QUEUE)
        if (text := given.get(name) or os.environ.get(name))
    }
    queue = urls.get(QUEUE, "memory://")
    sql = has_tables(queue)
    database = urls.get(DATABASE) or (queue if sql else DEFAULT_URL)
    place = _absolute(database)
    if sql and _absolute(queue) != place:
        _check_same(database, queue)
    return Settings(database, place, sql or DATABASE in urls, place if sql else queue)


def _checked(name: str, url: object) -> str:
    try:
        memory_options(with_table_names(url))  # type: ignore[arg-type]  # checks the type, and the options
    except ValidationError as error:
        raise ValidationError(f"{name}: {str(error).removeprefix('url: ')}") from None
    text = str(url)
    if is_lost_at_close(text):
        raise ValidationError(
            f"{name}: an in-memory SQLite database is lost with its connection; name a file, as in sqlite:///app.db"
        )
    return text


def _absolute(url: str) -> str:
    head, slashes, rest = url.partition(":///")
    path, question, query = rest.partition("?")
    if scheme_of(url) != "sqlite" or not path or path.startswith(("/", ":", "file:")) or "?" in os.getcwd():
        return url
    return f"{head}{slashes}{os.path.abspath(path)}{question}{query}"


def _check_same(database: str, queue: str) -> None:
    from aiotaskq.backends.sql.engines import parse_url

    def place(url: str) -> tuple[object, ...]:
        parsed = parse_url(_absolute(url))
        names = [parsed.query.get(name) for name in TABLE_NAMES]
        return parsed.drivername, parsed.host, parsed.port, parsed.database, *names

    if place(database) != place(queue):
        raise ValidationError(
            f"{QUEUE}: {mask(queue)} is another database than {mask(database)} of {DATABASE}; name one SQL database "
            "for both (either variable alone is enough), or a queue in memory:// or redis://"
        )


@after_fork
def _forked() -> None:
    global _lock
    _lock = threading.Lock()

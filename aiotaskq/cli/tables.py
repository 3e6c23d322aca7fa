"""``aiotaskq db``: makes, checks and prints the tables; and keeps other commands from making them by accident."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, exc

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import InvalidRow
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.engines import dialect_of_url, parse_url, sync_engine
from aiotaskq.backends.sql.migrations import HEAD, REVISIONS, current, invalid_rows, make_missing, missing, sql_ddl
from aiotaskq.backends.url import SQL, scheme_of
from aiotaskq.cli.i18n import marked, tr, translated
from aiotaskq.cli.output import bar_of, say, say_json, say_table
from aiotaskq.core.masking import mask
from aiotaskq.errors import DatabaseUnavailable, NotFound, NotSupported, ValidationError

T = TypeVar("T")
REDIS = ("redis", "rediss", "valkey")
ODD = tuple(map(marked, ("TABLE", "ID", "COLUMN", "PROBLEM", "WHAT IS DONE")))


def upgrade(url: str, *, as_json: bool = False) -> None:
    """Make the tables, or bring them to this version."""
    _refuse_memory(url)
    path = _file(url)
    before = _look(url, current) if path is None or os.path.exists(path) else None

    async def main() -> tuple[list[str], list[InvalidRow]]:
        made = await _write(url, make_missing) if before == HEAD else []
        async with TaskQ(url) as tq:
            return made, tq.invalid_rows

    bar, _ = bar_of(tr("upgrade"), None, quiet=as_json)
    with bar:
        made, invalid = asyncio.run(main())
    if as_json:
        rows = msgspec.to_builtins(invalid)
        say_json({"database": mask(url), "before": before, "version": HEAD, "made_anew": made, "invalid_rows": rows})
        return
    if made:
        say(tr("{url}: tables that had been dropped were made anew, empty: {names}", url=mask(url), names=_names(made)))
    elif before == HEAD:
        say(tr("{url} is at {version}", url=mask(url), version=HEAD))
    else:
        was = before or tr("no version")
        say(tr("{url} was at {before} and is at {version}", url=mask(url), before=was, version=HEAD))
    if invalid:
        say(tr("{count} values do not mean what their columns say; they are kept:", count=len(invalid)))
        _say_invalid(invalid)


def check(url: str, *, as_json: bool) -> None:
    """Print the tables' version and the invalid rows."""
    _refuse_absent(url)
    version, invalid = _look(url, lambda connection: (current(connection), invalid_rows(connection)))
    if as_json:
        rows = msgspec.to_builtins(invalid)
        say_json({"database": mask(url), "version": version, "newest": HEAD, "invalid_rows": rows})
        return
    found = version or tr("none yet")
    say(tr("{url}: version {version}, this aiotaskq makes it {newest}", url=mask(url), version=found, newest=HEAD))
    if not invalid:
        say(tr("no invalid rows"))
        return
    _say_invalid(invalid)


def describe(url: str) -> dict[str, str | None]:
    """Return the server's version and that of the tables, for what has tables. Raises as ``refuse_unready``."""
    if scheme_of(url) in REDIS:
        return {}
    _refuse_absent(url)

    def look(connection: Connection) -> dict[str, str | None]:
        server = ".".join(str(part) for part in connection.dialect.server_version_info or ())
        version = current(connection)
        return {"server": f"{dialect_of(connection)} {server}".strip(), "version": version, "newest": HEAD}

    return _look(url, look)


def sql(url: str) -> None:
    """Print the SQL that makes the tables."""
    say(sql_ddl(scheme_of(url)).rstrip())


def refuse_unready(url: str) -> None:
    """Raise unless the database is there, with tables of this version: looking at one must not make or change it."""
    if scheme_of(url) in REDIS:
        return  # there are no tables, and to look makes nothing
    _refuse_absent(url)
    version, gone = _look(url, lambda connection: (current(connection), missing(connection)))
    if version == HEAD and gone:
        said = marked(
            "{url}: tables are missing: {names}; restore them from a backup, or 'aiotaskq db upgrade' makes them anew"
        )
        raise DatabaseUnavailable(tr(said, url=mask(url), names=_names(gone)))
    if version is None or (version != HEAD and version in REVISIONS):
        raise DatabaseUnavailable(
            tr("{url} has no tables of this version yet; 'aiotaskq db upgrade' makes them", url=mask(url))
        )


def _refuse_absent(url: str) -> None:
    _refuse_memory(url)
    path = _file(url)
    if path is not None and not os.path.exists(path):
        raise NotFound(tr("there is no file {path}; 'aiotaskq db upgrade' would make it", path=path))


def _refuse_memory(url: str) -> None:
    if scheme_of(url) == "memory":
        raise NotSupported(tr("memory:// lives in its own process only; name a database, as in sqlite:///app.db"))
    if scheme_of(url) not in SQL:
        scheme = scheme_of(url)
        raise ValidationError(tr("{scheme} has no tables; name a database, as in sqlite:///app.db", scheme=scheme))


def _file(url: str) -> str | None:
    """Return the path of the file that holds a database, None for a server."""
    parsed = parse_url(url, sync=True)
    return dialect_of_url(parsed).file(parsed)


def _look(url: str, body: Callable[[Connection], T]) -> T:
    """Run a body that only reads, without preparing the database for it."""
    if _file(url) is not None:  # the async engine would switch the file to WAL
        engine = sync_engine(url)
        try:
            with engine.connect() as connection:
                return body(connection)
        except exc.DBAPIError as error:
            raise DatabaseUnavailable(f"{mask(url)}: {error.orig}") from None
        finally:
            engine.dispose()

    async def main() -> T:
        database = Database(url)
        try:
            return await database.read(body)
        finally:
            await database.close()

    return asyncio.run(main())


async def _write(url: str, body: Callable[[Connection], T]) -> T:
    database = Database(url)
    try:
        return await database.write(body)
    finally:
        await database.close()


def _names(tables: list[str]) -> str:
    return tr(", ").join(tables)


def _say_invalid(rows: list[InvalidRow]) -> None:
    say_table(ODD, [(row.table, row.id, row.column, translated(row.problem), translated(row.action)) for row in rows])

"""The state of the tables of a SQL database: whether they exist, their version, their invalid rows.

Reading the state never creates or changes a database. Importing this module imports SQLAlchemy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, exc, make_url

from aiotaskq.backends.base import InvalidRow
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects import dialect_named, dialect_of
from aiotaskq.backends.sql.engines import parse_url, sync_engine
from aiotaskq.backends.sql.error_codes import hint
from aiotaskq.backends.sql.migrations import HEAD, REVISIONS, current, invalid_rows, make_missing, missing, sql_ddl
from aiotaskq.backends.sql.names import names_in
from aiotaskq.backends.url import has_tables, is_shared, scheme_of, with_table_names
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.core.masking import mask
from aiotaskq.errors import DatabaseUnavailable, NotFound, NotSupported, ValidationError

__all__ = ["HEAD", "create_missing", "describe", "refuse_unready", "sql_of", "version_and_invalid_rows", "version_of"]

T = TypeVar("T")


def version_of(url: str) -> str | None:
    """Return the version of the tables; None if there are none. Raises ValidationError and NotSupported for a URL whose
    store never has tables."""
    with contextlib.suppress(NotFound):
        return _look(url, current)
    return None


def sql_of(url: str) -> str:
    """Return the SQL that creates the tables that a URL names. Raises ValidationError and NotSupported."""
    scheme = scheme_of(with_table_names(url))
    return sql_ddl(scheme, names_in(make_url(url)) if has_tables(url) else None)


async def create_missing(url: str) -> list[str]:
    database = Database(url)
    try:
        return await database.write(make_missing)
    finally:
        await database.close()


def version_and_invalid_rows(url: str) -> tuple[str | None, list[InvalidRow]]:
    return _look(url, lambda connection: (current(connection), invalid_rows(connection)))


def describe(url: str) -> dict[str, str | None]:
    """Return the versions of the server and of the tables, if there are any. Raises as ``refuse_unready``."""
    if is_shared(url) and not has_tables(url):
        return {}

    def look(connection: Connection) -> dict[str, str | None]:
        server = ".".join(str(part) for part in connection.dialect.server_version_info or ())
        version = current(connection)
        return {"server": f"{dialect_of(connection)} {server}".strip(), "version": version, "newest": HEAD}

    return _look(url, look)


def refuse_unready(url: str, *, new: bool = False) -> None:
    """Raise NotFound if there is no file, DatabaseUnavailable if its tables are missing or of another version.

    A ``new`` database, which has none of the tables, is accepted if that is said.
    """
    if is_shared(url) and not has_tables(url):
        return  # there are no tables
    if new and version_of(url) is None:
        return
    version, gone = _look(url, lambda connection: (current(connection), missing(connection)))
    if version == HEAD and gone:
        said = marked(
            "{url}: tables are missing: {names}; restore them from a backup, or create them empty with "
            "'aiotaskq db upgrade'"
        )
        raise DatabaseUnavailable(tr(said, url=mask(url), names=tr(", ").join(gone)))
    if version is None or (version != HEAD and version in REVISIONS):
        raise DatabaseUnavailable(
            tr("{url} has no tables of this version yet; 'aiotaskq db upgrade' creates them", url=mask(url))
        )


def _look(url: str, body: Callable[[Connection], T]) -> T:
    """Run a body that only reads, without preparing the database. Raises NotFound if there is no file."""
    if not is_shared(url):
        raise NotSupported(tr("memory:// exists only inside one process; name a database, as sqlite:///app.db"))
    if not has_tables(url):
        scheme = scheme_of(url)
        raise ValidationError(tr("{scheme} has no tables; name a database, as sqlite:///app.db", scheme=scheme))
    parsed = parse_url(url, sync=True)
    dialect = dialect_named(parsed.get_backend_name())
    path = dialect.file(parsed)
    if path is not None and not os.path.exists(path):
        raise NotFound(
            tr(
                "there is no file {path}; name another one with --db or AIOTASKQ_DATABASE_URL, or create it with "
                "'aiotaskq db upgrade --db {url}'",
                path=path,
                url=url,
            )
        )
    if path is not None:  # the async engine would switch the file to WAL
        engine = sync_engine(url)
        try:
            with engine.connect() as connection:
                return body(connection)
        except exc.DBAPIError as error:
            raise DatabaseUnavailable(f"{mask(url)}: {error.orig}{hint(error, dialect.codes)}") from None
        finally:
            engine.dispose()

    async def main() -> T:
        database = Database(url)
        try:
            return await database.read(body)
        finally:
            await database.close()

    return asyncio.run(main())

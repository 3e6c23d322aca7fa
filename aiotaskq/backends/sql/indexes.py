"""The indexes of tables: over some of the rows where a database has such indexes, and of which databases."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Index, text

PARTIAL: Final = ("sqlite", "postgresql")
"""The databases that have indexes over some of the rows, by SQLAlchemy's names."""
WHOLE: Final = ("mysql", "mariadb")
"""Those that have not."""
_ON = "aiotaskq_on"


def partial(rows: str, name: str, *columns: str, unique: bool = False, **words: str) -> Index:
    """Return an index over some of the rows; over all of them where a database has no such indexes.

    ``words`` say which rows on one of ``PARTIAL``, if not the same, or in other words.
    ``backends.sql.claim_statements.ENDED`` says why live rows and ended rows have indexes of their own.
    """
    postgresql, sqlite = [text(words.get(each, rows)) for each in ("postgresql", "sqlite")]
    return Index(name, *columns, unique=unique, postgresql_where=postgresql, sqlite_where=sqlite)


def on(dialects: tuple[str, ...], index: Index) -> Index:
    """Return an index that is created on these databases alone."""
    index.info[_ON] = dialects
    return index.ddl_if(dialect=dialects)  # type: ignore[arg-type]  # several, too: the annotation has one


def indexes_of(table: Any, partial: bool) -> list[Index]:
    """Return the indexes that a table has, by name; ``partial`` is ``Dialect.partial_indexes``."""
    here = PARTIAL if partial else WHOLE
    found = [index for index in table.indexes if index.info.get(_ON, here) == here]
    return sorted(found, key=lambda index: str(index.name))

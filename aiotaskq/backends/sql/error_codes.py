"""What the error of a database means: repeat the transaction, leave the server, or refuse the value."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Final, NamedTuple

from sqlalchemy import exc

from aiotaskq.core.errors import unknown_host

UNIQUE_KEY: Final = "uq_task_queue_live_key"
"""The index of the unique keys that live tasks hold; each database names it in its message."""


class ErrorCodes(NamedTuple):
    """The codes of one kind of database: SQLSTATEs, or numbers of its own, which are the first argument of an error.

    A text stands for errors that have no code of their own; it is looked for in the message.
    """

    gave_way: Set[Any] = frozenset()
    """The server rolled a transaction back in favour of another, or because a table changed: it can be repeated."""
    gave_way_text: str | None = None
    duplicate: Set[Any] = frozenset()
    """A unique index refused a row."""
    gone: Set[Any] = frozenset()
    """The server is shutting down, or has become a replica that accepts no writes: connect again."""
    cancelled: Set[Any] = frozenset()
    """The server has cancelled a statement that took longer than it may."""
    no_table: Set[Any] = frozenset()
    no_table_text: str | None = None
    unprepared: Set[Any] = frozenset()
    """A prepared statement is missing, or exists twice: the connection is shared by a pooler."""
    remedies: Mapping[str, str] = {}
    """By a text in the message, what to do about it."""


def is_one_of(error: Any, codes: Set[Any], text: str | None = None) -> bool:
    """Whether the error of a driver has one of these codes, or the text in its message."""
    found = (getattr(error, "sqlstate", None), *error.args[:1])
    return any(code in codes for code in found) or (text is not None and text in str(error))


def gave_way(error: Exception, codes: ErrorCodes) -> bool:
    """Whether the transaction was rolled back and can be repeated."""
    if not isinstance(error, exc.DBAPIError):
        return False
    # A unique key is written only where it was free: another transaction has taken it since, which the next try sees.
    taken = is_one_of(error.orig, codes.duplicate) and UNIQUE_KEY in str(error.orig)
    return taken or is_one_of(error.orig, codes.gave_way, codes.gave_way_text)


def hint(error: Exception, codes: ErrorCodes) -> str:
    """Return what to do about an error that cannot be cured by repeating, or an empty text."""
    cause = getattr(error, "orig", error)
    if is_one_of(cause, codes.no_table, codes.no_table_text):
        return (
            "; it was dropped after aiotaskq had made it, perhaps by a migration of the application's (exclude our "
            "tables there by aiotaskq.integrations.alembic). Restore it from a backup, or make it anew, empty, by "
            "'aiotaskq db upgrade'"
        )
    if is_one_of(cause, codes.unprepared):
        return "; is there a transaction pooler in between? Then add ?pooler=transaction to the URL"
    remedies = (f"; {remedy}" for message, remedy in codes.remedies.items() if message in str(cause))
    return next(remedies, unknown_host(error))


def is_about_a_value(error: Exception) -> bool:
    """Whether a value was refused, whatever the state of the database: repeating ends the same way."""
    if isinstance(error, exc.IntegrityError | exc.DataError):
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    # asyncpg has two more kinds: what the server calls a data exception, and what it cannot encode itself. (A refused
    # certificate is a ValueError, too.)
    state, cause = getattr(error.orig, "sqlstate", None) or "", getattr(error.orig, "__cause__", None)
    unfit = isinstance(cause, ValueError) and not isinstance(cause, OSError)
    return unfit or state[:2] in ("22", "23")

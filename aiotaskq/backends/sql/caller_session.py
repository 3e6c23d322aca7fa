"""Runs a transaction body in the caller's own SQLAlchemy transaction: what it writes exists when that commits."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, RootTransaction, event
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from aiotaskq.backends.sql.connections import Transactions
from aiotaskq.backends.sql.dialects.base import Dialect
from aiotaskq.backends.sql.error_codes import hint
from aiotaskq.backends.sql.names import named
from aiotaskq.backends.url import SQL
from aiotaskq.errors import ValidationError

T = TypeVar("T")
COMMIT_TIME = 0.05
"""Seconds between two looks whether the COMMIT of a connection has ended."""


async def run_in(
    session: Any,
    database: Transactions,
    dialect: Dialect,
    body: Callable[[Connection], T],
    committed: Callable[[], None],
) -> T:
    """Run the body in the transaction of a session or connection, asynchronous or not, and leave the commit to it.

    ``committed`` is called when a session has committed. A connection has no event after its commit, only one before;
    there it is called when a later look finds the transaction ended. Raises ValidationError for another object, and for
    one of another ``database``.
    """
    loop = asyncio.get_running_loop()

    def look(transaction: RootTransaction | None) -> None:
        if transaction is not None and transaction.is_active:
            loop.call_later(COMMIT_TIME, look, transaction)
        else:
            committed()

    def later(target: weakref.ref[Connection]) -> None:  # from any thread, and perhaps after the end of this loop
        connection = target()
        transaction = None if connection is None else connection.get_transaction()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(loop.call_later, COMMIT_TIME, look, transaction)

    def run(target: Session | Connection) -> T:
        connection = target.connection() if isinstance(target, Session) else target
        _check_same(connection, database.url, dialect)
        try:
            with named(connection, database.names):
                answer = body(connection)
        except StatementError as error:  # shown without its parameters: they are the params of tasks
            error.hide_parameters, error.params = True, None
            if remedy := hint(error, dialect.codes):
                error.add_note("aiotaskq: " + remedy.removeprefix("; "))
            raise
        # A weak reference: what ``_callbacks`` keeps for a connection must not keep the connection itself.
        _call_at_commit(target, committed if isinstance(target, Session) else partial(later, weakref.ref(target)))
        return answer

    return await _with_target(session, run)


async def at_commit(session: Any, committed: Callable[[], None]) -> None:
    """Call back when the transaction of a session or connection has committed, and not if it is rolled back.

    One is begun where there is none. For a connection the call comes a moment before the commit, since there is no
    event after it. Raises ValidationError for an object that is no SQLAlchemy session or connection.
    """

    def listen(target: Session | Connection) -> None:
        if not target.in_transaction():
            target.begin()  # else a rollback would be no event, and what it undoes would be done by the next commit
        _call_at_commit(target, committed)

    await _with_target(session, listen)


def waiting_for_commit(session: Any) -> list[Callable[[], None]]:
    """Return what ``at_commit`` is going to call when the transaction of a session or connection commits."""
    session = _unscoped(session)
    target = getattr(session, "sync_session", None) or getattr(session, "sync_connection", None) or session
    return list(_callbacks.get(target, ())) if isinstance(target, Session | Connection) else []


def _unscoped(session: Any) -> Any:
    return session() if isinstance(session, async_scoped_session | scoped_session) else session


async def _with_target(session: Any, act: Callable[[Session | Connection], T]) -> T:
    """Call a function with the synchronous session or connection that is under an asynchronous or scoped one."""
    session = _unscoped(session)
    if isinstance(session, AsyncSession | AsyncConnection):
        return await session.run_sync(act)
    # A synchronous one waits in a thread: its database may be locked by a transaction of ours, which needs the loop.
    if isinstance(session, Session | Connection):
        return await asyncio.to_thread(act, session)
    raise ValidationError(
        "session: a SQLAlchemy AsyncSession, AsyncConnection, Session or Connection is needed "
        f"(got {type(session).__name__})"
    )


_callbacks: weakref.WeakKeyDictionary[Any, list[Callable[[], None]]] = weakref.WeakKeyDictionary()
"""To be called when these sessions and connections commit. A listener cannot be removed while it runs."""


def _call_at_commit(target: Session | Connection, committed: Callable[[], None]) -> None:
    if target not in _callbacks:
        _callbacks[target] = []
        if isinstance(target, Session):
            # Both events are sent for savepoints, too: only the end of the whole transaction counts.
            event.listen(target, "after_commit", lambda inner: None if inner.in_nested_transaction() else _call(inner))
            event.listen(target, "after_soft_rollback", lambda inner, ended: ended.parent is None and _taken(inner))
        else:
            event.listen(target, "commit", _call)
            event.listen(target, "rollback", _taken)
    _callbacks[target].append(committed)


def _call(target: Session | Connection) -> None:
    for callback in _taken(target):
        callback()


def _taken(target: Session | Connection) -> list[Callable[[], None]]:
    callbacks = _callbacks.get(target, [])
    taken, callbacks[:] = list(callbacks), []
    return taken


def _check_same(connection: Connection, ours: URL, dialect: Dialect) -> None:
    """Refuse another database, as far as the two URLs tell: a pooler may stand at another address."""
    theirs = connection.engine.url
    known = SQL.get(theirs.get_backend_name()) == SQL[ours.get_backend_name()]
    if not (known and dialect.same_database(theirs, ours)):
        raise ValidationError(
            f"session: it is connected to {_shown(theirs)}, and the tasks are in {_shown(ours)}: one transaction "
            "cannot span both; use a session of that database, or push after the commit"
        )


def _shown(url: URL) -> str:
    return url.set(query={}).render_as_string(hide_password=True)

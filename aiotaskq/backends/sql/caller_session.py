"""Runs a transaction body in the caller's own SQLAlchemy transaction: what it writes exists when that commits."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from aiotaskq.backends.sql.dialects.base import Dialect
from aiotaskq.backends.sql.error_codes import hint
from aiotaskq.backends.url import SQL
from aiotaskq.errors import ValidationError

T = TypeVar("T")
COMMIT_TIME = 0.05
"""Seconds that a COMMIT usually takes. A listener that gets the hint too early finds the task by polling."""
Body = Callable[[Connection], T]
_NEEDED = "session: a SQLAlchemy AsyncSession, AsyncConnection, Session or Connection is needed (got {})"


async def run_in(
    session: Any, url: URL, dialect: Dialect, body: Body[T], committed: Callable[[], None] | None = None
) -> T:
    """Run the body in the transaction of a session or connection, asynchronous or not, and leave the commit to it.

    ``committed`` is called when a session has committed. A connection has no event after its commit, only one before;
    there it is called a moment after that. Raises ValidationError for another object, and for one of another database
    than ``url``.
    """
    if isinstance(session, async_scoped_session | scoped_session):
        session = session()
    if committed is not None and isinstance(session, AsyncConnection | Connection):
        committed = _delayed(committed)
    if isinstance(session, AsyncSession | AsyncConnection):
        return await session.run_sync(lambda inner: _run(inner, url, dialect, body, committed))
    # A synchronous one waits in a thread: its database may be locked by a transaction of ours, which needs the loop.
    if isinstance(session, Session | Connection):
        return await asyncio.to_thread(_run, session, url, dialect, body, committed)
    raise ValidationError(_NEEDED.format(type(session).__name__))


async def at_commit(session: Any, committed: Callable[[], None]) -> None:
    """Call back when the transaction of a session or connection has committed, and not if it is rolled back.

    One is begun where there is none. For a connection the call comes a moment before the commit, since there is no
    event after it. Raises ValidationError for an object that is no SQLAlchemy session or connection.
    """
    if isinstance(session, AsyncConnection):
        await session.run_sync(_begin)
    target = _synchronous(session)
    if target is None:
        raise ValidationError(_NEEDED.format(type(session).__name__))
    _begin(target)  # else a rollback would be no event, and what it undoes would be done by the next commit
    _call_at_commit(target, committed)


def waiting_for_commit(session: Any) -> list[Callable[[], None]]:
    """Return what ``at_commit`` is going to call when the transaction of a session or connection commits."""
    target = _synchronous(session)
    return [] if target is None else list(_callbacks.get(target, ()))


def _synchronous(session: Any) -> Session | Connection | None:
    """Return the session or connection under an asynchronous or scoped one; None for another object."""
    if isinstance(session, async_scoped_session | scoped_session):
        session = session()
    if isinstance(session, AsyncSession):
        session = session.sync_session
    if isinstance(session, AsyncConnection):
        session = session.sync_connection
    return session if isinstance(session, Session | Connection) else None


def _begin(target: Session | Connection) -> None:
    if not target.in_transaction():
        target.begin()


def _run(
    target: Session | Connection, url: URL, dialect: Dialect, body: Body[T], committed: Callable[[], None] | None
) -> T:
    connection = target.connection() if isinstance(target, Session) else target
    _check_same(connection, url, dialect)
    answer = _hiding_parameters(body, connection, dialect)
    if committed is not None:
        _call_at_commit(target, committed)
    return answer


def _hiding_parameters(body: Body[T], connection: Connection, dialect: Dialect) -> T:
    """Run the body. An error of the database shows no parameters: they are the params of tasks."""
    try:
        return body(connection)
    except StatementError as error:
        error.hide_parameters, error.params = True, None
        if remedy := hint(error, dialect.codes):
            error.add_note("aiotaskq: " + remedy.removeprefix("; "))
        raise


def _call_at_commit(target: Session | Connection, committed: Callable[[], None]) -> None:
    if isinstance(target, Session):
        # Both events are sent for savepoints, too: only the end of the whole transaction counts.
        _listen(
            target,
            ("after_commit", lambda inner: not inner.in_nested_transaction()),
            ("after_soft_rollback", lambda _inner, ended: ended.parent is None),
        )
    else:
        _listen(target, ("commit", lambda _inner: True), ("rollback", lambda _inner: True))
    _callbacks[target].append(committed)


_callbacks: weakref.WeakKeyDictionary[Any, list[Callable[[], None]]] = weakref.WeakKeyDictionary()
"""To be called when these sessions and connections commit. A listener cannot be removed while it runs."""


def _listen(target: Any, commit: tuple[str, Callable[..., bool]], rollback: tuple[str, Callable[..., bool]]) -> None:
    """Call the callbacks after a commit, and forget them after a rollback."""
    if target in _callbacks:
        return
    _callbacks[target] = []

    def on_commit(inner: Any, *rest: Any) -> None:
        if commit[1](inner, *rest):
            for callback in _taken(inner):
                callback()

    def on_rollback(inner: Any, *rest: Any) -> None:
        if rollback[1](inner, *rest):
            _taken(inner)

    event.listen(target, commit[0], on_commit)
    event.listen(target, rollback[0], on_rollback)


def _delayed(committed: Callable[[], None]) -> Callable[[], None]:
    loop = asyncio.get_running_loop()

    def call() -> None:  # from any thread, and perhaps after the end of this loop
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(loop.call_later, COMMIT_TIME, committed)

    return call


def _taken(target: Any) -> list[Callable[[], None]]:
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

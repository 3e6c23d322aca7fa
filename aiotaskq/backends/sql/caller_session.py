"""Runs a verb's body in the caller's own SQLAlchemy transaction: what it writes exists exactly when that commits."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from aiotaskq.backends.sql.statement_watch import hint
from aiotaskq.errors import ValidationError

T = TypeVar("T")
SOON = 0.05  # seconds that a COMMIT usually takes; whom the hint reaches too early finds the task by polling
Body = Callable[[Connection], T]
NEEDED = "session: a SQLAlchemy AsyncSession, AsyncConnection, Session or Connection is needed (got {})"


async def run_in(session: Any, url: URL, body: Body[T], committed: Callable[[], None] | None = None) -> T:
    """Run the body in the transaction of a session or connection, asynchronous or not, and leave the commit to it.

    ``committed`` is called when a session has committed; for a connection, which tells only that it is about to, a
    moment after that. Raises ValidationError for what is no such object, and for one of another database than ``url``.
    """
    if isinstance(session, async_scoped_session | scoped_session):
        session = session()
    if isinstance(session, AsyncSession):
        return await session.run_sync(lambda inner: _in_session(inner, url, body, committed))
    told = None if committed is None else _a_little_later(committed)
    if isinstance(session, AsyncConnection):
        return await session.run_sync(lambda inner: _in_connection(inner, url, body, told))
    # A synchronous one waits in a thread: its database may be locked by a transaction of ours, which needs the loop.
    if isinstance(session, Session):
        return await asyncio.to_thread(_in_session, session, url, body, committed)
    if isinstance(session, Connection):
        return await asyncio.to_thread(_in_connection, session, url, body, told)
    raise ValidationError(NEEDED.format(type(session).__name__))


async def at_commit(session: Any, committed: Callable[[], None]) -> None:
    """Call back when the transaction of a session or connection has committed, and not if it is rolled back.

    One is begun where there is none. For a connection, which tells only that it is about to commit, the call comes a
    moment before. Raises ValidationError for what is no SQLAlchemy session or connection.
    """
    if isinstance(session, async_scoped_session | scoped_session):
        session = session()
    if isinstance(session, AsyncSession):
        session = session.sync_session
    if isinstance(session, AsyncConnection):
        await session.run_sync(_begin)
        session = session.sync_connection
    if isinstance(session, Session):
        _after_session(session, committed)
    elif isinstance(session, Connection):
        _begin(session)
        _after_connection(session, committed)
    else:
        raise ValidationError(NEEDED.format(type(session).__name__))


def _begin(connection: Connection) -> None:
    if not connection.in_transaction():
        connection.begin()


def _in_session(session: Session, url: URL, body: Body[T], committed: Callable[[], None] | None) -> T:
    connection = session.connection()
    _check_same(connection, url)
    answer = _discreetly(body, connection)
    if committed is not None:
        _after_session(session, committed)
    return answer


def _discreetly(body: Body[T], connection: Connection) -> T:
    """Run the body; an error of the database shows no values, which are the params of tasks, in a traceback or log."""
    try:
        return body(connection)
    except StatementError as error:
        error.hide_parameters, error.params = True, None
        if remedy := hint(error):
            error.add_note("aiotaskq: " + remedy.removeprefix("; "))
        raise


def _after_session(session: Session, committed: Callable[[], None]) -> None:
    # Both come for savepoints, too: only the end of the whole transaction counts.
    _after(
        session,
        ("after_commit", lambda inner: not inner.in_nested_transaction()),
        ("after_soft_rollback", lambda _inner, ended: ended.parent is None),
        committed,
    )


def _in_connection(connection: Connection, url: URL, body: Body[T], committed: Callable[[], None] | None) -> T:
    _check_same(connection, url)
    answer = _discreetly(body, connection)
    if committed is not None:
        _after_connection(connection, committed)
    return answer


def _after_connection(connection: Connection, committed: Callable[[], None]) -> None:
    _after(connection, ("commit", lambda _inner: True), ("rollback", lambda _inner: True), committed)


_waiting: weakref.WeakKeyDictionary[Any, list[Callable[[], None]]] = weakref.WeakKeyDictionary()
"""What is to be called when these sessions and connections commit. A listener cannot be removed while it runs."""


def _after(
    target: Any,
    commit: tuple[str, Callable[..., bool]],
    rollback: tuple[str, Callable[..., bool]],
    committed: Callable[[], None],
) -> None:
    """Call back at the end of the transaction that goes well; after one that does not, nothing is left of it."""
    if target not in _waiting:
        _waiting[target] = []

        def on_commit(inner: Any, *rest: Any) -> None:
            if commit[1](inner, *rest):
                for callback in _taken(inner):
                    callback()

        def on_rollback(inner: Any, *rest: Any) -> None:
            if rollback[1](inner, *rest):
                _taken(inner)

        event.listen(target, commit[0], on_commit)
        event.listen(target, rollback[0], on_rollback)
    _waiting[target].append(committed)


def _a_little_later(committed: Callable[[], None]) -> Callable[[], None]:
    loop = asyncio.get_running_loop()

    def told() -> None:  # from any thread, and perhaps after the end of this loop
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(loop.call_later, SOON, committed)

    return told


def _taken(target: Any) -> list[Callable[[], None]]:
    callbacks = _waiting.get(target, [])
    taken, callbacks[:] = list(callbacks), []
    return taken


def _check_same(connection: Connection, url: URL) -> None:
    """Refuse another database, as far as the two URLs tell: a pooler may stand at another address."""
    theirs, ours = connection.engine.url, url
    same = theirs.get_backend_name().replace("mariadb", "mysql") == ours.get_backend_name()
    if same and ours.get_backend_name() == "sqlite":
        same = _file(theirs) == _file(ours)
    elif same:
        same = (theirs.database or ours.database) == ours.database
    if not same:
        raise ValidationError(
            f"session: it is connected to {_shown(theirs)}, and the tasks are in {_shown(ours)}: one transaction "
            "cannot span both; use a session of that database, or push after the commit"
        )


def _file(url: URL) -> Path:
    return Path((url.database or "").removeprefix("file:").partition("?")[0]).resolve()


def _shown(url: URL) -> str:
    return url.set(query={}).render_as_string(hide_password=True)

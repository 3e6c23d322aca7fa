"""The documented ``engine``, ``SessionLocal`` and ``get_db``: plain SQLAlchemy on the process's database."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from aiotaskq.database import sync_engine, sync_session_factory
from aiotaskq.models import Base

_lock = threading.Lock()
_made: list[tuple[Engine, sessionmaker[Session]]] = []
_inherited: list[object] = []


def _default() -> tuple[Engine, sessionmaker[Session]]:
    with _lock:
        if not _made:
            from aiotaskq.settings import Settings

            engine = sync_engine(Settings().database_url)
            atexit.register(engine.dispose)
            _made.append((engine, sync_session_factory(engine)))
        return _made[0]


def get_db() -> Iterator[Session]:
    """Yield a ``Session`` and close it afterwards: a dependency for FastAPI, as the old ``get_db`` was."""
    with _default()[1]() as session:
        yield session


def by_name(name: str) -> Any:
    """Return what the documented name stands for, the same each time; ``engine`` and ``SessionLocal`` are made now."""
    if name in _PLAIN:
        return _PLAIN[name]
    return dict(zip(("engine", "SessionLocal"), _default(), strict=True))[name]


_PLAIN = {"Base": Base, "get_db": get_db}


def _forked() -> None:
    global _lock
    _lock = threading.Lock()
    for engine, _ in _made:
        # The engine stays, since other modules have it by name; its connections are the parent's, not to be closed.
        _inherited.append(engine.pool)
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

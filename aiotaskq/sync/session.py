"""The documented ``engine``, ``SessionLocal`` and ``get_db``: plain SQLAlchemy on the process's database."""

from __future__ import annotations

import atexit
from collections.abc import Iterator

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from aiotaskq.app.settings import settings
from aiotaskq.backends.sql.engines import LazyEngine, sync_engine
from aiotaskq.models import Base

__all__ = ["Base", "SessionLocal", "engine", "get_db"]


def _make() -> Engine:
    made = sync_engine(settings().database_url)
    atexit.register(engine.dispose)
    return made


engine: Engine = LazyEngine(_make)
SessionLocal = sessionmaker(bind=engine, autoflush=False)


def get_db() -> Iterator[Session]:
    """Yield a ``Session`` and close it afterwards: a dependency for FastAPI, as the old ``get_db`` was."""
    with SessionLocal() as session:
        yield session

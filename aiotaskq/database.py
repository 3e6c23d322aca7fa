"""The transactions on one database, and the documented ``engine``, ``SessionLocal``, ``get_db`` and ``Base``, awaited.

The documented names open the database that ``AIOTASKQ_DATABASE_URL`` names; their blocking twins are in
``aiotaskq.sync``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from aiotaskq.app.settings import settings
from aiotaskq.backends.sql.engines import ASYNC_DRIVERS, async_engine, on_sqlite_connect, parse_url
from aiotaskq.backends.sql.lazy_engine import LazyAsyncEngine
from aiotaskq.models import Base

__all__ = ["Base", "SessionLocal", "engine", "get_db"]


def _make_engine() -> Engine:
    made = async_engine(parse_url(settings().database_url, ASYNC_DRIVERS), pool_pre_ping=True).sync_engine
    if made.dialect.name == "sqlite":
        event.listen(made, "connect", on_sqlite_connect)
    return made


engine: AsyncEngine = LazyAsyncEngine(_make_engine)
SessionLocal = async_sessionmaker(engine, expire_on_commit=False, autoflush=False)


async def get_db() -> AsyncIterator[AsyncSession]:
    """Yield an ``AsyncSession`` and close it afterwards: a dependency for FastAPI, as the old ``get_db`` was."""
    async with SessionLocal() as session:
        yield session


def __getattr__(name: str) -> Any:
    if name == "DATABASE_URL":  # a plain text: whoever asks for it needs it now
        return settings().database_text
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if TYPE_CHECKING:
    DATABASE_URL: str

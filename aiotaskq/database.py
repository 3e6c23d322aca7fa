"""The documented ``engine``, ``SessionLocal``, ``get_db`` and ``Base`` for asyncio.

The documented names open the database that ``AIOTASKQ_DATABASE_URL`` names; their blocking twins are in
``aiotaskq.sync``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from aiotaskq.app.settings import settings
from aiotaskq.backends.sql.engines import LazyAsyncEngine, async_engine, parse_url
from aiotaskq.models import Base

__all__ = ["Base", "SessionLocal", "engine", "get_db"]


def _make_engine() -> Engine:
    return async_engine(parse_url(settings().database_url), pool_pre_ping=True).sync_engine


engine: AsyncEngine = LazyAsyncEngine(_make_engine)
SessionLocal = async_sessionmaker(engine, expire_on_commit=False, autoflush=False)


async def get_db() -> AsyncIterator[AsyncSession]:
    """Yield an ``AsyncSession`` and close it afterwards: a dependency for FastAPI."""
    async with SessionLocal() as session:
        yield session


def __getattr__(name: str) -> Any:
    if name == "DATABASE_URL":  # a plain str: reading it reads the settings
        return settings().database_text
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if TYPE_CHECKING:
    DATABASE_URL: str

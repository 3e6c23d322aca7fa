"""From a URL to a backend, which is imported only then."""

from __future__ import annotations

from aiotaskq.backends.base import Backend
from aiotaskq.errors import ValidationError
from aiotaskq.masking import mask

__all__ = ["REHEARSAL", "connect", "scheme_of"]

REHEARSAL = "memory://rehearsal"
"""The URL of a store in memory that goes by the rules of a durable one: for tests."""

SQL = ("sqlite", "postgresql", "postgres", "mysql", "mariadb")


def scheme_of(url: str) -> str:
    """Return the store a URL names (``sqlite``, ``memory`` …), whatever driver it asks for; raises ValidationError."""
    if not isinstance(url, str) or not url:
        raise ValidationError(f"url: a text such as 'sqlite:///app.db' is needed (got {type(url).__name__})")
    scheme = url.partition(":")[0].partition("+")[0].lower()
    if scheme not in ("memory", "redis", "rediss", "valkey", *SQL) or "://" not in url:
        known = "memory://, sqlite:///file.db, postgresql://, mysql:// or redis://"
        raise ValidationError(f"url: unknown scheme in {mask(url)!r:.100}; use {known}")
    return scheme


def connect(url: str) -> Backend:
    """Return the backend that a URL names; nothing is opened yet.

    Raises ValidationError for an unknown scheme, and MissingExtra when its driver is not installed.
    """
    scheme = scheme_of(url)
    if url == REHEARSAL:
        from aiotaskq.backends.rehearsal import RehearsalBackend

        return RehearsalBackend()
    if scheme == "memory":
        from aiotaskq.backends.memory import MemoryBackend

        return MemoryBackend()
    if scheme in SQL:
        from aiotaskq.backends.sql import SqlBackend

        return SqlBackend(url)
    from aiotaskq.backends.redis import RedisBackend

    return RedisBackend(url)

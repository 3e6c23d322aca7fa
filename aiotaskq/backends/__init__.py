"""From a URL to a backend, which is imported only then."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from aiotaskq.backends.base import Backend
from aiotaskq.backends.url import REHEARSAL, SQL, keep_ended_of, scheme_of

__all__ = ["connect"]

# A new backend is one row here.
BACKENDS = {
    "memory": "aiotaskq.backends.memory.backend:MemoryBackend",
    "rehearsal": "aiotaskq.backends.memory.durable_fake:RehearsalBackend",
    "redis": "aiotaskq.backends.redis.backend:RedisBackend",
    "rediss": "aiotaskq.backends.redis.backend:RedisBackend",
    "valkey": "aiotaskq.backends.redis.backend:RedisBackend",
    **dict.fromkeys(SQL, "aiotaskq.backends.sql.backend:SqlBackend"),
}


def connect(url: str, *, keep_ended: int | None = None) -> Backend:
    """Return the backend that a URL names; nothing is opened yet.

    Raises ValidationError for an unknown scheme, MissingExtra when its driver is not installed, and as
    ``keep_ended_of``.
    """
    scheme, keep = scheme_of(url), keep_ended_of(url, keep_ended)
    rehearsal = url.partition("?")[0] == REHEARSAL
    module, _, name = BACKENDS["rehearsal" if rehearsal else scheme].partition(":")
    kind = getattr(import_module(module), name)
    if rehearsal:
        return cast("Backend", kind())
    return cast("Backend", kind(keep) if scheme == "memory" else kind(url))

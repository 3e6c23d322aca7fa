"""The URLs of stores: the backend for each scheme, and the options in the query."""

from __future__ import annotations

from urllib.parse import parse_qs

from aiotaskq.core.masking import mask
from aiotaskq.core.validation import check_int
from aiotaskq.errors import NotSupported, ValidationError

__all__ = ["BACKENDS", "DURABLE_FAKE", "KEEP_ENDED", "SQL", "keep_ended_of", "kind_of", "scheme_of"]

DURABLE_FAKE = "memory://durable-fake"
"""The URL of a store in memory that behaves as a durable one: for tests."""

KEEP_ENDED = 10_000
"""How many dead letters a store in memory keeps by default, and how many other ended tasks beside them."""

SQL = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
"""The SQL databases: the scheme of a URL, or SQLAlchemy's name of a dialect, and the module in ``sql.dialects``."""


# A new backend is one row here. Its second folder, as ``redis``, is its kind.
BACKENDS = {
    "memory": "aiotaskq.backends.memory.backend:MemoryBackend",
    DURABLE_FAKE: "aiotaskq.backends.memory.durable_fake:DurableFake",
    **dict.fromkeys(SQL, "aiotaskq.backends.sql.backend:SqlBackend"),
    **dict.fromkeys(("redis", "rediss", "valkey"), "aiotaskq.backends.redis.backend:RedisBackend"),
}
"""Module and class of the backend for each scheme."""


def kind_of(url: str) -> str:
    """Return what kind of store a URL names: ``memory``, ``sql`` or ``redis``; raises ValidationError."""
    return BACKENDS[scheme_of(url)].split(".")[2]


def scheme_of(url: str) -> str:
    """Return the scheme of a URL (``sqlite``, ``memory`` …) without the driver; raises ValidationError."""
    if not isinstance(url, str) or not url:
        raise ValidationError(f"url: a text such as 'sqlite:///app.db' is needed (got {type(url).__name__})")
    scheme = url.partition(":")[0].partition("+")[0].lower()
    if scheme not in BACKENDS or "://" not in url:
        known = "memory://, sqlite:///file.db, postgresql://, mysql:// or redis://"
        raise ValidationError(f"url: unknown scheme in {mask(url)!r:.100}; use {known}")
    return scheme


def keep_ended_of(url: str, given: int | None = None) -> int:
    """Return the ``keep_ended`` of a store: ``given``, or the option of its URL, or KEEP_ENDED.

    Raises ValidationError for an invalid value or URL, and NotSupported for a store other than ``memory://``.
    """
    scheme = scheme_of(url)
    place, _, query = url.partition("?")
    options = parse_qs(query, keep_blank_values=True)
    texts = options.pop("keep_ended", None)
    if (given is not None or texts is not None) and (scheme != "memory" or place == DURABLE_FAKE):
        raise NotSupported(
            f"keep_ended: {scheme if scheme != 'memory' else 'the durable fake'} cannot bound ended tasks by their "
            "number, only memory:// can; use retention and retention_failed"
        )
    if scheme != "memory":
        return KEEP_ENDED
    for name in options:
        raise ValidationError(f"url: the option {name[:40]!r} is unknown; for memory there is keep_ended")
    if given is not None and texts is not None:
        raise ValidationError("keep_ended: it is in the URL, too; give it in one place")
    if texts is None:
        return KEEP_ENDED if given is None else check_int("keep_ended", given, 1)
    try:
        value: object = int(texts[-1])
    except ValueError:
        value = texts[-1]
    return check_int("url: keep_ended", value, 1)

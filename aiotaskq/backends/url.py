"""The URLs of stores: the backend for each scheme, and the options in the query."""

from __future__ import annotations

import re
from urllib.parse import parse_qs

import msgspec

from aiotaskq.core.errors import check_int
from aiotaskq.core.masking import mask
from aiotaskq.errors import NotSupported, ValidationError

DURABLE_FAKE = "memory://durable-fake"
"""The URL of a store in memory that behaves as a durable one: for tests."""

OBJECTS = "memory://?objects=any"
"""The URL of a store in memory whose params and results may be any Python objects."""

RENDERED = "engine.url.render_as_string(hide_password=False)"
"""The URL of an engine of SQLAlchemy with its password; ``str(engine.url)`` hides it."""

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


# A new backend is one row here.
BACKENDS = {
    "memory": "aiotaskq.backends.memory.backend:MemoryBackend",
    DURABLE_FAKE: "aiotaskq.testing.durable_fake:DurableFake",
    **dict.fromkeys(SQL, "aiotaskq.backends.sql.backend:SqlBackend"),
    **dict.fromkeys(("redis", "rediss", "valkey"), "aiotaskq.backends.redis.backend:RedisBackend"),
}
"""Module and class of the backend for each scheme."""


def is_shared(url: str) -> bool:
    """Return whether other processes reach the store that a URL names; raises ValidationError."""
    return scheme_of(url) != "memory"


def has_tables(url: str) -> bool:
    """Return whether a URL names a SQL database, whose transactions a push may join; raises ValidationError."""
    return scheme_of(url) in SQL


def is_lost_at_close(url: str) -> bool:
    """Return whether a URL names a database of SQLite in memory, which is lost with its connection."""
    return scheme_of(url) == "sqlite" and url.partition("://")[2].partition("?")[0].strip("/") in ("", ":memory:")


def scheme_of(url: str) -> str:
    """Return the scheme of a URL (``sqlite``, ``memory`` …) without the driver; raises ValidationError."""
    if not isinstance(url, str) or not url:
        got = "an empty one" if url == "" else type(url).__name__
        if hasattr(url, "render_as_string") or hasattr(url, "url"):  # SQLAlchemy's URL or engine
            raise ValidationError(f"url: a text is needed (got {got}); write {RENDERED}")
        raise ValidationError(f"url: a text such as 'sqlite:///app.db' is needed (got {got})")
    if ":***@" in url:
        raise ValidationError(f"url: *** stands for a hidden password; write the password, or {RENDERED}")
    scheme = url.partition(":")[0].partition("+")[0].lower()
    if scheme in BACKENDS and "://" not in url:
        shown = "sqlite:///file.db" if scheme == "sqlite" else f"{scheme}://"
        raise ValidationError(f"url: {mask(url)!r:.100} has no // after its scheme; write {shown}")
    if scheme not in BACKENDS:
        known = "memory://, sqlite:///file.db, postgresql://, mysql:// or redis://"
        raise ValidationError(f"url: unknown scheme in {mask(url)!r:.100}; use {known}")
    return scheme


TABLE_NAMES = ("schema", "table_prefix")
"""The options of a URL that name the tables, of which each kind of SQL database has one."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,29}")


def with_table_names(url: str, **given: str | None) -> str:
    """Return a URL with those of ``TABLE_NAMES`` that are given beside it among its options.

    Raises ValidationError for one that is no name, or is in the URL, too; and NotSupported for one that the store of
    the URL does not have.
    """
    scheme = scheme_of(url)
    options = parse_qs(url.partition("?")[2], keep_blank_values=True)
    for option in TABLE_NAMES:
        name = given.get(option)
        if name is not None and option in options:
            raise ValidationError(f"{option}: it is in the URL, too; give it in one place")
        value = options[option][-1] if option in options else name
        if value is None:
            continue
        kind = SQL.get(scheme)
        if scheme == "memory":
            raise NotSupported(f"{option}: memory:// shares nothing between two TaskQ, and has no tables")
        if kind is None:
            raise NotSupported(f"{option}: {scheme}:// has no tables; write ?prefix=… in the URL")
        if (option == "schema") != (kind == "postgresql"):
            own = "schema" if kind == "postgresql" else "table_prefix"
            raise NotSupported(f"{option}: it is not for {scheme}://; use {own}")
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise ValidationError(
                f"{option}: a letter or '_' and then letters, digits and '_' are needed, at most 30 characters "
                f"(got {value!r:.40})"
            )
        if name is not None:
            url += f"{'&' if '?' in url else '?'}{option}={name}"
    return url


class MemoryOptions(msgspec.Struct, frozen=True):
    """The options of a store in memory."""

    keep_ended: int = KEEP_ENDED
    """How many ended tasks are kept, and how many dead letters beside them."""
    objects: bool = False
    """Whether params and results may be any Python objects (``?objects=any``)."""


def memory_options(url: str, keep_ended: int | None = None) -> MemoryOptions:
    """Return the options in the URL of a store in memory; the defaults for another store.

    Raises ValidationError for an invalid value or URL, and NotSupported for ``keep_ended`` of another store.
    """
    scheme = scheme_of(url)
    place, _, query = url.partition("?")
    options = parse_qs(query, keep_blank_values=True)
    texts = options.pop("keep_ended", None)
    if (keep_ended is not None or texts is not None) and (scheme != "memory" or place == DURABLE_FAKE):
        raise NotSupported(
            f"keep_ended: {scheme if scheme != 'memory' else 'the durable fake'} cannot bound ended tasks by their "
            "number, only memory:// can; use retention and retention_failed"
        )
    if scheme != "memory":
        return MemoryOptions()
    objects = options.pop("objects", None)
    if objects not in (None, ["any"]):
        raise ValidationError("url: objects can only be 'any', as in memory://?objects=any")
    if objects is not None and place == DURABLE_FAKE:
        raise NotSupported("objects: the durable fake holds JSON values, as a database does; only memory:// has others")
    for name in options:
        raise ValidationError(f"url: the option {name[:40]!r} is unknown; for memory there are keep_ended and objects")
    if keep_ended is not None and texts is not None:
        raise ValidationError("keep_ended: it is in the URL, too; give it in one place")
    if texts is None:
        kept = KEEP_ENDED if keep_ended is None else check_int("keep_ended", keep_ended, 1)
    else:
        kept = check_int("url: keep_ended", int(texts[-1]) if texts[-1].isdecimal() else texts[-1], 1)
    return MemoryOptions(kept, objects is not None)

"""From a database URL to an engine: which driver, what its options mean to it, and what each new connection is told."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import URL, Engine, create_engine, event, exc, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from aiotaskq.backends.sql.sqlite_file import WAL_LIMIT
from aiotaskq.backends.url import scheme_of
from aiotaskq.core.extras import missing
from aiotaskq.core.masking import mask
from aiotaskq.errors import DatabaseUnavailable, ValidationError

__all__ = [
    "ASYNC_DRIVERS",
    "SYNC_DRIVERS",
    "async_engine",
    "connect_postgresql",
    "parse_url",
    "pool_options",
    "sqlite_engine",
    "sync_engine",
    "sync_session_factory",
]

T = TypeVar("T")

ASYNC_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "asyncmy"}
SYNC_DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg", "mysql": "pymysql"}
EXTRAS = {"asyncmy": "mysql", "pymysql": "mysql", "psycopg": "postgres"}
BUSY_TIMEOUT = 30.0  # seconds that SQLite waits for another process's transaction
CONNECT_TIMEOUT = 3.0  # seconds until a server must have let us in
DRIVERS_PATIENCE = 60.0  # seconds after which a driver gives up by itself, that is, never before we do
STALLED = 0.5  # seconds by which a timer of a loop that was not held up is never late
LOCK_TIMEOUT = 5  # seconds that MySQL waits for a row lock; its own 50 are more than a caller waits for an answer

# ---- options in the URL ----------------------------------------------------------------------------------------------

# What our drivers know, and what others are told in a URL that is meant for them, under their names.
OPTIONS = {
    "sqlite": None,  # all: they are SQLite's own
    "postgresql": {
        *("host", "port", "user", "password", "passfile", "service", "application_name", "options", "krbsrvname"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "target_session_attrs"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "pooler"),
    },
    "mysql": {
        *("unix_socket", "ssl_mode", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher", "ssl_check_hostname"),
    },
}
SAME = {
    "postgresql": {"ssl": "sslmode"},
    "mysql": {"ssl-mode": "ssl_mode", "sslmode": "ssl_mode", "sslMode": "ssl_mode", "ssl": "ssl_mode"},
}
# How aiotaskq talks to the server is its own affair: these are left out.
OURS = {
    "postgresql": {
        *("connect_timeout", "command_timeout", "client_encoding", "tcp_user_timeout", "async_fallback"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("statement_cache_size", "prepared_statement_cache_size", "notify"),
    },
    "mysql": {
        *("charset", "collation", "use_unicode", "binary_prefix", "autocommit", "sql_mode"),
        *("connect_timeout", "read_timeout", "write_timeout"),
    },
}
TRUTH = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
# SQLAlchemy's, for its pool: connections kept, connections beyond those, seconds until one is replaced. Smallest value.
POOL = {"pool_size": 0, "max_overflow": -1, "pool_recycle": -1}


def parse_url(url: str, drivers: Mapping[str, str]) -> URL:
    """Return the URL with the driver of ours for its database, whatever driver it names; raises ValidationError."""
    scheme = scheme_of(url)
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise ValidationError(f"url: cannot be parsed (got {mask(url)})") from None
    database = {"postgres": "postgresql", "mariadb": "mysql"}.get(scheme, scheme)
    if database not in drivers:
        raise ValidationError(f"url: {scheme} is no SQL database; use sqlite:///, postgresql:// or mysql://")
    if database == "sqlite" and parsed.host:
        raise ValidationError(
            f"url: {mask(url)} names a host; write a file after three slashes, as in sqlite:///app.db"
        )
    place = parsed.database or ":memory:"
    if database == "sqlite" and (place.endswith(":memory:") or parsed.query.get("mode") == "memory"):
        raise ValidationError("url: an in-memory SQLite database is lost with its connection; use memory:// or a file")
    return parsed.set(drivername=f"{database}+{drivers[database]}", query=_query(database, parsed.query))


def pool_options(url: URL) -> tuple[URL, dict[str, int]]:
    """Take the options of the pool out of a parsed URL, since no driver knows them."""
    found = {name: int(str(value)) for name, value in url.query.items() if name in POOL}
    return url.difference_update_query(found), found


def _check_pool(name: str, value: object) -> None:
    try:
        number = int(str(value))
    except ValueError:
        number = POOL[name] - 1
    if not POOL[name] <= number <= 1_000_000:
        raise ValidationError(f"url: {name} is a whole number of at least {POOL[name]} (got {str(value)[:40]!r})")


def _query(database: str, given: Mapping[str, Any]) -> dict[str, Any]:
    known = OPTIONS[database]
    query: dict[str, Any] = {}
    for name, value in given.items():
        if name in POOL:
            _check_pool(name, value)
        if known is None or name in POOL:
            query[name] = value
            continue
        option = SAME[database].get(name, name)
        if option in known:
            query[option] = TRUTH.get(str(value).lower(), value) if name == "ssl" else value
        elif option not in OURS[database]:
            names = ", ".join([*sorted(known), *POOL])
            raise ValidationError(f"url: the option {name[:40]!r} is unknown; for {database} there are {names}")
    if query.get("pooler", "transaction") != "transaction":
        raise ValidationError(f"url: pooler can only be 'transaction' (got {str(query['pooler'])[:40]!r})")
    return query


def _tls(url: URL) -> tuple[URL, ssl.SSLContext | None]:
    """Take the TLS options out of a MySQL URL, since neither of its drivers knows the modes of MySQL's own clients."""
    options = {name: str(value) for name, value in url.query.items() if name.startswith("ssl_")}
    url = url.difference_update_query(options)
    mode = options.get("ssl_mode", "").upper().replace("-", "_")
    authority = options.get("ssl_ca"), options.get("ssl_capath")
    if mode not in ("", "DISABLE", "DISABLED", "PREFERRED", "REQUIRE", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"):
        raise ValidationError(f"url: ssl_mode is DISABLED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY (got {mode[:40]!r})")
    if not options or mode in ("DISABLE", "DISABLED", "PREFERRED"):
        return url, None
    try:
        context = ssl.create_default_context(cafile=authority[0], capath=authority[1])
        verify = mode.startswith("VERIFY") or (not mode and any(authority))
        named = options.get("ssl_check_hostname", "true").lower() not in ("false", "0", "no")
        context.check_hostname = verify and mode != "VERIFY_CA" and named
        context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
        if "ssl_cert" in options:
            context.load_cert_chain(options["ssl_cert"], options.get("ssl_key"))
        if "ssl_cipher" in options:
            context.set_ciphers(options["ssl_cipher"])
    except OSError as error:  # ssl.SSLError is one
        raise ValidationError(f"url: the TLS options cannot be used: {error}") from None
    return url, context


# ---- engines ---------------------------------------------------------------------------------------------------------


def _create(factory: Callable[..., T], url: URL, **options: Any) -> T:
    try:
        return factory(url, **{"hide_parameters": True, **options})  # errors are logged, params never
    except ImportError as error:  # psycopg without its C library names no module
        name = url.get_driver_name() if error.name is None else error.name.partition(".")[0]
        if name not in EXTRAS:
            raise
        raise missing(name, EXTRAS[name]) from None


def sync_engine(url: str, **options: Any) -> Engine:
    """Return a plain synchronous engine on the database, for code that is not asynchronous.

    ``pool_size``, ``max_overflow`` and ``pool_recycle`` in the URL's query are its pool's. Raises MissingExtra.
    """
    parsed, pool = pool_options(parse_url(url, SYNC_DRIVERS))
    options = {**options, **pool}
    database = parsed.get_backend_name()
    if database == "sqlite":
        made = sqlite_engine(parsed, **options)
        event.listen(made, "connect", on_sqlite_connect)
        return made
    else:
        connect: dict[str, Any] = {"connect_timeout": int(CONNECT_TIMEOUT)}
        if database == "postgresql" and "pooler" in parsed.query:
            parsed = parsed.difference_update_query(["pooler"])
            connect["prepare_threshold"] = None
        elif database == "mysql":
            parsed, context = _tls(parsed)
            connect |= {"charset": "utf8mb4", "init_command": _MYSQL_SESSION, **({"ssl": context} if context else {})}
        # A connection that a restarted server has forgotten must not surface in code that does not retry.
        options = {"pool_pre_ping": True, "isolation_level": "READ COMMITTED", "connect_args": connect, **options}
    return _create(create_engine, parsed, **options)


def sqlite_engine(url: URL, **options: Any) -> Engine:
    """Return a plain engine on a SQLite file, made its owner's if it is new; its connections are told nothing yet."""
    prepare_sqlite(url)
    return _create(create_engine, url.set(drivername=f"sqlite+{SYNC_DRIVERS['sqlite']}"), **options)


def sync_session_factory(engine: Engine) -> sessionmaker[Session]:
    """Return the documented ``SessionLocal`` for an engine."""
    return sessionmaker(bind=engine, autoflush=False)


def async_engine(url: URL, connected: Callable[[Any], None] | None = None, **options: Any) -> AsyncEngine:
    """Return an asynchronous engine for a parsed URL. Raises MissingExtra.

    With ``connected``, which is told each connection of a server's driver, it is one for aiotaskq's own statements.
    Options of the pool in the URL's query win over ``options``.
    """
    url, pool = pool_options(url)
    options = {**options, **pool}
    database = url.get_backend_name()
    if database == "sqlite":
        prepare_sqlite(url)
        quiet_aiosqlite()
        return _create(create_async_engine, url, **options)
    connect: dict[str, Any]
    if database == "postgresql":
        # Prepared statements halve the time of a verb. Behind a pooler the next transaction is on another connection,
        # so there they get no name and are not kept.
        pooled = "pooler" in url.query
        url = url.difference_update_query(["pooler"])
        place = url.set(drivername="postgresql").render_as_string(hide_password=False)

        async def open_one(**_options: Any) -> Any:
            driver = await connect_postgresql(place, keep=not pooled)
            if connected is not None and not pooled:
                # A prepared plan from when the table was small scans all of it until the statistics are renewed, so
                # scans are disabled: each of our statements has an index. Before PostgreSQL 18 a scan that is used all
                # the same, such as that of the paused queues, adds 1e10 to the plan's cost, and JIT compiles the plan.
                await driver.execute("SET enable_seqscan = off; SET jit = off")
            return driver

        connect = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str} if pooled else {}
    else:
        url, context = _tls(url)
        open_one = _connect_mysql
        connect = {"charset": "utf8mb4", "init_command": _MYSQL_SESSION, "connect_timeout": DRIVERS_PATIENCE}
        connect |= {"ssl": context} if context else {}

    async def creator(**arguments: Any) -> Any:
        driver = await in_time(open_one(**arguments))
        _keep_alive(driver)
        if connected is not None:
            connected(driver)
        return driver

    connect["async_creator_fn"] = creator
    made = _create(create_async_engine, url, isolation_level="READ COMMITTED", connect_args=connect, **options)
    if database == "postgresql" and connected is not None:
        # They cost each new connection two round trips outside a transaction; no column of ours is JSON to PostgreSQL.
        for name in ("setup_asyncpg_json_codec", "setup_asyncpg_jsonb_codec"):
            setattr(made.dialect, name, _nothing)
    return made


def quiet_aiosqlite() -> None:
    """Keep aiosqlite from logging each statement with its values at DEBUG: params are logged nowhere.

    An application that wants these lines sets the level of the logger ``aiosqlite``; SQLAlchemy's loggers work so, too.
    """
    if (driver_log := logging.getLogger("aiosqlite")).level == logging.NOTSET:
        driver_log.setLevel(logging.INFO)


async def _nothing(_connection: object) -> None:
    pass


# ---- new connections -------------------------------------------------------------------------------------------------

# Whatever the server has: a text that is too long must be refused, not cut. MariaDB's own setting, on since 11.6.2
# (MDEV-35124), makes a locking read fail with 1020 for a row that another transaction has changed since the statement
# began. Ours lock what is there now and check it by its fence, as on every other MySQL; with eight busy claimers on one
# index it refused twenty tries in a row.
_MYSQL_SESSION = (
    f"SET SESSION innodb_lock_wait_timeout = {LOCK_TIMEOUT}, "
    "sql_mode = CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'STRICT_TRANS_TABLES')"
    " /*M!110602 , innodb_snapshot_isolation = OFF */"
)


async def connect_postgresql(place: str, *, keep: bool = True) -> Any:
    """Return an asyncpg connection of its own, for a ``postgresql://`` URL as libpq would take it. Raises OSError.

    Without ``keep``, prepared statements are not kept from one call to the next.
    """
    import asyncpg

    return await asyncpg.connect(place, timeout=DRIVERS_PATIENCE, **({} if keep else {"statement_cache_size": 0}))


async def _connect_mysql(**options: Any) -> Any:
    import asyncmy

    return await asyncmy.connect(**options)


class SecondLook:
    """A timer over an answer that is awaited. It rings at the second look, or a later one if that is late: a loop that
    stood still has yet to read what came meanwhile.
    """

    __slots__ = ("_loop", "_ring", "_timer")

    def __init__(self, seconds: float, ring: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        self._ring = ring
        self._loop = loop
        self._set(seconds, again=True)

    def _set(self, seconds: float, again: bool) -> None:
        self._timer = self._loop.call_later(seconds, self._look, self._loop.time() + seconds, again)

    def _look(self, due: float, again: bool) -> None:
        if again or self._loop.time() > due + STALLED:
            self._set(STALLED, again=False)
        else:
            self._ring()

    def cancel(self) -> None:
        """Ring no more; idempotent."""
        self._timer.cancel()


async def in_time(connecting: Awaitable[T]) -> T:
    """Give up after CONNECT_TIMEOUT, at the second look. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    look = SecondLook(CONNECT_TIMEOUT, lambda: limit.reschedule(loop.time()), loop)
    try:
        async with asyncio.timeout(None) as limit:
            return await connecting
    except TimeoutError:
        raise TimeoutError(f"no connection within {CONNECT_TIMEOUT:.0f} s") from None
    finally:
        look.cancel()


def _keep_alive(driver: Any) -> None:
    """Let the system probe idle connections, so that what lies between does not forget them."""
    wire = driver._transport.get_extra_info("socket")
    if wire.family in (socket.AF_INET, socket.AF_INET6):
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):  # not on every system
                wire.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def prepare_sqlite(url: URL) -> None:
    """Make the file readable by its owner only, before SQLite would make it with the process's umask."""
    path = str(url.database)
    if path.startswith("file:"):
        return
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass  # and not opened: closing it would drop the locks that this process has on it (POSIX), and SQLite's trust
    except OSError as error:
        raise DatabaseUnavailable(
            f"cannot open sqlite:///{path}: {error.strerror}; check the folder and its rights"
        ) from None


def on_sqlite_connect(connection: Any, _record: object) -> None:
    """Make a SQLite connection durable and patient, and bound what it leaves of the write-ahead log."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
    cursor.execute("PRAGMA synchronous = FULL")
    # The log grows while a reader keeps a snapshot. The first commit after that reader's end that can use it from the
    # beginning cuts it.
    cursor.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    cursor.close()


def lenient_text(stored: bytes) -> str:
    """Return a text of SQLite's. Another program may have written one that is not UTF-8; it hides no other row.

    It is called for each text of each row; a partial of ``str`` is slower.
    """
    return stored.decode("utf-8", "backslashreplace")

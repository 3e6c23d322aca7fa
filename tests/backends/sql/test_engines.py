"""URLs in the forms of other software, and the engines of each database, asynchronous and synchronous."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Integer, bindparam, event, select, text
from sqlalchemy.orm import sessionmaker
from sqlalchemy.sql.elements import CompilerElement

from aiotaskq.backends import connect
from aiotaskq.backends.base import Change
from aiotaskq.backends.sql import connecting
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.engines import parse_url, sync_engine
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.status import Status
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from tests.support import nursery
from tests.support.machine import within
from tests.support.pooler import Pooler
from tests.support.rows import LEASE, NOW, new, worker_info
from tests.support.servers import Server, mariadb, postgresql

ROOT = Path(__file__).resolve().parent.parent.parent.parent
SERVERS: dict[str, Callable[..., Server]] = {"postgresql": postgresql, "mysql": mariadb}
_made = 0


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    return SERVERS[request.param](durable=False)


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """An empty database."""
    global _made
    _made += 1
    yield server.create(f"engines_{_made}")
    server.drop(f"engines_{_made}")


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", [name], indirect=True)


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "query"),
    [
        ("postgresql://h/d?ssl=require", {"sslmode": "require"}),
        ("postgresql+asyncpg://h/d?ssl=true&prepared_statement_cache_size=0", {"sslmode": "require"}),
        ("postgres://h/d?sslmode=verify-full&connect_timeout=10", {"sslmode": "verify-full"}),
        ("postgresql+psycopg2://h/d?client_encoding=utf8&application_name=a", {"application_name": "a"}),
        ("postgresql://h/d?host=/run/postgresql", {"host": "/run/postgresql"}),
        ("postgresql://h/d?pooler=transaction", {"pooler": "transaction"}),
        ("mysql+pymysql://h/d?charset=utf8mb4&ssl-mode=REQUIRED", {"ssl_mode": "REQUIRED"}),
        ("mysql+aiomysql://h/d?autocommit=true&ssl_ca=/ca.pem", {"ssl_ca": "/ca.pem"}),
        ("mariadb://h/d?unix_socket=/run/s&sslmode=VERIFY_CA", {"unix_socket": "/run/s", "ssl_mode": "VERIFY_CA"}),
        ("sqlite:///a.db?timeout=5", {"timeout": "5"}),
    ],
)
@pytest.mark.parametrize("sync", [False, True])
def test_options_of_other_drivers(given: str, query: dict[str, str], sync: bool) -> None:
    assert dict(parse_url(given, sync=sync).query) == query


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("postgresql://u:secret@h/d?channel_binding=require", "url: the option 'channel_binding' is unknown; for "),
        ("postgresql://u:secret@h/d?scheme=x", "url: the option 'scheme' is unknown; for postgresql there are "),
        ("mysql://u:secret@h/d?useSSL=false", "url: the option 'useSSL' is unknown; for mysql there are ssl_ca"),
        ("postgresql://u:secret@h/d?pooler=session", "url: pooler can only be 'transaction' (got 'session')"),
    ],
)
def test_unknown_options_are_refused(given: str, message: str) -> None:
    for make in (Database, sync_engine):
        with pytest.raises(ValidationError) as raised:
            make(given)
        assert str(raised.value).startswith(message) and "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [("ssl_mode=MAYBE", "ssl_mode is DISABLED, REQUIRED"), ("ssl_ca=/no/such/file", "TLS options cannot be used")],
)
async def test_bad_tls_options(options: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        await Database(f"mysql://h/d?{options}").open()
    with pytest.raises(ValidationError, match=message):
        sync_engine(f"mysql://h/d?{options}")


@pytest.mark.parametrize(
    ("options", "verified", "named"),
    [
        ("ssl_mode=REQUIRED", ssl.CERT_NONE, False),
        ("ssl_mode=VERIFY_CA", ssl.CERT_REQUIRED, False),
        ("ssl_mode=VERIFY_IDENTITY", ssl.CERT_REQUIRED, True),
        ("ssl_mode=REQUIRED&ssl_capath=/", ssl.CERT_NONE, False),
        ("ssl_capath=/", ssl.CERT_REQUIRED, True),
        ("ssl_capath=/&ssl_check_hostname=false", ssl.CERT_REQUIRED, False),
    ],
)
def test_what_tls_checks_of_a_mysql_server(options: str, verified: ssl.VerifyMode, named: bool) -> None:
    contexts: list[ssl.SSLContext] = []

    def connecting_to(dialect: Any, record: Any, args: Any, given: dict[str, Any]) -> None:
        contexts.append(given["ssl"])
        raise ConnectionRefusedError

    engine = sync_engine(f"mysql://h/d?{options}")
    event.listen(engine, "do_connect", connecting_to)
    with pytest.raises(ConnectionRefusedError):
        engine.connect()
    assert [(context.verify_mode, context.check_hostname) for context in contexts] == [(verified, named)]


# ---- connections ----------------------------------------------------------------------------------------------------

SPELLINGS = {
    "postgresql": [
        "postgresql://",
        "postgres://",
        "postgresql+psycopg2://",
        "postgresql+asyncpg://?sslmode=disable&connect_timeout=5&keepalives=1",
    ],
    "mariadb": ["mysql://", "mariadb://", "mysql+pymysql://?charset=latin1", "mysql+mysqldb://?use_unicode=1"],
}


async def test_urls_as_others_write_them(server: Server, url: str) -> None:
    place = url.partition("://")[2]
    for number, spelling in enumerate(SPELLINGS[server.name], 1):
        scheme, _, options = spelling.partition("://")
        given = f"{scheme}://{place}{options}"
        backend = connect(given)
        task = new(params={"text": "Ünï 😀"})
        await backend.push([task])
        assert await backend.get([task.task_id]) == [task]
        await backend.close()
        engine = sync_engine(given)
        with engine.begin() as connection:
            assert connection.execute(text("SELECT count(*) FROM task_queue")).scalar() == number
            assert connection.execute(text("SELECT params FROM task_queue")).scalar() == '{"text":"Ünï 😀"}'
        engine.dispose()


@only("postgresql")
async def test_postgresql_gets_its_options(url: str) -> None:
    query = text("SELECT current_setting('application_name'), current_setting('work_mem')")
    database = Database(f"{url}?application_name=mine&options=-c%20work_mem%3D5MB")
    assert tuple(await database.read(lambda connection: connection.execute(query).one())) == ("mine", "5MB")
    await database.close()
    refusing = Database(f"{url}?sslmode=require")
    with pytest.raises(DatabaseUnavailable, match=r"(?i)ssl"):
        await refusing.read(lambda connection: connection.execute(query))
    await refusing.close()


@only("mysql")
async def test_mysql_over_tls(url: str) -> None:
    def cipher(connection: Any) -> str:
        return str(connection.execute(text("SHOW SESSION STATUS LIKE 'Ssl_cipher'")).one()[1])

    for options, encrypted in (("", False), ("?ssl-mode=DISABLED", False), ("?ssl-mode=REQUIRED", True)):
        database = Database(url + options)
        assert bool(await database.read(cipher)) == encrypted
        await database.close()
    engine = sync_engine(f"{url}?ssl-mode=REQUIRED")  # without, this driver does as it likes
    with engine.connect() as connection:
        assert cipher(connection)
    engine.dispose()
    distrustful = Database(f"{url}?ssl-mode=VERIFY_CA")
    with pytest.raises(DatabaseUnavailable, match="certificate"):
        await distrustful.read(cipher)
    await distrustful.close()


@only("mysql")
async def test_a_text_that_is_too_long_is_refused_in_every_sql_mode(server: Server, url: str) -> None:
    mode = server.execute("SELECT @@GLOBAL.sql_mode")[0][0]
    server.execute("SET GLOBAL sql_mode = ''")
    try:
        backend = SqlBackend(url)
        with pytest.raises(Exception, match="too long"):
            await backend.push([new(queue="q" * 101)])
        assert (await backend.stats(NOW)).counts["pending"] == 0
        await backend.close()
    finally:
        server.execute(f"SET GLOBAL sql_mode = '{mode}'")


# ---- synchronous and documented -------------------------------------------------------------------------------------


async def test_the_blocking_engine_works_on_the_same_rows(url: str) -> None:
    backend = SqlBackend(url)
    await backend.push([new(task_id="a")])
    engine = sync_engine(url)
    with sessionmaker(bind=engine, autoflush=False)() as session:
        session.execute(text("UPDATE task_queue SET priority = 5"))
        session.commit()
    (row,) = await backend.get(["a"])
    assert row is not None and row.priority == 5
    await backend.close()
    engine.dispose()


DOCUMENTED = """
import asyncio, json
from sqlalchemy import text
import aiotaskq.sync
from aiotaskq import database

aiotaskq.sync.Base.metadata.create_all(bind=aiotaskq.sync.engine)
with aiotaskq.sync.SessionLocal() as session:
    session.execute(text("INSERT INTO task_queue (task_id, task_type, created_at) VALUES ('a', 't', 5)"))
    session.commit()
answers = []
for session in aiotaskq.sync.get_db():
    answers.append(session.execute(text("SELECT count(*) FROM task_queue")).scalar())

async def main():
    async with database.engine.begin() as connection:
        await connection.run_sync(database.Base.metadata.create_all)
    async for session in database.get_db():
        answers.append((await session.execute(text("SELECT queue FROM task_queue"))).scalar())
    async with database.SessionLocal() as session:
        answers.append((await session.execute(text("SELECT count(*) FROM scheduler_task"))).scalar())
    await database.engine.dispose()

asyncio.run(main())
print(json.dumps(answers))
"""


def test_the_documented_names(url: str) -> None:
    done = nursery.run(
        [sys.executable, "-c", DOCUMENTED],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "AIOTASKQ_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=within(50),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [1, "default", 0]


# ---- behind a pooler ------------------------------------------------------------------------------------------------


async def work(backend: SqlBackend, owner: str, rounds: int) -> None:
    for _ in range(rounds):
        await backend.push([new(), new()])
        await backend.values.put([(owner, 1, None)])
        claimed = await backend.claim(owner, NOW, 3, lease_until=LEASE)
        await backend.workers.register(worker_info(owner))
        assert await backend.workers.heartbeat(worker_info(owner))
        assert len((await backend.workers.held([owner]))[owner]) == len(claimed)
        assert all(await backend.update([Change(t, t.replace(status=Status.COMPLETED, result=1)) for t in claimed]))
        assert await backend.values.get([owner], NOW) == [(1,)]
        await backend.stats(NOW)


def look_often(url: str) -> None:
    engine = sync_engine(url)
    for _ in range(20):  # psycopg would prepare what it has seen five times
        with engine.begin() as connection:
            assert connection.execute(text("SELECT count(*) FROM task_queue")).scalar() == 120
    engine.dispose()


@only("postgresql")
@pytest.mark.parametrize("option", ["", "&schema=jobs"])
async def test_behind_a_transaction_pooler(server: Server, url: str, option: str) -> None:  # F9
    async with Pooler(server.port) as pooler:
        through = f"{url.replace(f':{server.port}/', f':{pooler.port}/')}?pooler=transaction{option}"
        backends = [SqlBackend(through) for _ in range(3)]
        async with asyncio.timeout(within(50)):
            await asyncio.gather(*(backend.open() for backend in backends))
            await asyncio.gather(*(work(backends[n % 3], f"w{n}", 10) for n in range(6)))
        assert (await backends[0].stats(NOW)).counts["completed"] == 120
        assert pooler.transactions > 300 and pooler.moves > 100
        prepared = text("SELECT name FROM pg_prepared_statements")
        for _ in range(20):  # none was left behind, on whichever connection
            assert await backends[0].database.read(lambda connection: connection.execute(prepared).all()) == []
        await asyncio.to_thread(look_often, through)
        for backend in backends:
            await backend.close()


@only("postgresql")
async def test_the_error_names_the_missing_pooler_option(server: Server, url: str) -> None:  # F9
    async with Pooler(server.port) as pooler:
        backends = [SqlBackend(url.replace(f":{server.port}/", f":{pooler.port}/")) for _ in range(3)]
        with pytest.raises(DatabaseUnavailable, match=r"Then add \?pooler=transaction to the URL"):
            async with asyncio.timeout(within(50)):
                await asyncio.gather(*(work(backends[n % 3], f"w{n}", 20) for n in range(6)))
        for backend in backends:
            await backend.close()


# ---- a loop that stands still ----


@pytest.mark.parametrize("seconds", [0.25, 0.9])
async def test_an_answer_that_came_while_the_loop_stood_still_is_in_time(  # B3
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT", 0.1)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    async def greet() -> str:
        welcome = await answer
        for _ in range(5):  # to read it takes some rounds of the loop
            await asyncio.sleep(0)
        return welcome

    greeting = asyncio.create_task(connecting.in_time(greet()))
    await asyncio.sleep(0)
    threading.Timer(0.15, loop.call_soon_threadsafe, (answer.set_result, "welcome")).start()
    time.sleep(seconds)  # as a handler does that forgets whose loop it is on
    assert await greeting == "welcome"


async def test_no_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:  # F8
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT", 0.1)
    with pytest.raises(TimeoutError, match="no connection within"):
        await connecting.in_time(asyncio.get_running_loop().create_future())


# ---- statements -----------------------------------------------------------------------------------------------------


async def test_a_second_engine_of_one_kind_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    original = CompilerElement.compile

    def compile_one(self: CompilerElement, *given: Any, **options: Any) -> Any:
        compiled.append(self)
        return original(self, *given, **options)

    monkeypatch.setattr(CompilerElement, "compile", compile_one)
    for name in ("a", "b"):
        compiled.clear()
        backend = connect(f"sqlite:///{tmp_path / 'one.db'}")
        await backend.open()
        await backend.push([new(task_id=name)])
        (task,) = await backend.claim("w", NOW, 1, lease_until=LEASE)
        assert task.task_id == name
        await backend.close()
    assert compiled == []


def test_an_engine_with_parameters_of_its_own_style_compiles_for_itself(tmp_path: Path) -> None:
    statement, said = select(bindparam("number", type_=Integer)), []
    for style in ("qmark", "named", "qmark"):
        engine = sync_engine(f"sqlite:///{tmp_path / 'one.db'}", paramstyle=style)
        event.listen(engine, "before_cursor_execute", lambda *given: said.append(given[2]))
        with engine.connect() as connection:
            assert list(run(connection, statement, {"number": 7}).fetchall()) == [(7,)]
        engine.dispose()
    assert ["?" in each for each in said] == [True, False, True]

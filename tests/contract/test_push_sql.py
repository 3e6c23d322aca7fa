"""``aiotaskq_push``: SQL pushes what a push would push, refuses what it would refuse, and wakes workers."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, exc, make_url, text

from aiotaskq import Limit, TaskQ
from aiotaskq.backends.listeners import NOTED, READY
from aiotaskq.backends.sql.dialects.mysql import MysqlDialect
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.migrations import make_missing
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.errors import INT32, MAX_PAYLOAD, TEN_YEARS
from aiotaskq.core.ids import new_id
from aiotaskq.core.task import SECOND
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.programs import ROOT
from tests.support.waiting import eventually

ARGUMENTS = (
    *("type", "params", "queue", "priority", "delay", "max_retries", "task_id", "unique_key", "idempotency_key"),
    "timeout",
)
EXAMPLES = dict(
    re.findall(
        r"^```sql\n-- (PostgreSQL|MySQL|SQLite).*?\n(.*?)^```$",
        (ROOT / "aiotaskq" / "docs" / "transactions.md").read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
)
"""The statements of the manual, by database."""


class Application:
    """A program that knows only the database."""

    def __init__(self, store: Store) -> None:
        self.engine: Engine = sync_engine(store.url)
        self.kind = self.engine.dialect.name

    def push_in(self, connection: Connection, **given: Any) -> str | None:
        """Push, and return the answer; on SQLite the task under the id or a key."""
        given = {"type": "mail", **given}
        if isinstance(given.get("params"), dict):
            given["params"] = json.dumps(given["params"])
        if self.kind == "sqlite":
            marks = ", ".join(f":{name}" for name in given)
            connection.execute(text(f"INSERT INTO aiotaskq_push ({', '.join(given)}) VALUES ({marks})"), given)
            keys = {"task_id": "task_id", "idempotency_key": "idempotency_key", "unique_key": "live_key"}
            column, key = next(((each, given[name]) for name, each in keys.items() if name in given), ("'1'", "1"))
            found = f"SELECT task_id FROM task_queue WHERE {column} = :key ORDER BY seq DESC LIMIT 1"
            return connection.execute(text(found), {"key": key}).scalar()
        if self.kind == "postgresql":
            marks = ", ".join(f"{name} => :{name}" for name in given)
            return connection.execute(text(f"SELECT aiotaskq_push({marks})"), given).scalar()
        marks = ", ".join(f":{name}" for name in ARGUMENTS)
        connection.execute(text(f"CALL aiotaskq_push({marks}, @id)"), dict.fromkeys(ARGUMENTS) | given)
        return connection.execute(text("SELECT @id")).scalar()

    def push(self, **given: Any) -> str | None:
        with self.engine.begin() as connection:
            return self.push_in(connection, **given)

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


@pytest.fixture
def application(sql_store: Store) -> Iterator[Application]:
    made = Application(sql_store)
    yield made
    made.execute("DROP TABLE IF EXISTS orders")
    if made.kind == "postgresql":
        made.execute("DROP FUNCTION IF EXISTS book_order")
    made.engine.dispose()


def columns(store: Store) -> list[dict[str, Any]]:
    """Return the rows of the tasks in the order of their pushes."""
    return [dict(row._mapping) for row in store.execute("SELECT * FROM task_queue ORDER BY seq")]


OPTIONS: dict[str, Any] = {"queue": "mails", "priority": -3, "delay": 90.5, "max_retries": 7, "timeout": 1.5}
KEYS: dict[str, Any] = {"unique_key": "ключ {}", "idempotency_key": "once {}", "task_id": "task {}"}


@pytest.mark.parametrize("options", [{}, OPTIONS, OPTIONS | KEYS])
async def test_the_row_is_that_of_a_push(store: Store, application: Application, options: dict[str, Any]) -> None:
    async with TaskQ(store.url) as tq:

        @tq.task(name="mail")
        async def mail(to: str, more: list[Any]) -> None: ...

        params: dict[str, Any] = {"to": "Zoë \\ \"'", "more": [1, 2.5, None, {"a": True}]}
        keys = [{name: value.format(n) for name, value in options.items() if name in KEYS} for n in "ab"]
        begun = SystemClock().now()
        pushed = await mail.options(**options | keys[0]).push(**params)
        application.push(**options | keys[1], params=params)
        ended = SystemClock().now()
    rows = sorted(columns(store), key=lambda row: row["task_id"] != pushed.task_id)
    assert len(rows) == 2
    apart = int(within(0.1) * SECOND)  # SQLite has milliseconds, and what is known of a server's clock has its doubt
    for row, letter in zip(rows, "ab", strict=True):
        delay = OPTIONS["delay"] * SECOND if options else 0
        task_id, run_at, created_at = row["task_id"], row.pop("run_at"), row.pop("created_at")
        assert begun - apart <= run_at - delay <= ended + apart
        assert created_at == (run_at - delay) // SECOND
        seq = row.pop("seq")
        if letter == "b":
            assert 0 <= seq - (run_at - delay) < 1000
        if "task_id" not in options:
            del row["task_id"]
            assert re.fullmatch("[0-9a-f-]{36}", task_id) and uuid.UUID(task_id).version == 7
            if letter == "b":
                assert int(task_id.replace("-", "")[:12], 16) == (run_at - delay) // 1000
        row["params"] = json.loads(row["params"])
        for name in ("task_id", "unique_key", "live_key", "idempotency_key"):
            if row.get(name) is not None:
                assert row[name].endswith(f" {letter}")
                row[name] = row[name][:-1]
    assert rows[0] == rows[1]


async def test_a_waiting_worker_runs_it(store: Store, application: Application) -> None:
    ran: list[str] = []
    async with TaskQ(store.url).running() as tq:

        @tq.task(name="mail")
        async def mail(to: str) -> None:
            ran.append(to)

        await (await mail.push(to="first")).result()
        application.push(params={"to": "ann"})
        await eventually(lambda: ran == ["first", "ann"])
        with application.engine.begin() as connection:
            application.push_in(connection, params={"to": "bob"})
            application.push_in(connection, params={"to": "eve"})
        await eventually(lambda: ran[2:] == ["bob", "eve"])
        with application.engine.connect() as connection:
            application.push_in(connection, params={"to": "nobody"})
            connection.rollback()
        application.push(params={"to": "later"}, delay=0.2)
        await eventually(lambda: ran[4:] == ["later"])


@pytest.mark.stores("sqlite", "postgresql")
async def test_it_wakes_what_waits(store: Store, application: Application, hints: list[tuple[str, list[str]]]) -> None:
    """Without a poll."""
    await store.backend.watch()
    await eventually(lambda: (NOTED, []) in hints)  # what may have been missed before
    hints.clear()
    application.push()
    await eventually(lambda: (READY, []) in hints)


async def test_keys(store: Store, application: Application) -> None:
    async with TaskQ(store.url) as tq:
        tq.task(name="mail")(lambda: None)
        unique = application.push(unique_key="u")
        once = application.push(idempotency_key="i")
        own = application.push(task_id="own")
        assert own == "own" and len({unique, once, own}) == 3
        assert application.push(unique_key="u", params={"other": 1}, type="other") == unique
        assert application.push(idempotency_key="i") == once
        assert application.push(task_id="own") == own
        assert (await tq.push("mail", unique_key="u")).task_id == unique
        # In the order of a push: by the id, by the idempotency key, by the unique key.
        if application.kind != "sqlite":  # which has no answer
            assert application.push(unique_key="u", idempotency_key="i", task_id="own") == own
            assert application.push(unique_key="u", idempotency_key="i") == once
        assert [row["params"] for row in columns(store)] == ["{}"] * 3
        async with tq.running():
            for task_id in (unique, once, own):
                await tq.handle(str(task_id)).result()
        assert application.push(unique_key="u") != unique  # it has ended
        assert application.push(idempotency_key="i") == once
        with pytest.raises(exc.DBAPIError, match="task_id: it has ended; use another id"):
            application.push(task_id="own")
        assert len(columns(store)) == 4
        assert application.push(task_id="both", idempotency_key="b") == "both"
        store.execute("UPDATE task_queue SET status = 'completed' WHERE task_id = 'both'")
        assert application.push(task_id="both", idempotency_key="b") == "both"  # a push that is repeated
        with pytest.raises(exc.DBAPIError, match="task_id: it has ended"):
            application.push(task_id="both", idempotency_key="c")


async def test_a_key_that_an_expired_task_holds_is_free(store: Store, application: Application) -> None:
    async with TaskQ(store.url) as tq:
        tq.task(name="mail")(lambda: None)
        old = application.push(unique_key="u", delay=3600)
        store.execute("UPDATE task_queue SET expires_at = :at", at=SystemClock().now() + 3600 * SECOND)
        assert application.push(unique_key="u") == old
        store.execute("UPDATE task_queue SET expires_at = 1")
        new = application.push(unique_key="u")
        assert new not in (None, old) and application.push(unique_key="u") == new
        async with tq.running():
            await tq.handle(str(new)).result()
            await eventually(lambda: columns(store)[0]["status"] == "expired")  # the sweep has told of it


REFUSED: dict[str, list[Any]] = {
    "type": [None, "", "  ", "x" * 101, "a\nb", "a\x7f"],
    "queue": ["", " ", "x" * 101, "\x01"],
    "task_id": ["", "x" * 37, "a\tb"],
    "unique_key": ["", "x" * 256, "a\rb"],
    "idempotency_key": ["", "x" * 256, "\x1f"],
    "params": ["[]", "1", "null", '"{}"', {"x": "x" * MAX_PAYLOAD}],
    "priority": [-INT32 - 1],
    "max_retries": [-1],
    "delay": [-0.5, TEN_YEARS + 1, 1e300],
    "timeout": [0, -1, TEN_YEARS + 1],
}


async def test_what_is_refused(store: Store, application: Application) -> None:
    for name, values in REFUSED.items():
        for value in values:
            with pytest.raises(exc.DBAPIError, match=f"{name}: "):
                application.push(**{name: value})
    for params in ("{", "{'a': 1}", "", "{} {}"):
        with pytest.raises(exc.DBAPIError, match="json" if application.kind == "postgresql" else "params: a JSON"):
            application.push(params=params)
    assert columns(store) == []
    accepted: dict[str, Any] = {"type": "é" * 100, "queue": "😀" * 100, "task_id": "x" * 36, "unique_key": "x" * 255}
    accepted |= {"params": ' {"a" : "\\u0041"} ', "priority": -INT32, "max_retries": 0, "delay": TEN_YEARS}
    application.push(**accepted, idempotency_key="x" * 255, timeout=TEN_YEARS)
    (row,) = columns(store)
    assert (row["task_type"], row["queue"], json.loads(row["params"])) == ("é" * 100, "😀" * 100, {"a": "A"})


@pytest.mark.stores("sqlite")
async def test_sqlite_takes_no_value_of_another_type(store: Store, application: Application) -> None:
    odd = {"type": 5, "queue": b"q", "unique_key": 1.5, "params": b"{}", "priority": "1", "max_retries": 1.5}
    for name, value in {**odd, "delay": "x", "timeout": "1", "task_id": "a\0b"}.items():
        with pytest.raises(exc.DBAPIError, match=f"{name}: "):
            application.push(**{name: value})
    with pytest.raises(exc.DBAPIError, match="params: a JSON"):
        application.push(params="{}\0")  # to SQLite's own functions the text ends there
    assert columns(store) == []


async def test_the_examples_of_the_manual(store: Store, application: Application) -> None:
    """A trigger of an application's table pushes in its transaction; its tasks are in the order of its rows."""
    begun = SystemClock().now()
    name = next(name for name in EXAMPLES if name.lower() == application.kind)
    statements = re.split(r";\n(?=\n|CALL|SELECT|INSERT INTO aiotaskq_push \(type, params, p|\Z)", EXAMPLES[name])
    application.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, note VARCHAR(10))")
    application.execute(*(each for each in statements if each.strip()))
    first, second = sorted(columns(store), key=lambda row: row["run_at"])
    assert [json.loads(row["params"]) for row in (first, second)] == [{"order": 1}, {"order": 2}]
    assert (first["priority"], second["priority"], second["task_type"]) == (0, 5, "book")
    assert second["run_at"] >= begun + 59 * SECOND
    application.execute("INSERT INTO orders (id) VALUES (9), (3), (5), (4)")
    with application.engine.connect() as connection:
        connection.execute(text("INSERT INTO orders (id) VALUES (6)"))
        connection.rollback()
    pushed = [row for row in columns(store) if row["unique_key"] is not None]
    assert [json.loads(row["params"])["order"] for row in pushed] == [9, 3, 5, 4]
    assert [row["live_key"] for row in pushed] == ["book-9", "book-3", "book-5", "book-4"]


@pytest.mark.stores("sqlite")
async def test_how_a_trigger_is_fired_decides_nothing(store: Store, application: Application) -> None:
    """On SQLite the policy of the outer statement holds for those of its triggers."""
    application.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)", EXAMPLES["SQLite"].partition("\n\n")[2])
    application.execute("INSERT INTO orders VALUES (1)")
    before = columns(store)
    application.execute("INSERT OR REPLACE INTO orders VALUES (1)", "INSERT OR IGNORE INTO orders VALUES (1)")
    assert columns(store) == before


@pytest.mark.stores("postgresql", "mysql")
async def test_pushes_with_one_key_at_once(store: Store, application: Application) -> None:
    def push(number: int) -> set[str | None]:
        key = {"unique_key": "u"} if number % 2 else {"idempotency_key": "i"}
        return {application.push(**key) for _ in range(20)}

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(push, range(6)))
    assert len(columns(store)) == 2 and len(answers[0]) == len(answers[1]) == 1
    assert answers == answers[:2] * 3


async def test_it_passes_no_limit(store: Store, application: Application) -> None:
    both = asyncio.Barrier(2)
    async with TaskQ(store.url).running() as tq:

        @tq.task(name="mail", limit=Limit(1))
        async def mail() -> None:
            await both.wait()

        ids = [str(application.push(task_id=new_id())) for _ in range(2)]
        await asyncio.gather(*(tq.handle(task_id).result() for task_id in ids))


async def test_an_upgrade_makes_it_anew(store: Store, application: Application) -> None:
    drop = {"sqlite": "VIEW", "postgresql": "FUNCTION", "mysql": "PROCEDURE"}[application.kind]
    application.execute(f"DROP {drop} aiotaskq_push")
    with pytest.raises(exc.DBAPIError):
        application.push()
    for _ in range(2):
        with application.engine.begin() as connection:
            assert make_missing(connection) == []
    assert application.push(task_id="a") == "a"


@pytest.mark.stores("postgresql")
async def test_the_path_of_the_caller_decides_nothing(store: Store, application: Application) -> None:
    with application.engine.begin() as connection:
        connection.execute(text("SET LOCAL search_path TO pg_catalog"))
        schema = make_url(store.url).query.get("schema", "public")
        connection.execute(text(f"SELECT {schema}.aiotaskq_push('mail')"))
    assert len(columns(store)) == 1


@pytest.mark.stores("mysql")
async def test_a_user_who_may_make_no_procedures(
    store: Store, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = "SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = {}, MESSAGE_TEXT = 'denied'"
    with application.engine.begin() as connection:
        monkeypatch.setattr(MysqlDialect, "push_sql", lambda *_: [denied.format(1370)])
        make_missing(connection)
        monkeypatch.setattr(MysqlDialect, "push_sql", lambda *_: [denied.format(1064)])
        with pytest.raises(exc.DBAPIError, match="denied"):
            make_missing(connection)

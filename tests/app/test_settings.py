"""The settings of the documented process-wide names: one database, one queue, read once. Scripts are real programs."""

from __future__ import annotations

import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.sql.engines import (
    async_engine,
    engine_options,
    parse_url,
    sync_engine,
)
from aiotaskq.errors import ValidationError
from tests.support.programs import Program, programs_in

Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start programs in a folder of their own, with no variables for aiotaskq but those that are named."""
    with programs_in(tmp_path) as start:

        def started(code: str, **environment: str) -> Program:
            clean = (
                "import os\nfor name in [n for n in os.environ if n.startswith('AIOTASKQ_')]: del os.environ[name]\n"
            )
            return start(f"{clean}os.environ.update({environment!r})\n{code}")

        yield started


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_the_version_of_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, given, version in (("2", "3", "3"), ("2", None, "2"), ("", None, None), (None, None, None)):
        if variable is None:
            monkeypatch.delenv("AIOTASKQ_VERSION", raising=False)
        else:
            monkeypatch.setenv("AIOTASKQ_VERSION", variable)
        assert TaskQ("memory://", version=given).queue.version == version
    for wrong in ("", "x" * 65, "a\nb", 5):
        with pytest.raises(ValidationError, match=r"^version: "):
            TaskQ("memory://", version=wrong)  # type: ignore[arg-type]
    monkeypatch.setenv("AIOTASKQ_VERSION", "x" * 65)
    with pytest.raises(ValidationError, match=r"^AIOTASKQ_VERSION: "):
        TaskQ("memory://")


# ---- the database and the queue --------------------------------------------------------------------------------------


def test_the_variables_are_set_after_the_imports(start: Start, tmp_path: Path) -> None:
    script = """
import aiotaskq.log
from aiotaskq.sync import Base, DatabaseQueue, SessionLocal, engine, get_db, get_queue, get_scheduler
from aiotaskq.models import SchedulerTask, TaskQueue
aiotaskq.log.output("ERROR")  # a second pop before the first one is settled is warned of
os.environ["AIOTASKQ_DATABASE_URL"] = "sqlite:///after.db"
os.environ["AIOTASKQ_QUEUE_URL"] = "sqlite:///after.db"
os.mkdir("elsewhere")
Base.metadata.create_all(bind=engine)
os.environ["AIOTASKQ_DATABASE_URL"] = os.environ["AIOTASKQ_QUEUE_URL"] = "sqlite:///too_late.db"
os.chdir("elsewhere")  # as a daemon does
scheduler, queue = get_scheduler(), get_queue()
schedule = scheduler.add_scheduler_task("n", "fired", "once", execute_at=1)
fired = queue.pop_task(timeout=30)
queue.push_task({"task_id": "mine", "type": "pushed"})
pushed = queue.pop_task(timeout=30)
assert (fired["type"], pushed["type"]) == ("fired", "pushed"), (fired, pushed)
queue.task_done("mine")
queue.task_done()
with SessionLocal() as session:
    assert session.get(TaskQueue, "mine").status == "completed"
    assert session.get(TaskQueue, fired["task_id"]).scheduler_task_id == schedule
db = next(get_db())
assert db.get(SchedulerTask, schedule).run_count == 1
assert DatabaseQueue().get("mine").status == "completed"
from aiotaskq.sync import DATABASE_URL
print(type(queue).__name__, DATABASE_URL)
"""
    assert start(script).end() == ["DatabaseQueue sqlite:///after.db"]
    assert sorted(path.name for path in tmp_path.rglob("*.db")) == ["after.db"]
    assert rows(tmp_path / "after.db", "SELECT task_type, status FROM task_queue ORDER BY 1") == [
        ("fired", "completed"),
        ("pushed", "completed"),
    ]


@pytest.mark.parametrize("module", ["aiotaskq", "aiotaskq.sync", "aiotaskq.database"])
def test_an_import_of_all_names_is_no_first_use(module: str, start: Start) -> None:
    script = f"""
from {module} import *
from aiotaskq.app.settings import configure
configure(database_url="sqlite:///later.db")
from {module} import DATABASE_URL
print(DATABASE_URL)
"""
    assert start(script).end() == ["sqlite:///later.db"]


def test_the_awaited_names_are_in_the_root(start: Start, tmp_path: Path) -> None:
    script = """
import asyncio
from aiotaskq import Base, SessionLocal, engine, get_db, get_queue, get_scheduler, pop_task, push_task
from aiotaskq.models import SchedulerTask, TaskQueue
os.environ["AIOTASKQ_QUEUE_URL"] = "sqlite:///after.db"  # either variable alone names the one database

async def main():
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    scheduler, queue = await get_scheduler(), await get_queue()
    assert await get_queue() is queue
    schedule = await scheduler.add_scheduler_task("n", "fired", "once", execute_at=1)
    task = await pop_task(timeout=30)
    assert (task["type"], task["scheduler_task_id"]) == ("fired", schedule)
    await queue.task_done()
    async with SessionLocal() as session:
        assert (await session.get(TaskQueue, task["task_id"])).status == "completed"
    async for session in get_db():
        assert (await session.get(SchedulerTask, schedule)).run_count == 1
    await scheduler.stop()
    await queue.close()
    await engine.dispose()

for _ in range(2):  # a second loop of the same process
    asyncio.run(main())
import aiotaskq
print(aiotaskq.DATABASE_URL, engine.url)
"""
    assert start(script).end() == [f"sqlite:///after.db sqlite+aiosqlite:///{tmp_path}/after.db"]
    assert sorted(path.name for path in tmp_path.rglob("*.db")) == ["after.db"]


def test_a_schedule_of_the_process_is_written_with_its_task_in_one_transaction(start: Start, tmp_path: Path) -> None:
    script = """
import sqlite3
from aiotaskq.sync import get_queue, get_scheduler
scheduler, queue = get_scheduler(), get_queue()
scheduler.stop()
with sqlite3.connect("q.db") as connection:  # a row without its task would be seen
    connection.execute(
        "CREATE TRIGGER apart BEFORE UPDATE ON scheduler_task WHEN NEW.run_count > OLD.run_count AND "
        "NEW.outbox IS NOT NULL BEGIN SELECT RAISE(FAIL, 'by way of the outbox'); END"
    )
connection.close()
schedule = scheduler.add_scheduler_task("n", "fired", "interval", interval_seconds=3600)
scheduler.run_now(schedule)
print(queue.pop_task(timeout=30)["scheduler_task_id"] == schedule)
queue.task_done()
"""
    assert start(script, AIOTASKQ_QUEUE_URL="sqlite:///q.db").end() == ["True"]


def test_a_loop_and_threads_share_a_durable_queue(start: Start) -> None:
    script = """
import asyncio
import aiotaskq, aiotaskq.sync

async def main():
    await aiotaskq.push_task({"task_id": "from the loop", "type": "x"})
    popped = await asyncio.to_thread(aiotaskq.sync.pop_task, 30)
    await asyncio.to_thread(lambda: aiotaskq.sync.get_queue().task_done(popped["task_id"]))
    await asyncio.to_thread(aiotaskq.sync.push_task, {"task_id": "from a thread", "type": "x"})
    other = await aiotaskq.pop_task(30)
    queue = await aiotaskq.get_queue()
    await queue.task_done()
    print(popped["task_id"], "|", other["task_id"], "|", (await queue.stats()).counts["completed"])
    await queue.close()

asyncio.run(main())
"""
    assert start(script, AIOTASKQ_QUEUE_URL="sqlite:///q.db").end() == ["from the loop | from a thread | 2"]


def test_a_durable_queue_outlives_its_process(start: Start) -> None:
    push = "from aiotaskq.sync import push_task\npush_task({'task_id': 'kept', 'type': 'x'})\nos._exit(0)"
    pop = (
        "from aiotaskq.sync import get_queue, pop_task\n"
        "print(pop_task(timeout=0)['task_id'])\nget_queue().task_done()\nprint(pop_task(timeout=0))"
    )
    start(push, AIOTASKQ_QUEUE_URL="sqlite:///q.db").end()
    assert start(pop, AIOTASKQ_QUEUE_URL="sqlite:///q.db").end() == ["kept", "None"]


def test_a_scheduler_made_before_any_loop_runs_fires_into_the_durable_queue(start: Start) -> None:
    script = """
import asyncio
from aiotaskq import Scheduler, get_queue, pop_task
scheduler = Scheduler()

async def main():
    await scheduler.start()
    await scheduler.add_scheduler_task("n", "fired", "once", execute_at=1)
    print((await pop_task(30))["type"])
    await (await get_queue()).task_done()
    await scheduler.stop()
    await (await get_queue()).close()

asyncio.run(main())
"""
    assert start(script, AIOTASKQ_QUEUE_URL="sqlite:///q.db").end() == ["fired"]


def test_configure_names_both_once_before_the_first_use(start: Start, tmp_path: Path) -> None:
    script = """
from aiotaskq.errors import AiotaskqError
from aiotaskq.sync import configure, engine, get_queue

def refused(**urls):
    try:
        configure(**urls)
    except AiotaskqError as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("accepted")

refused(database_url="redis://here/0")
refused(queue_url="ftp://here/0")
refused(database_url="sqlite:///:memory:")
refused(queue_url="sqlite://")
refused(queue_url="")
refused(database_url="sqlite:///a.db", queue_url="sqlite:///b.db")
configure(database_url="sqlite:///a.db?pool_size=3&max_overflow=0", queue_url="sqlite:///./a.db")
refused(database_url="sqlite:///c.db")
print(engine.pool.size(), type(get_queue()).__name__)
refused(database_url="sqlite:///c.db")
from aiotaskq.sync import DATABASE_URL
print(DATABASE_URL)
"""
    assert start(script, AIOTASKQ_DATABASE_URL="sqlite:///ignored.db").end() == [
        "ValidationError: database_url: a SQL database is needed, as in sqlite:///app.db (got redis://)",
        "ValidationError: queue_url: unknown scheme in 'ftp://here/0'; "
        "use memory://, sqlite:///file.db, postgresql://, mysql:// or redis://",
        *(
            f"ValidationError: {name}: an in-memory SQLite database is lost with its connection; name a file, as in "
            "sqlite:///app.db"
            for name in ("database_url", "queue_url")
        ),
        "ValidationError: queue_url: a text such as 'sqlite:///app.db' is needed (got an empty one)",
        "ValidationError: AIOTASKQ_QUEUE_URL: sqlite:///b.db is another database than sqlite:///a.db of "
        "AIOTASKQ_DATABASE_URL; name one SQL database for both (either variable alone is enough), or a queue in "
        "memory:// or redis://",
        "ClosedError: configure(): it was called before; name both URLs in one call",
        "3 DatabaseQueue",
        "ClosedError: configure(): sqlite:///a.db?pool_size=3&max_overflow=0 is in use already; call it before the "
        "first use of engine, SessionLocal, get_db, DATABASE_URL, a queue or a scheduler",
        "sqlite:///a.db?pool_size=3&max_overflow=0",
    ]
    assert [path.name for path in tmp_path.glob("*.db")] == ["a.db"]


@pytest.mark.parametrize(
    "use",
    [
        "engine.connect()",
        "SessionLocal().connection()",
        "next(get_db()).connection()",
        "push_task({'type': 'x'})",
        "get_queue()",
        "get_scheduler()",
        "Scheduler()",
        "DatabaseQueue()",
        "aiotaskq.sync.DATABASE_URL",
    ],
)
def test_the_first_use_of_any_name_decides_for_all(start: Start, use: str, tmp_path: Path) -> None:
    script = f"""
import aiotaskq.sync
from aiotaskq.sync import DatabaseQueue, Scheduler, SessionLocal, configure, engine, get_db
from aiotaskq.sync import get_queue, get_scheduler, push_task
os.environ["AIOTASKQ_DATABASE_URL"] = "sqlite:///first.db"
{use}
os.environ["AIOTASKQ_DATABASE_URL"] = "sqlite:///second.db"
get_scheduler().list_tasks()
with SessionLocal() as session:
    session.connection()
try:
    configure(database_url="sqlite:///third.db")
except RuntimeError as error:
    print(type(error).__name__, aiotaskq.sync.DATABASE_URL)
"""
    assert start(script).end() == ["ClosedError sqlite:///first.db"]
    assert [path.name for path in tmp_path.glob("*.db")] == ["first.db"]


def test_a_wrong_variable_is_told_by_name_and_can_be_corrected(start: Start) -> None:
    script = """
from aiotaskq.sync import SessionLocal, engine, push_task
from sqlalchemy import text
for url in ("nonsense", "ftp://me:sw0rd@host/x"):
    os.environ["AIOTASKQ_DATABASE_URL"] = url
    for use in (engine.connect, lambda: push_task({"type": "x"}), lambda: engine.url):
        try:
            use()
        except ValueError as error:
            assert str(error).startswith("AIOTASKQ_DATABASE_URL: unknown scheme"), error
            assert "sw0rd" not in str(error)
        else:
            raise AssertionError(use)
os.environ["AIOTASKQ_DATABASE_URL"] = "sqlite:///right.db"
with SessionLocal() as session:
    print(session.execute(text("SELECT 1")).scalar(), engine.name)
"""
    assert start(script).end() == ["1 sqlite"]


def test_the_engine_opens_nothing_before_use_and_a_fork_gets_its_own_connections(start: Start, tmp_path: Path) -> None:
    script = """
import asyncio, inspect
import aiotaskq
from aiotaskq.sync import engine
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine
assert isinstance(engine, Engine) and isinstance(aiotaskq.engine, AsyncEngine)
assert inspect.unwrap(engine) is engine and not hasattr(engine, "_repr_html_")
said = []
event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: said.append(statement))
assert not os.path.exists("aiotaskq.db")
os.environ["AIOTASKQ_DATABASE_URL"] = "sqlite:///late.db"

def ask():
    with engine.connect() as connection:
        answer = connection.exec_driver_sql("SELECT 17").scalar()
        return answer, id(connection.connection.dbapi_connection)

async def ask_awaited():
    async with aiotaskq.engine.connect() as connection:
        answer = (await connection.exec_driver_sql("SELECT 17")).scalar()
    return answer, id(aiotaskq.engine.pool)

first, awaited = ask(), asyncio.run(ask_awaited())
assert ask() == first and said == ["SELECT 17"] * 2, "the pool keeps its connection"
assert not hasattr(engine, "nonsense") and not hasattr(aiotaskq.engine, "nonsense")
if os.fork() == 0:
    again, anew = ask(), asyncio.run(ask_awaited())
    os._exit(again[0] if again != first and anew != awaited and len(said) == 3 else 1)
print(os.waitstatus_to_exitcode(os.wait()[1]), len(said), ask() == first)
asyncio.run(aiotaskq.engine.dispose())
"""
    assert start(script).end() == ["17 2 True"]
    assert [path.name for path in tmp_path.glob("*.db")] == ["late.db"]


def test_a_visibility_timeout_that_is_none_is_told_by_name(start: Start) -> None:
    script = """
from aiotaskq.sync import DatabaseQueue
for text in ("soon", "0", "nan"):
    os.environ["AIOTASKQ_VISIBILITY_TIMEOUT"] = text
    try:
        DatabaseQueue("sqlite:///a.db")
    except ValueError as error:
        assert str(error).startswith("AIOTASKQ_VISIBILITY_TIMEOUT: "), error
    else:
        raise AssertionError(text)
print("told")
"""
    assert start(script).end() == ["told"]


# ---- options of the pool ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["postgresql://me:pw@h/d", "mysql://me:pw@h/d", "sqlite:///{folder}/x.db"])
def test_options_of_the_pool_in_the_url(place: str, tmp_path: Path) -> None:
    url = place.format(folder=tmp_path) + "?pool_size=3&max_overflow=7&pool_recycle=1800"
    awaited = async_engine(parse_url(url), pool_size=5, max_overflow=5).sync_engine
    for made in (sync_engine(url), awaited):
        pool: Any = made.pool
        assert (pool.size(), pool._max_overflow, pool._recycle) == (3, 7, 1800)
        assert not made.url.query, "no driver knows them"
        made.dispose()
    bare, options = engine_options(parse_url(url, sync=True))
    assert options == {"pool_size": 3, "max_overflow": 7, "pool_recycle": 1800} and not bare.query


@pytest.mark.parametrize("option", ["pool_size=many", "pool_size=-1", "max_overflow=1.5", "pool_recycle=-2"])
def test_a_wrong_option_of_the_pool_is_told_by_name(option: str, tmp_path: Path) -> None:
    for place in ("postgresql://me:pw@h/d", f"sqlite:///{tmp_path}/x.db"):
        with pytest.raises(ValidationError, match=f"url: {option.partition('=')[0]} is a whole number of at least"):
            parse_url(f"{place}?{option}", sync=True)


# ---- the old log -----------------------------------------------------------------------------------------------------


def test_one_call_logs_as_the_old_file_did(start: Start, tmp_path: Path) -> None:
    script = """
import aiotaskq.log
from aiotaskq.log import logger
own = []
logger.add(lambda line: own.append(line), format="{message}", diagnose=False)
aiotaskq.log.configure()
aiotaskq.log.configure()  # not every line twice
logger.debug("for the file")
logger.info("for both")
password = "s3cret"
try:
    assert password and 1 / 0
except ZeroDivisionError:
    logger.exception("broken")
assert [line.splitlines()[0] for line in own] == ["for the file", "for both", "broken"]
for n in range(6):
    logger.debug("x" * 2_000_000)
"""
    out = "\n".join(start(script).end())
    assert out.count("for both") == 1 and "for the file" not in out and "ZeroDivisionError" in out
    logs = list((tmp_path / "logs").iterdir())
    assert sorted(path.suffix for path in logs) == [".log", ".zip"], logs
    with zipfile.ZipFile(next(path for path in logs if path.suffix == ".zip")) as archive:
        (name,) = archive.namelist()
        text = archive.read(name).decode()
    assert text.count("for the file") == text.count("for both") == 1 and name.startswith("app_20")
    assert "s3cret" not in out and "s3cret" not in text

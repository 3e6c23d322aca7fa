"""Several applications in one database: each store has its own schema, prefix or namespace."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from aiotaskq import step
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.listeners import READY
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.engines import async_engine, parse_url, sync_engine
from aiotaskq.backends.sql.migrations import make_missing, migrate, missing
from aiotaskq.backends.sql.migrations.adopt import Report
from aiotaskq.cli.tables import sql_of
from aiotaskq.core.groups import GroupState
from aiotaskq.core.limits import Limit
from aiotaskq.core.task import TaskFilter
from aiotaskq.errors import QueueFull
from aiotaskq.models import TaskQueue
from tests.backends.sql.notifiers.watched import watching
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import NOW, new
from tests.support.schema import drop

sql = pytest.mark.stores("sqlite", "postgresql", "mysql")
OPTION = {"sqlite": "table_prefix", "postgresql": "schema", "mysql": "table_prefix", "redis": "prefix"}


def url_of(store: Store, name: str) -> str:
    """The URL of a store of the same database whose tables have other names."""
    if store.name == "redis":
        return re.sub(r"prefix=([\w.]+)", rf"prefix=\1.{name}", store.url)
    return f"{store.url}?{OPTION[store.name]}={name}"


@contextlib.asynccontextmanager
async def named(store: Store, name: str) -> AsyncIterator[Store]:
    """A store of the same database whose tables have other names; they are dropped with it."""
    made = Store(store.name, url_of(store, name), SqlBackend(url_of(store, name)))
    await made.backend.open()
    try:
        yield made
    finally:
        await made.close()
        dropped(made.url)


def dropped(url: str) -> None:
    engine = sync_engine(url)
    with engine.begin() as connection:
        drop(connection)
    engine.dispose()


def application(url: str, ran: list[str]) -> TaskQ:
    tq = TaskQ(url, poll_interval=within(0.2))

    @tq.task(limit=Limit(1, name="one"))
    async def job(word: str) -> str:
        ran.append(word)
        return word

    async def half() -> int:
        return 1

    @tq.task
    async def saga() -> Any:
        return await step("half", half)

    return tq


async def seen(tq: TaskQ) -> dict[str, list[Any]]:
    """What there is in a store, by kind."""
    groups: list[GroupState] = await tq.groups()
    return {
        "tasks": [task.task_id for task in await tq.find()],
        "schedules": [schedule.name for schedule in await tq.schedules.list()],
        "values": await tq.values.list_keys(),
        "limits": [limit.key for limit in await tq.limits.list()],
        "groups": [group.group_id for group in groups],
        "events": [event.key for event in await tq.list_events()],
        "paused": await tq.paused(),
        "workers": [worker.owner for worker in await tq.workers.list()],
        "history": [period.n for period in await tq.history()],
    }


@pytest.mark.stores("sqlite", "postgresql", "mysql", "redis")
async def test_applications_in_one_database_do_not_see_each_other(store: Store) -> None:
    urls = [store.url, url_of(store, "jobs"), url_of(store, "Others_2")]
    ran: list[list[str]] = [[], [], []]
    tqs = [application(url, words) for url, words in zip(urls, ran, strict=True)]
    first, *others = tqs
    async with contextlib.AsyncExitStack() as stack:
        for tq in tqs:
            await stack.enter_async_context(tq)
        await first.push("job", {"word": "a"}, task_id="same", unique_key="key", idempotency_key="once")
        await first.group([first.call("job", {"word": "b"})], group_id="group")
        await first.schedules.add("daily", "job", cron="0 3 * * *", timezone="UTC", params={"word": "c"})
        await first.values.set_public("value", 1)
        await first.emit("event", 1)
        await first.limits.set("one", cap=5)
        await first.pause("other")
        nothing = {kind: list[Any]() for kind in await seen(first)}
        for tq in others:
            assert await seen(tq) == nothing
            assert await tq.purge() == 0 and not await tq.cancel_many(queue="default")
        async with first.running(workers=True):
            assert await first.handle("same").result(within(20)) == "a"
            assert await first.group_handle("group").result(within(20)) == ["b"]
            assert await (await first.push("saga")).result(within(20)) == 1
            assert not await others[0].workers.list()
        found = await seen(first)
        assert all(found[kind] for kind in nothing if kind != "workers")
        for tq in others:
            assert await seen(tq) == nothing
            # The same ids and keys are free.
            pushed = await tq.push("job", {"word": "z"}, task_id="same", unique_key="key", idempotency_key="once")
            assert pushed.created
        async with others[0].running(workers=True):
            assert await others[0].handle("same").result(within(20)) == "z"
        assert (await others[1].get("same")).status == "pending"
        assert ran == [["a", "b"], ["z"], []]
    for url in urls[1:] if store.is_sql else ():
        dropped(url)


@sql
async def test_the_revisions_and_the_models_make_the_same_tables(store: Store) -> None:
    async with named(store, "jobs") as jobs:

        def tables(connection: Connection) -> tuple[list[str], list[str]]:
            return missing(connection), make_missing(connection)

        database = jobs.backend.database
        assert await database.write(tables) == ([], [])
        jobs.execute("DROP TABLE aiotaskq_slot")
        assert await database.write(tables) == (["aiotaskq_slot"], ["aiotaskq_slot"])
        assert not await database.read(missing)
        dropped(jobs.url)
        assert len(await database.read(missing)) == 9
        await database.write(lambda connection: migrate(connection, Report(), NOW))
        assert not await database.read(missing)
        await jobs.backend.push([])
    # The other tables are as they were.
    await store.backend.close()
    await store.backend.open()
    assert await store.backend.stats(NOW)


@pytest.mark.stores("sqlite", "postgresql")
async def test_the_printed_sql_makes_the_tables(store: Store) -> None:
    async with named(store, "jobs") as jobs:
        dropped(jobs.url)
        engine = sync_engine(store.url)
        driver: Any = engine.raw_connection()
        run = driver.executescript if store.name == "sqlite" else driver.cursor().execute
        run(sql_of(jobs.url))
        driver.commit()
        driver.close()
        engine.dispose()
        assert not await jobs.backend.database.read(missing)
        insert = "INSERT INTO aiotaskq_push (type) VALUES ('mail')"
        jobs.execute("SELECT aiotaskq_push('mail')" if store.name == "postgresql" else insert)
        assert len(await jobs.backend.find(TaskFilter(), 5)) == 1
        assert store.execute("SELECT count(*) FROM task_queue") == [(0,)]


@sql
async def test_documented_tables_are_adopted_under_these_names(store: Store) -> None:
    async with named(store, "jobs") as jobs:
        dropped(jobs.url)
        jobs.execute(
            "CREATE TABLE task_queue (task_id VARCHAR(36) PRIMARY KEY, task_type VARCHAR(100) NOT NULL, params TEXT, "
            "status VARCHAR(20), priority INT, retry_count INT, max_retries INT, created_at BIGINT NOT NULL, "
            "started_at BIGINT, completed_at BIGINT, error_message TEXT, scheduler_task_id VARCHAR(36))"
        )
        jobs.execute("INSERT INTO task_queue (task_id, task_type, created_at) VALUES ('old', 'mail', 1)")
        backend = await jobs.another()
        (task,) = await backend.get(["old"])
        assert task is not None and (task.status, task.type) == ("pending", "mail")
        assert {row.column for row in backend.invalid_rows} >= {"status"} and await backend.keeps_ended()
        assert await store.backend.get(["old"]) == [None] and not await store.backend.keeps_ended()


@sql
async def test_models_are_read_by_an_engine_of_the_url(store: Store) -> None:
    async with named(store, "jobs") as jobs, TaskQ(jobs.url) as tq:
        await tq.push("mail", task_id="here")
        engine = async_engine(parse_url(jobs.url))
        async with engine.connect() as connection:
            assert (await connection.execute(select(TaskQueue.task_id))).scalars().all() == ["here"]
        await engine.dispose()
        assert store.execute("SELECT count(*) FROM task_queue") == [(0,)]


# ---- in a transaction of the application's ---------------------------------------------------------------------------


@sql
async def test_stores_in_one_transaction(store: Store) -> None:
    """Each push finds its own tables, and the caller's own statements stay as they are."""
    async with named(store, "jobs") as jobs, named(store, "others") as others:
        tqs = [TaskQ(each.url) for each in (store, jobs, others)]
        engine = create_async_engine(store.place)
        async with contextlib.AsyncExitStack() as stack:
            for tq in tqs:
                await stack.enter_async_context(tq)
            for word in ("undone", "done"):
                async with engine.connect() as connection:
                    await connection.begin()
                    for tq in tqs:
                        await tq.push("mail", task_id=word, session=connection)
                        await tq.push("mail", task_id=f"{word}-2", session=connection, delay=60)
                    seen = await connection.execute(text("SELECT count(*) FROM task_queue"))
                    assert seen.scalar() == 2, "those of the default names"
                    await (connection.rollback() if word == "undone" else connection.commit())
            for tq in tqs:
                assert sorted([task.task_id for task in await tq.find()]) == ["done", "done-2"]
        await engine.dispose()


@pytest.mark.stores("postgresql")
@pytest.mark.parametrize("translated", [False, True])
async def test_a_callers_schema_is_not_ours(store: Store, translated: bool) -> None:
    """Neither its search path nor its map of schemas decides where a task goes, and both are as before."""
    store.execute("CREATE SCHEMA IF NOT EXISTS tenant; CREATE TABLE IF NOT EXISTS tenant.task_queue (task_id text)")
    engine = create_async_engine(store.place)
    if translated:
        engine = engine.execution_options(schema_translate_map={None: "tenant"})
    async with named(store, "jobs") as jobs, TaskQ(jobs.url) as tq, engine.begin() as connection:
        await connection.execute(text("SET LOCAL search_path TO tenant"))
        await tq.push("mail", task_id="a", session=connection)
        await tq.push_many([("mail", {}), ("mail", {})], session=connection)
        with_group = await tq.group([tq.call("mail")], session=connection)
        assert (await connection.execute(text("SHOW search_path"))).scalar() == "tenant"
        assert (await connection.execute(select(TaskQueue.task_id))).all() == []
        await connection.commit()
        assert [group.group_id for group in await tq.groups()] == [with_group.group_id]
        assert len(await tq.find()) == 4
    await engine.dispose()
    store.execute("DROP SCHEMA tenant CASCADE")


# ---- hints and locks -------------------------------------------------------------------------------------------------


@pytest.mark.stores("postgresql")
async def test_a_push_wakes_the_workers_of_its_schema(store: Store) -> None:
    async with named(store, "jobs") as jobs, named(store, "others") as others:
        ears = [await watching(each.backend) for each in (store, jobs, others)]
        await (await jobs.another()).push([new()])
        await ears[1].until(READY)
        jobs.execute("SELECT aiotaskq_push('mail')")
        ears[1].forget()
        await ears[1].until(READY)
        await (await others.another()).push([new()])
        await ears[2].until(READY)
        await (await store.another()).push([new()])
        await ears[0].until(READY)
        assert [len(each.heard) for each in ears] == [1, 1, 1]


@pytest.mark.stores("postgresql", "mysql")
async def test_a_push_into_a_bounded_queue_waits_for_none_of_other_tables(store: Store) -> None:
    engine = sync_engine(store.url)
    async with named(store, "jobs") as jobs, TaskQ(jobs.url, maxsize=1, when_full="raise") as tq:
        with engine.begin() as connection:
            connection.execute(jobs.backend.database.dialect.lock_pushes)
            async with asyncio.timeout(within(4)):
                await tq.push("mail")
        with pytest.raises(QueueFull):
            await tq.push("mail")
    engine.dispose()


@pytest.mark.stores("postgresql")
async def test_a_role_that_may_make_no_schema_uses_one_that_is_there(store: Store) -> None:
    store.execute(
        "DROP SCHEMA IF EXISTS jobs CASCADE; CREATE SCHEMA jobs; CREATE ROLE plain LOGIN; "
        "GRANT ALL ON SCHEMA jobs TO plain"
    )
    url = parse_url(store.url).set(username="plain", drivername="postgresql").render_as_string(hide_password=False)
    async with TaskQ(url, schema="jobs") as tq:
        await tq.push("mail")
        assert len(await tq.find()) == 1
    store.execute("DROP SCHEMA jobs CASCADE; DROP ROLE plain")

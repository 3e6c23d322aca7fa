"""Tasks in Django's transactions, and the tables that they need."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.integrations.django.project import backend, default, missing, orders, rolled_back, tasks, work
from tests.support.machine import within
from tests.support.servers import postgresql

# ---- transactions ---------------------------------------------------------------------------------------------------


def test_a_task_exists_exactly_if_the_transaction_commits(database: str) -> None:
    from django.db import transaction

    from tests.apps.django_shop.models import Order

    with rolled_back():
        Order.objects.create(name="rolled back")
        lost = tasks().book.enqueue("rolled back")
    assert orders("rolled back") == 0
    assert missing(lost)
    with transaction.atomic():
        Order.objects.create(name="kept")
        kept = tasks().book.enqueue("kept")
        with rolled_back():
            inner = tasks().book.enqueue("inner")
        assert missing(kept)  # another connection does not see it yet
    assert orders("kept") == 1
    assert missing(inner)
    assert backend().get_result(kept.id).status == "READY"


def test_workers_are_woken_once_the_transaction_has_committed(database: str) -> None:
    from django.db import transaction

    from aiotaskq.integrations.django.backend import _taskq
    from aiotaskq.integrations.django.worker import worker_of

    # MySQL has no channel: its workers poll.
    tq = worker_of(backend(), poll_interval=1.0 if database == "mysql" else 600.0)
    backend().taskq.close()
    _taskq.cache_clear()  # the push in the transaction is the first use of the store, as in a new process

    def enqueue() -> Any:
        with transaction.atomic():
            result = tasks().book.enqueue("woken")
        transaction.get_connection().close()
        return result

    async def main() -> None:
        async with tq.running(scheduler=False):
            ready = await tq.push("tests.apps.django_shop.tasks.book", {"args": ["ready"]})
            await ready.result(timeout=within(20))  # the worker has made its first claims
            result = await asyncio.to_thread(enqueue)
            await tq.handle(result.id).result(timeout=within(20))

    asyncio.run(main())
    assert orders("woken") == 1


def test_the_plain_api_pushes_in_the_transaction_of_django(database: str) -> None:
    from django.db import transaction
    from django.db.transaction import TransactionManagementError

    from aiotaskq.errors import NotFound
    from aiotaskq.integrations.django import session

    tq, path = backend().taskq, "tests.apps.django_shop.tasks.book"
    with rolled_back():
        lost = tq.push(path, {"args": ["plain"]}, session=session())
    with pytest.raises(NotFound):
        lost.task()
    with transaction.atomic():
        kept = tq.push_many([(path, {"args": ["plain"]}), (path, {"args": ["plain"]})], session=session("default"))
    assert [handle.status() for handle in kept] == ["pending", "pending"]
    with pytest.raises(TransactionManagementError, match="atomic"):
        session()
    for handle in kept:
        handle.cancel()


@pytest.mark.parametrize("writes", [False, True])
def test_calls_that_would_wait_for_the_lock_of_their_own_transaction_are_refused(sqlite: Path, writes: bool) -> None:
    from django.db import transaction
    from django.db.transaction import TransactionManagementError

    from aiotaskq.integrations.django import session
    from tests.apps.django_shop.models import Order

    tq, path = backend().taskq, "tests.apps.django_shop.tasks.book"
    kept = tasks().book.enqueue("kept")
    pushes: list[Callable[..., Any]] = [
        lambda **options: tq.push(path, {}, **options),
        lambda **options: tq.push_call(tq.call(path, {}, **options)),
        lambda **options: tq.push_many([(path, {})], **options),
        lambda **options: tq.push_many([tq.call(path, {}, **options)]),
        lambda **options: tq.group([tq.call(path, {})], **options),
    ]
    others: list[Callable[[], Any]] = [
        lambda: tq.cancel(kept.id),
        tq.handle(kept.id).cancel,
        lambda: tq.values.set_public("a", 1),
        lambda: tq.schedules.pause("a"),
        lambda: tq.limits.reset("a"),
        lambda: tq.running().__enter__(),
        lambda: tq.run(),
    ]
    with rolled_back():
        Order.objects.create(name="first") if writes else Order.objects.count()
        for push in pushes:
            with pytest.raises(TransactionManagementError, match=r"give it session=session\(\)"):
                push()
            push(session=session())
        for call in others:
            with pytest.raises(TransactionManagementError, match=r"transaction\.on_commit"):
                call()
    with transaction.atomic():
        Order.objects.create(name="second")
        transaction.on_commit(lambda: tq.cancel(kept.id))
    assert tq.handle(kept.id).status() == "cancelled"


def test_calls_that_read_are_answered_in_a_transaction_that_has_the_lock(sqlite: Path) -> None:
    from django.db import transaction

    from aiotaskq.errors import NotFound, ResultTimeout
    from aiotaskq.integrations.django.borrowed import _READING
    from tests.apps.django_shop.models import Order

    tq, reading = backend().taskq, set(_READING.split()) - {"close", "wait_for_end"}
    handle, group = tq.handle(tasks().book.enqueue("kept").id), tq.group([tq.call("report")])
    answered = set()
    arguments = {"find_keys": ("a",), "next_log": (0, 0.01), "result": (0.01,)}
    with transaction.atomic():
        Order.objects.create(name="first")
        for each in (tq, handle, group, tq.limits, tq.workers, tq.queue, tq.values, tq.schedules):
            for name in sorted(reading):
                call = getattr(type(each), name, None)
                if call is None or (each is tq and name == "task"):
                    continue
                needed = [
                    "a"
                    for parameter in list(inspect.signature(call).parameters.values())[1:]
                    if parameter.default is parameter.empty
                    and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
                ]
                with suppress(NotFound, ResultTimeout):
                    call(each, *arguments.get(name, needed))
                answered.add(name)
    assert answered == reading


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_migrate_makes_the_tables(database: str) -> None:
    from django.db import connection

    from aiotaskq.models import OUR_TABLES

    assert set(OUR_TABLES) <= set(connection.introspection.table_names())


def test_a_role_without_rights_to_make_tables_is_enough_after_migrate() -> None:
    from django.core.management import call_command
    from django.db import connection, transaction

    url = make_url(postgresql(durable=False).create("django_roles"))
    place = {"ENGINE": "django.db.backends.postgresql", "NAME": url.database, "HOST": url.host, "PORT": url.port}
    with default({**place, "USER": url.username, "PASSWORD": url.password or ""}), connection.cursor() as cursor:
        cursor.execute("CREATE ROLE shop_writer LOGIN PASSWORD 'of a test'")
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        cursor.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO shop_writer")
        cursor.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO shop_writer")
    empty = make_url(postgresql(durable=False).create("django_no_tables")).database
    nowhere = {**place, "NAME": empty, "USER": "shop_writer", "PASSWORD": "of a test"}
    with default(nowhere, migrated=False):
        actions: list[Callable[[], Any]] = [
            lambda: tasks().book.enqueue("of a role"),
            lambda: tasks().book.get_result("unknown"),
            lambda: call_command("aiotaskq_worker"),
        ]
        for action in actions:
            with pytest.raises(Exception, match=r"run `manage\.py migrate` as a role"):
                action()
        with pytest.raises(Exception, match=r"run `manage\.py migrate` as a role"), transaction.atomic():
            tasks().book.enqueue("of a role")
    with default({**place, "USER": "shop_writer", "PASSWORD": "of a test"}, migrated=False):
        with pytest.raises(Exception, match="permission denied"), connection.cursor() as cursor:
            cursor.execute("CREATE TABLE more (n int)")
        (done,) = work([tasks().book.enqueue("of a role")])
        assert (done.status, orders("of a role")) == ("SUCCESSFUL", 1)


def test_a_first_look_in_a_transaction_that_has_the_lock_is_answered_at_once(sqlite: Path) -> None:
    from django.db import transaction

    from aiotaskq.integrations.django.framework import TaskResultDoesNotExist
    from tests.apps.django_shop.models import Order

    with transaction.atomic():
        Order.objects.create(name="first")
        with pytest.raises(TaskResultDoesNotExist):
            tasks().book.get_result("unknown")


@pytest.mark.parametrize("tables", [False, True])
def test_a_first_look_that_would_wait_for_its_own_transaction_is_refused(tmp_path: Path, tables: bool) -> None:
    from django.db import connection, transaction

    from aiotaskq.integrations.django.framework import ImproperlyConfigured
    from tests.apps.django_shop.models import Order

    with default({"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "shop.db"}, migrated=tables):
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM sqlite_master")  # only then this connection knows the journal's present mode
            cursor.execute("PRAGMA journal_mode = DELETE")
            assert cursor.fetchall() == [("delete",)]
        if not tables:
            with connection.schema_editor() as editor:
                editor.create_model(Order)
        with transaction.atomic():
            Order.objects.create(name="first")
            for look in (lambda: tasks().book.get_result("unknown"), backend().taskq.find):
                with pytest.raises(ImproperlyConfigured, match="migrate"):
                    look()
        assert orders("first") == 1

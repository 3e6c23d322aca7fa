"""The backend of Django's tasks framework: results, signals, names and the worker, on each SQL database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.django.conftest import SETTINGS
from tests.integrations.django.project import backend, missing, orders, rolled_back, tasks, work
from tests.support import nursery
from tests.support.machine import watchdog
from tests.support.programs import ROOT

# ---- results --------------------------------------------------------------------------------------------------------


def test_results_of_functions_coroutines_and_contexts(database: str) -> None:
    module = tasks()
    booked, sent = module.book.enqueue("result", count=2), module.send.enqueue("result")
    seen = module.attempt.enqueue(0)
    assert (booked.status, booked.args, booked.kwargs, booked.attempts) == ("READY", ["result"], {"count": 2}, 0)
    assert (sent.task.queue_name, sent.task.priority) == ("mail", 5)
    with pytest.raises(ValueError, match="not finished"):
        booked.return_value  # noqa: B018 - it raises
    first, second, third = work([booked, sent, seen])
    assert first.return_value == {"name": "result", "orders": [2]}
    assert 0 <= second.return_value <= 2  # it may have run before the other one
    assert third.return_value == [1, seen.id]
    assert (first.status, first.is_finished, first.errors, first.attempts) == ("SUCCESSFUL", True, [], 1)
    assert first.enqueued_at <= first.started_at == first.last_attempted_at <= first.finished_at
    assert (second.task.func, second.task.queue_name, second.task.priority) == (module.send.func, "mail", 5)
    booked.refresh()
    assert (booked.status, booked.return_value) == (first.status, first.return_value)
    assert module.book.get_result(booked.id).id == booked.id


def test_errors_have_their_class_and_their_traceback(database: str) -> None:
    module = tasks()
    (failed,) = work([module.fail.enqueue()])
    (error,) = failed.errors
    assert (failed.status, failed.attempts, error.exception_class) == ("FAILED", 1, module.Refused)
    assert "tasks.py" in error.traceback and "Refused: 1" in error.traceback
    with pytest.raises(ValueError, match="Task failed"):
        failed.return_value  # noqa: B018 - it raises
    with pytest.raises(Exception, match="does not match"):
        module.book.get_result(failed.id)


def test_a_task_is_retried_as_often_as_the_option_says(sqlite: Path) -> None:
    module, by = tasks(), backend(max_retries=1)
    good, bad = by.enqueue(module.attempt, [1], {}), by.enqueue(module.attempt, [5], {})
    first, second = work([good, bad], by)
    assert (first.return_value, first.attempts, len(first.errors)) == ([2, good.id], 2, 1)
    assert (second.status, second.attempts) == ("FAILED", 2)
    assert [error.exception_class for error in second.errors] == [module.Refused] * 2
    heads = [error.traceback.partition("\n")[0] for error in second.errors]
    assert heads == ["Refused: attempt 1", "Refused: attempt 2"]


def test_the_higher_priority_runs_first_and_a_later_time_is_waited_for(sqlite: Path) -> None:
    from django.utils import timezone

    module = tasks()
    module.ran.clear()
    low, high = module.book.using(priority=-50).enqueue("low"), module.book.using(priority=100).enqueue("high")
    moment = timezone.now() + timedelta(hours=2)
    later = module.book.using(run_after=moment).enqueue("later")
    work([low, high], concurrency=1)
    assert module.ran == ["high", "low"]
    read = backend().get_result(later.id)
    assert (read.status, read.task.run_after) == ("READY", moment)
    assert backend().get_result(low.id).task.priority == -50


def test_times_are_naive_where_the_settings_say_so(sqlite: Path) -> None:
    from django.test import override_settings
    from django.utils import timezone

    with override_settings(USE_TZ=False):
        moment = timezone.now() + timedelta(hours=2)
        later, now = tasks().book.using(run_after=moment).enqueue("later"), tasks().book.enqueue("now")
        (read,) = work([now])
        assert backend().get_result(later.id).task.run_after == moment
        assert moment - timedelta(hours=2, seconds=2) < read.enqueued_at <= read.started_at <= read.finished_at


def test_a_worker_of_some_queues_leaves_the_others(sqlite: Path) -> None:
    module = tasks()
    default, mail = module.book.enqueue("default"), module.send.enqueue("mail")
    work([mail], queues=["mail"])
    assert [backend().get_result(each.id).status for each in (default, mail)] == ["READY", "SUCCESSFUL"]


async def test_coroutines_enqueue_and_read_results(sqlite: Path) -> None:
    from asgiref.sync import sync_to_async
    from django.db import connections

    module = tasks()
    result = await module.book.aenqueue("coroutine")
    assert (await module.book.aget_result(result.id)).status == "READY"
    await result.arefresh()
    await sync_to_async(connections.close_all)()


# ---- signals, names, options ----------------------------------------------------------------------------------------


def test_signals_tell_of_each_stage(sqlite: Path) -> None:
    from aiotaskq.integrations.django import TasksBackend, framework

    heard: list[Any] = []
    handled: dict[str, str] = {}
    ended = threading.Event()

    def listen(name: str) -> Any:
        def hear(sender: Any, task_result: Any, **_given: Any) -> None:
            heard.append((name, sender, task_result.id, task_result.status))
            if name == "finished":
                handled[task_result.id] = str(sys.exception())
            if len(heard) == 6:
                ended.set()

        return hear

    listeners = {
        framework.task_enqueued: listen("enqueued"),
        framework.task_started: listen("started"),
        framework.task_finished: listen("finished"),
    }
    for sent, hear in listeners.items():
        sent.connect(hear)
    try:
        booked, failed = tasks().book.enqueue("signals"), tasks().fail.enqueue()
        work([booked, failed])
        assert ended.wait(watchdog())
    finally:
        for sent, hear in listeners.items():
            sent.disconnect(hear)
    assert handled[booked.id] == "None"
    assert "failed: Refused: 1" in handled[failed.id]  # as Django's own backends do it, for its log
    of_each = {result.id: [each for each in heard if each[2] == result.id] for result in (booked, failed)}
    assert [(name, status) for name, _, _, status in of_each[booked.id]] == [
        ("enqueued", "READY"),
        ("started", "RUNNING"),
        ("finished", "SUCCESSFUL"),
    ]
    assert of_each[failed.id][-1] == ("finished", TasksBackend, failed.id, "FAILED")


def test_a_stored_name_imports_nothing_but_tasks_of_applications(sqlite: Path) -> None:
    from aiotaskq.integrations.django.results import task_at
    from aiotaskq.integrations.django.worker import worker_of

    module = "tests.apps.django_shop.tasks"
    assert task_at(f"{module}.book") is tasks().book
    for path in (
        f"{module}.no_task",
        f"{module}.missing",
        "os.system",
        "turtledemo.clock.main",
        "book",
        f"{module}x.y",
    ):
        assert task_at(path) is None
    assert "turtledemo" not in sys.modules
    tq = worker_of(backend())
    assert f"{module}.book" in tq._registered.handlers  # in the registry of workers from the beginning
    assert tq._registered.handlers.get("os.system") is None
    assert tq._registered.handlers.get(f"{module}.no_task") is None


def test_a_task_of_other_code_has_no_result(sqlite: Path) -> None:
    from aiotaskq.integrations.django.framework import TaskResultDoesNotExist

    pushed = backend().taskq.push("another.program", {})
    for task_id in (pushed.task_id, "no such id", "x" * 100):
        with pytest.raises(TaskResultDoesNotExist):
            backend().get_result(task_id)


def test_tasks_in_another_store_do_not_join_the_transaction(sqlite: Path) -> None:

    elsewhere = backend(url=f"sqlite:///{sqlite.parent}/elsewhere.db")
    same = backend(url=f"sqlite:///{sqlite}")
    assert (elsewhere.using, same.using, backend().using) == (None, "default", "default")
    try:
        with rolled_back():
            result = elsewhere.enqueue(tasks().book, ["elsewhere"], {})
            lost = same.enqueue(tasks().book, ["same"], {})
        assert elsewhere.get_result(result.id).status == "READY"
        assert missing(lost)
    finally:
        elsewhere.taskq.close()
        same.taskq.close()


def test_wrong_tasks_are_refused(sqlite: Path) -> None:
    from aiotaskq.integrations.django.framework import InvalidTask

    module = tasks()
    with pytest.raises(InvalidTask, match="not valid for backend"):
        module.book.using(queue_name="another")
    with pytest.raises(InvalidTask, match="whole number"):
        module.book.using(priority=101)
    with pytest.raises(TypeError):
        module.book.enqueue(object())

    def long() -> None: ...

    long.__qualname__, long.__module__ = "x" * 101, module.__name__
    with pytest.raises(InvalidTask, match="at most 100 characters"):
        type(module.book)(func=long)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({}, []),
        ({"url": "redis://localhost:1"}, []),
        ({"speed": 9}, ["E001"]),
        ({"max_retries": -1}, ["E002"]),
        ({"modules": "shop"}, ["E003"]),
        ({"modules": ["nope.tasks"]}, ["E006"]),
        ({"url": "memory://"}, ["E004"]),
        ({"url": "ftp://x"}, ["E004"]),
        ({"using": "another"}, ["E004"]),
        ({"url": "sqlite:///another.db", "using": "default"}, ["E005"]),
    ],
)
def test_checks_name_what_is_wrong_with_the_options(sqlite: Path, options: dict[str, Any], wrong: list[str]) -> None:
    assert [error.id for error in backend(**options).check()] == [f"aiotaskq.{number}" for number in wrong]


def test_checks_name_a_wrong_task_and_an_application_that_is_missing(
    sqlite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.test import override_settings

    monkeypatch.syspath_prepend(tmp_path)
    wrong = "from aiotaskq.integrations.django import schedule\nfrom tests.apps.django_shop.tasks import look\n"
    (tmp_path / "wrong_tasks.py").write_text(f"{wrong}schedule(cron='61 * * * *')(look)\n")
    (error,) = backend(modules=["wrong_tasks"]).check()
    assert error.id == "aiotaskq.E006" and "cron" in error.msg
    with override_settings(INSTALLED_APPS=["tests.apps.django_shop"]):
        assert [error.id for error in backend().check()] == ["aiotaskq.E007"]


def test_the_command_refuses_unknown_queues(sqlite: Path) -> None:
    from django.core.management import CommandError, call_command

    with pytest.raises(CommandError, match=r"--queues: 'nope' is not in QUEUES of TASKS\['default'\]: default, mail"):
        call_command("aiotaskq_worker", queues="mail,nope")


def test_a_database_in_memory_is_refused() -> None:
    from django.db import connections

    from aiotaskq.integrations.django.borrowed import url_of
    from aiotaskq.integrations.django.framework import ImproperlyConfigured

    before = connections.settings["default"]
    place = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    connections.settings["default"] = connections.configure_settings({"default": place})["default"]
    connections["default"] = connections.create_connection("default")
    try:
        with pytest.raises(ImproperlyConfigured, match="in memory"):
            url_of("default")
    finally:
        connections.settings["default"] = before
        del connections["default"]


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_runs_tasks_until_a_signal(tmp_path: Path, sqlite: Path) -> None:
    result = tasks().book.enqueue("command")
    environment = {**os.environ, "SHOP_DB": str(sqlite), "DJANGO_SETTINGS_MODULE": SETTINGS, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/apps/django_shop/manage.py"), "aiotaskq_worker", "--concurrency", "2"]
    with nursery.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as program:
        try:
            assert backend().taskq.handle(result.id).result(timeout=watchdog()) == {"name": "command", "orders": [1]}
        finally:
            program.send_signal(signal.SIGTERM)
            _, said = program.communicate(timeout=watchdog())
    assert program.returncode == 0, said
    assert f"aiotaskq starts on sqlite:///{sqlite}" in said
    assert orders("command") == 1

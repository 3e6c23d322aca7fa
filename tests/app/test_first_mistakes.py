"""The mistakes of the first hour: each error says what was wrong, where, and what to write instead."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Security
from loguru import logger
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

import aiotaskq
from aiotaskq import Limit, Parent, TaskQ, injected, sleep_for, sleep_until, step
from aiotaskq.codecs import Zlib
from aiotaskq.core.cron import check_timezone
from aiotaskq.errors import ClosedError, NotFound, ResultTimeout, TaskFailed, ValidationError
from aiotaskq.testing import VirtualClock, virtual
from aiotaskq.types import HookCall, TaskHandle
from tests.support.machine import within
from tests.support.waiting import eventually

tq = TaskQ("memory://")


class Mailer:
    async def send(self, to: str) -> str:
        return to


@tq.task
async def add(a: int, b: int = 0) -> int:
    return a + b


def test_a_method_without_its_object_is_refused_and_that_of_an_object_is_taken() -> None:
    own = TaskQ("memory://")
    with pytest.raises(ValidationError, match=r"handler Mailer\.send: a method has no object .* tq\.task\("):
        own.task(Mailer.send)
    assert own.task(Mailer().send).name == "send"


async def test_an_option_that_is_a_parameter_or_misspelt_is_told_first() -> None:
    with pytest.raises(ValidationError, match=r"^push: params are one dict: tq\.push\('add', \{'a': …\}\)$"):
        await tq.push("add", a=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match=r"^options: unknown option dely; did you mean delay\?$"):
        add.options(dely=5)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match=r"^push: unknown option x; use delay, at, "):
        await tq.push("add", x=1)  # type: ignore[call-arg]


def test_a_decorator_that_is_written_the_wrong_way() -> None:
    own = TaskQ("memory://")
    for wrong in ("0 2 * * *", add):
        with pytest.raises(ValidationError, match=r"^schedule: options are given by name, as in schedule\(cron=…\)$"):
            own.schedule(wrong)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match=r"^schedule: unknown option timezon; did you mean timezone\?$"):
        own.schedule(cron="0 2 * * *", timezon="Asia/Shanghai")  # type: ignore[call-arg]

    @own.schedule(cron="0 2 * * *")
    async def clean_up() -> None: ...

    with pytest.raises(ValidationError, match=r"^task: 'clean_up' is a handler already; .* below @tq\.schedule$"):
        own.task(clean_up)
    with pytest.raises(ValidationError, match=r"^handler Mailer: this is a class; give a function or a method$"):
        own.task(Mailer)


@pytest.mark.parametrize("url", ["sqlite:///app.db", "postgresql://app:secret@localhost/app"])
def test_the_url_of_an_engine_is_a_text_with_its_password(url: str) -> None:
    address = make_url(url)
    for wrong in (address, SimpleNamespace(url=address)):  # an engine has its URL there
        with pytest.raises(ValidationError, match=r"^url: a text is needed .*render_as_string\(hide_password=False\)$"):
            TaskQ(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"^url: \*\*\* stands for a hidden password; write the password, or "):
        TaskQ("postgresql://app:***@localhost/app")


async def test_time_is_advanced_by_seconds_as_a_sleep_is() -> None:
    async with virtual(TaskQ("memory://")) as kit:
        began = kit.now
        await kit.advance(seconds=3, minutes=1)
        assert (kit.now - began).total_seconds() == 63


def test_hooks_and_middleware_that_nothing_could_call_are_refused() -> None:
    own = TaskQ("memory://")
    with pytest.raises(ValidationError, match=r"^on: the name of the hook comes first, as in @tq\.on\('failed'\)$"):

        @own.on  # type: ignore[call-overload]
        def failed(call: HookCall) -> None: ...

    with pytest.raises(ValidationError, match=r"^hook: 'fail' is unknown; did you mean 'failed'\?$"):
        own.on("fail", print)  # type: ignore[call-overload]
    for wrong in (lambda: None, lambda task, error: None, "print"):
        with pytest.raises(ValidationError, match=r"^hook: a function of one argument, the HookCall, is needed \(got "):
            own.on("failed", wrong)  # type: ignore[call-overload]

    async def generator(call: HookCall) -> AsyncIterator[None]:
        yield

    with pytest.raises(ValidationError, match=r"^hook: a generator's body would never run; use no yield \(got "):
        own.on("failed", generator)
    calls: list[HookCall] = []
    own.on("failed", calls.append)

    class Timed:
        async def run(self, task: Any, call_next: Any) -> Any: ...

    async def alone(task: Any) -> Any: ...

    with pytest.raises(ValidationError, match=r"^middleware: this is a class; .*: tq\.middleware\(Timed\(\)\)$"):
        own.middleware(Timed)
    with pytest.raises(
        ValidationError, match=r"^middleware: .*alone\(\) is called with two arguments: what is run or "
    ):
        own.middleware(alone)
    own.middleware(Timed())


async def test_a_middleware_that_returns_nothing_for_its_pushes() -> None:
    own = TaskQ("memory://")

    class Silent:
        async def push(self, tasks: Any, call_next: Any) -> None:
            await call_next(tasks)

    own.middleware(Silent())
    with pytest.raises(
        ValidationError, match=r"^middleware: push\(\) has not returned what call_next\(tasks\) returns"
    ):
        await own.push("add", {"a": 1})


async def test_a_wait_in_memory_without_workers_says_how_to_start_some() -> None:
    own = TaskQ("memory://")
    own.task(add.handler.function)
    handle = await own.push("add", {"a": 1})
    with pytest.raises(
        ResultTimeout, match=r"; no worker claims from queue 'default': 'async with tq\.running\(\)' st"
    ):
        await handle.result(timeout=0)
    async with own.running(queues=["mail"]):
        with pytest.raises(ResultTimeout, match="; no worker claims from queue 'default'"):
            await handle.result(timeout=0)
    async with own.running():
        assert await handle.result(timeout=within(10)) == 1


def test_a_decorator_of_the_class_needs_a_task_queue() -> None:
    said = r"^task: make a task queue first, tq = TaskQ\(…\), and write @tq\.task$"
    for wrong in (lambda: TaskQ.task(add.handler.function), lambda: TaskQ.task(max_retries=3)):  # type: ignore[call-overload,arg-type]
        with pytest.raises(ValidationError, match=said):
            wrong()


async def test_a_step_outside_of_a_handler_is_named() -> None:
    for what, call in (("step", step("charge", Mailer)), ("sleep_for", sleep_for("pause", 5))):
        with pytest.raises(NotFound, match=rf"^{what}: no task runs here; call it from a handler$"):
            await call


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("task", r"@tq\.task, of tq = TaskQ"),
        ("crontab", r"@tq\.schedule\(cron=…\), of tq"),
        ("Celery", r"TaskQ\(…\)"),
        ("AsyncResult", r"handle\.result\(\)"),
    ],
)
def test_an_import_of_another_library_says_what_is_written_here(name: str, here: str) -> None:
    with pytest.raises(ImportError, match=rf"^cannot import name '{name}' from 'aiotaskq'; here: {here}"):
        exec(f"from aiotaskq import {name}")


def test_an_import_from_the_root_says_where_a_name_is() -> None:
    for name, home in (("QueueFull", "errors"), ("Task", "types"), ("Zlib", "codecs")):
        said = rf"^cannot import name '{name}' from 'aiotaskq'; it is in aiotaskq\.{home}$"
        with pytest.raises(ImportError, match=said):
            exec(f"from aiotaskq import {name}")
    assert not hasattr(aiotaskq, "nonsense") and not hasattr(aiotaskq, "__nonsense__")


async def test_a_filter_by_a_task_function_finds_nothing_and_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"^type: a string is needed \(got TaskFunction\)$"):
        await TaskQ("memory://").find(type=add)  # type: ignore[arg-type]


async def test_an_application_does_not_call_running() -> None:
    with pytest.raises(ValidationError, match=r"^running: an application calls tq\.lifespan, as in FastAPI\("):
        async with TaskQ("memory://").running(FastAPI()):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize("workers", [True, False])
async def test_a_block_inside_of_another_one_leaves_the_store_and_the_workers_alone(
    tmp_path: Path, workers: bool
) -> None:
    own = TaskQ(f"sqlite:///{tmp_path}/x.db")

    @own.task
    async def handler() -> str:
        async with own:
            await own.stats()
        return "open"

    async def request(inside: asyncio.Event, may_end: asyncio.Event) -> None:
        async with own:
            inside.set()
            await may_end.wait()

    async with own.running(workers=workers):
        worker = own.worker
        requests = [(asyncio.Event(), asyncio.Event()) for _ in range(2)]
        tasks = [asyncio.create_task(request(*each)) for each in requests]
        for inside, _ in requests:
            await inside.wait()
        for (_, may_end), task in zip(requests, tasks, strict=True):
            may_end.set()
            await task
            handle = await handler.push()
        assert own.worker is worker
        if workers:
            assert await handle.result(timeout=within(5)) == "open"
    with pytest.raises(ClosedError):
        await handler.push()


async def test_blocks_that_begin_at_the_same_time_end_one_by_one(tmp_path: Path) -> None:
    own, may_end = TaskQ(f"sqlite:///{tmp_path}/x.db"), asyncio.Event()

    async def request(waits: bool) -> None:
        async with own:
            if waits:
                await may_end.wait()
                await own.push("x", {})

    first, second = (asyncio.create_task(request(waits)) for waits in (False, True))
    await first
    may_end.set()
    await second
    with pytest.raises(ClosedError):
        await own.push("x", {})


def test_a_block_that_an_ended_loop_has_left_behind_keeps_nothing_open(tmp_path: Path) -> None:
    own = TaskQ(f"sqlite:///{tmp_path}/x.db")

    async def use() -> None:
        async with own:
            await own.stats()
        with pytest.raises(ClosedError):
            await own.push("x", {})

    asyncio.run(own.__aenter__())
    asyncio.run(use())


async def test_workers_is_no_number() -> None:
    with pytest.raises(ValidationError, match=r"^workers: True, False or None is needed \(got 5\); concurrency= is"):
        async with TaskQ("memory://").running(workers=5):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize(("name", "meant"), [("UTC+8", "Etc/GMT-8"), ("GMT-5", "Etc/GMT+5"), ("gmt+14", "Etc/GMT-14")])
def test_a_zone_with_an_offset_is_named_by_its_opposite(name: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=rf"did you mean {re.escape(repr(meant))}\?$"):
        check_timezone(name)


def test_an_abbreviation_is_not_taken_for_another_one() -> None:
    with pytest.raises(ValidationError, match=r"\(got 'CST'\); write one such as 'Europe/Berlin' or 'UTC'$"):
        check_timezone("CST")


@pytest.mark.parametrize("name", ["Asia/Beijing", "Beijing"])
def test_the_zone_of_beijing_is_that_of_shanghai(name: str) -> None:
    with pytest.raises(ValidationError, match=r"did you mean 'Asia/Shanghai'\?"):
        check_timezone(name)


async def test_steps_and_sleeps_that_are_called_the_wrong_way() -> None:
    own = TaskQ("memory://")

    async def charge() -> int:
        return 1

    calls: dict[str, Any] = {
        "called": lambda: step("charge", charge()),  # type: ignore[arg-type]
        "no name": lambda: step(charge, 17),  # type: ignore[call-overload]
        "no function": lambda: step("charge", 17),  # type: ignore[call-overload]
        "seconds": lambda: sleep_for(5),  # type: ignore[arg-type]
        "how long": lambda: sleep_for("pause"),
        "instant": lambda: sleep_until(5.0, 6.0),  # type: ignore[arg-type]
    }

    @own.task(max_retries=0)
    async def run(how: str) -> None:
        await calls[how]()

    said = {}
    async with own.running():
        for how in calls:
            with pytest.raises(TaskFailed) as error:
                await (await run.push(how)).result(timeout=within(10))
            said[how] = re.sub(r".*ValidationError: (.*)", r"\1", str(error.value.error).splitlines()[0])
    assert said == {
        "called": "step: pass the function and its arguments, not a call: step('charge', function, …)",
        "no name": "name: the name of the step comes first, as in step('charge', charge, …) (got function)",
        "no function": "step: a function is needed behind the name 'charge' (got 17)",
        "seconds": "name: the name of the sleep comes first, as in sleep_for('pause', 5) (got int)",
        "how long": "sleep_for('pause'): how long? Give seconds, or minutes=, hours= or days=",
        "instant": "name: the name of the sleep comes first, as in sleep_until('morning', when) (got float)",
    }


def test_handlers_and_resources_that_are_written_the_wrong_way() -> None:
    own = TaskQ("memory://")

    def plain() -> None: ...

    for wrong in (staticmethod(plain), classmethod(plain)):
        with pytest.raises(
            ValidationError, match=r"plain: a method has no object to be called on; register a function"
        ):
            own.task(wrong)
    with pytest.raises(ValidationError, match=r"^handler partial: parameter 'args' has no name to pass it by"):
        own.task(functools.partial(print, "x"))
    with pytest.raises(ValidationError, match=r"^task: options are given by name, as in task\(name=…\)$"):
        own.task("greet")  # type: ignore[call-overload]
    with pytest.raises(ValidationError, match=r"^name: must not be empty$"):
        own.task(name="")(plain)

    async def use(mailer: Mailer = injected) -> None: ...  # type: ignore[assignment]

    with pytest.raises(ValidationError, match=r"^parameter 'mailer': write injected\(\), with parentheses$"):
        own.task(use)

    for by_request in (Depends(plain), Security(plain)):

        async def send(mailer: Mailer = by_request) -> None: ...

        with pytest.raises(ValidationError, match=r"^parameter 'mailer': Depends works in requests only; a handler"):
            own.task(send)

    def mailer(host: str) -> Mailer:
        return Mailer()

    with pytest.raises(
        ValidationError, match=r"^resource mailer: it is called without arguments; give each a default$"
    ):
        own.resource(mailer)
    with pytest.raises(ValidationError, match=r"^clock: a clock is needed, such as VirtualClock\(\) \(got builtin_"):
        TaskQ("memory://", clock=time.time)  # type: ignore[arg-type]


async def test_calls_where_something_else_is_needed() -> None:
    own = TaskQ("memory://")
    known = own.task(name="add")(add.handler.function)

    @own.task
    async def after(parent: Parent[int]) -> None: ...

    said = r"^on_success: a task function, or the name of a type, is needed \(got "
    for wrong in (own.call("after"), [after]):
        with pytest.raises(ValidationError, match=said):
            await known.options(on_success=wrong).push(1)  # type: ignore[typeddict-item]
    with pytest.raises(ValidationError, match=r"^push_many: a list of calls is needed \(got TaskCall\)$"):
        await own.push_many(known.call(1))  # type: ignore[arg-type]
    calls = [known.call(1), known.call(2)]
    with pytest.raises(ValidationError, match=r"^then: after\(\) takes one 'parent', .* annotate it as list\[Parent\["):
        await own.group(calls, then=own.call("after"))
    await own.group(calls[:1], then=own.call("after"))


def test_a_lambda_needs_a_name() -> None:
    own = TaskQ("memory://")
    with pytest.raises(ValidationError, match=r"^name: a lambda has no name; write the handler as a def, or give it"):
        own.task(lambda: None)
    assert own.task(name="nothing")(lambda: None).name == "nothing"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"codec": 5}, r"^codec: an object with encode and decode is needed, as Zlib\(\) \(got 5\)$"),
        ({"codec": Zlib}, r"^codec: an object with encode and decode is needed, as Zlib\(\) \(got <class .*Zlib'>\)$"),
        ({"history": "x"}, r"^history: True or False is needed \(got 'x'\)$"),
        ({"timezone": "Asia/Shangai"}, r"^timezone: .* did you mean 'Asia/Shanghai'\?$"),
    ],
)
def test_an_option_of_a_task_queue_is_checked_when_it_is_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TaskQ("sqlite:///never-made.db", **options)
    assert not Path("never-made.db").exists()


async def test_a_task_that_was_pushed_and_not_committed_is_not_found_yet(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    async with TaskQ(url) as own:
        await own.push("add", {"a": 1})  # its tables are there
        async with engine.connect() as connection:
            handle = await own.push("add", {"a": 1}, session=connection)
            await connection.rollback()
        with pytest.raises(NotFound, match=r"; if it was pushed with session=, commit that first$"):
            await handle.result(timeout=0)
    await engine.dispose()


def test_a_limit_of_none_at_all_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"^limit: 0 would let no task run; .* tq\.limits\.pause\(key\)$"):
        Limit(0)


async def test_a_missing_resource_is_found_at_the_start() -> None:
    own = TaskQ("memory://")

    @own.task
    async def send(to: str, mailer: Mailer = injected()) -> None: ...

    with pytest.raises(ValidationError, match=r"^send\(\) needs 'mailer', and no resource gives Mailer; register one"):
        async with own.running():
            raise AssertionError("it started")


def test_the_url_is_that_of_the_variable_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOTASKQ_DATABASE_URL", "sqlite:///named.db")
    assert TaskQ().url == "sqlite:///named.db"
    assert TaskQ("memory://").url == "memory://"
    monkeypatch.delenv("AIOTASKQ_DATABASE_URL")
    assert TaskQ().url == "sqlite:///aiotaskq.db"


@pytest.mark.parametrize("wait", [TaskHandle.result, TaskHandle.next_log])
async def test_a_wait_for_what_nothing_runs_is_told_in_the_log(
    wait: Callable[[TaskHandle[object]], Coroutine[object, object, object]], tmp_path: Path
) -> None:
    clock, lines = VirtualClock(), list[str]()
    number = logger.add(lines.append, level="WARNING", format="{message}")
    async with TaskQ(f"sqlite:///{tmp_path}/tasks.db", clock=clock) as own:
        own.task(add.handler.function)
        handle = await own.push("add", {"a": 1})
        waiting = asyncio.create_task(wait(handle))
        await clock.advance(4.5)
        assert lines == []
        await clock.advance(60)
        await eventually(lambda: lines)
        (line,) = lines
        assert line.startswith(f"task {handle.task_id} (add) is waited for; no worker claims from queue 'default'")
        waiting.cancel()
    logger.remove(number)


async def test_missing_params_are_told_with_how_to_give_them() -> None:
    own = TaskQ("memory://")
    said = r"^params: remind\(\) needs 'user'; give params=\{'user': …\}$"
    with pytest.raises(ValidationError, match=said):

        @own.schedule(interval=60)
        async def remind(user: str) -> None: ...

    with pytest.raises(ValidationError, match=said):
        await own.push("remind")

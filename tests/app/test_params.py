"""Parameters that a handler does not accept: refused by a push that knows the handler, and never retried."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ, injected, sync
from aiotaskq.core.status import Status
from aiotaskq.core.task import new_task
from aiotaskq.errors import ValidationError
from aiotaskq.testing import virtual
from aiotaskq.types import Task
from tests.support.machine import within

RUN: list[str] = []


def in_process(name: str) -> str:
    return f"hello {name}"


@pytest.fixture(params=["memory", "sqlite"])
def tq(request: pytest.FixtureRequest, tmp_path: Path) -> TaskQ:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/params.db"
    return TaskQ(url, poll_interval=0.05)


# ---- pushing ----


async def test_a_push_by_name_refuses_what_the_handler_does_not_take(tq: TaskQ) -> None:
    @tq.task
    async def greet(name: str, mood: str = "well") -> None: ...

    @tq.task
    async def anything(**kwargs: Any) -> None: ...

    async with tq:
        for params, said in (
            ({"nmae": "x"}, r"params: greet\(\) has no parameter 'nmae'; did you mean 'name'\?"),
            ({"name": "x", "zzz": 1}, r"params: greet\(\) has no parameter 'zzz'$"),
            ({"mood": "x"}, r"params: greet\(\) needs 'name'"),
            (None, r"params: greet\(\) needs 'name'"),
        ):
            with pytest.raises(ValidationError, match=said):
                await tq.push("greet", params)
            for call in (("greet", params), {"type": "greet", "params": params}):
                with pytest.raises(ValidationError, match=said):
                    await tq.push_many([greet.call(name="x"), call])  # type: ignore[list-item]
        assert await tq.find() == []
        for name, good in (("greet", {"name": "x"}), ("greet", {"name": "x", "mood": "y"}), ("anything", {"a b": 1})):
            await tq.push(name, good)
        await tq.push_many([("anything", {}), {"type": "greet", "params": {"name": "x"}}])
        assert len(await tq.find()) == 5


def test_a_schedule_is_declared_with_params_that_fit() -> None:
    tq = TaskQ("memory://")
    with pytest.raises(ValidationError, match=r"params: greet\(\) needs 'name'"):

        @tq.schedule(interval=60)
        async def greet(name: str) -> None: ...

    with pytest.raises(ValidationError, match="has no parameter 'x'"):

        @tq.schedule(interval=60, params={"x": 1})
        async def tick() -> None: ...


def test_the_facade_refuses_them_as_well() -> None:
    with sync.TaskQ("memory://") as tq:

        @tq.task
        def greet(name: str) -> None: ...

        with pytest.raises(ValidationError, match="did you mean 'name'"):
            tq.push("greet", {"nmae": "x"})


async def test_injected_params_need_not_be_pushed(tq: TaskQ) -> None:
    def with_session(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(function)
        async def wrapper(**kwargs: Any) -> Any:
            return await function(session="s", **kwargs)

        return wrapper

    @tq.resource
    def numbers() -> list[int]:
        return [1, 2]

    @tq.task
    @with_session
    async def book(session: str, order: int) -> str:
        return f"{session}{order}"

    @tq.task
    async def count(numbers: list[int] = injected()) -> int:
        return len(numbers)

    async with tq.running():
        assert await (await tq.push("book", {"order": 1})).result(within(30)) == "s1"
        assert await (await tq.push("count")).result(within(30)) == 2
        with pytest.raises(ValidationError, match="no parameter 'oder'"):
            await tq.push("book", {"oder": 1})


# ---- running: pushed by a process without the handlers ----


async def ended(tq: TaskQ, type: str, params: dict[str, Any]) -> Task:
    (task,) = await tq.queue.add([new_task(type, params, now=tq.queue.clock.now())])
    return await tq.queue.wait_for_end(task.task_id, within(30))


@pytest.mark.parametrize("kind", ["loop", "thread", "process", "injected", "wrapped", "middleware"])
async def test_params_that_do_not_fit_fail_the_task_at_once(tq: TaskQ, kind: str) -> None:
    async def greet(name: str) -> None:
        RUN.append(name)

    async def with_resource(name: str, numbers: list[int] = injected()) -> None:
        RUN.append(name)

    @functools.wraps(greet)
    async def wrapped(*args: Any, **kwargs: Any) -> None:
        await greet(*args, **kwargs)

    functions: dict[str, Any] = {"thread": in_process, "process": in_process, "injected": with_resource}
    functions["wrapped"] = wrapped
    tq.task(name="greet", executor=kind if kind in ("thread", "process") else None)(functions.get(kind, greet))

    @tq.resource
    def numbers() -> list[int]:
        return []

    if kind == "middleware":

        @tq.middleware
        async def around(task: Task, call_next: Callable[[Task], Awaitable[Any]]) -> Any:
            return await call_next(task)

    RUN.clear()
    async with tq.running(concurrency=1):
        for params, said in (({"nmae": "x"}, "name"), ({}, "missing a required argument: 'name'")):
            task = await ended(tq, "greet", params)
            assert (task.status, task.retry_count) == (Status.FAILED, 0)
            assert (task.error_message or "").startswith("invalid_params: greet() ") and said in str(task.error_message)
    assert not RUN


async def test_a_type_error_of_the_handlers_own_is_retried(tq: TaskQ) -> None:
    @tq.task(backoff=0.001)
    async def own(name: str) -> None:
        raise TypeError("mine")

    @tq.task(backoff=0.001)
    def inner(name: str) -> None:
        own.handler.function(nmae=name)  # a call of its own with the wrong arguments

    @tq.task(backoff=0.001)
    async def changed(name: str) -> None:
        raise TypeError("mine")

    @tq.middleware
    async def around(task: Task, call_next: Callable[[Task], Awaitable[Any]]) -> Any:
        return await call_next(task.replace(params={"name": "given"}) if task.type == "changed" else task)

    async with tq.running(concurrency=1):
        for type, params in (("own", {"name": "x"}), ("inner", {"name": "x"}), ("changed", {})):
            task = await ended(tq, type, params)
            assert (task.status, task.retry_count) == (Status.FAILED, 3), type
            assert (task.error_message or "").startswith("TypeError: ")


async def test_a_parameter_may_have_any_name() -> None:
    tq = TaskQ("memory://")

    @tq.task
    async def odd(__post_init__: int, encode: str = "") -> int:
        return __post_init__

    async with virtual(tq) as kit:
        task = await tq.push("odd", {"__post_init__": 7})
        await kit.drain()
        assert await task.result() == 7
        with pytest.raises(ValidationError, match=r"^params\.__post_init__: Expected `int`"):
            await tq.push("odd", {"__post_init__": "x"})
        with pytest.raises(ValidationError, match=r"has no parameter 'f0'"):
            await tq.push("odd", {"f0": 1})

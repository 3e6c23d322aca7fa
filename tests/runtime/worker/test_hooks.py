"""What surrounds a run: callbacks, follow-ups, middleware, resources and events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
import aiotaskq.types
from aiotaskq import Parent, TaskQ, current_task
from aiotaskq.errors import UnknownHandler, ValidationError
from tests.support.machine import within
from tests.support.waiting import eventually


async def test_callbacks_come_after_the_commit(tq: TaskQ) -> None:
    seen: list[tuple[str, str]] = []

    @tq.task(max_retries=0)
    async def work(ok: bool) -> int:
        if not ok:
            raise ValueError("no")
        return 41

    @tq.task
    async def after(parent: Parent[int | None]) -> None:
        seen.append((parent.type, str(await tq.handle(parent.id).status())))
        assert (parent.result, (parent.error or "")[:14]) in ((41, ""), (None, "ValueError: no"))

    async with tq.running(concurrency=2):
        await work.options(on_success=after, on_failure="after").push(ok=True)
        await work.options(on_success="after", on_failure="after").push(ok=False)
        await eventually(lambda: len(seen) == 2)
    assert sorted(seen) == [("work", "completed"), ("work", "failed")]


async def test_a_follow_up_without_a_handler_is_refused_at_the_push(tq: TaskQ) -> None:
    @tq.task
    async def work() -> None: ...

    @tq.task
    async def after(**_: Any) -> None: ...

    for name in ("on_success", "on_failure"):
        with pytest.raises(UnknownHandler, match=f"{name}: no handler is registered for 'aftr'; did you mean 'after'"):
            await work.options(**{name: "aftr"}).push()  # type: ignore[typeddict-item]
    for wrong in (lambda task_id: None, lambda parent, other: None):
        tq.task(name=f"wrong{wrong.__code__.co_argcount}")(wrong)
        name = f"wrong{wrong.__code__.co_argcount}"
        with pytest.raises(ValidationError, match=r"^on_failure: wrong.\(\) must take one parameter, 'parent: "):
            await work.options(on_failure=name).push()
    tq.elsewhere("aftr")
    await work.options(on_success="aftr").push()
    await tq.close()


async def test_function_callback_in_memory_only(tmp_path: Path) -> None:
    tq = TaskQ("memory://")
    got: list[Any] = []

    @tq.task
    async def work() -> int:
        return 7

    async with tq.running():
        await (await work.options(on_success=lambda task: got.append(task.result)).push()).result(within(30))
        await eventually(lambda: got == [7])
    durable = TaskQ(f"sqlite:///{tmp_path}/f.db")
    durable.elsewhere("x")
    with pytest.raises(ValidationError, match="on_success: a function cannot be stored"):
        await durable.push("x", on_success=print)
    await durable.close()


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), GeneratorExit()])
@pytest.mark.parametrize("name", ["pushed", "started", "completed"])
async def test_an_exit_in_a_hook_is_logged_and_the_worker_goes_on(
    tq: TaskQ, name: Any, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    @tq.task
    async def work() -> int:
        return 7

    @tq.on(name)
    def leave(_call: aiotaskq.types.HookCall) -> None:
        raise error

    async with tq.running():
        for _ in range(3):
            assert await (await work.push()).result(within(30)) == 7
    assert caplog.text.count(f"a hook of '{name}' failed") == 3


async def test_middleware_wraps_run_and_push_in_order(tq: TaskQ) -> None:
    log: list[str] = []

    class Both:
        async def push(self, tasks: Any, call_next: Any) -> Any:
            log.append(f"push {len(tasks)}")
            return await call_next([task.replace(extra={"trace": "t1"}) for task in tasks])

        async def run(self, task: Any, call_next: Any) -> Any:
            log.append(f"outer {task.extra['trace']}")
            return await call_next(task) + 1

    tq.middleware(Both())

    @tq.middleware
    async def inner(task: Any, call_next: Any) -> Any:
        log.append("inner")
        return await call_next(task) * 10

    @tq.task
    async def work() -> int:
        return 1

    async with tq.running():
        assert await (await work.push()).result(within(30)) == 11
    assert log == ["push 1", "outer t1", "inner"]


async def test_resources_are_made_once_given_by_type_and_closed(tq: TaskQ) -> None:
    class Client:
        closed = False

    made: list[Client] = []

    async def client() -> AsyncIterator[Client]:
        made.append(Client())
        yield made[-1]
        made[-1].closed = True

    client.__annotations__["return"] = AsyncIterator[Client]
    tq.resource(client)

    async def uses(i: int, client: Client = aiotaskq.injected()) -> bool:
        return client is made[0] and not client.closed

    uses.__annotations__.update(client=Client)
    work = tq.task(uses)
    async with tq.running(concurrency=3):
        handles = [await work.push(i=i) for i in range(5)]
        assert all([await handle.result(within(30)) for handle in handles])
    assert len(made) == 1 and made[0].closed


async def test_listeners_are_called_and_their_errors_harm_no_task(tq: TaskQ) -> None:
    names: list[str] = []
    for name in ("pushed", "started", "completed", "retried", "failed", "cancelled"):
        tq.on(name, lambda event: names.append(event.name))

    @tq.on("started")
    def broken(event: Any) -> None:
        raise RuntimeError("a listener's own fault")

    @tq.on("completed")
    async def slow(event: Any) -> None:
        await asyncio.sleep(0)
        names.append("async listener")

    @tq.task(max_retries=1, backoff=0.001)
    async def flaky() -> None:
        if current_task().task.retry_count == 0:
            raise ValueError("once")

    async with tq.running(concurrency=1):
        await (await flaky.push()).result(within(30))
    assert names == ["pushed", "started", "retried", "started", "completed", "async listener"]
    with pytest.raises(ValidationError, match="hook: 'done' is unknown; use pushed"):
        tq.on("done", print)

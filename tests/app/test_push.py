"""A push becomes a task: the usual call, without options, takes a short way to the same task."""

from __future__ import annotations

from typing import Any

import pytest

from aiotaskq import Parent, TaskQ
from aiotaskq.app.handle import TaskCall
from aiotaskq.app.push import new_task_of
from aiotaskq.app.registrations import Registrations
from aiotaskq.core.outcome import Backoff
from aiotaskq.core.task import Task, new_task
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.handler import make_handler

NOW = 1_750_000_000_250_000


async def work(n: int = 0) -> None: ...


@pytest.mark.parametrize("defaults", [{}, {"queue": "slow", "priority": 7, "max_retries": 0, "expires": 90.5}])
def test_a_call_without_options_makes_the_task_of_one_whose_options_are_not_set(defaults: dict[str, Any]) -> None:
    registered = Registrations(handlers={"work": make_handler("work", work, backoff=Backoff(), **defaults)})

    def made(options: Any) -> Task:
        task = new_task_of(TaskCall("work", {"n": 1}, options), registered, NOW)
        return task.replace(task_id="any", seq=0)

    assert made({}) == made({"delay": None})


@pytest.mark.parametrize("options", [{}, {"delay": 1}])
def test_the_params_of_a_call_that_the_caller_has_made_are_checked(options: Any) -> None:
    registered = Registrations(handlers={"work": make_handler("work", work, backoff=Backoff())})
    nothing: Any = None
    assert new_task_of(TaskCall("work", nothing, options), registered, NOW).params == {}
    wrong: Any = [1]
    with pytest.raises(ValidationError, match=r"^params: a dict is needed \(got list\)$"):
        new_task_of(TaskCall("work", wrong, options), registered, NOW)


async def test_a_follow_up_runs_as_its_handler_says() -> None:
    tq = TaskQ("memory://")

    @tq.task
    async def first() -> None: ...

    @tq.task(name="after", queue="slow", priority=7, max_retries=1)
    async def after(parent: Parent[None]) -> None: ...

    async with tq.running(queues=["default"]):
        await (await first.options(on_success="after").push()).result()
    (task,) = await tq.find(type="after")
    assert (task.queue, task.priority, task.max_retries, task.timeout) == ("slow", 7, 1, None)


async def test_each_verb_on_many_tasks_has_each_filter() -> None:
    async with TaskQ("memory://") as tq:
        tasks = [new_task("a", now=NOW, task_id=name, scheduler_task_id=name) for name in ("s1", "s2", "s3")]
        await tq.queue.add(tasks)
        assert await tq.cancel_many(scheduler_task_id="s1") == 1
        assert [task.task_id for task in await tq.find(scheduler_task_id="s1", status="cancelled")] == ["s1"]
        assert await tq.count(scheduler_task_id="s2") == 1
        assert await tq.retry_many(status="cancelled", scheduler_task_id="s2") == 0
        assert await tq.purge(scheduler_task_id="s1") == 1
        assert sorted(task.task_id for task in await tq.find()) == ["s2", "s3"]
        with pytest.raises(TypeError, match="unknown filter 'scheduler'; use type, queue, scheduler_task_id"):
            await tq.find(scheduler="s2")  # type: ignore[call-arg]

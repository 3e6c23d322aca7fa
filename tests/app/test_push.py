"""A push becomes a task: the usual call, without options, takes a short way to the same task."""

from __future__ import annotations

from typing import Any

import pytest

from aiotaskq.app.handle import TaskCall
from aiotaskq.app.push import new_task_of
from aiotaskq.app.registrations import Registrations
from aiotaskq.core.backoff import Backoff
from aiotaskq.core.task import Task
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

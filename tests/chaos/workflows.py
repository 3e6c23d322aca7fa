"""The handlers of durable steps in the processes that are killed."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.sql.engines import parse_url
from aiotaskq.core.task import Task
from aiotaskq.runtime.steps import sleep_for, step, wait_event
from tests.chaos.ledger import Ledger


def register(tq: TaskQ, url: str, ledger: Ledger, run: Callable[[], AbstractContextManager[Task]]) -> None:
    """Register them; ``run`` writes down the run of a handler, and gives its task."""
    handlers = Workflows(tq, url, ledger, run)
    for name in ("workflow", "child", "waiting"):
        tq.task(name=name, backoff=0.1)(getattr(handlers, name))
    tq.task(name="napping")(napping)
    tq.queue.step_verbs.short = 0.1  # so that a sleep of less than a second is stored


async def napping(seconds: float = 0.0) -> None:
    """Sleep for longer than any scenario takes."""
    await sleep_for("nap", days=30)


def value() -> str:
    """Return another value each time."""
    return uuid.uuid4().hex


class Workflows:
    """Handlers that sleep and wait; what they get of each step is written down each time."""

    def __init__(self, tq: TaskQ, url: str, ledger: Ledger, run: Callable[[], AbstractContextManager[Task]]) -> None:
        self._tq, self._url, self._ledger, self._run = tq, url, ledger, run
        self._engine: AsyncEngine | None = None

    async def workflow(self, sql: bool) -> dict[str, Any]:
        """Do six steps, with a sleep, a child and two events between them; write down what each has come to."""
        with self._run() as task:
            self._saw(task, "first", await step("first", value))
            self._saw(task, "second", await step("second", value))
            await sleep_for("pause", 0.5)
            self._saw(task, "paid", await (self._pay(task) if sql else step("paid", value)))
            self._saw(task, "child", await step("child", self._push_child, task.task_id))
            self._saw(task, "done", await wait_event(f"done:{task.task_id}"))
            self._saw(task, "packed", await step("packed", value))
            self._saw(task, "go", await wait_event(f"go:{task.task_id}"))
            self._saw(task, "sent", await step("sent", value))
            return {"fence": task.fence}

    def _saw(self, task: Task, name: str, value: Any) -> None:
        self._ledger.write("step", id=task.task_id, fence=task.fence, how=name, data={"value": value})

    async def _pay(self, task: Task) -> str:
        """Write an effect and the value of its step in one transaction."""
        if self._engine is None:
            url = parse_url(self._url)
            # SQLite: a process that is stopped for two leases may hold the lock.
            waits = {"timeout": 30.0} if url.get_backend_name() == "sqlite" else {}
            self._engine = create_async_engine(url, connect_args=waits)
        async with AsyncSession(self._engine) as session, session.begin():

            async def pay() -> str:
                await session.execute(text("INSERT INTO chaos_effect VALUES (:task_id)"), {"task_id": task.task_id})
                return value()

            return await step("paid", pay, session=session)

    async def _push_child(self, of: str) -> str:
        return (await self._tq.push("child", {"of": of}, max_retries=100)).task_id

    async def child(self, of: str) -> dict[str, Any]:
        """Tell the workflow that has pushed this one that it is done."""
        with self._run() as task:
            await self._tq.emit(f"done:{of}", task.task_id)
            return {"fence": task.fence}

    async def waiting(self, seconds: float = 0.0) -> dict[str, Any]:
        """Wait for an event that comes at about the same time."""
        with self._run() as task:
            assert await wait_event(f"race:{task.task_id}") == task.task_id
            return {"fence": task.fence}

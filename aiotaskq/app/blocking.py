"""Blocking pushes onto a TaskQ whose loop the application runs; ``aiotaskq.sync`` has a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack

from aiotaskq.app.handle import PushOptions, TaskCall, TaskHandle
from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.concurrency.loop_thread import refuse_running_loop
from aiotaskq.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
R = TypeVar("R")


class Pushing(Protocol):
    """What pushing needs of a task queue."""

    _bound: LoopBound
    """The event loop in which it was opened last."""

    async def push(
        self, type: str, params: dict[str, Any] | None = None, **options: Unpack[PushOptions]
    ) -> TaskHandle[Any]: ...

    async def push_call(self, call: TaskCall[T]) -> TaskHandle[T]: ...

    async def push_many(
        self,
        calls: Iterable[TaskCall[Any] | tuple[str, dict[str, Any]] | Mapping[str, Any]],
        *,
        session: Any = None,
    ) -> Sequence[TaskHandle[Any]]: ...


class BlockingPush:
    """``tq.sync``: pushes for code that blocks, in a thread beside the loop in which ``tq`` was opened.

    Each push returns when the task is stored. ``session=`` takes a SQLAlchemy ``Session`` of the calling thread; no
    other thread may use it meanwhile. Raises WrongLoop in a thread that runs an event loop, and ClosedError while no
    loop has the task queue open.
    """

    def __init__(self, tq: Pushing) -> None:
        self._tq = tq

    def push(self, type: str, params: dict[str, Any] | None = None, **options: Unpack[PushOptions]) -> str:
        """Push a task by the name of its type and return its id; arguments and errors as ``TaskQ.push``."""
        return self._run("push", lambda: self._tq.push(type, params, **options)).task_id

    def push_call(self, call: TaskCall[Any]) -> str:
        """Push one checked call, as made by ``f.call(…)``, and return its id."""
        return self._run("push", lambda: self._tq.push_call(call)).task_id

    def push_many(
        self,
        calls: Iterable[TaskCall[Any] | tuple[str, dict[str, Any]] | Mapping[str, Any]],
        *,
        session: Any = None,
    ) -> list[str]:
        """Push many in one transaction and return their ids; as ``TaskQ.push_many``."""
        handles = self._run("push_many", lambda: self._tq.push_many(calls, session=session))
        return [handle.task_id for handle in handles]

    def _run(self, verb: str, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        refuse_running_loop(f"tq.{verb}")
        loop = self._tq._bound.loop
        if loop is None or not self._tq._bound.running:
            raise ClosedError(
                f"{verb}: no event loop has this task queue open; open it where the application starts "
                "(setup(app, tq), or `async with tq`; a test starts it by `with TestClient(app)`), "
                "or use aiotaskq.sync.TaskQ where there is no loop at all"
            )
        return asyncio.run_coroutine_threadsafe(work(), loop).result()

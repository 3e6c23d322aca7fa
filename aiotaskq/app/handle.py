"""Task functions and task handles: the decorated function that pushes, and the handle of a pushed task."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Union, Unpack, cast

from aiotaskq.app.binder import binder_of
from aiotaskq.app.registrations import Registrations
from aiotaskq.core.attempts import attempts_of
from aiotaskq.core.debounce import Merge
from aiotaskq.core.foreign_names import Hinted, unknown_options, word
from aiotaskq.core.limits import Fair, Limit, Of, Rate
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.task import Attempt, Status, Task
from aiotaskq.core.validation import check_int, check_seconds
from aiotaskq.errors import TaskFailed, ValidationError
from aiotaskq.runtime.handler import Handler, result_as
from aiotaskq.runtime.queue.note_stream import next_notes, note_stream

if TYPE_CHECKING:
    from aiotaskq.runtime.queue.queue import Queue

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
One = TypeVar("One")
T_co = TypeVar("T_co", covariant=True)

Callback = Union[str, Callable[[Task], Any], "TaskFunction[..., Any, Any]"]
"""A follow-up: the name or the function of a task, or in memory any function that takes the ended Task."""


Key = str | Callable[[dict[str, Any]], Any]
"""What tells the calls of a debounced or throttled task apart: a string, or a function of the stored params."""


class PushOptions(TypedDict, total=False):
    """How a task is pushed. Durations in seconds or as timedelta, instants as aware datetime or epoch seconds."""

    delay: float | timedelta
    at: float | datetime
    priority: int
    queue: str
    timeout: float | timedelta
    max_retries: int
    expires: float | timedelta | datetime
    unique_key: str
    idempotency_key: str
    task_id: str
    if_ended: Literal["retry"]
    on_success: Callback
    on_failure: Callback
    limit: Limit | Sequence[Limit]
    rate: Rate | Sequence[Rate]
    fair: Of | Fair | Sequence[Of | Fair]
    session: Any
    debounce: float | timedelta | None
    max_wait: float | timedelta | None
    merge: Merge
    throttle: float | timedelta | None
    key: Key


class GroupMember(Generic[T_co]):
    """What can be a member of a group: a call, or a group; ``T_co`` is the type of its result.

    Type checkers join the types of a list to their common base: without this one, a list of both would be of objects.
    """

    __slots__ = ()


class TaskCall(GroupMember[T_co]):
    """A checked call that is not pushed yet; ``push_many`` takes any number of them."""

    __slots__ = ("options", "params", "type")

    def __init__(self, type: str, params: dict[str, Any], options: PushOptions) -> None:
        self.type = type
        self.params = params
        self.options = options

    def __repr__(self) -> str:
        return f"<TaskCall {self.type}>"


class MakesCalls(Protocol):
    """A task of a framework, which may stand for the name of a type."""

    def to_call(self, params: Any, options: PushOptions) -> TaskCall[Any]:
        """Return the call with these params; ``options`` replace its own."""


class ThreadPusher(Protocol):
    """What ``push_sync`` pushes through, from a thread."""

    def push_call(self, call: TaskCall[Any]) -> str:
        """Push one checked call and return its id."""


class Pusher(Protocol):
    """What a task function pushes through."""

    def _push_now(self, call: TaskCall[T]) -> TaskHandle[T] | None:
        """Push one checked call, if no push waits here; else return None."""

    async def push_call(self, call: TaskCall[T]) -> TaskHandle[T]:
        """Push one checked call."""

    @property
    def sync(self) -> ThreadPusher:
        """The same, from a thread."""


class HandleHome(Protocol):
    """What a handle needs of the task queue that it belongs to."""

    queue: Queue
    _registered: Registrations


class TaskHandle(Hinted, Generic[T_co]):
    """A pushed task. ``created`` is False if a key (or id) names a task that existed already: it is that one."""

    __slots__ = ("_handlers", "_queue", "created", "task_id")
    _place = "handle"

    def __init__(self, tq: HandleHome, task_id: str, created: bool = True) -> None:
        self._handlers = tq._registered.handlers  # what a stored result becomes
        self._queue = tq.queue
        self.task_id = task_id
        self.created = created

    def __repr__(self) -> str:
        return f"<TaskHandle {self.task_id}>"

    async def result(self, timeout: float | timedelta | None = None) -> T_co:
        """Wait until the task has ended, here or in another process, and return the handler's result.

        Where the handler is registered here, the result has the type of its return annotation; else it is JSON.

        ``timeout`` in seconds, None waits for ever. Raises TaskFailed when it failed, was cancelled or expired (the
        error is data: ``.error``), ResultTimeout when it has not ended in time (it goes on), NotFound once purged, and
        ValidationError for a stored result that does not fit the annotation, where ``task()`` has it as it is, or that
        cannot be decoded.
        """
        task = await self._queue.wait_for_end(self.task_id, timeout)
        if task.status is not Status.COMPLETED:
            raise TaskFailed(task)
        return result_as(task, self._handlers.get(task.type))  # type: ignore[no-any-return]

    async def task(self) -> Task:
        """Return the task as it is now. Raises NotFound."""
        return await self._queue.get(self.task_id)

    async def status(self) -> Status:
        """Return the task's status. Raises NotFound."""
        return (await self.task()).status

    async def progress(self) -> dict[str, Any] | None:
        """Return what the handler last reported: ``done``, and perhaps ``total`` and ``message``; None if nothing."""
        return (await self.task()).progress

    async def attempts(self) -> list[Attempt]:
        """Return the task's runs in their order, the present or last one included; none before the first claim.

        The newest 20 runs that did not complete are kept. An operator's retry keeps them; a push with ``if_ended`` does
        not. Raises NotFound.
        """
        return list(attempts_of(await self.task()))

    async def log(self, after: int = 0, limit: int = 1_000) -> list[LogEntry]:
        """Return what the handler has written with ``log`` and ``stream``, from the first entry behind ``after``."""
        return await self._queue.backend.notes.read(
            self.task_id, check_int("after", after, 0), check_int("limit", limit, 1)
        )

    async def stream(self, after: int = 0) -> AsyncIterator[LogEntry]:
        """Yield the entries of the task log as they come, also from another process; the last one has the kind ``end``.

        ``after`` is the number of the last entry that is known. The text of the last one is the status with which the
        task has ended. Raises NotFound if the task is deleted.
        """
        async for note in note_stream(self._queue, self.task_id, check_int("after", after, 0)):
            yield note

    async def next_log(self, after: int = 0, timeout: float | timedelta | None = None) -> list[LogEntry]:
        """Wait for entries behind ``after``, or the end, and return some; an empty list after ``timeout`` seconds.

        The last one is as in ``stream``. Raises NotFound if the task is deleted.
        """
        wait = None if timeout is None else check_seconds("timeout", timeout)
        return await next_notes(self._queue, self.task_id, check_int("after", after, 0), wait)

    async def cancel(self) -> bool:
        """Cancel the task, or ask it to stop if it runs; return False if it has ended already."""
        return await self._queue.cancel(self.task_id)


class BoundTask(Hinted, Generic[P, T]):
    """A registered handler with push options: ``push`` runs it later, in a worker."""

    _place = "function"

    def __init__(
        self, pusher: Pusher, handler: Handler, bind: Callable[..., dict[str, Any]], options: PushOptions
    ) -> None:
        self.handler = handler
        self.name = handler.name
        self._pusher = pusher
        self._bind = bind
        self._options = options

    async def push(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]:
        """Push a task that calls the function with these arguments.

        Raises TypeError for arguments that the function does not take, ValidationError for what cannot be stored.
        """
        call = self.call(*args, **kwargs)
        return self._pusher._push_now(call) or await self._pusher.push_call(call)

    def push_sync(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push from a thread beside the application's event loop, as in a ``def`` endpoint; return the task's id.

        Raises as ``push``, WrongLoop in a thread that runs a loop, ClosedError while the task queue is not open.
        """
        return self._pusher.sync.push_call(self.call(*args, **kwargs))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> TaskCall[T]:
        """Check the arguments and return the call, to be pushed with others by ``push_many``.

        Raises TypeError for arguments that the function does not take, ValidationError for values that do not fit its
        annotations.
        """
        try:
            params = self._bind(*args, **kwargs)
        except TypeError as error:
            if options := [option for name in kwargs if (option := _option(name)) is not None]:
                raise TypeError(f"{error}; options stand apart: f.options({options[0]}).push(…)") from None
            raise
        return TaskCall(self.name, self.handler.stored(params), self._options)


class TaskFunction(BoundTask[P, T], Generic[P, R, T]):
    """A registered handler. Calling it calls the function; ``push`` runs it later, in a worker."""

    def __init__(self, pusher: Pusher, handler: Handler) -> None:
        functools.update_wrapper(self, handler.function)
        super().__init__(pusher, handler, binder_of(handler), cast(PushOptions, handler.pushed))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.handler.function(*args, **kwargs)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<TaskFunction {self.name}>"

    def retire(self, newest: int) -> None:
        """Refuse pushes from now on: new tasks are run by the newest version, which may take other params."""

        def refuse(*_args: Any, **_kwargs: Any) -> dict[str, Any]:
            raise ValidationError(
                f"{self.name}: push the function of version {newest}; this one, version {self.handler.version}, is for "
                "tasks that it has begun"
            )

        self._bind = refuse

    def options(self, **options: Unpack[PushOptions]) -> BoundTask[P, T]:
        """Return the same task with these options, to be pushed: ``f.options(delay=60).push(…)``.

        Raises ValidationError for an unknown option.
        """
        if unknown := options.keys() - PushOptions.__annotations__.keys():
            raise unknown_options("options", "push option", unknown, PushOptions.__annotations__)
        return BoundTask(self._pusher, self.handler, self._bind, with_defaults(self._options, options))


class BatchFunction(TaskFunction[[T], R, One], Generic[T, R, One]):
    """A registered handler of batches: ``push`` takes one item. Calling it calls the function with a list of items."""

    def __call__(self, items: list[T], **resources: Any) -> R:  # type: ignore[override]
        return self.handler.function(items, **resources)  # type: ignore[no-any-return]


def _option(name: str) -> str | None:
    """Return how an option of a push is written; None for another name."""
    if name in PushOptions.__annotations__:
        return f"{name}=…"
    found = word("push option", name)
    return None if found is None else found.here


def with_defaults(defaults: PushOptions, options: PushOptions) -> PushOptions:
    """Return the options of a call with those that its handler was registered with.

    A call with its own ``debounce`` or ``throttle``, or None for it, keeps only the key of these.
    """
    if not defaults:
        return options
    if not options.keys().isdisjoint(("debounce", "throttle")):
        on = options.get("debounce") is not None or options.get("throttle") is not None
        defaults = {"key": defaults["key"]} if on and "key" in defaults else {}
    return {**defaults, **options}

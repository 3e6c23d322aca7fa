"""Task functions and task handles: the decorated function that pushes, and the handle of a pushed task."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Union, Unpack, cast

from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.concurrency.loop_thread import refuse_running_loop
from aiotaskq.core.edit import Merge, is_declared_unique
from aiotaskq.core.errors import check_int
from aiotaskq.core.foreign_names import Hinted, unknown_options, word
from aiotaskq.core.limits import Fair, Limit, Of, Rate
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.outcome import attempts_of
from aiotaskq.core.parent import RESULTS
from aiotaskq.core.status import Status
from aiotaskq.core.task import Attempt, Task
from aiotaskq.errors import ClosedError, TaskFailed, ValidationError
from aiotaskq.runtime.handler import INJECTED, Handler, result_as

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


Rule = Literal["cancel", "fail", "run"]
"""What becomes of a task when one that it waits for did not complete."""


class OfTask(Protocol):
    """A handle of a task."""

    @property
    def task_id(self) -> str: ...


class OfGroup(Protocol):
    """A handle of a group."""

    @property
    def group_id(self) -> str: ...


Earlier = str | OfTask | OfGroup
"""A task or a group that is there already: its handle, or its id."""
After = Earlier | Iterable[Earlier] | Mapping[Any, Rule]
"""What a task waits for; a dict gives each of them its own rule."""


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
    tags: Mapping[str, str]
    debounce: float | timedelta | None
    max_wait: float | timedelta | None
    merge: Merge
    throttle: float | timedelta | None
    key: Key
    after: After
    after_rule: Rule


class GroupMember(Generic[T_co]):
    """What can be a member of a group: a call, or a group; ``T_co`` is the type of its result.

    Type checkers join the types of a list to their common base: without this one, a list of both would be of objects.
    """

    __slots__ = ()


class TaskCall(GroupMember[T_co]):  # not a struct: it must have no JSON form, and no repr with its params
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


class Pusher(Protocol):
    """What a task function pushes through: its task queue."""

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

    @property
    def sync(self) -> BlockingPush:
        """The same, from a thread."""


class TaskHandle(Hinted, Generic[T_co]):
    """A pushed task. ``created`` is False if a key (or id) names a task that existed already: it is that one."""

    __slots__ = ("_queue", "created", "task_id")
    _place = "handle"

    def __init__(self, queue: Queue, task_id: str, created: bool = True) -> None:
        self._queue = queue
        self.task_id = task_id
        self.created = created

    def __repr__(self) -> str:
        return f"<TaskHandle {self.task_id}>"

    async def result(self, timeout: float | timedelta | None = None) -> T_co:
        """Wait until the task has ended, here or in another process, and return the handler's result.

        Where the handler is registered here, the result has the type of its return annotation; else it is JSON.

        ``timeout`` in seconds, None waits for ever. Raises TaskFailed when it failed, was cancelled or expired (the
        error is data: ``.error``), ResultTimeout when it has not ended in time (it continues), NotFound once purged,
        and ValidationError for a stored result that does not fit the annotation, where ``task()`` has it as it is,
        or that cannot be decoded.
        """
        task = await self._queue.wait_for_end(self.task_id, timeout)
        if task.status is not Status.COMPLETED:
            raise TaskFailed(task)
        return result_as(task, self._queue.handlers.get(task.type))  # type: ignore[no-any-return]

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
        n = check_int("after", after, 0)
        while True:
            for entry in await self.next_log(n):
                yield entry
                if entry.kind == "end":
                    return
                n = entry.n

    async def next_log(self, after: int = 0, timeout: float | timedelta | None = None) -> list[LogEntry]:
        """Wait for entries behind ``after``, or the end, and return some; an empty list after ``timeout`` seconds.

        The last one is as in ``stream``. Raises NotFound if the task is deleted.
        """
        return await self._queue.wait_for_log(self.task_id, check_int("after", after, 0), timeout)

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
        return await self._pusher.push_call(self.call(*args, **kwargs))

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
            if f"'{RESULTS}'" in str(error) and RESULTS in self.handler.required:
                raise TypeError(f"{error}; those of a group come as '{RESULTS}: list[…] = injected()'") from None
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

    A call with its own ``debounce`` or ``throttle``, or None for it, keeps only the key of these. Its own unique key
    replaces what its handler declares as unique.
    """
    if not defaults:
        return options
    if not options.keys().isdisjoint(("debounce", "throttle")):
        on = options.get("debounce") is not None or options.get("throttle") is not None
        defaults = {"key": defaults["key"]} if on and "key" in defaults else {}
    elif options.get("unique_key") is not None and is_declared_unique(defaults):
        defaults = {}
    return {**defaults, **options}


# ---- the arguments of a call -----------------------------------------------------------------------------------------

# ``inspect.Signature.bind`` interprets the signature at each call, which takes longer than all else that a push into
# memory does. A function with the same parameters is compiled once for each handler: the interpreter binds its
# arguments, and raises the TypeError.

MISSING: Any = object()


def binder_of(handler: Handler) -> Callable[..., dict[str, Any]]:
    """Return the function that takes the arguments of the handler and returns the params that were given.

    It raises TypeError as the handler itself would. Parameters of resources, and of earlier tasks, are left out
    unless they are given.
    """
    taken, given, optional, others = [], [], [], None
    keyword_only = False
    injected = {*handler.injected, *([] if handler.parent is None else [handler.parent.name])}
    for name, parameter in inspect.signature(handler.function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            others = name
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            taken.append("*")
        if parameter.default is parameter.empty and name not in injected:
            taken.append(name)
            given.append(name)
        else:
            taken.append(f"{name}={_MISSING}")
            optional.append(name)
    if others is not None:
        taken.append(f"**{others}")
    lines = [f"{_PARAMS} = {{{', '.join(f'{name!r}: {name}' for name in given)}}}"]
    for name in optional:
        absent = f"{name} is not {_MISSING}" + (f" and {name} is not {_INJECTED}" if name in injected else "")
        lines.append(f"if {absent}: {_PARAMS}[{name!r}] = {name}")
    if others is not None:
        lines.append(f"{_PARAMS}.update({others})")
    lines.append(f"return {_PARAMS}")
    source = f"def bind({', '.join(taken)}):\n" + "".join(f"    {line}\n" for line in lines)
    names: dict[str, Any] = {_MISSING: MISSING, _INJECTED: INJECTED}
    exec(compile(source, f"<params of {handler.name}>", "exec"), names)  # noqa: S102 - made of identifiers only
    bind: Callable[..., dict[str, Any]] = names["bind"]
    bind.__name__ = bind.__qualname__ = handler.name  # an error names it
    return bind


# Names that no parameter of a handler has.
_MISSING, _INJECTED, _PARAMS = "__aiotaskq_missing__", "__aiotaskq_injected__", "__aiotaskq_params__"


class BlockingPush:
    """``tq.sync``: pushes for code that blocks, in a thread beside the loop in which ``tq`` was opened.

    Each push returns when the task is stored. ``session=`` takes a SQLAlchemy ``Session`` of the calling thread; no
    other thread may use it meanwhile. Raises WrongLoop in a thread that runs an event loop, and ClosedError while no
    loop has the task queue open.
    """

    def __init__(self, tq: Pusher, bound: LoopBound) -> None:
        """For ``tq.sync``; ``bound`` is the event loop in which it was opened last."""
        self._tq, self._bound = tq, bound

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
        loop = self._bound.loop
        if loop is None or not self._bound.running:
            raise ClosedError(
                f"{verb}: no event loop has this task queue open; open it where the application starts "
                "(setup(app, tq), or `async with tq`; a test starts it by `with TestClient(app)`), "
                "or use aiotaskq.sync.TaskQ where there is no loop at all"
            )
        return asyncio.run_coroutine_threadsafe(work(), loop).result()

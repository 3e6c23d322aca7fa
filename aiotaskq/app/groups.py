"""Groups, chains and workflows: how one is described, pushed, waited for and cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from aiotaskq.app.handle import GroupMember, Rule, TaskCall, TaskHandle
from aiotaskq.core.errors import MAX_NAME, check_key, check_seconds
from aiotaskq.core.groups import check_rule
from aiotaskq.core.ids import new_id
from aiotaskq.core.plan import Node, Outline
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.usage import checked_budget
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.runtime.current import child_id
from aiotaskq.runtime.params import check_callback
from aiotaskq.runtime.queue.groups import GroupProgress, progress_of

if TYPE_CHECKING:
    from aiotaskq.runtime.handler import Handler
    from aiotaskq.runtime.queue.queue import Queue


T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

OWN = ("session", "task_id", "if_ended", "unique_key", "idempotency_key", "debounce", "throttle", "after")
"""Options that a call in a group cannot have."""


class Workflow(GroupMember[Any], Generic[R_co]):
    """A description of tasks that are pushed together, and of which waits for which; ``tq.start(…)`` pushes it.

    ``R_co`` is the type of its result: that of ``then``, else the list of the results of its members.
    """

    @overload
    def __init__(
        self: Workflow[list[Any]],
        name: str | None = None,
        *,
        then: None = None,
        on_failure: TaskCall[Any] | None = None,
        budget: Mapping[str, float] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Workflow[R],
        name: str | None = None,
        *,
        then: TaskCall[R],
        on_failure: TaskCall[Any] | None = None,
        budget: Mapping[str, float] | None = None,
    ) -> None: ...

    def __init__(
        self: Workflow[Any],
        name: str | None = None,
        *,
        then: TaskCall[Any] | None = None,
        on_failure: TaskCall[Any] | None = None,
        budget: Mapping[str, float] | None = None,
    ) -> None:
        """Describe a workflow without tasks.

        Args:
            name: what lists of groups show; it need not be unique.
            then: the call that is pushed when all tasks have completed.
            on_failure: the call that is pushed when all tasks have ended, and not all of them have completed.
            budget: how much its tasks may use up, by the names of ``current_task().usage()``, before no further one
                starts.

        Raises:
            ValidationError: for a wrong name, a callback that is no call, or a wrong budget.
        """
        self.name = None if name is None else check_key("name", name, MAX_NAME)
        self.then = check_call("then", then)
        self.on_failure = check_call("on_failure", on_failure)
        self.budget = {} if budget is None else checked_budget(budget)
        self.named = True
        self.nodes: dict[str, tuple[TaskCall[Any] | Workflow[Any], Mapping[str, Rule]]] = {}
        """By name the call, or the group, and the names of the tasks that it waits for, with their rules."""

    def add(
        self,
        name: str,
        call: TaskCall[Any] | Workflow[Any],
        *,
        after: str | Iterable[str] | Mapping[str, Rule] = (),
        on_failure: Rule = "cancel",
    ) -> Self:
        """Add a task, and return the workflow.

        Args:
            name: unique in the workflow.
            call: ``f.call(…)``; also a group or chain.
            after: the names of the tasks, or groups, that have to end before it starts; also of tasks that are added
                later. A group with ``then`` has ended with that. A dict gives each of them its own ``on_failure``.
            on_failure: what becomes of it when one of those did not complete: it is cancelled (``cancel``), fails
                (``fail``), or starts all the same when they have ended (``run``).

        Raises:
            ValidationError: for a name that is there already, an unknown rule, and for an object that is no call.
        """
        check_key("name", name, MAX_NAME)
        if name in self.nodes:
            raise ValidationError(f"name: {name!r} is there twice in this workflow; each name is for one task")
        check_rule("on_failure", on_failure)
        if not isinstance(after, Iterable):
            raise ValidationError(f"after: names of tasks are needed (got {type(after).__name__})")
        names = [after] if isinstance(after, str) else after if isinstance(after, Mapping) else list(after)
        for each in names:
            if not isinstance(each, str):
                raise ValidationError(f"after: names of tasks are needed (got {type(each).__name__})")
        edges = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, on_failure)
        for parent, rule in edges.items():
            check_rule(f"after: {parent!r}", rule)
        self.nodes[name] = (_member("add", call), edges)
        return self

    def __repr__(self) -> str:
        return f"<Workflow {self.name or ''} of {len(self.nodes)}>"

    def outline(
        self,
        make: Callable[[TaskCall[Any]], Task],
        group_id: str | None = None,
        around: tuple[Workflow[Any], ...] = (),
    ) -> Outline:
        """Return what is pushed; ``make`` makes the task of a call.

        ``around`` are the workflows in which it is. Raises ValidationError if it is one of them.
        """
        if any(each is self for each in around):
            raise ValidationError(f"add: workflow {self.name!r} cannot be a member of itself")
        inside = (*around, self)
        return Outline(
            group_id=group_id or child_id("") or new_id(),
            name=self.name,
            named=self.named,
            nodes=tuple(
                Node(name, what.outline(make, None, inside) if isinstance(what, Workflow) else make(what), after)
                for name, (what, after) in self.nodes.items()
            ),
            then=None if self.then is None else make(self.then),
            on_failure=None if self.on_failure is None else make(self.on_failure),
            budget=self.budget,
        )


Calls = Iterable[GroupMember[T]]


@overload
def group(
    calls: Calls[T],
    *,
    then: None = None,
    on_failure: TaskCall[Any] | None = None,
    name: str | None = None,
    budget: Mapping[str, float] | None = None,
) -> Workflow[list[T]]: ...
@overload
def group(
    calls: Calls[Any],
    *,
    then: TaskCall[R],
    on_failure: TaskCall[Any] | None = None,
    name: str | None = None,
    budget: Mapping[str, float] | None = None,
) -> Workflow[R]: ...


def group(
    calls: Calls[Any],
    *,
    then: TaskCall[Any] | None = None,
    on_failure: TaskCall[Any] | None = None,
    name: str | None = None,
    budget: Mapping[str, float] | None = None,
) -> Workflow[Any]:
    """Describe calls that run side by side, to be pushed by ``tq.start``, or as a member of another group.

    ``then`` is pushed when all have completed, ``on_failure`` when all have ended and not all have completed; both read
    what came of them by ``current_task().results()``. ``budget`` as for ``tq.group``. Raises ValidationError.
    """
    if isinstance(calls, Workflow):
        raise ValidationError("group: a list of calls is needed (got a Workflow); push it with tq.start")
    if not isinstance(calls, Iterable):
        raise ValidationError(f"group: a list of calls is needed (got {type(calls).__name__})")
    made: Workflow[Any] = Workflow(name, then=then, on_failure=on_failure, budget=budget)
    made.named = False
    for number, call in enumerate(calls):
        made.nodes[str(number)] = (_member("group", call), {})
    return made


@overload
def chain(
    *calls: GroupMember[T],
    then: None = None,
    on_failure: TaskCall[Any] | None = None,
    name: str | None = None,
    budget: Mapping[str, float] | None = None,
) -> Workflow[list[T]]: ...
@overload
def chain(
    *calls: GroupMember[Any],
    then: TaskCall[R],
    on_failure: TaskCall[Any] | None = None,
    name: str | None = None,
    budget: Mapping[str, float] | None = None,
) -> Workflow[R]: ...


def chain(
    *calls: GroupMember[Any],
    then: TaskCall[Any] | None = None,
    on_failure: TaskCall[Any] | None = None,
    name: str | None = None,
    budget: Mapping[str, float] | None = None,
) -> Workflow[Any]:
    """Describe calls, or groups, that run one after the other, to be pushed by ``tq.start``, or as a member of a group.

    A handler with a parameter ``parent: Parent[T]`` gets the task before it, with its result. If one does not complete,
    those after it are cancelled. ``budget`` as for ``tq.group``. Raises ValidationError.
    """
    for call in calls:
        _member("chain", call)
    made = group(calls, then=then, on_failure=on_failure, name=name, budget=budget)
    for number, (place, (link, _)) in enumerate(list(made.nodes.items())):
        made.nodes[place] = (link, {str(number - 1): "cancel"} if number else {})
    return made


class GroupHandle(Generic[R_co]):
    """A pushed group, chain or workflow. ``created`` is False if there was a group with that id: it is that one.

    ``R_co`` is the type of its result: that of ``then``, else the list of the results of its members.
    """

    __slots__ = ("_queue", "created", "group_id")

    def __init__(self, queue: Queue, group_id: str, created: bool = True) -> None:
        self._queue = queue
        self.group_id = group_id
        self.created = created

    def __repr__(self) -> str:
        return f"<GroupHandle {self.group_id}>"

    async def result(self, timeout: float | timedelta | None = None) -> R_co:
        """Wait for the result of ``then``; of a group without ``then`` it is that of ``results``.

        ``timeout`` in seconds, None waits for ever. Raises TaskFailed with the first member that did not complete, or
        with the task of ``then``, ResultTimeout when they have not ended in time (they continue), and NotFound once the
        group, a member or that task was deleted, and for a cancelled group with ``then``, which does not push it.
        """
        began = self._queue.clock.ticks()
        group = await self._queue.groups.wait(self.group_id, timeout)
        if group.then is None or group.failed or group.cancelled:
            return await self._queue.groups.results(self.group_id)  # type: ignore[return-value]
        callback = await self.callback()
        if callback is None:
            raise NotFound(f"group {self.group_id}: it was cancelled, or its callback was deleted")
        if timeout is None:
            return await callback.result()
        passed = (self._queue.clock.ticks() - began) / SECOND
        return await callback.result(max(0.0, check_seconds("timeout", timeout) - passed))

    async def results(self, timeout: float | timedelta | None = None) -> list[Any]:
        """Wait until all members have ended, and return their results, in the order of the calls.

        That of a group in the group is a list. ``timeout`` in seconds, None waits for ever. Raises TaskFailed with the
        first member that did not complete, ResultTimeout when they have not ended in time (they continue), and NotFound
        once the group, or a member, was deleted.
        """
        await self._queue.groups.wait(self.group_id, timeout)
        return await self._queue.groups.results(self.group_id)

    async def callback(self) -> TaskHandle[R_co] | None:
        """Return the handle of the task that its end has pushed, ``then`` or ``on_failure``; None if there is none.

        A group whose members were retried has none until it has ended again. Raises NotFound.
        """
        found = await self._queue.groups.callbacks(await self._queue.groups.get(self.group_id))
        pushed = [task for *_, task in found if task is not None]
        return TaskHandle(self._queue, pushed[0].task_id) if pushed else None

    async def progress(self) -> GroupProgress:
        """Return how many members have completed, failed, were cancelled, and remain. Raises NotFound."""
        return progress_of(await self._queue.groups.get(self.group_id))

    async def tasks(self) -> list[TaskHandle[Any]]:
        """Return the handles of its member tasks, in the order of the calls; those of deleted tasks are left out."""
        members = self._queue.groups.members(self.group_id)
        return [TaskHandle(self._queue, task.task_id) async for _, task in members if task is not None]

    async def task(self, name: str) -> TaskHandle[Any]:
        """Return the handle of the task that has this name in the workflow. Raises NotFound."""
        async for member, task in self._queue.groups.members(self.group_id):
            if member.name == name and task is not None:
                return TaskHandle(self._queue, task.task_id)
        raise NotFound(f"name: group {self.group_id} has no task {name!r}")

    async def cancel(self) -> bool:
        """Cancel the tasks that wait, and ask the running ones to stop; return False if the group has ended.

        A cancelled group pushes neither ``then`` nor ``on_failure``. Raises NotFound.
        """
        return await self._queue.groups.cancel(self.group_id)

    async def usage(self) -> dict[str, float]:
        """Return what its members have used up, and those of the groups in it, by name. Raises NotFound."""
        return dict((await self._queue.groups.get(self.group_id)).usage)

    async def set_budget(self, budget: Mapping[str, float]) -> bool:
        """Give it another budget, as ``set_budget({"tokens": 2_000_000})``; return whether that is used up already.

        If not, its members continue. The names that are left out have no bound any more. Raises NotFound, TaskConflict
        for a group that was pushed without a budget, and ValidationError.
        """
        return (await self._queue.groups.set_budget(self.group_id, budget)).used_up

    async def retry_failed(self) -> int:
        """Retry the members that failed, were cancelled or have expired; return how many.

        A task waits for those of its parents that are retried with it. When all have ended, the group calls back
        again. Raises NotFound.
        """
        return await self._queue.groups.retry_failed(self.group_id)


def _member(field: str, call: Any) -> Any:
    return call if isinstance(call, Workflow) else check_call(field, call, optional=False)


def check_callbacks(workflow: Workflow[Any], handlers: Mapping[str, Handler]) -> None:
    """Raise ValidationError if a callback of it, or of a group in it, cannot be called with the members."""
    for field, call in (("then", workflow.then), ("on_failure", workflow.on_failure)):
        handler = None if call is None else handlers.get(call.type)
        if handler is not None:
            check_callback(field, handler, len(workflow.nodes))
    for what, _ in workflow.nodes.values():
        if isinstance(what, Workflow):
            check_callbacks(what, handlers)


def check_call(field: str, call: Any, *, optional: bool = True) -> Any:
    """Return a call, or None where that is ``optional``. Raises ValidationError for anything else."""
    if not isinstance(call, TaskCall) and not (optional and call is None):
        raise ValidationError(
            f"{field}: a call is needed, f.call(…) or tq.call(type, params) (got {type(call).__name__})"
        )
    return call

"""The verbs on groups: push, wait, read outcomes, cancel, retry, add members."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from aiotaskq.backends.change import Change, Room
from aiotaskq.backends.flow.transaction import Followed
from aiotaskq.core.coded import readable_result
from aiotaskq.core.errors import check_int, check_seconds
from aiotaskq.core.groups import MAX_MEMBERS, CallbackKind, GroupState, Member, Plan, callback_id, derived_id
from aiotaskq.core.masking import Redacted
from aiotaskq.core.outcome import RETRYABLE, Requeued, settle
from aiotaskq.core.parent import Parent, ParentDeleted
from aiotaskq.core.plan import in_group
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task, same_push
from aiotaskq.core.usage import checked_budget
from aiotaskq.errors import (
    DatabaseUnavailable,
    NotFound,
    NotSupported,
    ResultTimeout,
    TaskConflict,
    TaskFailed,
    ValidationError,
)
from aiotaskq.log import gate, log, printable
from aiotaskq.runtime.handler import result_as
from aiotaskq.runtime.queue.bulk import cancel_page, statuses
from aiotaskq.runtime.waiting import parents_of

if TYPE_CHECKING:
    from aiotaskq.runtime.queue.pushes import Pushes


PAGE = 500  # members, or groups, read at a time
MOST_LISTED = 100_000
GroupStatus: TypeAlias = Status | Literal["running", "completed", "failed", "cancelled"]
STATUSES = (Status.RUNNING, Status.COMPLETED, Status.FAILED, Status.CANCELLED)
"""Those of a group."""
RESUMED = 100  # groups whose cancel is gone on with at a time


class MemberResult(Redacted, frozen=True, kw_only=True):
    """What came of a member of a group, or of a parent."""

    task_id: str
    """Its task id; of a group in the group, the group id."""
    name: str | None
    """Its name in a workflow."""
    type: str
    """The name of its handler; ``group`` for a group, empty for a task that was deleted."""
    status: Status
    """``cancelled`` also for one that was deleted, as its ``error`` says."""
    result: Any = None
    """What its handler returned, in the type of its annotation where the handler is registered here.

    Of a group it is the list of the results of its members."""
    error: str | None = None
    """``Type: message`` and the traceback, or why it was cancelled; of a group, that of the first such member."""

    @property
    def completed(self) -> bool:
        """Whether it has a result."""
        return self.status is Status.COMPLETED


class GroupProgress(msgspec.Struct, frozen=True):
    """How far a group is: numbers of members. ``status`` is ``running`` until the last one has ended."""

    total: int
    completed: int
    failed: int
    cancelled: int
    remaining: int
    status: Status


def progress_of(group: GroupState) -> GroupProgress:
    """Return how far a group is."""
    return GroupProgress(group.total, group.completed, group.failed, group.cancelled, group.remaining, group.status)


class GroupVerbs:
    """The groups of one queue."""

    def __init__(self, queue: Pushes) -> None:
        self._queue = queue
        self.make: Callable[[Any], Task] = _no_maker
        """Makes the task of a call."""

    # ---- reading ----

    async def get(self, group_id: str) -> GroupState:
        """Return a group as it is now. Raises NotFound."""
        (group,) = await self._queue.backend.groups.get([group_id])
        if group is None:
            raise NotFound(f"there is no group {printable(group_id)}")
        return group

    async def find(
        self, status: str | Iterable[str] | None = None, limit: int = 100, after: str | None = None
    ) -> list[GroupState]:
        """List groups, the newest first; ``after`` continues behind that group id.

        Raises ValidationError, and NotFound when there is no such group (any more).
        """
        wanted = set(statuses(status, STATUSES))
        check_int("limit", limit, 1, MOST_LISTED)
        if after is not None:
            await self.get(after)
        ended = None if not wanted else True if Status.RUNNING not in wanted else False if len(wanted) == 1 else None
        size = limit if not wanted else max(limit, PAGE)
        found: list[GroupState] = []
        while len(found) < limit:
            page = await self._queue.backend.groups.find(size, after=after, ended=ended)
            found += [group for group in page if not wanted or group.status in wanted]
            if len(page) < size:
                break
            after = page[-1].group_id
        return found[:limit]

    async def wait(self, group_id: str, timeout: float | timedelta | None = None) -> GroupState:
        """Wait until a group has ended; ``timeout`` in seconds. Raises ResultTimeout, NotFound."""
        seconds = None if timeout is None else check_seconds("timeout", timeout)
        group: GroupState

        async def ended() -> GroupState | None:
            nonlocal group
            group = await self.get(group_id)
            return None if group.ended_at is None else group

        waiters = self._queue.waiters
        if await waiters.until(waiters.woken_at_end(group_id), ended, seconds) is not None:
            return group
        if group.used_up:
            raise ResultTimeout(
                f"group {group_id}: {group.remaining} of {group.total} members have not ended after {seconds:g} s, and "
                "its budget is used up; set_budget raises it, cancel ends the group"
            )
        raise ResultTimeout(f"group {group_id}: {group.remaining} of {group.total} members go on after {seconds:g} s")

    async def members(self, group_id: str) -> AsyncIterator[tuple[Member, Task | None]]:
        """Yield the members of a group in their order, each with its task; None for a group, or a task that is gone."""
        async for member, found in self._each(group_id):
            yield member, found if isinstance(found, Task) else None

    async def _each(
        self, group_id: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[tuple[Member, Task | GroupState | None]]:
        while stop is None or start < stop:
            size = PAGE if stop is None else min(PAGE, stop - start)
            if not (page := await self.page(group_id, size, start)):
                return
            rows = await self._with_results([what for _, what in page])
            page = [(member, what) for (member, _), what in zip(page, rows, strict=True)]
            for member, found in page:
                yield member, found
            start = page[-1][0].position + 1

    async def page(self, group_id: str, limit: int, start: int = 0) -> list[tuple[Member, Task | GroupState | None]]:
        """Return up to ``limit`` members from a place on, each with its task or group; None for one that is gone."""
        backend = self._queue.backend
        members = await backend.groups.members(group_id, limit, start=start)
        tasks = [member.member_id for member in members if not member.is_group]
        inner = [member.member_id for member in members if member.is_group]
        found: dict[str, Task | GroupState | None] = {}
        if tasks:
            found.update(zip(tasks, await backend.get(tasks), strict=True))
        if inner:
            found.update(zip(inner, await backend.groups.get(inner), strict=True))
        return [(member, found[member.member_id]) for member in members]

    async def _with_results(self, rows: Sequence[Task | GroupState | None]) -> list[Task | GroupState | None]:
        tasks = [row for row in rows if isinstance(row, Task)]
        whole = iter(await self._queue.backend.whole(tasks, ("result",)))
        return [next(whole) if isinstance(row, Task) else row for row in rows]

    async def callbacks(self, group: GroupState) -> list[tuple[CallbackKind, Task, Task | None]]:
        """Return what a group pushes at its end: the kind, the task as declared, and as pushed, None if it is not."""
        declared: list[tuple[CallbackKind, Task | None]] = [("then", group.then), ("on_failure", group.on_failure)]
        kinds = [(kind, task) for kind, task in declared if task is not None]
        pushed = await self._queue.backend.get([callback_id(group, kind) for kind, _ in kinds]) if kinds else []
        return [(kind, task, found) for (kind, task), found in zip(kinds, pushed, strict=True)]

    async def results(self, group_id: str) -> list[Any]:
        """Return the results of all members, in their order; that of a group is a list. Raises TaskFailed, NotFound.

        The error is that of the first member that did not complete.
        """
        return await self._results(group_id, self._typed)

    async def _results(self, group_id: str, read: Callable[[Task], Any]) -> list[Any]:
        found: list[Any] = []
        async for member, task in self.members(group_id):
            if member.is_group:
                found.append(await self._results(member.member_id, read))
            elif task is None:
                raise NotFound(f"task {member.member_id} of group {group_id} was deleted")
            elif task.status is not Status.COMPLETED:
                raise TaskFailed(task)
            else:
                found.append(read(task))
        return found

    async def outcomes_for(self, task: Task, start: int = 0, stop: int | None = None) -> list[MemberResult]:
        """Return what came of the parents of a task or, for a callback, of its group's members.

        Those of the places from ``start`` to before ``stop``. Raises ValidationError for a result that cannot be
        decoded.
        """
        return [await self._result_of(*each) for each in await self.before(task, start, stop)]

    async def parents(self, task: Task) -> list[Parent[Any]]:
        """Return a task's parents or, for a callback, the group's members. Raises ParentDeleted, ValidationError."""
        return [await self._parent(*each) for each in await self.before(task)]

    async def before(
        self, task: Task, start: int = 0, stop: int | None = None
    ) -> list[tuple[str, str | None, Task | GroupState | None]]:
        """Return the id, the name and the row of each parent or, for a callback, of each member of its group."""
        if task.flow is None:
            return []
        if task.flow.source is not None:
            rows = self._each(task.flow.source, start, stop)
            return [(each.member_id, each.name, what) async for each, what in rows]
        parents = task.flow.parents[start:stop]
        found = await parents_of(self._queue.backend, [task_id for task_id, _ in parents])
        found = await self._with_results(found)
        return [
            (row.task_id if isinstance(row, Task) else key, name, row)
            for (key, name), row in zip(parents, found, strict=True)
        ]

    async def _parent(self, task_id: str, name: str | None, what: Task | GroupState | None) -> Parent[Any]:
        if what is None:
            named = task_id if name is None else f"{task_id} ({name})"
            raise ParentDeleted(f"task {named}, for which it waited, was deleted, and its result with it")
        if isinstance(what, Task):
            error = None if what.status is Status.COMPLETED else what.error_message
            return Parent(task_id, what.type, None if error else readable_result(what), error)
        try:
            return Parent(task_id, "group", await self._results(task_id, readable_result))
        except TaskFailed as failure:
            return Parent(task_id, "group", None, failure.task.error_message)
        except NotFound as missing:
            raise ParentDeleted(f"{missing}, and its result with it") from missing

    async def _result_of(self, task_id: str, name: str | None, what: Task | GroupState | None) -> MemberResult:
        if what is None:
            error = f"task {task_id} was deleted, and its result with it"
            return MemberResult(task_id=task_id, name=name, type="", status=Status.CANCELLED, error=error)
        found = MemberResult(task_id=task_id, name=name, type="group", status=what.status)
        if isinstance(what, Task):
            result = self._typed(what) if what.status is Status.COMPLETED else None
            return replace(found, type=what.type, result=result, error=what.error_message)
        found = replace(found, name=name or what.name)
        try:
            return replace(found, result=await self.results(task_id))
        except TaskFailed as failure:
            return replace(found, error=failure.task.error_message)
        except NotFound as missing:  # a member was purged
            return replace(found, error=str(missing))

    def _typed(self, task: Task) -> Any:
        return result_as(task, self._queue.handlers.get(task.type))

    # ---- writing ----

    async def push(self, plan: Plan, session: Any = None) -> bool:
        """Write a plan; return False, and write nothing, if its group exists. Raises as ``Queue.add``.

        A queue with ``maxsize`` has to have room for the tasks that wait for no others.
        """
        calls = (callback for group in plan.groups for callback in (group.then, group.on_failure))
        self._queue.check_storable([*plan.tasks, *(callback for callback in calls if callback is not None)])
        committed = (lambda: None) if session is None else self._at_commit(plan)

        async def push(room: Room | None) -> bool:
            return await self._queue.backend.groups.push(plan, session, committed, room)

        try:
            made = await self._queue.capacity.admit(len(plan.entering), push, session)
        except DatabaseUnavailable as error:
            if session is not None:
                raise
            raise error.of_push(task.task_id for task in plan.tasks) from error
        if made and session is None:
            self._queue.commit_hooks.pushed(plan.tasks, plan.tasks)
            self._hear_empty(plan)
        return made

    def _at_commit(self, plan: Plan) -> Callable[[], None]:
        pushed = self._queue.commit_hooks.at_commit(plan.tasks, plan.tasks)
        self._queue.commit_hooks.bind()

        def committed() -> None:
            pushed()
            self._hear_empty(plan)

        return committed

    def _hear_empty(self, plan: Plan) -> None:
        """Call the hooks of groups without members, which have ended at once."""
        if ended := [group.group_id for group in plan.groups if group.ended_at is not None]:
            self._queue.commit_hooks.hear(Followed(ended_groups=ended, counted=list(ended)))

    async def add(self, group_id: str, tasks: Sequence[Task], source: object, first: int = 0) -> int:
        """Push tasks as further members; return how many were new.

        Their ids follow from ``source`` and their numbers from ``first`` on, so that what a run adds again is there
        already. Raises TaskConflict if the group has ended or was cancelled, NotFound if it is gone.
        """
        now = self._queue.clock.now()
        self._queue.check_storable(tasks)
        budgets = await self._budgets(group_id)
        members = [in_group(task, group_id, derived_id(source, n), now, budgets) for n, task in enumerate(tasks, first)]
        added = await self._queue.backend.groups.add(group_id, members, now)
        if added is None:
            group = await self.get(group_id)
            state = "was cancelled" if group.cancel_requested else "has ended"
            raise TaskConflict(f"group {group_id} {state}, so that it takes no more members; push a new group")
        if added and (gate.open or "pushed" in self._queue.hooks):
            rows = await self._queue.backend.get([task.task_id for task in members])
            new = [task for task, row in zip(members, rows, strict=True) if row is not None and same_push(row, task)]
            self._queue.commit_hooks.pushed(new, new)
        return int(added)

    async def _budgets(self, group_id: str) -> list[str]:
        """Return those of a group and of the groups around it that have budgets, the widest first."""
        found: list[str] = []
        above: str | None = group_id
        while above is not None:
            (group,) = await self._queue.backend.groups.get([above])
            if group is not None and group.budget:
                found.insert(0, above)
            above = None if group is None else group.parent_id
        return found

    async def set_budget(self, group_id: str, budget: Mapping[str, float]) -> GroupState:
        """Give a group another budget, and return it. Raises NotFound, ValidationError, TaskConflict without one."""
        wanted = checked_budget(budget)
        if not wanted:
            raise ValidationError("budget: at least one name with its number is needed")
        group = await self.get(group_id)
        if not group.budget:
            raise TaskConflict(
                f"group {group_id} was pushed without a budget, so its tasks do not wait for one; cancel it, or push a "
                "new one with budget=…"
            )
        written = await self._queue.backend.groups.set_budget(group_id, wanted, self._queue.clock.now())
        if written is None:
            raise NotFound(f"there is no group {printable(group_id)}")
        log.debug("group {}: its budget is {}", printable(group_id), wanted)
        return written

    async def cancel(self, group_id: str) -> bool:
        """Cancel what has not ended of a group, and of the groups in it; False if it has ended. Raises NotFound."""
        await self.get(group_id)
        self._queue.backend.groups.used = True
        if not await self._queue.backend.groups.request_cancel(group_id):
            return False
        await self._cancel_members(group_id)
        return True

    async def resume_cancels(self) -> None:
        """Go on with the cancels of groups whose caller was killed meanwhile."""
        if self._queue.backend.groups.used:
            for group_id in await self._queue.backend.groups.cancelling(RESUMED):
                await self._cancel_members(group_id)

    async def _cancel_members(self, group_id: str) -> None:
        """Cancel what waits, and only then ask what runs to stop: what runs hands its slots on when it ends."""
        running: list[Task] = []
        waiting: list[Task] = []
        async for task in self._all(group_id):
            if not task.final and not task.cancel_requested:
                (running if task.status is Status.RUNNING else waiting).append(task)
            if len(waiting) == PAGE:
                await cancel_page(self._queue, waiting)
                waiting = []
        await cancel_page(self._queue, waiting)
        for begin in range(0, len(running), PAGE):
            await cancel_page(self._queue, running[begin : begin + PAGE])

    async def _all(self, group_id: str) -> AsyncIterator[Task]:
        """Yield the tasks of a group, and of the groups in it with what their ends have pushed as ``then``."""
        async for member, task in self.members(group_id):
            if member.is_group:
                async for inner in self._all(member.member_id):
                    yield inner
                (group,) = await self._queue.backend.groups.get([member.member_id])
                pushed = [] if group is None else await self.callbacks(group)
                for then in [found for kind, _, found in pushed if kind == "then" and found is not None]:
                    yield then
            elif task is not None:
                yield task

    async def retry_failed(self, group_id: str) -> int:
        """Put back the members that failed, were cancelled or have expired, parents first; return how many.

        Up to ``MAX_MEMBERS`` are put back in one transaction, with those of the groups in it: a group of which one part
        ends before the next one is put back would call back for that part. Those that change meanwhile are put back one
        by one.
        """
        await self.get(group_id)
        failed = [task async for task in self._all(group_id) if task.status in RETRYABLE]
        failed.sort(key=lambda task: task.seq)
        count = 0
        for start in range(0, len(failed), MAX_MEMBERS):
            now = self._queue.clock.now()
            changes = [Change(task, settle(task, Requeued(), now)) for task in failed[start : start + MAX_MEMBERS]]
            for change, held in zip(changes, await self._queue.backend.update(changes), strict=True):
                after = change.after if held else await self._queue.settle(change.before, Requeued())
                if after is not None:
                    log.task("retry", after)
                    count += 1
        return count


def _no_maker(call: Any) -> Task:
    raise NotSupported(f"group: {call!r} cannot be pushed from here; use the TaskQ")

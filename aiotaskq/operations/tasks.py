"""Operations on tasks: push, list, get, steps, edit, run now, retry, rerun, cancel, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from msgspec import UNSET, Struct, structs

from aiotaskq.core.coded import problem_of
from aiotaskq.core.errors import check_json
from aiotaskq.core.status import Status
from aiotaskq.core.tags import read_labels
from aiotaskq.core.task import Task
from aiotaskq.errors import NotFound, NotSupported, QueueFull, TaskConflict
from aiotaskq.log import printable
from aiotaskq.operations.fields import (
    MAX_PAGE,
    NO_NUL,
    Cursor,
    Id,
    Instant,
    Key,
    Limit,
    Maybe,
    Name,
    Nullable,
    Seconds,
    about,
)
from aiotaskq.operations.hidden import error_filter
from aiotaskq.operations.table import LISTED, Access, DryRun, Operations, only
from aiotaskq.operations.task_views import StepView, TaskDetail, TaskView, error_line, step_view, task_detail, task_view
from aiotaskq.runtime.queue.bulk import count_all, ids_named, pages, retry_all, task_filter
from aiotaskq.runtime.queue.bulk import run_now as made_due
from aiotaskq.runtime.queue.pushes import TaskChanges
from aiotaskq.runtime.waiting import waiting

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ


async def find(tq: TaskQ, text: str) -> str:
    """Return the id of the task that has this id, or of the only one whose id begins so."""
    return only(text, await ids_named(tq.queue.backend, text, LISTED + 1))


tasks = Operations("tasks", find)

State = Literal["pending", "running", "completed", "failed", "cancelled", "expired"]
Live = Literal["pending", "running"]
Retryable = Literal["failed", "cancelled", "expired"]
Ended = Literal["completed", "failed", "cancelled", "expired"]
Params = Annotated[bool, about("Show params and results, which may contain secrets")]
TaskId = Annotated[Id, about("The id of a task")]
Named = Annotated[Name, about("The name of a task type")]


class PushBody(Struct, forbid_unknown_fields=True):
    """A task to be pushed. Fields left out have the handler's defaults."""

    type: Named
    params: Annotated[dict[str, Any], about("Its params")] = {}
    delay: Annotated[Seconds, about("Seconds before it may run")] | None = None
    at: Instant | None = None
    priority: Annotated[int, about("Smaller numbers run first; default 0")] | None = None
    queue: Annotated[Name, about("Its queue")] | None = None
    timeout: Annotated[float, about("Seconds of one run", gt=0)] | None = None
    max_retries: Annotated[int, about("How often it is run again after a failure", ge=0)] | None = None
    expires: Annotated[Instant, about("Seconds from its time on, or RFC 3339 with an offset")] | None = None
    unique_key: Annotated[Key, about("Push nothing if a pending or running task has it")] | None = None
    idempotency_key: Annotated[Key, about("Push nothing if any stored task has it")] | None = None
    debounce: Annotated[float, about("Seconds after the last call; each changes the task that waits", ge=0)] | None = (
        None
    )
    max_wait: Annotated[float, about("Seconds after the first call, with `debounce`", ge=0)] | None = None
    merge: (
        Annotated[
            Literal["last", "list", "first"], about("The params of the last call, joined lists, or the first call")
        ]
        | None
    ) = None
    throttle: Annotated[float, about("Seconds of a period in which one call makes a task", gt=0)] | None = None
    key: Annotated[Key, about("What tells the calls of `debounce` or `throttle` apart")] | None = None
    task_id: Annotated[Id, about("An id of your own")] | None = None
    if_ended: Annotated[Literal["retry"], about("Run the task_id again if it has ended")] | None = None
    after: Annotated[list[Id], about("Ids of tasks and groups that have to end before it starts")] = []
    after_rule: (
        Annotated[Literal["cancel", "fail", "run"], about("What becomes of it if one did not complete")] | None
    ) = None
    on_success: Annotated[Name, about("The type of a task that is pushed when it completes")] | None = None
    on_failure: Annotated[Name, about("The type of a task that is pushed when it fails")] | None = None
    tags: Annotated[dict[str, str], about("Names and values by which it is found")] | None = None


class Where(Struct):
    """Filters of tasks."""

    status: Annotated[list[State], about("Only tasks of these statuses")] = []
    type: Annotated[Name, about("Only tasks of this type")] | None = None
    queue: Annotated[Name, about("Only tasks of this queue")] | None = None
    schedule: Annotated[Id, about("Only tasks that this schedule fired")] | None = None
    since: Annotated[Instant, about("Only tasks created then or later")] | None = None
    tag: Annotated[list[str], about("Only tasks with all of these tags, each as order=17")] = []
    error: (
        Annotated[
            str,
            about(
                "Only tasks whose error contains this text; where errors are hidden, whose type begins so",
                min_length=1,
                max_length=1_000,
                pattern=NO_NUL,
            ),
        ]
        | None
    ) = None


class Listed(Where, forbid_unknown_fields=True):
    """Which tasks are listed."""

    limit: Limit = 100
    cursor: Cursor | None = None
    params: Params = False


class Retried(Where, forbid_unknown_fields=True):
    """Retry all tasks that match; the failed ones if no status is named.

    Tasks are put back in small transactions: after an error some may be pending already, and the same call retries the
    others.
    """

    status: Annotated[list[Retryable], about("Only tasks of these statuses")] = []  # type: ignore[assignment]
    same_error: (
        Annotated[str, about("Only tasks with this error, as `failures` lists it", min_length=1, max_length=1_000)]
        | None
    ) = None
    dry_run: DryRun = False


class Cancelled(Where, forbid_unknown_fields=True):
    """Cancel all pending tasks that match, and ask the running ones to stop."""

    status: Annotated[list[Live], about("Only tasks of these statuses")] = []  # type: ignore[assignment]
    dry_run: DryRun = False


class Deleted(Where, forbid_unknown_fields=True):
    """Delete all ended tasks that match. The members of a group stay until it has ended.

    Tasks are deleted in small transactions: after an error some may be gone, and the same call deletes the others.
    """

    status: Annotated[list[Ended], about("Only tasks of these statuses")] = []  # type: ignore[assignment]
    older_than: Annotated[float, about("Only tasks that ended so many seconds ago", ge=0)] | None = None
    dry_run: DryRun = False


class Edited(Struct, forbid_unknown_fields=True):
    """Changes of a pending task; what is left out stays."""

    task_id: TaskId
    params: Maybe[Annotated[dict[str, Any], about("All of them")]] = UNSET
    priority: Maybe[Annotated[int, about("Smaller numbers run first")]] = UNSET
    queue: Maybe[Annotated[Name, about("Its queue")]] = UNSET
    at: Maybe[Instant] = UNSET
    delay: Maybe[Annotated[Seconds, about("Seconds before it may run")]] = UNSET
    max_retries: Maybe[Annotated[int, about("How often it is run again", ge=0)]] = UNSET
    timeout: Nullable[Annotated[float, about("Seconds of one run; null is that of the handler", gt=0)]] = UNSET
    fence: Maybe[Annotated[int, about("That of the task that was read; refused if it has another now", ge=0)]] = UNSET


class TaskPage(Struct):
    """One page of tasks, the newest first; ``next`` is the cursor of the page behind, null on the last one."""

    tasks: list[TaskView]
    next: str | None


class Pushed(Struct):
    """The task. ``created`` is false if a key or the id names a task that existed already; this is its id."""

    task_id: str
    created: bool


class Copied(Struct):
    """The new task, a copy of ``rerun_of``. ``created`` is false if another one has its unique key; this is its id."""

    task_id: str
    created: bool
    rerun_of: str


class Gone(Struct):
    """The task that was deleted."""

    task_id: str


class TaskState(Struct):
    """The state of a task after a change."""

    task_id: str
    status: Status
    cancel_requested: bool


class StepList(Struct):
    """The steps of a task, in their order."""

    steps: list[StepView]


def where_of(access: Access, given: Where) -> dict[str, Any]:
    """Return filters as the verbs of a queue take them."""
    found = {name: value for name, value in structs.asdict(given).items() if name in Where.__struct_fields__}
    found["scheduler_task_id"] = found.pop("schedule")
    found["tags"] = read_labels(found.pop("tag"))
    found |= error_filter(found.pop("error"), access.show_args)
    return {name: value for name, value in found.items() if value not in (None, [], {})}


async def detail_of(access: Access, task_id: str, params: bool = False) -> TaskDetail:
    """Return one task, and what it waits for. Raises NotFound."""
    task = await access.tq.get(task_id)
    return task_detail(task, await waiting(access.tq.queue, task), errors=access.show_args, params=params)


@tasks(changes=True, raises=(NotFound, TaskConflict, NotSupported, QueueFull))
async def push(access: Access, given: PushBody) -> Pushed:
    """Push a task.

    Where handlers are registered, only their types are accepted. On a durable store the task is on disk when this is
    answered. After a broken connection, repeat the push with the same idempotency_key. A task_id that is pending or
    running is the same push; one that has ended is refused, or runs again with `if_ended`.
    """
    options = {name: value for name, value in structs.asdict(given).items() if value is not None}
    kind, params = options.pop("type"), options.pop("params")
    check_json("params", params)  # also for a queue in memory: JSON may be nested too deeply
    handle = await access.tq.push(kind, params, **options)
    if handle.created:
        access.changed.append(handle.task_id)
    return Pushed(handle.task_id, handle.created)


@tasks(raises=(NotFound,))
async def list_(access: Access, given: Listed) -> TaskPage:
    """List tasks, newest first.

    `cursor` takes the `next` of the page before; not found if that task has been deleted since.
    """
    params, limit = access.may_show(given.params), min(given.limit, MAX_PAGE)
    found = await access.tq.find(**where_of(access, given), limit=limit + 1, after=given.cursor, blobs=False)
    page = found[:limit]
    more = page[-1].task_id if len(found) > limit else None
    return TaskPage([task_view(task, errors=access.show_args, params=params) for task in page], more)


@tasks(thing="task_id")
async def get(access: Access, task_id: TaskId, params: Params = False) -> TaskDetail:
    """Show one task, its attempts and errors, and if it is pending, what it waits for."""
    return await detail_of(access, task_id, access.may_show(params))


@tasks(thing="task_id")
async def steps(access: Access, task_id: TaskId, params: Params = False) -> StepList:
    """Show what the handler of a task has done, slept and waited for."""
    params = access.may_show(params)
    return StepList([step_view(each, params) for each in await access.tq.steps(task_id)])


@tasks(changes=True, thing="task_id", raises=(TaskConflict,))
async def edit(access: Access, given: Edited) -> TaskDetail:
    """Change a pending task; refused if it is not pending, waits for other tasks, or has changed meanwhile.

    The params are checked by the handler where it is registered. New params have the limits that the type declares for
    them; refused where the type of a task with limits is not registered.
    """
    changes = {name: value for name, value in structs.asdict(given).items() if value is not UNSET}
    task_id, fence = changes.pop("task_id"), changes.pop("fence", None)
    if "params" in changes:
        check_json("params", changes["params"])
    task = await access.tq.get(task_id)
    if fence is not None and task.fence != fence:
        raise TaskConflict(f"task {printable(task_id)} changed meanwhile; read it again, and repeat the edit")
    # Written only where the fence is still that of the row just read.
    await access.tq.queue.edit_task(task, cast(TaskChanges, changes))
    access.changed.append(task_id)
    return await detail_of(access, task_id)


@tasks(changes=True, thing="task_id", raises=(TaskConflict,))
async def run_now(access: Access, task_id: TaskId) -> TaskState:
    """Make a task due now that is delayed, sleeps, or waits for its next attempt."""
    return _state(await made_due(access.tq.queue, await access.tq.get(task_id)))


@tasks(changes=True, thing="task_id", raises=(TaskConflict,))
async def retry(access: Access, task_id: TaskId) -> TaskState:
    """Run a failed, cancelled or expired task once more, under the same id, its retries unused."""
    await access.tq.retry(task_id)
    return TaskState(task_id, Status.PENDING, False)


@tasks.many("retry")
async def _retry_all(access: Access, given: Retried) -> int:
    filters: dict[str, Any] = {"status": ["failed"]} | where_of(access, given)
    where, backend, clock = task_filter(**filters), access.tq.queue.backend, access.tq.queue.clock

    def chosen(task: Task) -> bool:
        error = problem_of(task)
        return given.same_error is None or error_line(error, access.show_args) == given.same_error

    if not given.dry_run:
        return await retry_all(backend, clock, where, None, access.progress, chosen)
    if given.same_error is None:
        return await count_all(backend, clock, where)
    return sum([sum(map(chosen, page)) async for page in pages(backend, where, MAX_PAGE)])


@tasks(changes=True, thing="task_id", may_change_nothing=True, raises=(TaskConflict,))
async def rerun(
    access: Access, task_id: TaskId, params: Maybe[Annotated[dict[str, Any], about("Other params")]] = UNSET
) -> Copied:
    """Push a copy of an ended task, as a new one of the same type, queue, priority and limits.

    The ended task stays as it is. Other params are checked by the handler where it is registered, and refused where the
    limits of the task are not those that its type declares.
    """
    if params is not UNSET:
        check_json("params", params)
    handle = await access.tq.rerun(task_id, None if params is UNSET else params)
    access.changed.extend([task_id, handle.task_id] if handle.created else [])
    return Copied(handle.task_id, handle.created, task_id)


@tasks(changes=True, thing="task_id", raises=(TaskConflict,))
async def cancel(access: Access, task_id: TaskId) -> TaskState:
    """Cancel a pending task, or ask a running one to stop; refused if it has ended."""
    if cancelled := await access.tq.cancel(task_id):
        access.changed.append(task_id)
    task = await access.tq.get(task_id)
    if not cancelled:
        raise TaskConflict(f"task {printable(task_id)} has ended already: {task.status}")
    return _state(task)


@tasks.many("cancel")
async def _cancel_all(access: Access, given: Cancelled) -> int:
    where = where_of(access, given)
    if given.dry_run:
        return await access.tq.count(**{"status": ["pending", "running"]} | where)
    return await access.tq.cancel_many(**where, progress=access.progress)


@tasks(changes=True, thing="task_id", raises=(TaskConflict,))
async def delete(access: Access, task_id: TaskId) -> Gone:
    """Delete an ended task; refused if it has not ended."""
    await access.tq.delete(task_id)
    return Gone(task_id)


@tasks.many("delete")
async def _delete_all(access: Access, given: Deleted) -> int:
    options: dict[str, Any] = {"older_than": given.older_than, "dry_run": given.dry_run, "progress": access.progress}
    return await access.tq.purge(**where_of(access, given), **options)


def _state(task: Task) -> TaskState:
    return TaskState(task.task_id, task.status, task.cancel_requested)

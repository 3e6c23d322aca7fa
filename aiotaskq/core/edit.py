"""What a pending task becomes when an operator edits it, and the copy of an ended one that a rerun pushes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from aiotaskq.core.errors import TaskConflict, ValidationError
from aiotaskq.core.gate import Flow
from aiotaskq.core.parking import budgets_of, parked
from aiotaskq.core.task import PENDING, RUN_OPTIONS, Task, new_task


def check_editable(task: Task) -> None:
    """Raise TaskConflict if the task is not pending, waits for other tasks, or cannot be read."""
    if task.status is not PENDING:
        raise TaskConflict(f"task {task.task_id!r} is {task.status}; only pending tasks are edited")
    if task.waits:
        raise TaskConflict(f"task {task.task_id!r} waits for the tasks before it; edit it when they have ended")
    if task.undecodable is not None:
        raise TaskConflict(f"task {task.task_id!r} cannot be read ({task.undecodable}); cancel it")


def edited(task: Task, edit: Mapping[str, Any], gated: Callable[[Task], Task]) -> Task:
    """Return the task with the new values, already checked: ``params``, ``due`` (microseconds UTC), ``RUN_OPTIONS``.

    What is absent stays. Its fence rises, so that of two edits of what was read one does not hold.

    ``gated`` returns a task without gates with those of its type. With a new due time, another queue or other gates a
    task parks at its first gate again, so that it holds no slot while it waits. Raises ValidationError for new params
    of a task whose gates are not those that its type declares here: nothing says which gates the new params have. The
    budgets of its groups are no matter of params: their gates stay.
    """
    params = edit.get("params", task.params)
    flow = task.flow if params == task.params else _flow(task, params, gated)
    after = replace(
        task,
        params=dict(params),  # a new object, since the timeout is stored beside the params
        **{name: edit[name] for name in RUN_OPTIONS if name in edit},
        flow=flow,
        fence=task.fence + 1,
        coded=None,
    )
    due = edit.get("due", task.due_us)
    if flow is task.flow and (due, after.queue) == (task.due_us, task.queue):
        return after
    after = replace(after, run_at=due, due_at=None, gate=None)
    return after if flow is None else parked(after, due)


def _flow(task: Task, params: dict[str, Any], gated: Callable[[Task], Task]) -> Flow | None:
    """Return the flow of the task with new params: the gates of these, and else what it was."""
    bare = replace(task, flow=None, gate=None, run_at=task.due_us, due_at=None)
    budgets = budgets_of(task.flow)
    if _keys(task.flow)[len(budgets) :] != _keys(gated(bare).flow):
        raise _not_known(task)
    new = gated(replace(bare, params=params)).flow or Flow()
    gates = ((*budgets, *new.gates), new.weight, new.weights)
    if gates == _gates(task.flow):
        return task.flow
    return replace(task.flow or Flow(), gates=gates[0], weight=new.weight, weights=new.weights)


def _not_known(task: Task) -> ValidationError:
    return ValidationError(
        f"params: the limits of task {task.task_id!r} are not those that {task.type!r} declares here, so those of "
        "the new params are not known; push another task in its place"
    )


def _keys(flow: Flow | None) -> list[str]:
    return [] if flow is None else [key for key, _ in flow.gates]


def _gates(flow: Flow | None) -> tuple[Any, ...]:
    return ((), 1, ()) if flow is None else (flow.gates, flow.weight, flow.weights)


def check_rerun(task: Task, params: bool) -> None:
    """Raise TaskConflict if the task has not ended, or cannot be read and is not given other ``params``."""
    if not task.final:
        raise TaskConflict(f"task {task.task_id!r} is {task.status}; only ended tasks are rerun")
    if task.undecodable is not None and not params:
        raise TaskConflict(f"task {task.task_id!r} cannot be read ({task.undecodable}); give it other params")


def copied(task: Task, params: dict[str, Any], now: int, gated: Callable[[Task], Task]) -> Task:
    """Return a new task that is a copy of an ended one with these params, as of ``now`` in microseconds UTC.

    It has the gates of the ended one. ``gated`` returns it with those of its type, as far as they are known here: that
    is done where the ended one has the same, or none. It is in no group, so it does not wait for the budget of one.

    Raises ValidationError for other params of a task whose gates are not those that its type declares here.
    """
    kept = {name: getattr(task, name) for name in KEPT}
    new = new_task(task.type, params, now=now, kind=type(task), **kept)
    gates = () if task.flow is None else task.flow.gates[len(budgets_of(task.flow)) :]
    declared = gated(replace(new, params=task.params))
    if task.flow is None or not gates or [key for key, _ in gates] == _keys(declared.flow):
        return gated(new)
    if params != task.params:
        raise _not_known(task)
    flow = Flow(gates=gates, weight=task.flow.weight, weights=task.flow.weights)
    return parked(replace(new, flow=flow), now)


KEPT = ("queue", "priority", "max_retries", "timeout", "unique_key", "on_success", "on_failure", "extra")
"""What of an ended task its copy has, too."""

"""How a task waits at its gates and passes them; ``core.gate`` has the rule of when it may."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from operator import attrgetter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from aiotaskq.core.gate import PARKED, Bounds, Flow, Starts, budget_gate, group_of_budget
from aiotaskq.core.status import FINAL, PENDING, RUNNING

if TYPE_CHECKING:
    from aiotaskq.core.task import Task

_flow_of = attrgetter("flow")
_waits_of = attrgetter("waits")


def any_flow(tasks: Iterable[Task]) -> bool:
    """Return whether a task has gates, waits for others, or is in a group. Most pushes have none."""
    return any(map(_flow_of, tasks))


def any_waits(tasks: Iterable[Task]) -> bool:
    """Return whether a task waits for others."""
    return any(map(_waits_of, tasks))


def parked(task: Task, due: int) -> Task:
    """Return a task parked at the first of its gates, or as it is if it has none; ``due`` in microseconds UTC."""
    assert task.flow is not None
    if not task.flow.gates:
        return task
    return replace(task, run_at=PARKED, due_at=due, gate=task.flow.gates[0][0])


def has_budget(task: Task) -> bool:
    """Whether it is in a group with a budget."""
    return task.flow is not None and bool(task.flow.gates) and group_of_budget(*task.flow.gates[0]) is not None


def budgets_of(flow: Flow | None) -> tuple[tuple[str, Bounds], ...]:
    """Return the gates of the budgets of the groups of a task: they are before those of its type."""
    if flow is None or flow.group is None:
        return ()
    return tuple(itertools.takewhile(lambda gate: group_of_budget(*gate) is not None, flow.gates))


def regated(flow: Flow | None, new: Flow | None) -> Flow | None:
    """Return the flow of a task with the gates of another one; it stays a member of its group, with its budgets.

    It is the same object where the gates are the same.
    """
    if flow is None:
        return new
    gates = new or Flow()
    made = replace(flow, gates=(*budgets_of(flow), *gates.gates), weight=gates.weight, weights=gates.weights)
    return flow if made == flow else made


def with_budgets(task: Task, groups: Iterable[str]) -> Task:
    """Return a new task as a member of these groups with budgets, the widest first: parked at the gates of those."""
    flow = task.flow or Flow()
    gates = (*[(budget_gate(group_id), Bounds()) for group_id in groups], *flow.gates)
    return task if gates == flow.gates else parked(replace(task, flow=replace(flow, gates=gates)), task.due_us)


def parked_again(task: Task) -> Task:
    """Return a task that has not started parked at the first of its gates; it gives its slots back."""
    return parked(task, task.due_us)


def passing_order(task: Task) -> tuple[int, int, int]:
    """Return the sort key of the tasks at a gate: claim order, with the due time in place of ``run_at``."""
    return task.priority, task.due_at or 0, task.seq


def at_gate(task: Task) -> str | None:
    """Return the key of the gate at which the task is parked; None if it is at none."""
    return task.gate if task.run_at == PARKED and task.status is PENDING else None


def is_later(task: Task) -> bool:
    """Whether a task that waits at a gate was not due when it was pushed."""
    return task.due_at is not None and task.due_at > task.seq


def tokens(task: Task, key: str) -> int:
    """Return the tokens that a task takes from the rate of a gate."""
    return 1 if task.flow is None else task.flow.tokens(key)


def starts_of(tasks: Collection[Task], key: str) -> Starts:
    """Return the starts of the tasks that hold a slot of a gate."""
    unstarted = sum(tokens(task, key) for task in tasks if task.status is PENDING)
    running = [task for task in tasks if task.status is RUNNING]
    return Starts(unstarted, [(at, tokens(task, key)) for task in running if (at := task.began_at) is not None])


def holds_back(task: Task) -> str | None:
    """Return the key of the gate at which others may pass as soon as a task does not wait there; None if there is none.

    That is a task which waits for several tokens of a rate: there may be enough of them for those behind it. What waits
    for one token, a slot, or a gate to open leaves those behind it nothing that they could have.
    """
    key = at_gate(task)
    return key if key is not None and tokens(task, key) > 1 else None


def pushed_at(task: Task) -> int:
    """Return when a task with gates was pushed, in microseconds UTC: the time at which its push admits its gates.

    That is its push stamp. After the clock was set back the stamps of a process are ahead of it, and the due time of a
    task without a delay is right.
    """
    due = task.due_us
    return due if due < task.seq else task.seq


def passed(task: Task, now: int) -> Task:
    """Return a parked task that has passed its gate: parked at the next one, or un-parked behind the last.

    With a fair share among its gates it queues there behind what waits, or is ready, by then.
    """
    assert task.flow is not None
    due = now if task.due_at is None else task.due_at
    next_gate: str | None = None
    behind: str | None = None
    for key, bounds in reversed(task.flow.gates):
        if bounds.window is not None and due < now:
            due = now
        if key == task.gate:
            next_gate = behind
        behind = key
    return replace(task, run_at=due, due_at=None) if next_gate is None else replace(task, gate=next_gate, due_at=due)


def slots(task: Task) -> tuple[str, ...]:
    """Return the keys of the gates of which the task holds a slot."""
    return slots_and_gate(task)[0]


def slots_and_gate(task: Task) -> tuple[tuple[str, ...], str | None]:
    """Return the keys of ``slots`` and that of ``at_gate``."""
    flow, gate = task.flow, at_gate(task)
    if flow is None or (gate is not None and flow.gates and gate == flow.gates[0][0]):  # as nearly always
        return (), gate
    keys = () if task.status in FINAL else tuple(dict(flow.gates))
    if task.run_at != PARKED or task.status is not PENDING:
        return keys, None
    return keys[: keys.index(gate)] if gate in keys else (), gate


def freed_slots(before: Task, after: Task) -> tuple[str, ...]:
    """Return the keys of the gates whose slots a task gives back when ``before`` becomes ``after``."""
    kept = slots(after)
    return tuple([key for key in slots(before) if key not in kept]) if kept else slots(before)


def redeclared(before: Task, after: Task) -> tuple[tuple[str, Bounds], ...]:
    """Return the gates of ``after``, with their bounds, where ``before`` had others; else none.

    Neither row says when that was. So the bounds are taken at the due time of ``after``, which is no earlier: no tokens
    are given too soon. The gates are made due.
    """
    if after.flow is None or after.flow is before.flow or (before.flow and before.flow.gates == after.flow.gates):
        return ()
    return after.flow.gates


def settled_at(before: Task, after: Task) -> int | None:
    """Return when ``before`` became ``after``, in microseconds UTC; None where neither of the rows says so."""
    if after.final:
        return after.ended_at
    if after.attempts is not before.attempts and after.attempts:
        return after.attempts[-1].ended_at
    if not before.final or after.due_at is None:
        return None
    # A rerun has the push stamp of the new push, and may be due later.
    return after.due_at if after.seq == before.seq else pushed_at(after)


def is_end_of_run(before: Task, after: Task) -> bool:
    """Whether a task that has passed all of its gates has ended: all of them are to be admitted, at ``ended_at``."""
    return (
        before.status is RUNNING and after.status in FINAL and after.flow is before.flow and after.ended_at is not None
    )


def is_given_back(before: Task, after: Task) -> bool:
    """Whether a run ends with its task ready, so that it keeps its slots: in a paused queue it must be parked again."""
    return before.status is RUNNING and after.status is PENDING and not after.parked and bool(slots(after))


def gates_to_admit(before: Task, after: Task) -> tuple[str, ...]:
    """Return the keys of the gates at which a task may pass when ``before`` becomes ``after``.

    These are the gates whose slots it gives back, at which another task may pass, the gate at which it has held others
    back, and the gate at which it waits now.
    """
    keys = freed_slots(before, after)
    if _place(before) == _place(after):
        return keys
    more = [key for key in (holds_back(before), at_gate(after)) if key is not None]
    return tuple(dict.fromkeys([*keys, *more])) if more else keys


def _place(task: Task) -> tuple[object, ...] | None:
    """Return what decides when a parked task passes its gate, and what passes before it; None for one at no gate."""
    key = at_gate(task)
    return None if key is None else (key, task.due_at, task.priority, task.queue, tokens(task, key))

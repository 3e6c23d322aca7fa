"""A visit of one gate in a transaction: which of the tasks that wait there may pass, and which have passed."""

from __future__ import annotations

from collections.abc import Sequence

from aiotaskq.core.gate import Gate, ReadAhead, Starts, admit
from aiotaskq.core.parking import next_gate, tokens
from aiotaskq.core.task import Task


class Visit:
    """The state of one gate during a visit.

    Another transaction may have locked a task that may pass. The next one may pass instead of it, so ``decide`` and
    ``note_passed`` are called in turn until no task was locked.
    """

    def __init__(self, gate: Gate, held: int, ahead: ReadAhead) -> None:
        """``held`` is the number of tasks that hold a slot; ``ahead`` is ``core.gate.read_ahead`` of the gate."""
        self.key, self.held = gate.key, held
        self.before = gate
        """The gate as it was before the visit."""
        self.gate = gate
        """The gate after the admission of ``passed`` and ``passing``."""
        self.starts = Starts()
        """Only a rate needs them."""
        self.may_pass = ahead.may_pass(held)
        """The most tasks that pass in this visit."""
        self.passed: list[Task] = []
        self.passing: list[Task] = []
        """The tasks that may pass, and have not."""
        self.locked: set[str] = set()
        """The ids of tasks that may pass, but that other transactions have locked."""
        self.next_due: int | None = None
        """When the next of the tasks is due that were read and are not due."""
        self.next_gates: list[str] = []
        """The gates behind this one, to which ``passed`` and ``passing`` go."""
        self.repeat = False
        """Whether the gate has to be visited again, since all tasks that were read pass."""

    def decide(self, tasks: Sequence[Task], now: int) -> None:
        """Set which of these tasks may pass at ``now``, in addition to those that have; they are in claim order."""
        waiting = [*self.passed, *tasks]
        weights = [tokens(task, self.key) for task in waiting]
        count, self.gate = admit(self.before, self.held, self.starts, now, weights)
        self.passing = waiting[len(self.passed) : count]
        self.next_gates = [key for task in waiting[:count] if (key := next_gate(task)) is not None]
        self.repeat = self.may_pass < count == len(waiting)

    def note_passed(self, ids: set[str]) -> bool:
        """Note that the tasks with these ids have passed; return whether any of ``passing`` was locked."""
        self.passed += [task for task in self.passing if task.task_id in ids]
        locked = {task.task_id for task in self.passing} - ids
        self.locked |= locked
        return bool(locked)


def independent(visits: Sequence[Visit]) -> list[Visit]:
    """Return the first of these visits, up to one of a gate to which a visit before it lets a task pass."""
    reached: set[str] = set()
    found = []
    for visit in visits:
        if visit.key in reached:
            break
        found.append(visit)
        reached.update(visit.next_gates)
    return found

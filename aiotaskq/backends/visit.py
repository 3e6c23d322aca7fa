"""A visit of one gate in a transaction: how many of the tasks there are read, and which of them may pass."""

from __future__ import annotations

from collections.abc import Sequence

from aiotaskq.core.gate import Gate, Room, admit
from aiotaskq.core.parking import next_gate, tokens
from aiotaskq.core.task import Task


class Visit:
    """What happens at one gate: which tasks may pass, and which have."""

    def __init__(self, gate: Gate, held: int, room: Room) -> None:
        self.key, self.before, self.gate, self.held = gate.key, gate, gate, held
        self.unstarted = 0
        self.limit = room.limit(held)
        """The most tasks that pass in this visit."""
        self.moved: list[Task] = []
        self.passing: list[Task] = []
        self.skipped: set[str] = set()
        self.others = False
        """Whether tasks were seen that are not due, or have expired."""
        self.onward: list[str] = []
        """The gates at which the tasks wait that may pass."""
        self.more = False
        """Whether more tasks may be able to pass."""

    def look(self, tasks: Sequence[Task], now: int) -> None:
        """Note which of the tasks that wait may pass, beside those that have."""
        waiting = [*self.moved, *tasks]
        weights = [tokens(task, self.key) for task in waiting]
        count, self.gate = admit(self.before, self.held, self.unstarted, now, weights)
        self.passing = waiting[len(self.moved) : count]
        self.onward = [key for task in waiting[:count] if (key := next_gate(task)) is not None]
        self.more = self.limit < count == len(waiting)

    def take(self, free: set[str]) -> bool:
        """Note which of the tasks have passed; return whether others may in place of those that were locked."""
        self.moved += [task for task in self.passing if task.task_id in free]
        locked = {task.task_id for task in self.passing} - free
        self.skipped |= locked
        return bool(locked)


def independent(visits: Sequence[Visit]) -> list[Visit]:
    """Return the first of these up to one to which a task comes from those before it."""
    reached: set[str] = set()
    found = []
    for visit in visits:
        if visit.key in reached:
            break
        found.append(visit)
        reached.update(visit.onward)
    return found

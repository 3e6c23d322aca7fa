"""What a transaction has written, as far as something follows from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.parking import (
    gates_to_admit,
    holds_back,
    is_end_of_run,
    is_given_back,
    pushed_at,
    redeclared,
    settled_at,
    slots,
)
from aiotaskq.core.task import RUNNING, Task
from aiotaskq.core.usage import USED_UP_UNTIL

USED_UP: Final = GateChange(closed_until=USED_UP_UNTIL)
"""What closes the gate of a budget."""
NOT_USED_UP: Final = GateChange(closed_until=0)
"""What opens it again."""


class Followed(msgspec.Struct):
    """What followed in one transaction from ends of tasks, and from tasks that were brought back; all are ids."""

    ended: list[str] = []
    """The children that ended by it."""
    pushed: list[str] = []
    """The callbacks, and the messages of webhooks about those children."""
    ended_groups: list[str] = []
    counted: list[str] = []
    """The groups whose numbers have changed, ended or not."""

    def __bool__(self) -> bool:
        return bool(self.ended or self.pushed or self.ended_groups or self.counted)

    def add(self, more: Followed) -> None:
        """Add what followed from another write of the same transaction."""
        self.ended += more.ended
        self.pushed += more.pushed
        self.ended_groups += more.ended_groups
        self.counted += more.counted

    @property
    def all_ended(self) -> list[str]:
        """The names of the hint ``ended``."""
        return self.ended + self.ended_groups


class Touched:
    """The gates that a transaction touches by the tasks that it writes, and what followed for groups and children."""

    def __init__(self) -> None:
        self.now = 0
        """The latest instant of a push or an update, in microseconds UTC; 0 where none is known."""
        self.keys: dict[str, None] = {}
        """Gates to admit, in this order."""
        self.due: dict[str, None] = {}
        """Gates to make due: the instant of the change is unknown, so the next sweep admits them."""
        self.known: dict[str, Bounds | None] = {}
        """All gates that are touched, with the bounds to make them with if they do not exist."""
        self.delayed: set[str] = set()
        """Gates at which tasks may wait for their due time, though they have no ``next_at``."""
        self.waiting: list[Task] = []
        """Tasks that were parked at a gate."""
        self.ran: list[Task] = []
        """The tasks that ran and hold no slot any more, as they were."""
        self.given_back: dict[str, dict[str, None]] = {}
        """By queue, the last gates of the tasks that are ready again after a run."""
        self.declared: dict[str, Bounds] = {}
        """The bounds that pushed tasks declare."""
        self.redeclared: list[tuple[str, Bounds, int]] = []
        """Those that changed tasks declare, each with its instant."""
        self.changes: list[tuple[str, GateChange]] = []
        """Changes of gates."""
        self.parked: list[tuple[Collection[str], str | None]] = []
        """Gates whose tasks are parked again that have not started, of one queue or of all."""
        self.swept: Sequence[str] = ()
        """Gates to admit if their ``next_at`` has come at ``now``."""
        self.bounded: dict[str, Bounds] = {}
        """Gates at which pushed tasks may be too many."""
        self.wakes = False
        """Whether tasks may have become ready."""
        self.followed = Followed()
        """What followed for groups and children."""

    def __bool__(self) -> bool:
        """Whether there are gates to look at."""
        noted = self.declared or self.redeclared or self.changes or self.parked or self.swept
        return bool(self.keys or self.due or noted)

    def pushed(self, tasks: Iterable[Task], refused: bool = True) -> None:
        """Note new rows; whether they are ``refused`` where too many would wait."""
        for task in tasks:
            if task.flow is not None and task.flow.gates:
                gates = task.flow.gates
                self.known.update(gates)
                self.declared.update(gates)
                self.now = max(self.now, pushed_at(task))
                if task.gate is not None and task.parked:
                    self.keys[task.gate] = None
                    self.waiting.append(task)
                    if refused:
                        self.bounded.update(gates)

    def written(self, changes: Iterable[tuple[Task, Task]]) -> None:
        """Note changes of tasks, each as the task before and after it."""
        noted: Flow | None = None
        for before, after in changes:
            if (flow := before.flow) is not None and is_end_of_run(before, after):  # most changes: a short cut for them
                if flow != noted:
                    noted = flow
                    self.known.update(flow.gates)
                    self.keys |= {key: None for key, _ in reversed(flow.gates)}
                self.now = max(self.now, after.ended_at or 0)
                self.ran.append(before)
                continue
            gates = () if flow is None else flow.gates
            self.known.update(gates)
            if others := redeclared(before, after):
                self.known.update(others)
                self.redeclared += [(key, bounds, after.due_us) for key, bounds in others]
            # The widest first: a task that waits there is before one that only now reaches it.
            keys = dict.fromkeys(reversed(gates_to_admit(before, after)))
            at = settled_at(before, after)
            if at is None:
                self.due |= keys
            else:
                self.keys |= keys
                self.now = max(self.now, at)
            if after.parked and not after.final:
                self.waiting.append(after)
            elif after.gate is not None and is_given_back(before, after):
                self.given_back.setdefault(after.queue, {})[after.gate] = None
            if gates and before.status is RUNNING and not slots(after):
                self.ran.append(before)

    def deleted(self, tasks: Iterable[Task]) -> None:
        """Note that live tasks are deleted."""
        for task in tasks:
            if task.flow is not None:
                self.known.update(task.flow.gates)
                self.due.update(dict.fromkeys(slots(task)))
                if (key := holds_back(task)) is not None:
                    self.due[key] = None

    def changed(self, key: str, change: GateChange, now: int = 0) -> None:
        """Note a change of a gate, which is made if there is none, at ``now``."""
        self.known.setdefault(key, None)
        self.changes.append((key, change))
        self.wakes = True
        self.now = max(self.now, now)
        if change is USED_UP:
            self.park([key])

    def sweep(self, keys: Sequence[str], now: int) -> None:
        """Note gates that are to be admitted if they are due at ``now``."""
        self.known |= {key: self.known.get(key) for key in keys}
        self.swept, self.now = keys, max(self.now, now)

    def park(self, keys: Collection[str], queue: str | None = None) -> None:
        """Note that the tasks of these gates are to be parked again that have not started, of one queue or of all."""
        for key in keys:
            self.known.setdefault(key, None)
        self.parked.append((keys, queue))

    def make_due(self, keys: Iterable[str], known: Mapping[str, Bounds | None] = {}) -> None:
        """Note gates that the next sweep shall admit; ``known`` are bounds for those that do not exist."""
        self.due |= dict.fromkeys(keys)
        self.known |= {key: known.get(key) for key in self.due}

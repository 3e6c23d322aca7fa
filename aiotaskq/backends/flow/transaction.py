"""The contract of a transaction: what a store gives to the functions of this package; and what has been written."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from aiotaskq.backends.side_rows import TAG, SideRow
from aiotaskq.core.coded import decoded, encoded, lazy
from aiotaskq.core.errors import NotSupported
from aiotaskq.core.gate import Bounds, GateChange
from aiotaskq.core.parking import (
    at_gate,
    gates_to_admit,
    holds_back,
    is_end_of_run,
    is_given_back,
    is_later,
    pushed_at,
    redeclared,
    settled_at,
    slots,
)
from aiotaskq.core.status import RUNNING
from aiotaskq.core.tags import labels
from aiotaskq.core.task import Task, any_tags
from aiotaskq.core.usage import USED_UP_UNTIL

if TYPE_CHECKING:
    from aiotaskq.backends.change import Change, Room
    from aiotaskq.backends.side_rows import OwnedRows
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.gate import Gate, Starts
    from aiotaskq.core.groups import GroupState, Member
    from aiotaskq.core.status import Status
    from aiotaskq.core.usage import Usage

Messages: TypeAlias = Callable[[Sequence[Task], int], list[Task]]
T = TypeVar("T")

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
    awaited: list[str] = []
    """What tasks wait for from now on that were pushed after it: the names of the hint ``after``."""

    def __bool__(self) -> bool:
        return bool(self.ended or self.pushed or self.ended_groups or self.counted or self.awaited)

    @property
    def all_ended(self) -> list[str]:
        """The names of the hint ``ended``."""
        return self.ended + self.ended_groups


class Touched(msgspec.Struct):
    """The gates that a transaction touches by the tasks that it writes, and what followed for groups and children."""

    now: int = 0
    """The latest instant of a push or an update, in microseconds UTC; 0 where none is known."""
    keys: dict[str, None] = {}
    """Gates to admit, in this order."""
    due: dict[str, None] = {}
    """Gates to make due: the instant of the change is unknown, so the next sweep admits them."""
    known: dict[str, Bounds | None] = {}
    """All gates that are touched, with the bounds to make them with if they do not exist."""
    delayed: set[str] = set()
    """Gates at which tasks may wait for their due time, though they have no ``next_at``."""
    ran: list[Task] = []
    """The tasks that ran and hold no slot any more, as they were."""
    given_back: dict[str, dict[str, None]] = {}
    """By queue, the last gates of the tasks that are ready again after a run."""
    declared: dict[str, tuple[Bounds, int]] = {}
    """The bounds that pushed and changed tasks declare, and since when; the later ones count."""
    changes: list[tuple[str, GateChange]] = []
    """Changes of gates."""
    parked: list[tuple[Collection[str], str | None]] = []
    """Gates whose tasks are parked again that have not started, of one queue or of all."""
    swept: Sequence[str] = ()
    """Gates to admit if their ``next_at`` has come at ``now``."""
    bounded: dict[str, None] = {}
    """The gates of pushed tasks that are refused where too many wait."""
    wakes: bool = False
    """Whether tasks may have become ready."""
    followed: Followed = msgspec.field(default_factory=Followed)
    """What followed for groups and children."""

    def __bool__(self) -> bool:
        """Whether there are gates to look at."""
        return bool(self.keys or self.due or self.declared or self.changes or self.parked or self.swept)

    def pushed(self, tasks: Iterable[Task], bounded: bool) -> None:
        """Note new rows; ``bounded``: they are refused at the end of the transaction where too many wait then."""
        known, declared, now = self.known, self.declared, self.now
        for task in tasks:
            if (flow := task.flow) is not None and (gates := flow.gates):
                if (at := pushed_at(task)) > now:
                    now = at
                for key, bounds in gates:
                    known[key] = bounds
                    declared[key] = bounds, at
                if (gate := at_gate(task)) is not None:
                    self.keys[gate] = None
                    if is_later(task):
                        self.delayed.add(gate)
                    if bounded:
                        self.bounded |= dict.fromkeys(key for key, _ in gates)
        self.now = now

    def written(self, changes: Iterable[tuple[Task, Task]]) -> None:
        """Note changes of tasks, each as the task before and after it."""
        for before, after in changes:
            if (flow := before.flow) is not None and is_end_of_run(before, after):  # most changes: a short cut for them
                for key, bounds in reversed(flow.gates):
                    self.known[key] = bounds
                    self.keys[key] = None
                if (at := after.ended_at or 0) > self.now:
                    self.now = at
                self.ran.append(before)
                continue
            gates = () if flow is None else flow.gates
            self.known.update(gates)
            if others := redeclared(before, after):
                self.known.update(others)
                self.declared |= {key: (bounds, after.due_us) for key, bounds in others}
            # The widest first: a task that waits there is before one that only now reaches it.
            keys = dict.fromkeys(reversed(gates_to_admit(before, after)))
            if (settled := settled_at(before, after)) is None:
                self.due |= keys
            else:
                self.keys |= keys
                self.now = max(self.now, settled)
            if (gate := at_gate(after)) is not None:
                if is_later(after):
                    self.delayed.add(gate)
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


Waiting: TypeAlias = tuple[Sequence[Task], int | None]
"""What waits at a gate: the first tasks that are due, in passing order, perhaps without their content; and when the
first of the others that were read is due, in microseconds UTC.
"""
NO_WAITING: Final[Waiting] = ((), None)


class Run(NamedTuple):
    """Which run has a task, or had it."""

    status: Status
    fence: int
    seq: int
    """The push stamp of the task."""
    began_at: int | None
    taken: bool = False
    """Whether another transaction has locked the row of the task."""


Holder = tuple[int, int]
"""A run that stores something for its task: its fence, and the push stamp of the task."""


class Transaction(ABC):
    """The rows of a store in one transaction: of tasks, of groups, of gates, and those beside tasks.

    What is read is locked, or compared at the commit; locks are taken in the order of tasks, groups, gates. A body that
    works on it may run more than once, each time on another transaction.
    """

    messages: Messages
    """``Groups.messages`` of the store."""
    codec: Codec | None = None
    """That of the store: what ``push`` and ``update`` write is encoded with it."""
    joined: bool = False
    """Whether it is a caller's: then gates are admitted after its commit."""

    @functools.cached_property
    def touched(self) -> Touched:
        """What has been written."""
        return Touched()

    @functools.cached_property
    def side(self) -> OwnedRows:
        """The side rows."""
        raise NotImplementedError

    @functools.cached_property
    def unread_groups(self) -> set[str]:
        """The ids of the groups that ``groups`` has left out, since they cannot be read."""
        return set()

    # ---- tasks ----

    @abstractmethod
    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        """Read tasks by id."""

    def look(self, ids: Sequence[str]) -> dict[str, Task]:
        """Read tasks by id without a lock: whether they change before the commit does not matter."""
        return self.tasks(ids)

    def existing(self, ids: Sequence[str]) -> Collection[str]:
        """Return those of these ids of tasks that there are."""
        return self.tasks(ids).keys()

    def runs(self, ids: Sequence[str], *, wait: bool = True) -> Mapping[str, Run]:
        """Read which runs have these tasks, by id, and lock the tasks until the transaction ends.

        Without ``wait`` those that another transaction has locked are read only, and are ``taken``.
        """
        return {key: Run(row.status, row.fence, row.seq, row.began_at) for key, row in self.tasks(ids).items()}

    def foresee(self, ids: Sequence[str], *reads: Callable[[], object]) -> None:  # noqa: B027
        """Read these tasks, and what ``reads`` do, in one round trip, where a transaction locks nothing."""

    @abstractmethod
    def insert(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Insert tasks that conflict with no row; return each, or the row that it conflicts with."""

    def tag(self, tasks: Sequence[Task]) -> None:
        """Store the tags of new tasks, by which others look for them. They stay as they are."""
        self.side.add(TAG, [SideRow(name, "", None, task.task_id) for task in tasks for name in labels(task.tags)])

    @abstractmethod
    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        """Write tasks that were read so: each is given as it was, and as it is from now on."""

    @abstractmethod
    def update(self, changes: Sequence[Change]) -> list[bool]:
        """Do as ``Backend.update``."""

    @abstractmethod
    def write_usage(self, usages: Mapping[str, Usage]) -> None:
        """Store what these tasks have used up, by id, whose rows were read."""

    def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        """Do as ``Store.add_held``."""
        runs, texts = self.runs(sorted({row.owner for row in rows})), list[str | None]()
        for row, holder in zip(rows, holders, strict=True):
            run = runs.get(row.owner)
            if run is None or run.status is not RUNNING or (run.fence, run.seq) != holder:
                texts.append(None)
                continue
            self.side.add(kind, [row])
            texts.append(self.side.lock(kind, [row.name], row.owner)[row.name])
        return texts

    # ---- before a push ----

    def check_push(self, tasks: Sequence[Task]) -> bool:
        """Raise QueueFull before tasks are inserted, where that could not be undone; return whether it is checked."""
        return False

    @abstractmethod
    def check_room(self, tasks: Sequence[Task], room: Room) -> None:
        """Raise QueueFull if there is no room for new tasks, before anything is written or, if it can be undone, later.

        The changes of ``room.instead`` are written next; that one of them does not hold is found here, too.
        """

    # ---- groups ----

    @abstractmethod
    def groups(self, ids: Sequence[str], lock: bool = True) -> dict[str, GroupState]:
        """Read groups by id; without ``lock`` in a database none is locked, nor the place of one that is missing."""

    def add_groups(self, groups: Sequence[GroupState], members: Sequence[Member]) -> bool:
        """Insert groups and their members; return False, and write nothing, if there is the first of these groups."""
        first = groups[0].group_id
        if first in self.groups([group.group_id for group in groups]) or first in self.unread_groups:
            return False
        self.add_members(members)
        self.write_groups(groups)
        return True

    @abstractmethod
    def write_groups(self, groups: Sequence[GroupState], callbacks: bool = False) -> None:
        """Write groups that were read so; whether their ``callbacks`` have changed, too."""

    @abstractmethod
    def drop_groups(self, ids: Sequence[str]) -> None:
        """Delete groups that were read, the lists of their members and the gates of their budgets.

        With a group all groups in it are given, behind it.
        """

    @abstractmethod
    def count_live(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Count the members that have not ended of each of these groups, which were read."""

    @abstractmethod
    def add_members(self, members: Sequence[Member]) -> None:
        """Write members of groups that are there."""

    @abstractmethod
    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        """Return the ids of the groups that are members of these."""

    # ---- gates ----

    def add_gates(self, gates: Sequence[Gate]) -> None:
        """Insert those of these gates that do not exist."""
        there = self.stored_gates([gate.key for gate in gates])
        self.write_gates([gate for gate in gates if gate.key not in there])

    def let_pass(self, changes: Sequence[tuple[Task, Task]]) -> Collection[str]:
        """Write tasks of ``waiting`` that pass a gate; return the ids of those that other transactions have locked."""
        self.rewrite(changes)
        return ()

    @abstractmethod
    def unstarted(self, keys: Collection[str], queue: str | None) -> Sequence[Task]:
        """Read the tasks that hold a slot of one of these gates and have not started, of one queue or of all.

        One that another transaction has locked is left out: it is about to start, or to end.
        """

    @abstractmethod
    def gates(self, known: Mapping[str, Bounds | None], wait: bool = True) -> dict[str, Gate]:
        """Read gates by key; one that does not exist is made, with these bounds.

        Without ``wait`` only those that exist, and that no other transaction has locked.
        """

    @abstractmethod
    def stored_gates(self, keys: Collection[str]) -> Mapping[str, Gate]:
        """Read those of these gates that exist, without a lock."""

    @abstractmethod
    def write_gates(self, gates: Sequence[Gate]) -> None:
        """Write gates that were read by ``gates``."""

    @abstractmethod
    def drop_gates(self, keys: Collection[str]) -> None:
        """Delete gates that were read by ``gates``, at which no task is."""

    @abstractmethod
    def counts(self, keys: Collection[str]) -> Mapping[str, tuple[int, int]]:
        """Count the tasks that hold a slot of each of these gates, and those that wait there."""

    def held(self, keys: Collection[str]) -> Mapping[str, int]:
        """Count the tasks that hold a slot of each of these gates; one at which none waits may be missing."""
        return {key: held for key, (held, waiting) in self.counts(keys).items() if waiting}

    def recount(self, keys: Collection[str]) -> Collection[str]:
        """Correct what is stored of the slots of these gates by the tasks that there are; return where any was lost."""
        return ()

    @abstractmethod
    def starts(self, gates: Collection[Gate], now: int) -> Mapping[str, Starts]:
        """Return the starts of the tasks that hold a slot of these gates, which have rates."""

    @abstractmethod
    def waiting(self, limits: Mapping[str, int], now: int) -> Mapping[str, Waiting]:
        """Read the first tasks that wait at these gates and are due at ``now``, up to a limit for each.

        What has expired is left out, since it would hold a slot and start nothing; so are tasks of paused queues. A
        gate at which none waits may be missing.
        """

    @abstractmethod
    def release(self, keys: Collection[str], now: int) -> None:
        """Let ``waiting`` find the tasks at these gates that are due at ``now`` and were not when written."""

    @abstractmethod
    def next_due(self, key: str) -> int | None:
        """Return when the next of the tasks at a gate is due that ``release`` has not found due."""

    def with_due(self, keys: Collection[str], now: int) -> Collection[str]:
        """Return those of these gates at which a task waits that is due, as for ``waiting``, without a lock."""
        return {key for key, (tasks, _) in self.waiting(dict.fromkeys(keys, 1), now).items() if tasks}

    def with_more_waiting(self, most: Mapping[str, int]) -> Collection[str]:
        """Return those of these gates at which more tasks wait than this."""
        return {key for key, (_, waiting) in self.counts(most).items() if waiting > most[key]}

    @abstractmethod
    def paused_queues(self) -> Collection[str]:
        """Return the queues that are paused: their tasks pass no gate."""


class Store(Protocol):
    """What runs transactions."""

    wakes_later: bool
    """Whether what waits for an event is woken by transactions after the one that stores the event."""

    async def transact(self, body: Callable[[Transaction], T], *, repeatable: bool = False) -> T:
        """Run ``body`` in one transaction, perhaps more than once; then send the hints of what it has written.

        ``repeatable``: it may run again after a commit whose answer was lost, since it finds what it has written.
        """

    async def look(self, body: Callable[[Transaction], T]) -> T:
        """Run ``body``, which reads only, without locks where ``transact`` takes some."""
        return await self.transact(body)

    async def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        """Store rows of tasks that run so, as ``OwnedRows.add``; return the text that is there now of each.

        None where the task does not run so.
        """
        return await self.transact(lambda tx: tx.add_held(kind, rows, holders))

    async def transact_with(self, session: Any, body: Callable[[Transaction], T], committed: Callable[[], None]) -> T:
        """Run ``body`` in the transaction of a caller's session; once that commits, do the rest and call ``committed``.

        Raises NotSupported where the store is not SQL. This one does.
        """
        raise NotSupported("session: this store cannot join a transaction; write after the commit, or use a SQL store")


def push(tx: Transaction, tasks: Sequence[Task], refused: bool = True) -> list[Task]:
    """Insert tasks; return each, or the row that it conflicts with.

    ``refused``: QueueFull is raised where too many would wait at a gate, here or at the end of the transaction.
    """
    codec = tx.codec
    sent = tasks if codec is None else [encoded(task, codec) for task in tasks]
    bounded = refused and not tx.check_push(sent)
    stored = list(tx.insert(sent))
    # A callback was encoded with its group, and stored without what shows its tags.
    shown = sent if codec is None else [task if task.tags else decoded(task, lazy(codec)) for task in sent]
    if any_tags(shown):
        tx.tag([task for task, new, row in zip(shown, sent, stored, strict=True) if row is new])
    tx.touched.wakes = True
    tx.touched.pushed([new for new, row in zip(sent, stored, strict=True) if row is new], bounded)
    if codec is None:
        return stored
    each = zip(tasks, sent, stored, strict=True)
    return [task if row is new else decoded(row, lazy(codec)) for task, new, row in each]


def rewrite(tx: Transaction, changes: Sequence[tuple[Task, Task]]) -> None:
    """Write tasks that were read so, and note what that means for their gates."""
    tx.rewrite(changes)
    tx.touched.wakes = True
    tx.touched.written(changes)

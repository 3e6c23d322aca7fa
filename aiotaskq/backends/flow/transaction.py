"""The contract of a transaction: what a store gives to the functions of this package."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from aiotaskq.backends.flow.touched import Touched

if TYPE_CHECKING:
    from aiotaskq.backends.change import Change, Room
    from aiotaskq.backends.side_rows import OwnedRows, SideRow
    from aiotaskq.core.gate import Bounds, Gate, Starts
    from aiotaskq.core.groups import GroupState, Member
    from aiotaskq.core.task import Status, Task
    from aiotaskq.core.usage import Usage

T = TypeVar("T")


class Waiting(NamedTuple):
    """What waits at a gate."""

    tasks: Sequence[Task]
    """The first tasks that are due, in passing order. Their content may be missing."""
    next_due: int | None = None
    """When the first of the others is due that were read, in microseconds UTC."""


NO_WAITING: Final = Waiting(())


class Rows(ABC):
    """The rows of tasks and groups in one transaction.

    What is read is locked, or compared at the commit; locks are taken in the order of tasks, groups, gates. A body that
    works on it may run more than once, each time on another transaction.
    """

    messages: Callable[[Sequence[Task], int], list[Task]]
    """``Groups.messages`` of the store."""

    @functools.cached_property
    def touched(self) -> Touched:
        """What has been written."""
        return Touched()

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

    @abstractmethod
    def insert(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Insert tasks that conflict with no row; return each, or the row that it conflicts with."""

    @abstractmethod
    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        """Write tasks that were read so: each is given as it was, and as it is from now on."""

    # ---- groups ----

    @abstractmethod
    def groups(self, ids: Sequence[str], lock: bool = True) -> dict[str, GroupState]:
        """Read groups by id; without ``lock`` in a database none is locked, nor the place of one that is missing."""

    @abstractmethod
    def add_groups(self, groups: Sequence[GroupState], members: Sequence[Member]) -> bool:
        """Insert groups and their members; return False, and write nothing, if there is the first of these groups."""

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

    @abstractmethod
    def add_gates(self, gates: Sequence[Gate]) -> None:
        """Insert those of these gates that do not exist."""

    # ---- before a push ----

    def check_push(self, tasks: Sequence[Task]) -> None:  # noqa: B027 - there may be nothing to do
        """Raise QueueFull before tasks are inserted, in a store where that could not be undone."""


class Transaction(Rows):
    """The rows of a store in one transaction, those of gates, too."""

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
        """Count the tasks that hold a slot of each of these gates."""
        return {key: held for key, (held, _) in self.counts(keys).items()}

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


class Beside(Protocol):
    """A transaction: the rows of tasks, groups and gates, and those beside tasks."""

    @property
    def tx(self) -> Transaction:
        """Their rows."""

    @property
    def joined(self) -> bool:
        """Whether it is a caller's: then gates are admitted after its commit."""

    def update(self, changes: Sequence[Change]) -> list[bool]:
        """Do as ``Backend.update``."""

    def check_room(self, tasks: Sequence[Task], room: Room) -> None:
        """Raise QueueFull if there is no room for new tasks, before anything is written or, if it can be undone, later.

        The changes of ``room.instead`` are written next; that one of them does not hold is found here, too.
        """

    @property
    def side(self) -> OwnedRows:
        """The side rows."""

    def foresee(self, ids: Sequence[str], *reads: Callable[[], object]) -> None:
        """Read these tasks, and what ``reads`` do, in one round trip, where a transaction locks nothing."""

    def runs(self, ids: Sequence[str], *, wait: bool = True) -> Mapping[str, Run]:
        """Read which runs have these tasks, by id, and lock the tasks until the transaction ends.

        Without ``wait`` those that another transaction has locked are read only, and are ``taken``.
        """

    def tasks(self, ids: Sequence[str]) -> Mapping[str, Task]:
        """As ``Transaction.tasks``."""

    def existing(self, ids: Sequence[str]) -> Collection[str]:
        """As ``Transaction.existing``."""

    def touch(self, task: Task) -> None:
        """Let the next sweep look at the gate at which a task is parked."""

    def write_usage(self, usages: Mapping[str, Usage]) -> None:
        """Store what these tasks have used up, by id, whose rows were read."""


class Joined(Beside, Protocol):
    """The same in the transaction of a caller."""

    def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        """Do as ``Store.add_held``."""


class Store(Protocol):
    """What runs transactions."""

    @property
    def wakes_later(self) -> bool:
        """Whether what waits for an event is woken by transactions after the one that stores the event."""

    async def transact(self, body: Callable[[Beside], T], *, repeatable: bool = False) -> T:
        """Run ``body`` in one transaction, perhaps more than once; then send the hints of what it has written.

        ``repeatable``: it may run again after a commit whose answer was lost, since it finds what it has written.
        """

    async def look(self, body: Callable[[Beside], T]) -> T:
        """Run ``body``, which reads only, without locks."""

    async def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        """Store rows of tasks that run so, as ``OwnedRows.add``; return the text that is there now of each.

        None where the task does not run so.
        """


class JoiningStore(Store, Protocol):
    """One that can take part in a transaction of its caller."""

    async def transact_with(self, session: Any, body: Callable[[Joined], T], committed: Callable[[], None]) -> T:
        """Run ``body`` in the transaction of a session; once that commits, do the rest and call ``committed``."""

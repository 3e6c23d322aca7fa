"""The contract of a store of schedules, and what becomes of their rows, once for every store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from msgspec.structs import astuple

from aiotaskq.backends.change import ScheduleChange
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import no_codec
from aiotaskq.core.errors import INT64
from aiotaskq.core.schedule import Schedule, UndecodableSchedule
from aiotaskq.core.task import SECOND, Task

T = TypeVar("T")
CODED: Final = ("params", "outbox")
"""The fields that a codec encodes."""
FIELDS: Final = Schedule.__struct_fields__
_ALWAYS: Final = ("enabled", "version")  # a row that cannot be decoded was read as a disabled one


class Written(NamedTuple):
    """A row as it is written."""

    schedule: Schedule
    names: Collection[str] = FIELDS
    """The fields that are written: another program may have changed the others without a new version."""


class Decision(NamedTuple, Generic[T]):
    """What becomes of rows that were read, in one transaction."""

    answer: T
    written: Collection[Written] = ()
    deleted: Sequence[str] = ()
    fired: Sequence[Task] = ()
    """Tasks to push. One whose id exists is not pushed again."""


Decide = Callable[[Mapping[str, Any]], Decision[T]]
"""It takes the rows that there are, by id."""


class Schedules(ABC):
    """A store of schedules."""

    codec: Codec | None = None
    """That of the backend."""

    @abstractmethod
    async def _write(self, ids: Sequence[str], decide: Decide[T], whole: bool = True) -> T:
        """Read and lock the rows with these ids, write what ``decide`` says of them, and return its answer.

        In one transaction, and perhaps more than once. Without ``whole`` the fields of ``GUARD`` suffice.
        """

    async def recode(self, ids: Sequence[str]) -> list[bool | None]:
        """Write the params and the outbox of these schedules anew; as ``Backend.recode``."""
        if self.codec is None:
            raise no_codec()

        def decide(rows: Mapping[str, Schedule]) -> Decision[list[bool | None]]:
            readable = {each: row for each, row in rows.items() if not isinstance(row, UndecodableSchedule)}
            done = [True if each in readable else None for each in ids]
            return Decision(done, [Written(row, CODED) for row in readable.values()])

        return await self._write(ids, decide)

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        """Insert schedules; return for each the object given, or the row that has its id."""

        def decide(rows: Mapping[str, Schedule]) -> Decision[list[Schedule]]:
            new: dict[str, Schedule] = {}
            for schedule in schedules:
                if schedule.task_id not in rows:
                    new.setdefault(schedule.task_id, schedule)
            return Decision(stored(schedules, {**rows, **new}), list(map(Written, new.values())))

        return await self._write([schedule.task_id for schedule in schedules], decide)

    async def change(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        """Compare and swap, and push the fired tasks, in one transaction; return for each whether its guard held.

        The guard is the row's version, due time, run count and ``enabled`` as read. A fired task whose id exists is not
        pushed again.
        """
        return await self._write(*changing(changes))

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        """Read schedules by id; None where there is none."""

    @abstractmethod
    async def all(self, enabled_only: bool = False) -> list[Schedule]:
        """Read the schedules, in the order of the second of their creation, then of their ids."""

    @abstractmethod
    async def due(self, now: int, limit: int) -> list[Schedule]:
        """Read enabled schedules whose due time is at or before ``now``, the earliest first."""

    async def written_after(self, now: int) -> list[Schedule]:
        """Read enabled schedules that were written, and are due, in a later second than that of ``now``."""
        found, second = await self.all(enabled_only=True), now // SECOND
        return [each for each in found if each.updated_at > second and (each.due or 0) // SECOND > second]

    @abstractmethod
    async def undelivered(self, limit: int) -> list[Schedule]:
        """Read schedules with tasks in their outbox."""

    async def next_due(self) -> int | None:
        """Return the earliest due time of an enabled schedule in microseconds, or None."""
        found = await self.due(INT64, 1)
        return found[0].due if found else None

    async def delete(self, ids: Sequence[str]) -> list[bool]:
        """Delete schedules; return for each whether there was one. The tasks that were fired stay."""

        def decide(rows: Mapping[str, Any]) -> Decision[list[bool]]:
            left = dict(rows)
            return Decision([left.pop(each, None) is not None for each in ids], deleted=[*rows])

        return await self._write(ids, decide, whole=False)


def stored(schedules: Sequence[Schedule], rows: Mapping[str, Schedule]) -> list[Schedule]:
    """Return for each schedule the object given if its row is equal, else the row."""
    return [each if rows[each.task_id] == each else rows[each.task_id] for each in schedules]


def changing(changes: Sequence[ScheduleChange]) -> tuple[list[str], Decide[list[bool]], bool]:
    """Return the arguments of ``Schedules._write`` for changes; the second of two for one row sees the first."""

    def decide(rows: Mapping[str, Any]) -> Decision[list[bool]]:
        now = dict(rows)
        held: list[bool] = []
        fired: list[Task] = []
        written: dict[str, Written] = {}
        for change in changes:
            schedule_id = change.before.task_id
            held.append(change.holds(now.get(schedule_id)))
            if held[-1]:
                before, after = change.before, change.after.replace(version=change.before.version + 1)
                known = written[schedule_id].names if schedule_id in written else _ALWAYS
                fields = zip(FIELDS, astuple(after), astuple(before), strict=True)
                names = [name for name, new, old in fields if name in known or new != old]
                written[schedule_id] = Written(after, names)
                now[schedule_id] = after
                fired += change.tasks
        return Decision(held, written.values(), fired=fired)

    # Of a row that cannot be decoded, ``enabled`` is not what its column says.
    whole = any(isinstance(change.before, UndecodableSchedule) for change in changes)
    return [change.before.task_id for change in changes], decide, whole

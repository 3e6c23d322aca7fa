"""The scheduler: fires each due time of its schedules once, however many processes run a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from aiotaskq.backends.change import ScheduleChange
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.errors import INT64, check_id, check_int, check_seconds, instant
from aiotaskq.core.firing import (
    CLOCKS_DIFFER,
    HOSTS_DIFFER,
    Firing,
    backfilled,
    brought_near,
    derived_id,
    fire,
    missing_dues,
    run_now,
)
from aiotaskq.core.firing import LIMIT as BACKFILL
from aiotaskq.core.firing import MAX_LIMIT as MAX_BACKFILL
from aiotaskq.core.ids import new_id
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.schedule import Schedule, changed, check_decoded, differences, paused, resumed
from aiotaskq.core.task import SECOND
from aiotaskq.errors import AiotaskqError, NotFound, QueueFull
from aiotaskq.log import gate, log, named, printable
from aiotaskq.runtime.clock_steps import ClockSteps
from aiotaskq.runtime.queue.claims import willing
from aiotaskq.runtime.scheduler.outbox import Outbox, add_with_room

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend, Schedules
    from aiotaskq.runtime.queue.queue import Queue


HOLD = 3 * SECOND
"""Microseconds for which a schedule is left out that cannot be fired now."""


class DueHeap:
    """The enabled schedules of a store that are due before ``end``, as this process read or wrote them.

    Other processes may have changed them since; then the compare-and-swap that fires does not hold. Instants are
    microseconds UTC.
    """

    def __init__(self) -> None:
        self._soon: dict[str, Schedule] = {}
        self._heap: list[tuple[int, str]] = []  # an entry whose schedule has changed is skipped
        self._held: dict[str, int] = {}  # by task_id until when a schedule is left out, though it is due
        self._begin = self._end = 0

    def covers(self, now: int) -> bool:
        """Whether everything due at ``now`` is in here; not if the clock was set back to before the last ``fill``."""
        return self._begin <= now < self._end

    def fill(self, schedules: Iterable[Schedule], begin: int, end: int) -> None:
        """Replace everything by all schedules that are due before ``end``, as they were read at ``begin``."""
        if self._held:  # what lies further ahead was set before the clock was set back
            self._held = {task_id: until for task_id, until in self._held.items() if begin < until <= begin + HOLD}
        self._soon = {schedule.task_id: schedule for schedule in schedules}
        self._heap = [(self._time(schedule), schedule.task_id) for schedule in self._soon.values()]
        heapify(self._heap)
        self._begin, self._end = begin, end

    def forget(self) -> None:
        """Remove everything, until it is filled again."""
        self._soon, self._heap, self._begin, self._end = {}, [], 0, 0

    def note(self, schedule: Schedule) -> None:
        """Add or replace a schedule, if it is enabled and due before the end; otherwise remove it."""
        due = schedule.due
        if schedule.enabled and due is not None and due < self._end:
            self._soon[schedule.task_id] = schedule
            heappush(self._heap, (self._time(schedule), schedule.task_id))
        else:
            self._soon.pop(schedule.task_id, None)

    def hold(self, schedule: Schedule, now: int) -> None:
        """Leave a schedule out for ``HOLD``, though it is due: it cannot be fired now, and the others go on."""
        self._held[schedule.task_id] = now + HOLD
        self.note(schedule)

    def _time(self, schedule: Schedule) -> int:
        return max(schedule.due or 0, self._held.get(schedule.task_id, 0))

    def head(self) -> int | None:
        """Return when the first of them is to be taken, at the latest the end; None if there is none before the end."""
        while self._heap:
            at, task_id = self._heap[0]
            if task_id in self._soon and self._time(self._soon[task_id]) == at:
                return min(at, self._end)
            heappop(self._heap)
        return None

    def take(self, now: int, limit: int) -> list[Schedule]:
        """Remove and return the schedules that are due, the earliest first, at most ``limit``."""
        taken: list[Schedule] = []
        while len(taken) < limit and self.head() is not None and self._heap[0][0] <= now:
            taken.append(self._soon.pop(heappop(self._heap)[1]))
            self._held.pop(taken[-1].task_id, None)
        return taken


LIMIT = 1_000  # schedules fired in one transaction
READ = 300  # schedules read ahead at a time; reading more would make the runs of that round late
AHEAD = SECOND  # microseconds that are read ahead; a change by another process may be seen so much later
# After a round that fires comes a pause of twice its length, which ends at most so many seconds after the begin of the
# round: due times that are closer share a transaction. A due time after the pause is fired at once.
GAP = 0.008
MAX_REFUSALS = 3  # failures in a row after which a schedule is disabled


class Scheduler:
    """Fires the schedules of one store into one queue.

    There is no leader: of several schedulers, the one whose compare-and-swap of the schedule succeeds has fired it.
    """

    def __init__(
        self,
        schedules: Schedules,
        queue: Queue,
        queue_backend: Backend,
        clock: Clock,
        *,
        check_interval: float | timedelta = 10.0,
        prepare: Callable[[Any, Any], Any] = lambda _type, params: params,
        fires: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wire a scheduler.

        ``check_interval`` is the longest time in seconds between two looks at the database. ``prepare`` returns the
        params of a task type as they are stored, or raises ValidationError. Where ``fires`` says so, the first schedule
        that is added or changed starts it.
        """
        self._prepare = prepare
        self._fires = fires
        self.schedules = schedules
        """The store of its schedules."""
        self.queue = queue
        self._queue_backend = queue_backend
        self.clock = clock
        """What says when they are due."""
        self._check_interval = check_seconds("check_interval", check_interval, zero=False)
        self._poller = Poller("scheduler", self._look, clock)
        self._due_heap = DueHeap()
        self._next_round = 0  # the instant at which the next round is planned
        self._refusals: dict[str, int] = {}
        apart = queue_backend.shared and queue_backend.schedules is not schedules
        self._outbox = Outbox(schedules, queue, clock) if apart else None
        self._steps = ClockSteps(clock, queue.step_log)
        # The difference in microseconds that shows that the clock was set back; None while it was not. Before the first
        # round only the rows can show it, and another host may have written them.
        self._set_back: int | None = HOSTS_DIFFER

    async def start(self) -> None:
        """Start in the running loop; idempotent."""
        if not self.running:
            log.debug("scheduler started: it looks at the database at least every {:g} s", self._check_interval)
        await self._poller.start()

    async def stop(self) -> None:
        """Stop; idempotent. Tasks that were fired stay."""
        if self.running:
            log.debug("scheduler stopped")
        await self._poller.stop()

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._poller.running

    @property
    def failures(self) -> int:
        """Failed rounds since the last good one; 0 is healthy."""
        return self._poller.failures

    # ---- schedules ----

    async def add(self, schedules: Sequence[Schedule]) -> Sequence[Schedule]:
        """Store schedules in one transaction; return for each the row that is there: the same, or an older one."""
        stored = await self.schedules.add(schedules)
        if gate.open:
            for schedule, row in zip(schedules, stored, strict=True):
                log.debug("schedule {} {}", _named(row), "added" if row is schedule else "is there already")
        await self._take_over(stored)
        return stored

    async def _take_over(self, schedules: Sequence[Schedule]) -> None:
        """Take over schedules as they are in the store after a write, and wake the loop if one is due earlier."""
        for schedule in schedules:
            self._due_heap.note(schedule)
        if any(s.enabled and (s.due or INT64) < self._next_round for s in schedules):
            self._poller.wake()
        if self._fires():
            await self.start()

    async def pause(self, task_id: str) -> Schedule:
        """Disable a schedule, in every process. Raises NotFound."""
        return await self._edit(task_id, paused, "paused")

    async def resume(self, task_id: str) -> Schedule:
        """Enable a schedule; runs that are overdue follow its misfire policy. Raises NotFound, ValidationError."""
        return await self._edit(task_id, resumed, "resumed")

    async def update(
        self, /, task_id: str, check: Callable[[Schedule], None] = lambda _schedule: None, **changes: Any
    ) -> Schedule:
        """Change fields of a schedule; with another timing its next run is later than now.

        Raises NotFound, ValidationError.

        ``check`` is called with the schedule of which the change is made, and raises to stop it: what is written
        replaces that one and no other.
        """

        def edit(schedule: Schedule, now: int) -> Schedule:
            check(schedule)
            after = changed(schedule, now, **changes)
            if "params" not in changes and "task_type" not in changes:
                return after
            return after.replace(params=self._prepare(after.task_type, after.params))

        return await self._edit(task_id, edit, "changed")

    async def delete(self, task_id: str) -> bool:
        """Delete a schedule; return whether there was one. The tasks that it has fired stay. Raises ValidationError."""
        check_id(task_id)
        (there,) = await self.schedules.delete([task_id])
        log.debug("schedule {} {}", printable(task_id), "deleted" if there else "is not there")
        return there

    async def run_now(self, task_id: str) -> str:
        """Fire once more, now; return the task's id. The next due time stays. Raises NotFound, ValidationError."""
        while True:
            before = await self.get(task_id)
            check_decoded(before)
            after, task = run_now(before, self.clock.now(), new_id())
            self.queue.gated(task)  # raises what would stop the write
            if await self._write([ScheduleChange(before, after, (task,))]) == [True]:
                log.debug("schedule {} fired now: {}", _named(before), named(task))
                return task.task_id

    async def backfill(
        self,
        task_id: str,
        since: float | datetime,
        until: float | datetime | None = None,
        *,
        limit: int = BACKFILL,
        dry_run: bool = False,
    ) -> Sequence[datetime]:
        """Push a task for each due time of a past span that has fired none; return these due times, in UTC.

        Raises NotFound, and ValidationError naming the argument, or for more due times than ``limit``; none is pushed.
        """
        begin = instant("since", since)
        check_int("limit", limit, 1, MAX_BACKFILL)
        while True:
            before, now = await self.get(task_id), self.clock.now()
            check_decoded(before)
            dues = missing_dues(before, begin, now if until is None else instant("until", until), now)
            ids = [derived_id(task_id, due) for due in dues]
            there = {task.task_id for task in await self._queue_backend.get(ids) if task is not None}
            after, made = backfilled(before, dues, there, now, limit)
            times = [to_datetime(due) for due, _ in made]
            if dry_run or not made:
                return times
            for _, task in made:
                self.queue.gated(task)  # raises what would stop the write
            if await self._write([ScheduleChange(before, after, tuple(task for _, task in made))]) == [True]:
                log.debug("schedule {} backfilled: {} tasks", _named(before), len(made))
                return times

    async def get(self, task_id: str) -> Schedule:
        """Return one schedule. Raises NotFound, and ValidationError for an id that is not text."""
        check_id(task_id)
        (schedule,) = await self.schedules.get([task_id])
        if schedule is None:
            raise NotFound(f"there is no schedule {printable(task_id)}")
        return schedule

    async def _edit(self, task_id: str, edit: Callable[[Schedule, int], Schedule], done: str) -> Schedule:
        while True:
            before = await self.get(task_id)
            after = edit(before, self.clock.now())
            if after == before or await self.schedules.change([ScheduleChange(before, after)]) == [True]:
                if after != before:
                    after = after.replace(version=before.version + 1)
                    await self._take_over([after])
                log.debug("schedule {} {}", _named(after), done)
                return after

    async def declare(self, wanted: Sequence[Schedule]) -> None:
        """Add or change schedules as the code declares them; a paused one stays paused."""
        for schedule, stored in zip(wanted, await self.add(wanted), strict=True):
            if stored is not schedule and (changes := differences(stored, schedule)):
                await self.update(stored.task_id, **changes)

    async def list(self, enabled_only: bool = False) -> Sequence[Schedule]:
        """Return the schedules, in the order in which they were added."""
        return await self.schedules.all(enabled_only)

    # ---- firing ----

    async def _look(self) -> float:
        now, begin = self.clock.now(), self.clock.ticks()
        self._next_round = 0  # a change during the round need not wake the loop
        if self._outbox is not None:
            await self._outbox.recover(now)
        if self._steps.back():
            self._set_back = CLOCKS_DIFFER
        if self._set_back is not None:
            await self._bring_near(now, self._set_back)
        if not self._due_heap.covers(now):
            await self._read_ahead(now)
        due = self._due_heap.take(now, LIMIT)
        if due:
            try:
                if self._outbox is not None:
                    # While the queue is unreachable nothing is fired; the misfire policy decides about overdue runs.
                    await self._queue_backend.ping()
                await self._fire(due, now)
            except BaseException:
                self._due_heap.forget()  # it is not known whether they were fired
                raise
        if len(due) == LIMIT or not self._due_heap.covers(now):
            return 0.0 if due else AHEAD / SECOND  # more may be due already; those that were read wait for room
        delay = await self._until_next()
        if due and (took := (self.clock.ticks() - begin) / SECOND):  # a virtual clock is always exact
            delay = max(delay, min(2 * took, GAP - took))
        self._next_round = self.clock.now() + int(delay * SECOND)
        return delay

    async def _bring_near(self, now: int, differ: int) -> None:
        """Let intervals go on after the clock was set back, by at least ``differ`` microseconds."""
        found = await self.schedules.written_after(now)
        changes = [ScheduleChange(schedule, brought_near(schedule, now, differ)) for schedule in found]
        changes = [change for change in changes if change.after is not change.before]
        for begin in range(0, len(changes), LIMIT):
            # A change that does not hold was made by another process, or the schedule was edited.
            await self.schedules.change(changes[begin : begin + LIMIT])
        self._due_heap.forget()
        self._set_back = None

    async def _read_ahead(self, now: int) -> None:
        end = now + AHEAD
        found = await self.schedules.due(end - 1, READ)
        if len(found) == READ and (found[-1].due or 0) <= now:  # many are late: read as many as may be fired
            found = await self.schedules.due(end - 1, LIMIT)
        if len(found) in (READ, LIMIT):
            end = found[-1].due or 0  # more may be due at that instant
        self._due_heap.fill(found, now, end)

    async def _until_next(self) -> float:
        at = self._due_heap.head()
        if at is None:
            at = await self.schedules.next_due()
        if at is None:
            return self._check_interval
        return min(self._check_interval, max(0.0, (at - self.clock.now()) / SECOND))

    async def _fire(self, due: Sequence[Schedule], now: int) -> None:
        watched = [schedule.task_id for schedule in due if schedule.overlap != "allow"]
        active = await self._queue_backend.active(watched) if watched else {}
        firings: list[tuple[Schedule, Firing]] = []
        for schedule in due:
            if self._outbox is not None and self._outbox.waits(schedule, now):
                self._due_heap.hold(schedule, now)
                continue
            try:
                firing = fire(schedule, now, active.get(schedule.task_id, 0))
                for task in firing.tasks:
                    self.queue.gated(task)
                firings.append((schedule, firing))
            except Exception as error:  # one bad row must not stop the others
                await self._refuse(schedule, error, now)
        changes = [ScheduleChange(before, each.schedule, each.tasks) for before, each in firings]
        held = await self._write_with_room(changes, now)
        unknown = []
        for (schedule, firing), ok in zip(firings, held, strict=True):
            if ok:
                self._refusals.pop(schedule.task_id, None)
                self._emit(schedule, firing, now)
            if ok and self._outbox is None:
                self._due_heap.note(firing.schedule.replace(version=schedule.version + 1))
            elif ok is not None:
                unknown.append(schedule.task_id)  # another process has changed it, or its outbox has changed
        if unknown:
            for stands in await self.schedules.get(unknown):
                if stands is not None:
                    self._due_heap.note(stands)

    async def _write_with_room(self, changes: Sequence[ScheduleChange], now: int) -> Sequence[bool | None]:
        """Do as ``_write``; a gate that is full for one of them stops no other. That one is None, and tried again."""
        try:
            return await self._write(changes)
        except QueueFull:
            held: list[bool | None] = []
        for change in changes:
            try:
                held += await self._write([change])
            except QueueFull as full:
                self._due_heap.hold(change.before, now)
                log.warning("schedule {}: {}; next try in {:.0f} s", _title(change.before), full, HOLD / SECOND)
                held.append(None)
        return held

    async def _write(self, changes: Sequence[ScheduleChange]) -> Sequence[bool]:
        """Write schedules and push their tasks: in one transaction, or through an outbox if the stores differ."""
        if not changes:
            return []
        if self._queue_backend.schedules is self.schedules:
            taker = willing(self.queue.takers)
            write = self.schedules.change if taker is None else taker.fire
            gated = self.queue.gated
            held = await write([replace(each, tasks=tuple(map(gated, each.tasks))) for each in changes])
            for each, ok in zip(changes, held, strict=True):
                for task in each.tasks if ok else ():
                    self.queue.hooks.call("pushed", self.clock.now(), task)
            return held
        if self._outbox is not None:
            return await self._outbox.write(changes)
        held = await self.schedules.change([replace(each, tasks=()) for each in changes])
        # A queue in memory: its tasks end with this process anyway.
        won = [task for each, ok in zip(changes, held, strict=True) if ok for task in each.tasks]
        if won:
            # They are due by this clock; that queue has a steady clock, which may be behind it.
            now = self.queue.clock.now()
            tasks = [self.queue.gated(task.replace(run_at=min(task.run_at, now))) for task in won]
            _, full = await add_with_room(self.queue, tasks)
            if full is not None:
                log.warning("scheduler: {}; what finds no room in a queue in memory is not fired", full)
        return held

    def _emit(self, schedule: Schedule, firing: Firing, now: int) -> None:
        emit = self.queue.hooks.call
        for due, task in zip(firing.fired, firing.tasks, strict=True):
            if gate.open:
                log.debug("schedule {} fired: {}", _named(schedule), named(task))
            emit("fired", now, task, schedule=schedule, lateness=(now - due) / SECOND)
        if firing.skipped_count:
            reasons = ", ".join(sorted({reason for _, reason in firing.skipped}))
            # INFO, not WARNING: the schedule's own policy asks for it.
            log.info("schedule {}: {} due times skipped ({})", _title(schedule), firing.skipped_count, reasons)
            emit("skipped", now, None, schedule=schedule, count=firing.skipped_count, skipped=firing.skipped)

    async def _refuse(self, schedule: Schedule, error: Exception, now: int) -> None:
        self._due_heap.note(schedule)
        count = self._refusals[schedule.task_id] = self._refusals.get(schedule.task_id, 0) + 1
        known = str(error) if isinstance(error, AiotaskqError) else f"{type(error).__name__}: {error}"
        log.error("schedule {} cannot be fired: {}", _title(schedule), known)
        if count >= MAX_REFUSALS:
            del self._refusals[schedule.task_id]
            if await self.schedules.change([ScheduleChange(schedule, paused(schedule, now, "disabled"))]) == [True]:
                log.error("schedule {} is disabled; correct it and resume it", _title(schedule))
                self.queue.hooks.call("disabled", now, None, schedule=schedule, error=known)


def _title(schedule: Schedule) -> str:
    return f"'{printable(schedule.name)}'"


def _named(schedule: Schedule) -> str:
    return f"{_title(schedule)} {printable(schedule.task_id)}"

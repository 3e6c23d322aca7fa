"""``tq.schedules``: schedules are added, changed, paused, fired and listed while the application runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from aiotaskq.app.handle import TaskHandle
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.errors import MAX_ID, check_int, check_key, guess, instant, kind_name
from aiotaskq.core.firing import LIMIT, next_starts
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.foreign_names import unknown_options
from aiotaskq.core.schedule import BlackoutPolicy, CalendarRule, Schedule, ScheduleOptions, new_schedule, timing_of
from aiotaskq.core.task import run_options
from aiotaskq.errors import NotFound, TaskConflict, ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.handler import Handler
from aiotaskq.runtime.params import fitted, unknown

if TYPE_CHECKING:
    from aiotaskq.app.registrations import Registrations
    from aiotaskq.runtime.scheduler.scheduler import Scheduler


MAX_NAME = 255
ADDED = ("name", "task", "cron", "interval", "at", "params", "max_runs", "description", "start_at", "schedule_id")


class TaskLike(Protocol):
    """A task function, awaited or blocking."""

    name: str
    handler: Handler

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""


class ScheduleChanges(ScheduleOptions, total=False):
    """What can be changed of a schedule: the options of ``Schedules.add``."""

    name: str
    task: str | TaskLike
    params: dict[str, Any]
    cron: str
    interval: int | timedelta
    at: float | datetime
    max_runs: int
    description: str | None


class Schedules:
    """``tq.schedules``: those of a store, each by its id or by its name. Changes hold in all processes.

    A verb on one schedule raises NotFound where there is none, and TaskConflict where several have the name.
    """

    def __init__(self, scheduler: Scheduler, registered: Registrations, timezone: str | None) -> None:
        """For ``tq.schedules``."""
        self._scheduler, self._registered, self._timezone = scheduler, registered, timezone

    async def add(
        self,
        name: str,
        task: str | TaskLike,
        *,
        cron: str | None = None,
        interval: int | timedelta | None = None,
        at: float | datetime | None = None,
        params: dict[str, Any] | None = None,
        max_runs: int = 0,
        description: str | None = None,
        start_at: float | datetime | None = None,
        schedule_id: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Store a schedule of a task function, or of the type of this name, and return it.

        Args:
            cron, interval, at: exactly one. An interval in seconds, first run one interval from now; ``at`` is once, as
                an aware datetime or epoch seconds, and now where it is past.
            max_runs: 0 is no limit.
            start_at: as ``at``: the first run of an interval is then, that of a cron expression not before.
            schedule_id: an id of your own. A schedule that has it already stays as it is, and is returned.
            options: ``timezone`` (an IANA name; default that of the TaskQ, then the system's), ``misfire``, ``overlap``
                and ``catch_up`` (the policies), ``jitter``, ``calendar``, ``calendar_rule``, ``blackout`` and
                ``blackout_policy``; ``queue``, ``priority``, ``max_retries`` and ``timeout`` of its tasks, default
                those of the task function. Durations in seconds or as timedelta.

        Raises:
            ValidationError: naming the argument, also for params that do not fit the registered handler.
            UnknownHandler: handlers are registered, but none of this type; see ``elsewhere``.
            MissingExtra: a calendar is given, and the extra ``calendars`` is not installed.
        """
        check_names("schedules.add", options, ADDED)
        own_id = None if schedule_id is None else check_key("schedule_id", schedule_id, MAX_ID)
        given = {"max_runs": max_runs, "description": description, "start_at": start_at, "task_id": own_id}
        timing = timing_of(cron, interval, at)
        registered, now = self._registered, self._scheduler.clock.now()
        type = _type_of(task, registered)
        wanted = schedule_of(registered, self._timezone, now, name, type, timing, params, {**given, **options})
        (stored,) = await self._scheduler.add([wanted])
        return stored

    async def update(
        self,
        schedule: str,
        /,
        *,
        check: Callable[[Schedule], None] = lambda _schedule: None,
        **changes: Unpack[ScheduleChanges],
    ) -> Schedule:
        """Change options of a schedule, named as of ``add``, and return it; with another timing its next run is later
        than now.

        ``check`` is called with the schedule of which the change is made, and raises to stop it: what is written
        replaces that one and no other. Raises as ``add``.
        """
        check_names("schedules.update", changes, ScheduleChanges.__annotations__)
        columns: dict[str, Any] = dict(changes)
        if "task" in columns:
            columns["task_type"] = _type_of(columns.pop("task"), self._registered)
        if timing := {name: columns.pop(name) for name in ("cron", "interval", "at") if name in columns}:
            columns |= timing_of(**timing)
        return await self._scheduler.update(await self._id(schedule), check, **columns)

    async def list(self, enabled_only: bool = False) -> Sequence[Schedule]:
        """Return the schedules, in the order in which they were added."""
        return await self._scheduler.list(enabled_only)

    async def get(self, schedule: str, /) -> Schedule:
        """Return one schedule."""
        (found,) = await self._scheduler.schedules.get([check_key("schedule", schedule, MAX_NAME)])
        if found is not None:
            return found
        known = await self.list()
        named = [each for each in known if each.name == schedule]
        if len(named) > 1:
            ids = ", ".join(printable(each.task_id) for each in named[:5])
            raise TaskConflict(f"schedule: several have the name {printable(schedule)}; use an id: {ids}")
        if not named:
            meant = guess(schedule, [printable(each.name) for each in known])
            raise NotFound(f"there is no schedule {printable(schedule)}{meant}")
        return named[0]

    async def _id(self, schedule: str) -> str:
        return (await self.get(schedule)).task_id

    async def pause(self, schedule: str, /) -> Schedule:
        """Let a schedule fire no more until it is resumed, and return it."""
        return await self._scheduler.pause(await self._id(schedule))

    async def resume(self, schedule: str, /) -> Schedule:
        """Let a paused schedule fire again, and return it; due times that have passed follow its misfire policy.

        Raises ValidationError for one that is finished.
        """
        return await self._scheduler.resume(await self._id(schedule))

    async def delete(self, schedule: str, /) -> None:
        """Delete a schedule. The tasks that it has fired stay."""
        if not await self._scheduler.delete(await self._id(schedule)):
            raise NotFound(f"there is no schedule {printable(schedule)}")

    async def run_now(self, schedule: str, /) -> TaskHandle[Any]:
        """Fire a schedule once more, now, and return the handle of the task; its next due time stays."""
        return TaskHandle(self._scheduler.queue, await self._scheduler.run_now(await self._id(schedule)))

    async def backfill(
        self,
        schedule: str,
        /,
        since: float | datetime,
        until: float | datetime | None = None,
        *,
        limit: int = LIMIT,
        dry_run: bool = False,
    ) -> Sequence[datetime]:
        """Push one task for each due time of a past span that has fired none; return these due times, in UTC.

        Each task has the id of its due time, so a second call pushes nothing twice. A due time counts as fired while
        its task is in the store, or the schedule's history names it. Those that the calendar or a blackout window skips
        are left out. Run count, ``max_runs`` and the next due time stay.

        Args:
            since, until: epoch seconds or aware datetimes; from ``since`` to before ``until``, default now.
            limit: the most tasks, at most 10,000. If there are more due times, raises ValidationError and pushes none.
            dry_run: push nothing.
        """
        return await self._scheduler.backfill(await self._id(schedule), since, until, limit=limit, dry_run=dry_run)

    async def history(self, schedule: str, /) -> Sequence[FiringRecord]:
        """Return what a schedule fired and skipped, and when it was paused; the newest first."""
        return (await self.get(schedule)).history[::-1]

    async def preview(self, schedule: str, /, count: int = 5) -> Sequence[datetime]:
        """Return the next instants at which its tasks start, as aware datetimes in its time zone.

        What its calendar or a blackout window skips is left out. Those of a paused schedule are as if it were resumed.
        Raises ValidationError (CronError for an adopted cron expression), and MissingExtra.
        """
        count = check_int("count", count, 1, 1_000)
        return next_starts(await self.get(schedule), count, after=self._scheduler.clock.now())


def schedule_of(
    registered: Registrations,
    timezone: str | None,
    now: int,
    name: Any,
    type: str,
    timing: Mapping[str, Any],
    params: Any,
    options: Mapping[str, Any],
) -> Schedule:
    """Make a schedule. Options that are not given are those of the handler of the type, if one is registered.

    Raises ValidationError, MissingExtra.
    """
    handler = registered.handlers.get(type)
    known: dict[str, Any] = {"timezone": timezone}
    if handler is not None:
        known |= {**run_options(handler.template), "timeout": handler.timeout}
    known |= {name: value for name, value in options.items() if value is not None}
    stored = fitted(handler, {} if params is None else params)
    return new_schedule(name, type, params=stored, now=now, **timing, **known)


def _type_of(task: Any, registered: Registrations) -> str:
    """Return the type of the tasks of a schedule. Raises ValidationError, UnknownHandler."""
    if callable(task) and hasattr(task, "handler"):
        task = task.name
    if not isinstance(task, str):
        raise ValidationError(f"task: a task function or the name of a type is needed (got {kind_name(task)})")
    if registered.handlers and not registered.knows(task):
        raise unknown(task, [*registered.handlers, *registered.elsewhere], "task")
    return task


def check_names(where: str, options: Mapping[str, Any], beside: Iterable[str] = ()) -> None:
    """Raise ValidationError for an option that there is not; ``beside`` are those that are parameters."""
    known = list(dict.fromkeys((*beside, *ScheduleOptions.__annotations__)))
    if wrong := options.keys() - set(known):
        raise unknown_options(where, "schedule option", wrong, known)


def preview(
    *,
    cron: str | None = None,
    interval: int | timedelta | None = None,
    at: float | datetime | None = None,
    timezone: str | None = None,
    after: datetime | None = None,
    count: int = 5,
    calendar: str | None = None,
    calendar_rule: CalendarRule = "skip_holidays",
    blackout: str | Sequence[str] = (),
    blackout_policy: BlackoutPolicy = "skip",
) -> list[datetime]:
    """Return the next ``count`` instants of a schedule, strictly after ``after`` (default now), as aware datetimes.

    Exactly one of ``cron``, ``interval`` (seconds or timedelta) and ``at``; ``timezone`` is an IANA name, default the
    system's. What the calendar or a blackout window skips is left out; what a window delays is given by its end. Raises
    ValidationError (CronError for a cron expression) naming the argument, and MissingExtra for a calendar without the
    extra ``calendars``.
    """
    from aiotaskq.core.cron import local_timezone

    timing = timing_of(cron, interval, at)
    check_int("count", count, 1, 1000)
    if not isinstance(after, datetime | None):
        raise ValidationError(f"after: an aware datetime is needed (got {type(after).__name__})")
    now = SystemClock().now() if after is None else instant("after", after)
    schedule = new_schedule(
        "preview",
        "preview",
        **timing,
        timezone=local_timezone() if timezone is None else timezone,
        calendar=calendar,
        calendar_rule=calendar_rule,
        blackout=blackout,
        blackout_policy=blackout_policy,
        now=now,
    )
    return next_starts(schedule, count, after=now)

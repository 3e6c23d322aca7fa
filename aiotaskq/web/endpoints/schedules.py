"""Operations on schedules: create, list, show, change, delete, pause, resume, run now, and preview."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.preview import preview, upcoming, zone_of
from aiotaskq.core.validation import MAX_ID, check_key
from aiotaskq.errors import NotFound
from aiotaskq.operations.fields import MAX_PAGE
from aiotaskq.web.changes import change_schedule as changed
from aiotaskq.web.changes import create_schedule
from aiotaskq.web.endpoint import ApiResponse, Call, Endpoints, Success, respond
from aiotaskq.web.schemas.schedules import (
    BackfillBody,
    Backfilled,
    Fired,
    FiringHistory,
    NextQuery,
    PlannedTimes,
    PlannedView,
    PreviewQuery,
    ScheduleBody,
    ScheduleChanges,
    SchedulePage,
    ScheduleQuery,
    ScheduleView,
    Times,
)
from aiotaskq.web.views import firing_view, schedule_view

schedules = Endpoints("aiotaskq schedules")

ID = "nightly-report"
VIEW: dict[str, Any] = {
    "task_id": ID,
    "name": "Nightly report",
    "task_type": "report",
    "schedule_type": "cron",
    "interval_seconds": None,
    "cron_expression": "0 2 * * *",
    "execute_at": None,
    "timezone": "Asia/Shanghai",
    "enabled": True,
    "next_run_at": "2026-01-31T18:00:00Z",
    "last_run_at": "2026-01-30T18:00:00Z",
    "run_count": 12,
    "max_runs": 0,
    "misfire": "fire_once",
    "overlap": "allow",
    "catch_up": None,
    "jitter": 300,
    "calendar": None,
    "calendar_rule": "skip_holidays",
    "blackout": [],
    "blackout_policy": "skip",
    "priority": 0,
    "queue": "default",
    "max_retries": 3,
    "timeout": None,
    "description": None,
    "declared": False,
    "created_at": "2026-01-18T09:30:00Z",
    "updated_at": "2026-01-30T18:00:00Z",
}
TIMES = {"times": ["2026-02-01T02:00:00+08:00", "2026-02-02T02:00:00+08:00"]}

PLANNED = TIMES | {
    "planned": [
        {"due": "2026-02-01T02:00:00+08:00", "start": "2026-02-01T02:03:10+08:00", "skipped": None},
        {"due": "2026-02-02T02:00:00+08:00", "start": "2026-02-02T02:01:25+08:00", "skipped": None},
    ]
}
HISTORY = {
    "history": [
        {
            "at": "2026-01-30T18:00:00Z",
            "outcome": "fired",
            "due": "2026-01-30T18:00:00Z",
            "until": None,
            "count": 1,
            "reason": None,
            "start": "2026-01-30T18:02:30Z",
            "task_id": "5c4c1f0e-9d0c-5d4f-8f55-6f7a1f8a2b11",
        }
    ]
}


async def _view(call: Call, schedule_id: str) -> ScheduleView:
    return schedule_view(await call.tq.schedules.get(schedule_id), show=call.policy.show_args)


def _id(call: Call) -> str:
    return check_key("schedule_id", call.path["schedule_id"], MAX_ID)


@schedules(
    "POST",
    "/schedules",
    Success(201, "Stored; Location is its path", ScheduleView, VIEW),
    body=ScheduleBody,
    example={
        "name": "Nightly report",
        "task_type": "report",
        "schedule_type": "cron",
        "cron_expression": "0 2 * * *",
        "timezone": "Asia/Shanghai",
        "task_id": ID,
    },
    problems=(409, 501),
)
async def add_schedule(call: Call) -> ApiResponse:
    """Create a schedule: interval, cron or once; 409 if there is one with this id."""
    schedule_id = await create_schedule(call.tq, call.body)
    call.targets.append(schedule_id)
    return respond(await _view(call, schedule_id), 201, Location=f"schedules/{quote(schedule_id, safe='')}")


@schedules(
    "GET",
    "/schedules",
    Success(200, "One page, in the order of creation", SchedulePage, {"schedules": [VIEW], "next": None}),
    query=ScheduleQuery,
    problems=(403, 404, 501),
)
async def list_schedules(call: Call) -> ApiResponse:
    """List schedules; 404 if the one that `cursor` names has been deleted since."""
    query: ScheduleQuery = call.query
    show = call.may_show("params" in query.show)
    found = await call.tq.schedules.list(query.enabled)
    start = 0
    if query.cursor is not None:
        start = 1 + next((n for n, each in enumerate(found) if each.task_id == query.cursor), -2)
        if start < 0:
            raise NotFound("cursor: there is no such schedule (any more); begin again without it")
    limit = min(query.limit, MAX_PAGE)
    page = found[start : start + limit]
    more = page[-1].task_id if len(found) > start + limit else None
    return respond(SchedulePage([schedule_view(each, show=show) for each in page], more))


@schedules(
    "GET",
    "/preview",
    Success(200, "The next times, in the schedule's time zone", Times, TIMES),
    query=PreviewQuery,
)
async def preview_schedule(call: Call) -> ApiResponse:
    """Preview the times of a schedule that need not exist: exactly one of cron, interval and at."""
    query: PreviewQuery = call.query
    times = preview(
        cron=query.cron,
        interval=query.interval,
        at=query.at,
        timezone=query.timezone,
        after=query.after,
        count=query.count,
        calendar=query.calendar,
        calendar_rule=query.calendar_rule,
        blackout=query.blackout,
        blackout_policy=query.blackout_policy,
        now=SystemClock().now(),
    )
    return respond(Times([each.isoformat() for each in times]))


@schedules(
    "GET",
    "/schedules/{schedule_id}/preview",
    Success(200, "The next times, in the schedule's time zone; none if it is finished", PlannedTimes, PLANNED),
    query=NextQuery,
    problems=(404, 501),
)
async def preview_times(call: Call) -> ApiResponse:
    """Preview the next due times of a schedule, with jitter, holidays and blackouts; of a paused one as if resumed."""
    schedule = await call.tq.schedules.get(_id(call))
    runs, zone = upcoming(schedule, call.query.count), zone_of(schedule)
    planned = [
        PlannedView(to_datetime(run.due, zone).isoformat(), to_datetime(run.start, zone).isoformat(), run.skipped)
        for run in runs
    ]
    return respond(PlannedTimes([each.due for each in planned if each.skipped is None], planned))


@schedules(
    "GET",
    "/schedules/{schedule_id}/history",
    Success(200, "The newest first, at most 50 records", FiringHistory, HISTORY),
    problems=(404, 501),
)
async def schedule_history(call: Call) -> ApiResponse:
    """Show what a schedule fired and skipped, with the reasons, and when it was paused."""
    schedule_id = _id(call)
    found = await call.tq.schedules.history(schedule_id)
    return respond(FiringHistory([firing_view(schedule_id, each) for each in found]))


@schedules(
    "POST",
    "/schedules/{schedule_id}/pause",
    Success(200, "Paused", ScheduleView, VIEW | {"enabled": False}),
    problems=(404, 501),
)
async def pause_schedule(call: Call) -> ApiResponse:
    """Disable a schedule, for every process."""
    await call.tq.schedules.pause(_id(call))
    return respond(await _view(call, _id(call)))


@schedules(
    "POST",
    "/schedules/{schedule_id}/resume",
    Success(200, "Enabled", ScheduleView, VIEW),
    problems=(404, 501),
)
async def resume_schedule(call: Call) -> ApiResponse:
    """Enable a schedule; what became due meanwhile follows its misfire policy. 422 if it is finished."""
    await call.tq.schedules.resume(_id(call))
    return respond(await _view(call, _id(call)))


@schedules(
    "POST",
    "/schedules/{schedule_id}/run",
    Success(201, "The task that was pushed", Fired, {"task_id": "019ab0a4-6f00-7c3a-9d2e-3f6f3f8a2b11"}),
    problems=(404, 501),
)
async def run_schedule(call: Call) -> ApiResponse:
    """Fire a schedule once more, now; its next due time stays."""
    task_id = await call.tq.scheduler.run_now(_id(call))
    call.targets.extend((_id(call), task_id))
    return respond(Fired(task_id), 201)


@schedules(
    "POST",
    "/schedules/{schedule_id}/backfill",
    Success(200, "The due times that were fired", Backfilled, {"times": ["2026-01-29T18:00:00+00:00"], "pushed": True}),
    body=BackfillBody,
    example={"since": "2026-01-28T00:00:00Z", "until": "2026-01-31T00:00:00Z", "dry_run": False},
    problems=(404, 501),
)
async def backfill_schedule(call: Call) -> ApiResponse:
    """Fire the due times of a past span that have fired no task, each once; 422 if there are more than ``limit``."""
    body: BackfillBody = call.body
    found = await call.tq.schedules.backfill(_id(call), body.since, body.until, limit=body.limit, dry_run=body.dry_run)
    return respond(Backfilled([each.isoformat() for each in found], bool(found) and not body.dry_run))


@schedules(
    "GET",
    "/schedules/{schedule_id}",
    Success(200, "The schedule", ScheduleView, VIEW),
    problems=(404, 501),
)
async def show_schedule(call: Call) -> ApiResponse:
    """Show a schedule; with params where the host allows it."""
    return respond(await _view(call, _id(call)))


@schedules(
    "PATCH",
    "/schedules/{schedule_id}",
    Success(200, "The changed schedule", ScheduleView, VIEW),
    body=ScheduleChanges,
    example={"cron_expression": "30 2 * * *", "max_runs": 10},
    problems=(404, 501),
)
async def change_schedule(call: Call) -> ApiResponse:
    """Change a schedule; with other timing its next run is later than now."""
    await changed(call.tq, _id(call), call.body)
    return respond(await _view(call, _id(call)))


@schedules("DELETE", "/schedules/{schedule_id}", Success(204, "Deleted; tasks that it fired stay"), problems=(404, 501))
async def delete_schedule(call: Call) -> ApiResponse:
    """Delete a schedule. Tasks that it fired stay."""
    if not await call.tq.scheduler.delete(_id(call)):
        raise NotFound(f"there is no schedule {_id(call)}")
    return respond(status=204)

"""Operations on workers: list, show with what they run, quiet, wake, resize; and the history of what workers did."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import SECOND
from aiotaskq.web.endpoint import ApiResponse, Call, Endpoints, Success, respond
from aiotaskq.web.schemas.workers import (
    HistoryPage,
    HistoryQuery,
    PeriodView,
    ResizeBody,
    RunView,
    SteeredView,
    WorkerDetail,
    WorkerPage,
    WorkerView,
)
from aiotaskq.web.views import worker_view

workers = Endpoints("aiotaskq workers")
history = Endpoints("aiotaskq history")

MOST_PERIODS = 20_000
OWNER = "worker-db1-4242-0b5c1f"
EXAMPLE: dict[str, Any] = {
    "id": OWNER,
    "host": "db1",
    "pid": 4242,
    "version": "0.1.0",
    "started_at": "2026-01-05T08:00:00Z",
    "seen_at": "2026-01-05T09:00:00Z",
    "lease_until": "2026-01-05T09:01:00Z",
    "queues": None,
    "concurrency": 10,
    "busy": 1,
    "quiet": False,
    "wanted_concurrency": None,
    "types": ["send"],
    "limits": ["openai", "tenant:"],
}
RUN = {"task_id": "0198a5c2-7a10-7cc3-9d1e-5f0e8d3b2a11", "type": "send", "began_at": "2026-01-05T08:59:58Z"}
PERIOD: dict[str, Any] = {
    "at": "2026-01-05T08:59:00Z",
    "seconds": 60,
    "queue": "default",
    "type": "send",
    "kind": "completed",
    "n": 120,
    "run_seconds": 14.2,
    "wait_seconds": 3.9,
    "run_p50": 0.11,
    "run_p95": 0.3,
    "run_p99": 0.42,
    "wait_p50": 0.02,
    "wait_p95": 0.08,
    "wait_p99": 0.3,
    "usage": {},
}


@workers(
    "GET", "/workers", Success(200, "The earliest start first", WorkerPage, {"workers": [EXAMPLE]}), problems=(501,)
)
async def list_workers(call: Call) -> ApiResponse:
    """List the workers of the store; 501 where it has no registry of them."""
    return respond(WorkerPage([worker_view(each) for each in await call.tq.workers.list()]))


@workers(
    "GET",
    "/workers/{worker_id}",
    Success(200, "The worker", WorkerDetail, {**EXAMPLE, "tasks": [RUN]}),
    problems=(404, 501),
)
async def get_worker(call: Call) -> ApiResponse:
    """Show one worker, and the tasks that it runs, or has claimed to run next."""
    info = await call.tq.workers.get(call.path["worker_id"])
    tasks = await call.tq.workers.tasks(info.owner)
    runs = [RunView(task.task_id, task.type, to_iso(task.began_at)) for task in tasks]
    return respond(WorkerDetail(**structs.asdict(worker_view(info)), tasks=runs))


@workers("POST", "/workers/quiet", Success(200, "Asked of all", SteeredView, {"workers": 3}), problems=(501,))
async def quiet_workers(call: Call) -> ApiResponse:
    """Let all workers claim nothing more, and go on with what they run."""
    call.targets.append("*")
    return respond(SteeredView(await call.tq.workers.quiet()))


@workers("POST", "/workers/wake", Success(200, "Asked of all", SteeredView, {"workers": 3}), problems=(501,))
async def wake_workers(call: Call) -> ApiResponse:
    """Let all workers claim again."""
    call.targets.append("*")
    return respond(SteeredView(await call.tq.workers.wake()))


@workers("POST", "/workers/{worker_id}/quiet", Success(200, "Asked", SteeredView, {"workers": 1}), problems=(404, 501))
async def quiet_worker(call: Call) -> ApiResponse:
    """Let a worker claim nothing more, and go on with what it runs."""
    return respond(SteeredView(await call.tq.workers.quiet(call.path["worker_id"])))


@workers("POST", "/workers/{worker_id}/wake", Success(200, "Asked", SteeredView, {"workers": 1}), problems=(404, 501))
async def wake_worker(call: Call) -> ApiResponse:
    """Let a quiet worker claim again."""
    return respond(SteeredView(await call.tq.workers.wake(call.path["worker_id"])))


@workers(
    "POST",
    "/workers/{worker_id}/resize",
    Success(200, "Asked", WorkerView, {**EXAMPLE, "wanted_concurrency": 4}),
    body=ResizeBody,
    example={"concurrency": 4},
    problems=(404, 501),
)
async def resize_worker(call: Call) -> ApiResponse:
    """Let a worker have so many slots until it ends; tasks that run go on, also where they are more."""
    return respond(worker_view(await call.tq.workers.resize(call.path["worker_id"], call.body.concurrency)))


@history(
    "GET",
    "/history",
    Success(200, "The earliest first", HistoryPage, {"periods": [PERIOD], "more": False}),
    query=HistoryQuery,
)
async def get_history(call: Call) -> ApiResponse:
    """Show what workers did, by period, queue, type and kind of outcome; by default in the last hour."""
    query: HistoryQuery = call.query
    found = await call.tq.history(
        since=query.since, until=query.until, type=query.type, queue=query.queue, step=query.step
    )
    return respond(HistoryPage([_period(each) for each in found[:MOST_PERIODS]], len(found) > MOST_PERIODS))


def _period(period: Any) -> PeriodView:
    percents = {
        f"{what}_p{percent}": getattr(period, f"{what}_percentile")(percent)
        for what in ("run", "wait")
        for percent in (50, 95, 99)
    }
    return PeriodView(
        at=to_iso(period.at) or "",
        seconds=period.seconds,
        queue=period.queue,
        type=period.type,
        kind=period.kind,
        n=period.n,
        run_seconds=period.run_us / SECOND,
        wait_seconds=period.wait_us / SECOND,
        usage=period.usage,
        **percents,
    )

"""APScheduler 3: its asyncio scheduler in memory, and with SQLAlchemy on SQLite, which is given a write-ahead log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from benchmarks.case import Run, Sample, rate
from benchmarks.cases.scheduler import (
    ADD,
    ADD_ONE,
    BEGIN,
    CRON,
    TEN_THOUSAND,
    THOUSAND,
    Firings,
    Plan,
    next_times,
    plan,
)

WHO, IN_MEMORY = "APScheduler", "APScheduler, memory"
firings = Firings()  # a stored job is found by the name of its function: here


async def fire(every: int, start: float) -> None:
    """The job."""
    firings.hit(every, start)


def _store(place: str, synchronous: str) -> Any:
    """Return a job store in a file; by default SQLite would keep a rollback journal, which is slower."""
    from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
    from sqlalchemy import create_engine, event

    engine = create_engine(f"sqlite:///{place}")

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    return SQLAlchemyJobStore(engine=engine)


@contextlib.contextmanager
def _scheduler(place: str, *, synchronous: str = "FULL", paused: bool = False) -> Iterator[Any]:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    stores = {"default": _store(place, synchronous)} if place else {}
    # A late job runs late, as with the misfire policy of aiotaskq; by default it is dropped after a second.
    scheduler = AsyncIOScheduler(jobstores=stores, timezone=UTC, job_defaults={"misfire_grace_time": None})
    scheduler.start(paused=paused)
    try:
        yield scheduler
    finally:
        scheduler.shutdown(wait=False)


def _add(scheduler: Any, planned: Plan) -> None:
    for every, start in planned.schedules:
        first = datetime.fromtimestamp(start, UTC)
        scheduler.add_job(fire, "interval", (every, start), seconds=every, start_date=first, max_instances=10)


# ---- firing ---------------------------------------------------------------------------------------------------------


async def _fire(run: Run, place: str) -> Sample:
    global firings
    firings = Firings()
    planned = plan(run, time.time() + 1.0 + run.n * (0.002 if place else 0.0003))
    if place:
        with _scheduler(place, synchronous="OFF", paused=True) as filling:  # not measured, so it need not take long
            _add(filling, planned)
    with _scheduler(place) as scheduler:
        if not place:
            _add(scheduler, planned)
        if time.time() > planned.begin:
            raise RuntimeError("the machine is too busy: adding the jobs took longer than expected")
        return await firings.watch(planned)


@THOUSAND.by(WHO, "apscheduler")
@TEN_THOUSAND.by(WHO, "apscheduler")
async def fire_stored(run: Run) -> Sample:
    return await _fire(run, run.place)


@THOUSAND.by(IN_MEMORY, "apscheduler")
@TEN_THOUSAND.by(IN_MEMORY, "apscheduler")
async def fire_in_memory(run: Run) -> Sample:
    return await _fire(run, "")


# ---- adding ---------------------------------------------------------------------------------------------------------


@ADD.by(WHO, "apscheduler")
@ADD_ONE.by(WHO, "apscheduler")
async def add_stored(run: Run) -> Sample:
    """There is one way only: one job a transaction."""
    with _scheduler(run.place) as scheduler:
        await asyncio.sleep(0)
        start = time.perf_counter()
        _add(scheduler, plan(run, time.time() + 3600))
        return rate(run.n, time.perf_counter() - start)


# ---- cron -----------------------------------------------------------------------------------------------------------


@CRON.by(WHO, "apscheduler")
def cron(run: Run) -> Sample:
    from apscheduler.triggers.cron import CronTrigger

    def next_hundred(line: str) -> None:
        trigger = CronTrigger.from_crontab(line, timezone="Europe/Berlin")
        now = BEGIN
        for _ in range(100):
            now = trigger.get_next_fire_time(now, now)

    return next_times(run, next_hundred)

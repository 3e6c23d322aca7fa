"""A month of virtual time: schedules over changes of daylight saving time, retries, leases and TTLs.

The oracle is independent: cronsim for cron in zones of whole hours, a look at every minute's wall clock for wildcards,
plain arithmetic for the rest.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from aiotaskq import Backoff
from aiotaskq.core.status import Status
from aiotaskq.testing import Kit, virtual
from tests.support.machine import working

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

# In October Lord Howe (half an hour) loses 02:00 to 02:30 and Berlin repeats 02:00 to 03:00; in spring the other way.
OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)
SPRING = datetime(2026, 3, 20, tzinfo=UTC)
LORD_HOWE_GAP = datetime(2026, 10, 3, 15, 30, tzinfo=UTC)  # 02:30 on the 4th, the first instant after the gap


def every(start: datetime, end: datetime, step: timedelta, first: timedelta | None = None) -> Iterator[datetime]:
    instant = start + (step if first is None else first)
    while instant <= end:
        yield instant
        instant += step


def by_cronsim(expression: str, zone: str, start: datetime, end: datetime) -> Iterator[datetime]:
    for instant in CronSim(expression, start.astimezone(ZoneInfo(zone))):
        if instant > end:
            return
        yield instant.astimezone(UTC)


def by_minute(fits: Callable[[datetime], bool], zone: str, start: datetime, end: datetime) -> Iterator[datetime]:
    """A wildcard follows elapsed time: each minute whose wall clock fits, however often it comes."""
    place = ZoneInfo(zone)
    return (instant for instant in every(start, end, timedelta(minutes=1)) if fits(instant.astimezone(place)))


def daily(hour: int, minute: int, zone: str, start: datetime, end: datetime) -> Iterator[datetime]:
    """A fixed time of each day: its first occurrence; one that the gap swallows comes right after it."""
    place = ZoneInfo(zone)
    day = start.astimezone(place).date() - DAY
    while day <= end.astimezone(place).date():
        wall = datetime(day.year, day.month, day.day, hour, minute, tzinfo=place)
        instant = wall.astimezone(UTC)
        if instant.astimezone(place).replace(tzinfo=None) != wall.replace(tzinfo=None):
            assert zone == "Australia/Lord_Howe"
            instant = LORD_HOWE_GAP
        if start < instant <= end:
            yield instant
        day += DAY


class Month:
    """The schedules, what ran when, and what the oracle says to that."""

    def __init__(self, kit: Kit, start: datetime, length: timedelta) -> None:
        self.kit, self.start, self.end = kit, start, start + length
        self.ran: defaultdict[str, list[datetime]] = defaultdict(list)
        self.expected: dict[str, Iterator[datetime]] = {}
        self.ids: dict[str, str] = {}

    async def add(self, name: str, expected: Iterator[datetime], **options: Any) -> None:
        """Store a schedule of a task of its own, and what has to come of it."""

        @self.kit.tq.task(name=name)
        async def noted() -> None:
            self.ran[name].append(self.kit.now)

        self.ids[name] = (
            await self.kit.tq.schedules.add(name, name, timezone=options.pop("timezone", "UTC"), **options)
        ).task_id
        self.expected[name] = expected

    async def add_all(self) -> None:
        start, end = self.start, self.end
        berlin, howe = "Europe/Berlin", "Australia/Lord_Howe"
        cron: list[tuple[str, str, Iterator[datetime]]] = [
            ("30 2 * * *", berlin, by_cronsim("30 2 * * *", berlin, start, end)),
            ("15 2,14 * * mon-fri", berlin, by_cronsim("15 2,14 * * mon-fri", berlin, start, end)),
            ("15 2 * * *", howe, daily(2, 15, howe, start, end)),
            ("45 1 * * *", howe, daily(1, 45, howe, start, end)),
            ("0 * * * *", howe, by_minute(lambda wall: wall.minute == 0, howe, start, end)),
            ("*/30 * * * *", berlin, by_cronsim("*/30 * * * *", berlin, start, end)),
        ]
        for expression, zone, expected in cron:
            await self.add(f"{expression} {zone}", expected, cron=expression, timezone=zone)
        await self.add("hourly", every(start, end, HOUR), interval=3600)
        seven = list(every(start, end, 7 * HOUR))[:20]
        await self.add("seven", iter(seven), interval=7 * 3600, max_runs=20)
        once = start + 0.5 * DAY
        await self.add("once", iter([once]), at=once)
        await self.add("past", iter([start]), at=start - DAY)

    async def add_paused(self, hour: int = 24) -> None:
        """Three that stand still for six and a half hours from then on, each with another misfire policy."""
        whole = list(every(self.start, self.end, HOUR))
        self.paused = self.start + hour * HOUR, self.start + (hour + 6.5) * HOUR
        began, ended = self.paused
        for policy, made_up in {"fire_once": 1, "skip": 0, "fire_all": 6}.items():
            expected = (
                [due for due in whole if due <= began] + made_up * [ended] + [due for due in whole if due > ended]
            )
            await self.add(policy, iter(expected), interval=3600, misfire=policy)

    async def standing_still(self) -> None:
        schedules, policies = self.kit.tq.schedules, ("fire_once", "skip", "fire_all")
        began, ended = self.paused
        await self.kit.advance_to(began)
        for policy in policies:
            await schedules.pause(self.ids[policy])
        await self.kit.advance_to(ended)
        for policy in policies:
            await schedules.resume(self.ids[policy])

    def differing(self) -> list[str]:
        """Ask the oracle, which may take longer than the month, what ran otherwise than it says."""
        return [name for name, expected in self.expected.items() if self.ran[name] != list(expected)]


@pytest.mark.parametrize("start", [OCTOBER, SPRING], ids=["october", "spring"])
async def test_a_month_in_under_two_seconds(start: datetime) -> None:  # C15, C16, C28
    # Other work on the machine only adds to what it takes: the least of some runs is what it costs.
    bound, took = 2.0 if sys.gettrace() is None else 10.0, 0.0
    for _ in range(4):
        took = await a_month(start)
        if took < working(bound):
            return
    raise AssertionError(f"{took:.2f} s")


async def a_month(start: datetime) -> float:
    """Run it, and return the seconds of the processor that it took, without the oracle's."""
    before = time.process_time()
    async with virtual(start=start) as kit:
        tq, month = kit.tq, Month(kit, start, 31 * DAY)
        await month.add_all()
        await month.add_paused()

        backoff = Backoff(base=60, factor=2, limit=3600, jitter=False)
        retried: list[tuple[datetime, int]] = []

        @tq.schedule(cron="0 12 * * *", timezone="UTC")
        @tq.task(max_retries=2, backoff=backoff)
        async def flaky() -> None:
            tries = len(retried) % 3
            retried.append((kit.now, tries))
            if tries < 2:
                raise RuntimeError("not yet")

        @tq.task(max_retries=1, backoff=backoff)
        async def hopeless() -> None:
            raise RuntimeError("never")

        handed_out: list[datetime] = []

        @tq.task
        async def lost() -> None:
            handed_out.append(kit.now)

        await hopeless.push()
        left = await lost.push()
        popped = await tq.queue.pop_task(0, visibility=600)
        while popped is not None and popped["task_id"] != left.task_id:
            await tq.queue.task_done(popped["task_id"])
            popped = await tq.queue.pop_task(0, visibility=600)
        assert popped is not None  # and its consumer dies: it is never settled
        await tq.pause("shelf")
        stale = await tq.push("lost", {}, queue="shelf", expires=DAY)
        for name, ttl in {"hour": HOUR, "day": DAY, "week": 7 * DAY}.items():
            await tq.values.set_public(name, name, ttl=ttl.total_seconds())
        await tq.values.set_public("ever", "ever")

        await kit.advance(HOUR - timedelta(microseconds=1))
        assert await tq.values.list_keys() == ["day", "ever", "hour", "week"]
        await kit.advance(timedelta(microseconds=1))
        assert await tq.values.list_keys() == ["day", "ever", "week"]
        await month.standing_still()
        assert await tq.values.list_keys() == ["ever", "week"]
        await kit.advance_to(month.end)
        took = time.process_time() - before

        assert month.differing() == []
        noons = list(every(start, month.end, DAY, first=12 * HOUR))
        minutes = (0, 1, 3)  # and 60 s, then 120 s, after that
        assert retried == [(noon + timedelta(minutes=minutes[n]), n) for noon in noons for n in range(3)]
        assert handed_out == [start + timedelta(seconds=600)], "its lease was over then"
        assert (await kit.task(left)).status is Status.COMPLETED
        assert (await kit.task(stale)).status is Status.EXPIRED
        assert await tq.values.list_keys() == ["ever"]
        assert len(tq.queue.backend.values._values) == 1  # type: ignore[attr-defined]  # and the rows are gone, too
        assert sum(map(len, month.ran.values())) > 3_000
    return took


async def test_the_same_with_schedules_and_tasks_in_sqlite(tmp_path: Path) -> None:  # C15, C16
    """Time waits for the database: no firing is late by so much as a microsecond."""
    start = LORD_HOWE_GAP - 8 * HOUR
    async with virtual(url=f"sqlite:///{tmp_path}/month.db", start=start) as kit:
        month = Month(kit, start, 18 * HOUR)  # until after 02:30 in Berlin
        await month.add_all()
        await month.add_paused(hour=1)
        await month.standing_still()
        await kit.advance_to(month.end)
        await kit.drain()
        assert month.differing() == []
        assert sum(map(len, month.ran.values())) > 100


@pytest.mark.parametrize("fault", ["late", "missing", "twice"])
async def test_the_oracle_finds_a_wrong_firing(fault: str) -> None:
    async with virtual(start=OCTOBER) as kit:
        month = Month(kit, OCTOBER, DAY)
        for name in ("right", "wrong"):
            await month.add(name, every(OCTOBER, OCTOBER + DAY, HOUR), interval=3600)
        await kit.advance(DAY)
        ran = month.ran["wrong"]
        assert len(ran) == 24
        if fault == "late":
            ran[3] += timedelta(microseconds=1)
        elif fault == "missing":
            del ran[3]
        else:
            ran.insert(3, ran[3])
        assert month.differing() == ["wrong"]

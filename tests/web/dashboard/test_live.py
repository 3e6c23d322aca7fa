"""Updates of open pages: what is sent, how often a page is rendered, and what a tab is told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from operator import truediv
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.read_limit import ReadTooLong, read_limit
from aiotaskq.core.task import SECOND
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.testing import VirtualClock
from aiotaskq.web.dashboard import live
from aiotaskq.web.dashboard.live import (
    ALIVE,
    ALLOWED,
    ANSWER,
    EVEN,
    INTERVAL,
    LATE,
    LONGEST,
    SHARE,
    UNKNOWN,
    CpuMeter,
    Live,
    Update,
    pause_of,
)
from aiotaskq.web.dashboard.view import Page, Shared, View, pages
from aiotaskq.web.dashboard.words import Words
from tests.web.dashboard.conftest import Browse

RETRY = 5.0
"""As in dashboard.js: seconds after which a tab asks again when it was refused."""
PART = '<div id="{0}" data-live>{1}</div><!--end {0}-->'


class Pages:
    """Pages of two parts, what rendering one costs, and how often one was rendered."""

    def __init__(self, tq: TaskQ) -> None:
        self.clock = VirtualClock()
        self.cpu = 0.0
        self.cost = 0.0
        self.heavy: dict[str, float] = {}
        """What rendering costs, by names of pages, where it is not ``cost``."""
        self.waits = False
        """Whether it takes no CPU time."""
        self.error: Exception | None = None
        """What rendering a heavy page raises."""
        self.parts = {"a": "1", "b": "1"}
        self.views: list[View] = []
        self.asked = 0
        self.answers = 0
        self.live = Live(self.render, self.clock, lambda: self.cpu)
        request: Any = None  # none of these pages looks at it
        self.view = View(shared=Shared(tq), request=request, words=Words("en", tq.timezone), now=0)

    async def render(self, page: Page, view: View) -> bytes:
        self.views.append(view)
        await asyncio.sleep(0)
        cost = self.heavy.get(page.name, self.cost)
        spent = min(cost, view.read_limit)
        self.cpu += 0 if self.waits else spent
        await self.clock.advance(spent)
        if self.error is not None and page.name in self.heavy:
            raise self.error
        if spent < cost:
            raise ReadTooLong("cut")
        return "".join(PART.format(name, text) for name, text in self.parts.items()).encode()

    async def allowed(self) -> frozenset[str]:
        self.asked += 1
        return frozenset(["tasks.cancel"])

    async def update(self, known: Iterable[str] = (), visitor: str = "v", page: str = "tasks") -> Update:
        view = replace(self.view, key=visitor)
        return await self.live.update(pages[page], view, self.allowed, list(known))

    async def watch(self, tabs: Iterable[tuple[str, str]], seconds: float) -> dict[tuple[str, str], list[float]]:
        """Let tabs (page, visitor) ask for so long; return when each page was read, in seconds."""
        began, again, read = self.clock.ticks(), dict.fromkeys(tabs, 0.0), dict[tuple[str, str], list[float]]()
        while (now := (self.clock.ticks() - began) / SECOND) < seconds:
            page, visitor = tab = min(again, key=lambda each: again[each])
            await self.clock.advance(max(0.0, again[tab] - now))
            before = len(self.views)
            try:
                wait = (await self.update(page=page, visitor=visitor)).again
            except ReadTooLong:
                wait = RETRY
            now = (self.clock.ticks() - began) / SECOND
            again[tab] = now + wait
            read.setdefault(tab, []).extend([now] * (len(self.views) - before))
            self.answers += 1
        return read


@pytest.fixture
def some(tq: TaskQ) -> Pages:
    return Pages(tq)


async def test_a_tab_gets_what_it_does_not_have(some: Pages) -> None:
    first = await some.update()
    assert [(part.name, part.markup) for part in first.parts] == [("a", "1"), ("b", "1")]
    known = [part.digest for part in first.parts]
    await some.clock.advance(first.again)
    assert (await some.update(known)).parts == []
    some.parts["b"] = "2"
    await some.clock.advance(first.again)
    changed = await some.update(known)
    assert [(part.name, part.markup) for part in changed.parts] == [("b", "2")]
    some.parts = {"a": "1", "b": "1"}
    await some.clock.advance(first.again)
    assert (await some.update([known[0], changed.parts[0].digest])).parts == first.parts[1:]
    assert all(view.update for view in some.views)


async def test_tabs_of_one_visitor_share_a_rendering_and_learn_its_age(some: Pages) -> None:
    both = await asyncio.gather(some.update(), some.update())
    assert len(some.views) == 1 and both[0].parts == both[1].parts
    await some.clock.advance(0.25)
    third = await some.update()
    assert len(some.views) == 1 and (third.age, third.again) == (0.25, INTERVAL - 0.25)
    await some.clock.advance(third.again)
    assert (await some.update()).age == 0.0 and len(some.views) == 2
    await some.update(visitor="another")
    assert len(some.views) == 3, "forms of another visitor hold another token"


async def test_open_pages_take_a_share_of_a_core_together_and_waiting_counts_for_nothing(some: Pages) -> None:
    some.cost = 0.01
    names = ["tasks", "queues", "workers", "activity", "types", "limits"]
    for _ in range(2):  # the first rendering of a page does not count: it may load what later ones have
        for name in names:
            await some.update(page=name)
        await some.clock.advance(INTERVAL)
    rendered, tabs = len(some.views), [(name, "v") for name in names]
    await some.watch(tabs, 60)
    spent = (len(some.views) - rendered) * some.cost + some.answers * ANSWER
    assert spent == pytest.approx(60 * SHARE, rel=0.1)
    await some.clock.advance(LONGEST + LATE)  # all are closed
    assert (await some.update()).again <= INTERVAL

    some.cost = 0.0

    async def slow(_page: Any, _view: View) -> bytes:
        await some.clock.advance(0.5)  # the store's
        return b""

    waiting = Live(slow, some.clock, lambda: some.cpu)
    for _ in range(3):
        found = await waiting.update(pages["tasks"], some.view, some.allowed, [])
        await some.clock.advance(found.again)
    assert found.again <= INTERVAL


async def test_a_page_that_is_read_rarely_says_soon_that_the_store_is_away(
    some: Pages, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    some.cost = 1.0
    for _ in range(2):  # the first rendering of a page does not count
        told = await some.update()
        await some.clock.advance(told.again)
    assert told.again == ALIVE
    known = [part.digest for part in told.parts]
    told = await some.update(known)
    assert (told.parts, told.age, len(some.views)) == ([], ALIVE + some.cost, 2)

    async def away() -> Any:
        raise DatabaseUnavailable("the server has gone")

    monkeypatch.setattr(tq.queue.backend, "ping", away)
    some.view.shared.kept.forget()
    await some.clock.advance(told.again)
    with pytest.raises(DatabaseUnavailable):
        await some.update(known)


async def test_a_sign_of_life_is_cut_soon_and_a_store_that_cuts_it_is_not_away(
    some: Pages, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float | None] = []

    async def locked() -> Any:
        limits.append(read_limit())
        raise ReadTooLong("cut")

    monkeypatch.setattr(tq.queue.backend, "ping", locked)
    some.cost = 1.0
    for _ in range(3):
        told = await some.update()
        await some.clock.advance(told.again)
    assert limits == [live.QUICK] and len(some.views) == 2


async def test_what_a_visitor_may_do_is_asked_now_and_then(some: Pages) -> None:
    for _ in range(5):
        await some.clock.advance((await some.update()).again)
    assert some.asked == 1 and {view.allowed for view in some.views} == {frozenset(["tasks.cancel"])}
    for _ in range(int(ALLOWED)):
        await some.clock.advance((await some.update()).again)
    assert some.asked == 2


@pytest.mark.parametrize("error", [None, ReadTooLong("cut")])
async def test_slow_pages_take_their_share_and_leave_others_theirs(some: Pages, error: Exception | None) -> None:
    some.cost, some.heavy, some.error = 0.01, {"limits": 1.0}, error
    light = [("tasks", "a"), ("queues", "b")]
    tabs = [*light, *(("limits", f"{number}") for number in range(10))]
    await some.watch(tabs, 20)
    began, cpu, some.answers = some.clock.ticks(), some.cpu, 0
    read = await some.watch(tabs, 1_800)
    seconds = (some.clock.ticks() - began) / SECOND
    assert SHARE * 0.8 < (some.cpu - cpu + some.answers * ANSWER) / seconds < SHARE * 1.1
    assert all(EVEN - 1 <= gap < 10 for tab in light for gap in gaps(read[tab]))
    assert all(280 < gap < 400 for tab in tabs[2:] for gap in gaps(read[tab])[1:])
    assert min(gaps(sorted(itertools.chain(*(read[tab][1:] for tab in tabs[2:]))))) > 20, "one after the other"


async def test_pages_that_become_slow_at_once_leave_others_their_share(some: Pages) -> None:
    some.cost = 0.01
    light = [("tasks", "a"), ("queues", "b")]
    tabs = [*light, *(("limits", f"{number}") for number in range(10))]
    await some.watch(tabs, 30)
    some.heavy, cpu, some.answers = {"limits": 9.0}, some.cpu, 0
    read = await some.watch(tabs, 60)
    assert (some.cpu - cpu + some.answers * ANSWER) / 60 < 0.05
    assert all(read[tab][0] < 10 and max(gaps(read[tab])) < 10 for tab in light)
    assert len(list(itertools.chain(*(read[tab] for tab in tabs[2:])))) == 10, "each is tried once"
    read = await some.watch(tabs, 1_800)
    assert all(len(read[tab]) > 2 for tab in tabs[2:])
    some.heavy = {}
    read = await some.watch(tabs, 120)
    assert all(read[tab] for tab in tabs[2:])


async def test_a_page_that_was_quick_is_cut_early_and_then_read_with_a_longer_limit(some: Pages) -> None:
    await some.update()
    some.heavy = {"tasks": 1.5}
    for _ in range(3):
        await some.clock.advance(100)
        assert (await some.update()).age >= 100, "what is shown stays"
    await some.clock.advance(100)
    assert (await some.update()).age == 1.5
    assert [view.read_limit for view in some.views] == [2.0, 0.2, 0.4, 0.8, 1.6]
    await some.clock.advance(100)
    assert (await some.update()).age == 1.5 and some.views[-1].read_limit == 2.0
    some.heavy = {"tasks": 9.0}
    await some.clock.advance(100)
    with pytest.raises(ReadTooLong):
        await some.update()


@pytest.mark.parametrize("waits", [False, True])
async def test_of_slow_pages_one_is_read_at_a_time(some: Pages, waits: bool) -> None:
    names = ["tasks", "limits", "queues"]
    for name in names:
        await some.update(page=name)
    some.heavy, some.waits = {"tasks": 1.0, "limits": 1.0}, waits
    await some.clock.advance(5)
    for name in names:
        await some.update(page=name)
    await some.clock.advance(INTERVAL if waits else 10.5)  # waiting counts for nothing
    begun = len(some.views)
    await asyncio.gather(*(some.update(page=name) for name in names))
    assert len(some.views) - begun == 2, "a slow one, and the quick one"


async def test_a_page_that_cannot_be_read_says_so_until_it_is_read_again(some: Pages) -> None:
    some.heavy, some.error = {"tasks": 2.0}, ReadTooLong("cut")
    for _ in range(3):
        with pytest.raises(ReadTooLong):
            await some.update()
        await some.clock.advance(INTERVAL)
    assert len(some.views) == 1
    some.error = None
    await some.watch([("tasks", "v")], 60)
    assert len(some.views) == 2 and (await some.update()).parts


async def test_a_page_that_takes_too_long_is_cut(some: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAGE_TIMEOUT", 0.0)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await some.update()
    assert len(some.views) == 1


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


PAUSES: list[tuple[list[float], list[float]]] = [
    ([0.0], [INTERVAL]),
    ([0.04], [INTERVAL]),
    ([0.01, 0.1, 0.13], [6.0, 6.0, 6.0]),
    ([0.01, 0.01, 1.0], [EVEN, EVEN, 1 / (SHARE - 0.02 / EVEN)]),
    ([1.0, 2.0], [75.0, 75.0]),
    ([99.0], [LONGEST]),
]


@pytest.mark.parametrize(("costs", "pauses"), PAUSES)
def test_the_pause_grows_with_the_cost(costs: list[float], pauses: list[float]) -> None:
    found = [pause_of(each, costs) for each in costs]
    assert found == pytest.approx(pauses)
    assert LONGEST in found or sum(map(truediv, costs, found)) <= SHARE * 1.001


def test_cpu_time_is_shared_by_what_runs_at_the_same_time() -> None:
    times = iter([10.0, 11.0, 15.0, 16.0])
    meter = CpuMeter(lambda: next(times))
    with meter.measured(UNKNOWN / 3) as one, meter.measured(0.0) as other:
        pass
    assert (one.seconds, other.seconds) == (1.0 + 1.0 + 1.0, 3.0)


AWAY = (
    DatabaseUnavailable("postgresql://secret"),
    "the store does not answer; try again later",
    "存储没有响应；请稍后再试",
)
CUT = ReadTooLong("secret"), "this takes too long, and was cancelled; narrow the filter", "用时太长，已被取消"


@pytest.mark.parametrize(("error", "english", "chinese"), [AWAY, CUT])
async def test_an_update_says_in_the_language_of_the_page_why_the_store_was_not_read(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch, error: Exception, english: str, chinese: str
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(live, "INTERVAL", 0.0)
    monkeypatch.setattr(live, "SHARE", 10**9)
    assert (await browse.get("live?page=queues")).status_code == 200
    stats = TaskQ.stats
    monkeypatch.setattr(TaskQ, "stats", away)
    for language, says in [("en", english), ("zh-CN", chinese)]:
        answer = await browse.get("live?page=queues&like=x", headers={"Accept-Language": language})
        assert answer.status_code == 503 and answer.json()["detail"].startswith(says)
    monkeypatch.setattr(TaskQ, "stats", stats)
    assert (await browse.get("live?page=queues&like=x")).status_code == 200
    assert (await browse.get("live?page=nowhere")).status_code == 404

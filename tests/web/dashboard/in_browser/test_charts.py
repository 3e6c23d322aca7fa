"""Charts, queues and schedules on screens of three widths: what can be read stays large enough to be read."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Browser, Page

from aiotaskq import TaskQ
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.history import MINUTE, Period, Sums, begin_of
from aiotaskq.core.task import SECOND
from tests.web.dashboard.browser import overflow, served, visitor
from tests.web.dashboard.test_pages_schedules import put

WIDTHS = (360, 1280, 1920)
LABELS = """() => {
  const found = document.querySelectorAll(".scale span, .clocks text, .ends text, .legend, .mini dt");
  return [...found].filter((each) => each.checkVisibility()).map((each) => {
    const box = each.getBoundingClientRect(), matrix = each.getCTM ? each.getCTM().a : 1;
    return [parseFloat(getComputedStyle(each).fontSize) * matrix, each.textContent, box.left, box.right];
  });
}"""
BARS = """() => [...document.querySelectorAll(".chart .area.completed")].map((each) =>
    each.getBoundingClientRect().width / (each.getAttribute("d").match(/M/g).length))"""
"""A bar for each point, so that the path is as wide as its bars and the gaps between them."""
PLOTS = """() => [...document.querySelectorAll(".panel .chart")].map((each) => {
    const box = each.getBoundingClientRect();
    return [Math.round(box.top), Math.round(box.height)];
})"""


async def fill(tq: TaskQ, minutes: int) -> None:
    """Write a history in which something ended in each minute."""
    at, periods = begin_of(tq.queue.clock.now(), MINUTE), list[Period]()
    for minute in range(minutes):
        for kind, queue in (("completed", "default"), ("failed", "batch")):
            sums = Sums()
            sums.add_runs([1_000 * (minute + n * n) for n in range(1, 40)], [20_000] * 39)
            periods.append(sums.period((at - minute * MINUTE * SECOND, MINUTE, queue, "greet", kind, "")))
    await tq.queue.backend.history.add(periods)


@pytest.mark.parametrize("minutes", [3, 60, 120])
async def test_labels_bars_and_plots_have_their_sizes(browser: Browser, tq: TaskQ, minutes: int) -> None:
    await fill(tq, minutes)
    await tq.push("greet", {"name": "World"}, queue="batch")
    async with served(tq) as home, visitor(browser, home) as seen:
        for width in WIDTHS:
            await seen.page.set_viewport_size({"width": width, "height": 900})
            for address in ("./", "./?by=queue", "type?name=greet", "queue?name=default"):
                await check(await seen.open(address), width, address)
        assert seen.problems == []


async def check(page: Page, width: int, address: str) -> None:
    where = f"{address} at {width}"
    assert await overflow(page) == [], where
    labels = await page.evaluate(LABELS)
    assert len(labels) > 10 and [each for each in labels if each[0] < 12] == [], where
    assert [each for each in labels if each[2] < 0 or each[3] > width] == [], where
    bars = await page.evaluate(BARS)
    assert [each for each in bars if each < 6 / 0.8] == [], where  # of a point 0.8 is the bar
    plots = await page.evaluate(PLOTS)
    assert len(plots) == 3 and {height for _, height in plots} == {140}, where
    assert width < 1280 or len({top for top, _ in plots}) == 1, where


async def test_the_axis_of_schedules_is_above_them_and_is_read(browser: Browser, tq: TaskQ) -> None:
    for name in ("often", "daily"):
        await tq.schedules.add(name, "greet", interval=60, params={"name": "x"}, schedule_id=name)
    now = tq.queue.clock.now()
    await put(tq, "daily", history=(FiringRecord(now - 3600 * SECOND, "fired", now - 3600 * SECOND),))
    async with served(tq) as home, visitor(browser, home) as seen:
        for width in WIDTHS:
            await seen.page.set_viewport_size({"width": width, "height": 900})
            page = await seen.open("schedules")
            assert await overflow(page) == []
            labels: Any = await page.evaluate(LABELS)
            assert len(labels) >= 3 and all(size >= 12 for size, *_ in labels)
            top = "document.querySelector('th.day .clocks').getBoundingClientRect().bottom"
            below = "document.querySelector('td.day').getBoundingClientRect().top"
            assert await page.evaluate(f"{top} <= {below}")
        assert seen.problems == []

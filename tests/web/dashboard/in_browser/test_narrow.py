"""Tables on a narrow screen: stacked, or with a sign that there is more at the edge."""

from __future__ import annotations

from typing import Any

from playwright.async_api import Browser

from aiotaskq import TaskQ
from tests.support.rows import worker_info
from tests.web.dashboard.browser import overflow, served, visitor

NARROW, WIDE = 375, 1280


async def style(page: Any, selector: str, name: str) -> str:
    """Return a computed style of the first element."""
    script = "([selector, name]) => getComputedStyle(document.querySelector(selector))[name]"
    found: str = await page.evaluate(script, [selector, name])
    return found


async def test_tables_are_stacked_or_show_that_there_is_more(browser: Browser, tq: TaskQ) -> None:
    await tq.push("greet", {"name": "x"}, delay=3600)
    assert tq.queue.backend.workers is not None
    await tq.queue.backend.workers.register(worker_info("w1", lease_until=tq.queue.clock.now() + 10**9))
    async with served(tq) as home, visitor(browser, home, width=NARROW) as seen:
        page = await seen.open("tasks")
        assert await overflow(page) == []
        assert await style(page, ".stacked tbody tr", "display") == "block"
        assert "Why it waits" in await page.evaluate(
            "getComputedStyle(document.querySelector('td.reason'), '::before').content"
        )
        wider = "document.querySelector('.scroll').scrollWidth > document.querySelector('.scroll').clientWidth"
        assert not await page.evaluate(wider)
        await page.set_viewport_size({"width": WIDE, "height": 900})
        assert await style(page, ".stacked tbody tr", "display") == "table-row"
        await page.set_viewport_size({"width": NARROW, "height": 900})
        page = await seen.open("workers")
        assert await page.evaluate(wider)
        assert (await style(page, ".scroll", "backgroundAttachment")).split(", ")[:4] == ["local"] * 2 + ["scroll"] * 2
        assert await overflow(page) == [] and seen.problems == []

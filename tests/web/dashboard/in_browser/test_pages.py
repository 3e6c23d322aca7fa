"""Every page in a browser: accessible by axe-core, in both languages and themes, wide and narrow, no complaints."""

from __future__ import annotations

import asyncio
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser

from aiotaskq import TaskQ
from tests.web.dashboard.browser import overflow, served, visitor
from tests.web.dashboard.sample import Sample, chosen_addresses, filled

LOOKS = [("en", "light"), ("zh-CN", "dark")]
WIDTHS = (1280, 360)
RULES: Any = {"resultTypes": ["violations"]}


async def test_every_page_is_accessible_fits_and_obeys_its_own_policy(browser: Browser, tq: TaskQ) -> None:
    async with filled(tq) as sample, served(tq, show_args=True) as home, asyncio.TaskGroup() as group:
        looks = [group.create_task(findings(browser, home, sample, *look)) for look in LOOKS]
    found = [each for look in looks for each in look.result()]
    assert not found, "\n".join(found)


async def findings(browser: Browser, home: str, sample: Sample, language: str, theme: str) -> list[str]:
    """Return what is wrong with the pages in one language and theme."""
    found = []
    async with visitor(browser, home, language=language, theme=theme) as seen:
        for address in chosen_addresses(sample):
            page = await seen.open(address)
            for width in WIDTHS:
                await page.set_viewport_size({"width": width, "height": 900})
                found += [f"{address} is wider than {width}: {each}" for each in await overflow(page)]
            for each in (await Axe().run(page, options=RULES)).response["violations"]:
                found += [f"{address} {each['id']}: {node['html']:.300}" for node in each["nodes"][:3]]
        return found + seen.problems


async def test_the_login_and_the_page_of_a_problem_are_accessible_and_fit(browser: Browser, tq: TaskQ) -> None:
    async with (
        served(tq, host="127.0.0.1", token="correct-horse-battery-staple") as home,
        visitor(browser, home, width=360) as seen,
    ):
        page = await seen.open("tasks")
        assert (await overflow(page), (await Axe().run(page, options=RULES)).violations_count) == ([], 0)
        await page.fill("input[name=token]", "correct-horse-battery-staple")
        async with page.expect_navigation(url="**/tasks"):  # the login has the address of the page behind it
            await page.keyboard.press("Enter")
        await seen.open("nowhere")
        assert (await overflow(page), (await Axe().run(page, options=RULES)).violations_count) == ([], 0)
        assert [each for each in seen.problems if "401" not in each and "404" not in each] == []

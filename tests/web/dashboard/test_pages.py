"""Every page in a browser: accessible by axe-core, in both languages and themes, wide and narrow, no complaints."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page

from aiotaskq import TaskQ
from tests.web.dashboard.browser import served, visitor
from tests.web.dashboard.sample import Sample, filled

LOOKS = [("en", "light"), ("zh-CN", "dark")]
WIDTHS = (1280, 360)
RULES: Any = {"resultTypes": ["violations"]}
CONTRAST: Any = RULES | {"runOnly": ["color-contrast"]}
"""What the theme can change."""
EXAMPLES = ("failed", "running", "parked", "paused", "expired")
"""Tasks whose pages have parts of their own."""


async def overflow(page: Page) -> list[str]:
    """Return what is wider than the window, where the page can be scrolled sideways."""
    return list(
        await page.evaluate(
            """() => {
                const wide = document.documentElement.clientWidth;
                if (document.documentElement.scrollWidth <= wide) return [];
                return [...document.querySelectorAll("body *")]
                    .filter((each) => each.getBoundingClientRect().right > wide + 1)
                    .filter((each) => !each.closest(".scroll, .menu, .tabs"))
                    .map((each) => each.outerHTML.slice(0, 160)).concat("the page");
            }"""
        )
    )


def addresses(sample: Sample) -> list[str]:
    """Return an address of each page, and those of some tasks."""
    first = {address.partition("?")[0]: address for address in reversed(sample.addresses())}
    return [*first.values(), *(f"task?id={sample.tasks[f'{kind} 0']}" for kind in EXAMPLES)]


@pytest.mark.parametrize(("language", "theme"), LOOKS)
async def test_every_page_is_accessible_and_fits(browser: Browser, tq: TaskQ, language: str, theme: str) -> None:
    rules = RULES if theme == "light" else CONTRAST
    findings: list[str] = []
    async with (
        filled(tq) as sample,
        served(tq, show_args=True) as home,
        visitor(browser, home, language=language, theme=theme, bypass_csp=True) as seen,
    ):
        for address in addresses(sample):
            page = await seen.open(address)
            for width in WIDTHS:
                await page.set_viewport_size({"width": width, "height": 900})
                findings += [f"{address} is wider than {width}: {each}" for each in await overflow(page)]
            for each in (await Axe().run(page, options=rules)).response["violations"]:
                findings += [f"{address} {each['id']}: {node['html']:.300}" for node in each["nodes"][:3]]
        assert seen.problems == []
    assert not findings, "\n".join(findings)


async def test_every_page_obeys_its_own_policy(browser: Browser, tq: TaskQ) -> None:
    async with filled(tq) as sample, served(tq, show_args=True) as home, visitor(browser, home) as seen:
        for address in addresses(sample):
            await seen.open(address)
        assert seen.problems == []


async def test_the_login_and_the_page_of_a_problem_are_accessible_and_fit(browser: Browser, tq: TaskQ) -> None:
    async with (
        served(tq, host="127.0.0.1", token="correct-horse-battery-staple") as home,
        visitor(browser, home, width=360, bypass_csp=True) as seen,
    ):
        page = await seen.open("tasks")
        assert (await overflow(page), (await Axe().run(page, options=RULES)).violations_count) == ([], 0)
        await page.fill("input[name=token]", "correct-horse-battery-staple")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/tasks")
        await seen.open("nowhere")
        assert (await overflow(page), (await Axe().run(page, options=RULES)).violations_count) == ([], 0)
        assert [each for each in seen.problems if "401" not in each and "404" not in each] == []

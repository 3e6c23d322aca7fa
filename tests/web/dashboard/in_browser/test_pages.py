"""Every page in a browser: accessible by axe-core, in both languages and themes, wide and narrow, no complaints."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from aiotaskq import TaskQ
from tests.web.dashboard.browser import overflow, served, visitor
from tests.web.dashboard.sample import Sample, chosen_addresses, filled

LANGUAGES = ("en", "zh-CN")
# The themes differ in nothing but colours, which are no matter of the language.
THEMES: dict[Any, dict[str, Any]] = {"light": {}, "dark": {"runOnly": ["color-contrast"]}}
WORDS: dict[Any, dict[str, Any]] = {"light": {"rules": {"color-contrast": {"enabled": False}}}}
WIDTHS = (1280, 360)
VIOLATIONS = """async how => (await axe.run(document, {resultTypes: ["violations"], ...how})).violations.flatMap(
    ({id, nodes}) => nodes.slice(0, 3).map(({html}) => `${id}: ${html.slice(0, 300)}`))"""


async def test_every_page_is_accessible_fits_and_obeys_its_own_policy(browser: Browser, tq: TaskQ) -> None:
    async with filled(tq) as sample, served(tq, show_args=True) as home, asyncio.TaskGroup() as group:
        looks = [group.create_task(findings(browser, home, sample, language)) for language in LANGUAGES]
    found = [each for look in looks for each in look.result()]
    assert not found, "\n".join(found)


async def findings(browser: Browser, home: str, sample: Sample, language: str) -> list[str]:
    """Return what is wrong with the pages in one language, in each width."""
    found = []
    async with visitor(browser, home, language=language, reduced_motion="reduce") as seen:
        for address in chosen_addresses(sample):
            page = await seen.open(address)
            for width in WIDTHS:
                await page.set_viewport_size({"width": width, "height": 900})
                found += [f"{address} is wider than {width}: {each}" for each in await overflow(page)]
                looks = THEMES if language == "en" else WORDS
                found += [f"{address} at {width}: {each}" for each in await violations(page, looks)]
        return found + seen.problems


async def violations(page: Page, looks: Mapping[Any, dict[str, Any]] = THEMES) -> list[str]:
    """Return the theme and the rule of each violation that axe-core finds, and the element."""
    found = []
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(Axe().axe_script)
    for theme, how in looks.items():
        await page.emulate_media(color_scheme=theme)
        found += [f"{theme}, {each}" for each in await page.evaluate(VIOLATIONS, how)]
    return found


@pytest.mark.parametrize("language", LANGUAGES)
async def test_what_is_in_no_menu_is_accessible_and_fits(browser: Browser, tq: TaskQ, language: str) -> None:
    task_id = (await tq.push("greet", {"name": "World"}, delay=3600)).task_id
    async with (
        served(tq, host="127.0.0.1", token="correct-horse-battery-staple") as home,
        visitor(browser, home, language=language, width=360, reduced_motion="reduce") as seen,
    ):
        page = await seen.open("tasks")
        assert (await overflow(page), await violations(page)) == ([], [])  # the login
        await page.fill("input[name=token]", "correct-horse-battery-staple")
        async with page.expect_navigation(url="**/tasks"):  # the login has the address of the page behind it
            await page.keyboard.press("Enter")
        await seen.open(f"task?id={task_id}")
        await page.click("main button.danger >> visible=true")
        await expect(page.locator("main .notice")).to_be_visible()
        assert (await overflow(page), await violations(page)) == ([], [])  # a question
        await seen.open("task-form")
        await page.fill("input[name=type]", "greet")
        await page.fill("input[name=priority]", "high")
        await page.click("main button.primary")
        await expect(page.locator(".message.problem")).to_be_visible()
        assert (await overflow(page), await violations(page)) == ([], [])  # what was refused
        await seen.open("nowhere")
        assert (await overflow(page), await violations(page)) == ([], [])  # a problem
        assert [each for each in seen.problems if "of 4" not in each] == []

"""Hostile texts in a browser, and pages behind a proxy that rewrites the path."""

from __future__ import annotations

from playwright.async_api import Browser, expect

from aiotaskq import TaskQ
from tests.support.machine import within
from tests.web.dashboard.browser import overflow, served, visitor
from tests.web.dashboard.sample import chosen_addresses, filled
from tests.web.dashboard.test_hostile import HOSTILE
from tests.web.dashboard.test_mounted import proxied


async def test_no_text_runs_leaves_the_page_or_breaks_its_layout(browser: Browser, tq: TaskQ) -> None:
    """In a browser, as a parser of our own could be wrong: the texts that differ for it, on each page."""
    chosen = [HOSTILE[place] for place in (1, 2, 3, 8, 17, 21)]
    async with (
        filled(tq, *chosen) as sample,
        served(tq, show_args=True) as home,
        visitor(browser, home, width=360) as seen,
    ):
        seen.page.on("dialog", lambda dialog: seen.problems.append(f"dialog: {dialog.message}"))
        some = [*chosen_addresses(sample), *(each for each in sample.addresses() if each.startswith("limit?"))]
        some += [f"task?id={id}" for kind, id in sample.tasks.items() if kind.split()[0] in ("failed", "delayed")]
        for address in some:
            page = await seen.open(address)
            seen.problems += [f"{address} is too wide: {each}" for each in await overflow(page)]
        assert not seen.problems, "\n".join(seen.problems)


async def test_behind_a_proxy_links_forms_redirects_cookies_and_updates_work(browser: Browser, tq: TaskQ) -> None:
    async with served(tq) as home, proxied(home) as public, visitor(browser, public) as seen:
        page = await seen.open("tasks")
        task_id = (await tq.push("greet", {"name": "World"})).task_id
        await page.click(f'a[title="{task_id}"]', timeout=within(20) * 1000)
        await page.click("text=Cancel the task")
        await page.click("main button.danger")
        await expect(page.locator(".message")).to_contain_text("is cancelled")
        assert page.url == f"{public}task?id={task_id}"
        await page.click("header >> text=中文")
        assert page.url == f"{public}task?id={task_id}" and await page.get_attribute("html", "lang") == "zh-CN"
        cookies = await seen.context.cookies()
        assert {each["path"] for each in cookies} == {"/deep/prefix"}
        assert seen.problems == []

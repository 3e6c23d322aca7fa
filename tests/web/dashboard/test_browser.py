"""The dashboard in a real browser: live updates, actions by clicks, keys, and pages without script."""

from __future__ import annotations

from playwright.async_api import Browser, expect

from aiotaskq import TaskQ
from tests.web.dashboard.browser import visitor


async def test_a_page_follows_what_happens(browser: Browser, home: str, tq: TaskQ) -> None:
    async with visitor(browser, home) as seen:
        page = await seen.open("tasks")
        await expect(page.locator("#rows .empty")).to_be_visible()
        handle = await tq.push("greet", {"name": "<img src=x onerror=alert(1)>"})
        await expect(page.locator(f'a[title="{handle.task_id}"]')).to_be_visible(timeout=20_000)
        await tq.cancel(handle.task_id)
        await expect(page.locator("#rows .state.cancelled")).to_be_visible(timeout=20_000)
        assert seen.problems == []


async def test_a_task_is_cancelled_and_retried_by_clicks(browser: Browser, home: str, tq: TaskQ) -> None:
    task_id = (await tq.push("greet", {"name": "World"})).task_id
    async with visitor(browser, home) as seen:
        page = await seen.open("tasks")
        await page.click(f'a[title="{task_id}"]')
        await page.click("text=Cancel the task")
        assert (await tq.get(task_id)).status == "pending"  # it asks first
        await page.click("main >> text=Cancel the task >> nth=-1")
        await expect(page.locator(".message")).to_contain_text("is cancelled")
        await page.click("text=Retry")
        await expect(page.locator(".message")).to_contain_text("is pending again")
        assert (await tq.get(task_id)).status == "pending"
        assert seen.problems == []


async def test_every_page_works_without_script(browser: Browser, home: str, tq: TaskQ) -> None:
    task_id = (await tq.push("greet", {"name": "World"})).task_id
    async with visitor(browser, home, java_script_enabled=False) as seen:
        page = await seen.open(f"task?id={task_id}")
        await page.click("text=Cancel the task")
        await page.click("main button.danger")
        await expect(page.locator(".message")).to_contain_text("is cancelled")
        await page.click("header >> text=中文")
        await expect(page.locator("h1")).to_have_text("greet")
        assert await page.locator("html").get_attribute("lang") == "zh-CN"
        assert seen.problems == []

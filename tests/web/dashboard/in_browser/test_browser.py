"""The dashboard in a real browser: live updates, actions by clicks, keys, and pages without script."""

from __future__ import annotations

import pytest
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


async def test_a_task_is_pushed_found_and_edited_by_hand(browser: Browser, home: str, tq: TaskQ) -> None:
    async with visitor(browser, home) as seen:
        page = await seen.open("tasks")
        await page.click("main >> text=New task")
        await page.fill("input[name=type]", "greet")
        await page.fill("textarea[name=params]", '{"age": 1}')
        await page.fill("input[name=delay]", "3600")
        await page.click("text=Push the task")
        await expect(page.locator("[role=alert]")).to_contain_text("has no parameter")
        seen.problems.clear()  # the browser tells of the status 422
        await expect(page.locator("input[name=delay]")).to_have_value("3600")
        await page.fill("textarea[name=params]", '{"name": "you"}')
        await page.click("text=Push the task")
        await expect(page.locator(".message")).to_contain_text("is pushed")
        (task,) = await tq.find()
        await page.goto(home + "tasks")
        await page.keyboard.press("/")
        await page.keyboard.type(task.task_id[:12])
        await page.keyboard.press("Enter")
        await page.click("main >> text=Edit")
        await page.fill("input[name=priority]", "-4")
        await page.click("text=Save")
        await expect(page.locator(".message")).to_contain_text("is changed")
        assert (await tq.get(task.task_id)).priority == -4
        assert seen.problems == []


@pytest.mark.parametrize("script", [True, False])
async def test_many_tasks_are_cancelled_by_clicks(browser: Browser, home: str, tq: TaskQ, script: bool) -> None:
    ids = [(await tq.push("greet", {"name": "you"}, delay=3600)).task_id for _ in range(3)]
    async with visitor(browser, home, java_script_enabled=script) as seen:
        page = await seen.open("tasks")
        if script:
            await page.click("text=Select all on this page")
            await page.uncheck(f'input[value="{ids[0]}"]')
        else:
            await expect(page.locator("[data-check]")).to_be_hidden()
            for each in ids[1:]:
                await page.check(f'input[value="{each}"]')
        await page.click("button[formaction='tasks.cancel_many']")
        await expect(page.locator(".notice")).to_contain_text("2 are selected")
        await page.click("main button.danger")
        await expect(page.locator(".message")).to_contain_text("cancelled or asked to stop: 2.")
        assert [str((await tq.get(each)).status) for each in ids] == ["pending", "cancelled", "cancelled"]
        await page.select_option("select[name=which]", "all")
        await page.click("button[formaction='tasks.delete_many']")
        await page.click("main button.danger")
        await expect(page.locator(".message")).to_contain_text("were deleted: 2.")
        assert [task.task_id for task in await tq.find()] == ids[:1]
        assert seen.problems == []

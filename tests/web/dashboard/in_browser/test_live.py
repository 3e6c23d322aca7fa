"""Open pages in a browser: tabs, pause, sleep, a server that restarts, keys, focus, and a layout that stays."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, expect

from aiotaskq import TaskQ
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.web.dashboard.pages import tasks
from tests.support.machine import within
from tests.web.dashboard.browser import served, visitor

SLOW: Any = {"timeout": within(20) * 1000}
HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


async def shows(page: Page, task_id: str) -> None:
    await expect(page.locator(f'a[title="{task_id}"]')).to_be_visible(**SLOW)


def watch_updates(page: Page) -> list[str]:
    """Return a list that grows with each update that a page asks for."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/live?" in request.url else None)
    return asked


async def test_an_update_reaches_two_tabs_and_none_that_is_paused(browser: Browser, home: str, tq: TaskQ) -> None:
    async with visitor(browser, home) as seen:
        first, second = await seen.open("tasks"), await seen.context.new_page()
        await second.goto(f"{home}tasks")
        one = (await tq.push("greet", {"name": "one"})).task_id
        await shows(first, one)
        await shows(second, one)
        await first.click("#live-switch")
        await expect(first.locator("#live-switch .label")).to_have_text("Paused")
        await expect(second.locator("#live-switch .label")).to_have_text("Paused")  # the choice is that of the visitor
        two = (await tq.push("greet", {"name": "two"})).task_id
        async with visitor(browser, home) as other:
            await shows(await other.open("tasks"), one)
            three = (await tq.push("greet", {"name": "three"})).task_id
            await shows(other.page, three)
        assert await first.locator(f'a[title="{two}"]').count() == 0
        await first.click("#live-switch")
        await shows(first, two)
        await shows(second, two)
        assert seen.problems == []


async def test_a_hidden_tab_sleeps(browser: Browser, home: str, tq: TaskQ) -> None:
    async with visitor(browser, home) as seen, visitor(browser, home) as other:
        page = seen.page
        asked = watch_updates(page)
        await seen.open("tasks")
        await shows(page, (await tq.push("greet", {"name": "one"})).task_id)
        await page.evaluate(HIDE, True)
        before = len(asked)
        two = (await tq.push("greet", {"name": "two"})).task_id
        await shows(await other.open("tasks"), two)
        three = (await tq.push("greet", {"name": "three"})).task_id
        await shows(other.page, three)
        assert await page.locator(f'a[title="{three}"]').count() == 0 and len(asked) == before
        await page.evaluate(HIDE, False)
        await shows(page, three)
        assert len(asked) > before


async def test_pages_say_that_the_server_is_away_and_come_back(browser: Browser, tq: TaskQ) -> None:
    async with visitor(browser, "http://127.0.0.1") as seen:
        page, label, said = seen.page, seen.page.locator("#live-switch .label"), seen.page.locator("#not-updated")
        async with served(tq) as home:
            await page.goto(f"{home}tasks")
            await shows(page, (await tq.push("greet", {"name": "one"})).task_id)
            await expect(label).to_have_text("Live")
            await expect(said).to_be_hidden()
        await expect(label).to_have_text("Not updated", **SLOW)
        await expect(said).to_contain_text("the server does not answer")
        async with served(tq, port=urlsplit(home).port or 0):
            await expect(label).to_have_text("Live", **SLOW)
            await expect(said).to_be_hidden()
            await shows(page, (await tq.push("greet", {"name": "two"})).task_id)


async def test_a_page_says_that_the_store_is_away_and_how_old_it_is(
    browser: Browser, home: str, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise DatabaseUnavailable("the server has gone")

    async with visitor(browser, home) as seen:
        page, switch, said = seen.page, seen.page.locator("#live-switch"), seen.page.locator("#not-updated")
        label, age = switch.locator(".label"), switch.locator(".age")
        await page.clock.install()
        await seen.open("queues")
        await expect(label).to_have_text("Live")
        await expect(age).to_have_text(re.compile(r"^\ds$"))
        monkeypatch.setattr(TaskQ, "stats", away)
        await page.clock.run_for(2_000)
        await expect(said).to_contain_text("the store does not answer", **SLOW)
        await expect(label).to_have_text("Not updated")
        await page.clock.run_for(60_000)
        await expect(age).to_have_text(re.compile(r"^[6-9]\ds$"))
        await expect(switch).to_have_class(re.compile("lost.*old|old.*lost"))
        monkeypatch.undo()
        await page.clock.run_for(10_000)
        await expect(label).to_have_text("Live", **SLOW)
        await expect(said).to_be_hidden()


async def test_a_page_says_that_its_updates_take_long(browser: Browser, home: str) -> None:
    told = {"parts": [], "age": 0.0, "at": "1 Dec 2026 12:00:00", "again": 1.0}
    async with visitor(browser, home) as seen:
        page, switch, said = seen.page, seen.page.locator("#live-switch"), seen.page.locator("#slow")
        await page.route("**/live?*", lambda route: route.fulfill(json=told))
        await page.clock.install(time=0)
        await page.clock.pause_at(1_000)  # or a slow browser's own time would count, too

        async def after(seconds: int) -> None:
            for _ in range(seconds):
                await page.clock.run_for(1_000)
                await page.wait_for_timeout(0)

        await seen.open("queues")
        await after(12)
        await expect(said).to_be_hidden()
        told["age"] = 9.0
        await after(2)
        await expect(said).to_have_text("Updates take long; what is shown is from 1 Dec 2026 12:00:00")
        await expect(switch).to_have_class(re.compile("old"))
        await expect(switch.locator(".label")).to_have_text("Live")
        told["age"] = 0.0
        await after(10)
        await expect(switch).not_to_have_class(re.compile("old"))
        await expect(said).to_be_visible()  # it does not come and go between two updates
        await after(15)
        await expect(said).to_be_hidden()
        await page.evaluate(HIDE, True)
        await page.clock.run_for(60_000)
        await page.evaluate(HIDE, False)
        await expect(said).to_be_hidden()
        assert seen.problems == []


async def test_a_page_says_that_its_login_has_ended(browser: Browser, tq: TaskQ) -> None:
    token = "correct-horse-battery-staple"
    async with served(tq, token=token) as home, visitor(browser, home) as seen:
        page = await seen.open("tasks?status=failed")
        await page.fill("input[name=token]", token)
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/tasks?status=failed")
        ended = page.locator("#login-ended")
        await expect(ended).to_be_hidden()
        other = await seen.context.new_page()
        await other.goto(f"{home}queues")
        await other.click("text=Log out")
        await expect(ended).to_be_visible(**SLOW)
        await expect(page.locator("#live-switch")).to_be_hidden()
        await ended.locator("a").click()
        await expect(page.locator("input[name=token]")).to_be_visible()
        assert page.url == f"{home}tasks?status=failed"


async def test_the_way_back_after_an_action_shows_what_is(browser: Browser, home: str, tq: TaskQ) -> None:
    task_id = (await tq.push("greet", {"name": "World"})).task_id
    async with visitor(browser, home) as seen:
        page = await seen.open("tasks")
        await page.click(f'a[title="{task_id}"]')
        await page.click("text=Cancel the task")
        await page.click("main button.danger")
        await expect(page.locator(".message")).to_be_visible()
        await page.go_back()
        await expect(page.locator("h1")).to_have_text("Cancel the task")  # and no error of the browser about a form
        await page.click("main button.danger")
        await expect(page.locator("[role=alert]")).to_contain_text("has ended already")
        await page.goto(f"{home}task?id={task_id}")
        await expect(page.locator(".message")).to_have_count(0)  # a message is shown once
        await expect(page.locator(".head .state")).to_have_text("cancelled")
        assert ["409 (Conflict)" in each for each in seen.problems] == [True]  # what the browser says of the refusal


async def test_keys_move_open_and_search(browser: Browser, home: str, tq: TaskQ) -> None:
    ids = [(await tq.push("greet", {"name": f"{place}"})).task_id for place in range(3)]
    newest = list(reversed(ids))
    async with visitor(browser, home) as seen:
        page = await seen.open("tasks")
        focused = "document.activeElement.title"
        await page.keyboard.press("j")
        assert await page.evaluate(focused) == newest[0]
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        assert await page.evaluate(focused) == newest[2]  # it stops at the end
        await page.keyboard.press("k")
        assert await page.evaluate(focused) == newest[1]
        await page.keyboard.press("/")
        assert await page.evaluate("document.activeElement.id") == "search"
        await page.keyboard.type("jkr/")
        assert await page.input_value("#search") == "jkr/"
        await page.keyboard.press("Escape")
        await page.keyboard.press("k")
        assert await page.input_value("#search") == "jkr/" and await page.evaluate(focused) == newest[0]
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/task?id=*")
        async with page.expect_navigation():
            await page.keyboard.press("r")
        assert seen.problems == []


async def test_the_keyboard_alone_reaches_everything_in_order(browser: Browser, home: str, tq: TaskQ) -> None:
    await tq.push("greet", {"name": "World"})
    async with visitor(browser, home) as seen:
        page = await seen.open("queues")
        stops = []
        for _ in range(60):
            await page.keyboard.press("Tab")
            stop = await page.evaluate(
                """() => {
                    const each = document.activeElement, box = each.getBoundingClientRect();
                    const look = getComputedStyle(each);
                    if (each === document.body) return null;
                    return [each.className || each.tagName, each.closest("header, nav, main, footer")?.tagName || "",
                            look.outlineStyle !== "none" && box.width > 0 && box.right > 0];
                }"""
            )
            if stop is None:
                break
            stops.append(stop)
        assert stops[0][0] == "skip"
        assert [place for _, place, _ in stops if place] == sorted(
            (place for _, place, _ in stops if place), key=["HEADER", "NAV", "MAIN", "FOOTER"].index
        )
        assert [stop for stop in stops if not stop[2]] == []  # the focus is seen at each stop
        await page.reload()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"


async def test_an_update_keeps_layout_focus_and_what_is_typed(browser: Browser, home: str, tq: TaskQ) -> None:
    first = (await tq.push("greet", {"name": "first"})).task_id
    async with visitor(browser, home) as seen:
        page = await seen.open("tasks")
        await shows(page, first)
        await page.fill("#search", "half a wor")
        boxes = """() => ["header.top", "h1", ".tabs", ".filter", "#rows", "thead", "tbody td"].map((each) => {
            const box = document.querySelector(each).getBoundingClientRect();
            return [box.left, box.top];
        })"""
        before = await page.evaluate(boxes)
        await page.evaluate(
            """window.shift = 0; new PerformanceObserver((list) => {
                for (const each of list.getEntries()) window.shift += each.value;
            }).observe({type: "layout-shift"})"""
        )
        handle = await tq.push("greet", {"name": "second"})
        await shows(page, handle.task_id)
        await handle.cancel()
        await expect(page.locator("#rows .state.cancelled")).to_be_visible(**SLOW)
        assert await page.evaluate(boxes) == before
        assert await page.input_value("#search") == "half a wor"
        assert await page.evaluate("document.activeElement.id") == "search"
        assert await page.evaluate("window.shift") < 0.1  # what browsers count as good
        assert seen.problems == []


async def test_ticked_boxes_and_the_marked_row_survive_updates(
    browser: Browser, home: str, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "ROWS", 3)
    ids = [(await tq.push("greet", {"name": "x"}, delay=3600)).task_id for _ in range(3)]
    async with visitor(browser, home) as seen:
        page = await seen.open("tasks")
        said, current = page.locator(".chosen .said"), "document.querySelector('tr.current a')?.title"
        for each in ids[:2]:
            await page.check(f'input[value="{each}"]')
        await expect(said).to_have_text("2 chosen")
        await page.keyboard.press("j")
        newer = (await tq.push("greet", {"name": "x"}, delay=3600)).task_id
        await shows(page, newer)
        assert await page.evaluate(current) == ids[2]
        await page.focus(f'input[value="{ids[1]}"]')
        await expect(said).to_have_text("2 chosen, 1 not on this page")
        newest = (await tq.push("greet", {"name": "x"}, delay=3600)).task_id
        await shows(page, newest)  # though the focus is in a box
        await expect(said).to_have_text("2 chosen, 2 not on this page")
        await page.keyboard.press("k")
        assert await page.evaluate(current) == newer
        await page.click("button[formaction='tasks.cancel_many']")
        await expect(page.locator(".notice")).to_contain_text("2 are selected")
        await page.click("main button.danger")
        await expect(page.locator(".message")).to_contain_text("cancelled or asked to stop: 2.")
        assert [str((await tq.get(each)).status) for each in ids] == ["cancelled", "cancelled", "pending"]
        await page.check(f'input[value="{newest}"]')
        await page.click(".chosen button")
        await expect(page.locator(".chosen")).to_be_hidden()
        assert not await page.is_checked(f'input[value="{newest}"]') and seen.problems == []


async def test_what_is_typed_in_a_part_stays_and_the_age_of_that_part_is_told(
    browser: Browser, home: str, tq: TaskQ
) -> None:
    calls = [tq.call("greet", {"name": name}) for name in ("a", "b")]
    group = await tq.group(calls, budget={"usd": 5})
    async with visitor(browser, home) as seen:
        page, switch, budget = seen.page, seen.page.locator("#live-switch"), seen.page.locator("input[name=budget]")
        await page.clock.install()
        await seen.open(f"group?id={group.group_id}")
        await page.clock.run_for(2_000)
        await budget.fill('{"usd": 70}')
        await (await group.tasks())[0].cancel()
        for _ in range(15):
            await page.clock.run_for(1_000)
            await page.wait_for_timeout(0)
        await expect(switch).to_have_class(re.compile("old"))
        await expect(switch.locator(".label")).to_have_text("Live")
        assert await page.locator("#group .state.cancelled").count() == 0
        await budget.blur()
        await page.clock.run_for(3_000)
        await expect(page.locator("#group .state.cancelled")).to_be_visible()
        assert await budget.input_value() == '{"usd": 70}' and seen.problems == []


async def test_what_was_refused_stays_in_a_part_that_changes(browser: Browser, home: str, tq: TaskQ) -> None:
    calls = [tq.call("greet", {"name": name}) for name in ("a", "b")]
    group = await tq.group(calls, budget={"usd": 5})
    async with visitor(browser, home) as seen:
        page, budget = await seen.open(f"group?id={group.group_id}"), seen.page.locator("input[name=budget]")
        await budget.fill('{"usd": -7}')
        await budget.press("Enter")
        await expect(page.locator(".message.problem")).to_be_visible()
        await (await group.tasks())[0].cancel()
        await expect(page.locator("#group .state.cancelled")).to_be_visible()
        assert await budget.input_value() == '{"usd": -7}'

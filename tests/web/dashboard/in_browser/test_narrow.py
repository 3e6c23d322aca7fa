"""Tables on a narrow screen: rows as lists, or with a sign that there is more at the edge."""

from __future__ import annotations

from typing import Any

from playwright.async_api import Browser, expect

from aiotaskq import TaskQ
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from tests.web.dashboard.browser import overflow, served, visitor
from tests.web.dashboard.sample import chosen_addresses, filled

NARROW, WIDE = 375, 1280
BESIDE = """() => [...document.querySelectorAll(".rows td[data-label]:not(:empty)")].map((cell) => {
    const box = cell.getBoundingClientRect(), text = document.createRange();
    text.selectNodeContents(cell);
    const first = text.getClientRects()[0];
    return [cell.dataset.label, Math.round(first.left - box.left), Math.round(first.top - box.top) < 12];
})"""
"""The label of each cell, how far from its edge the text begins, and whether that is in the line of the label."""
CUT = "(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.querySelector('.scroll'))"
"""By how many pixels a table is wider than its frame."""
ON_SCREEN = "(each) => !each.offsetWidth || each.getBoundingClientRect().right <= innerWidth"


async def style(page: Any, selector: str, name: str) -> str:
    """Return a computed style of the first element."""
    script = "([selector, name]) => getComputedStyle(document.querySelector(selector))[name]"
    found: str = await page.evaluate(script, [selector, name])
    return found


async def test_every_list_is_stacked_with_the_names_of_its_columns(browser: Browser, tq: TaskQ) -> None:
    async with filled(tq, "x" * 60) as sample, served(tq) as home, visitor(browser, home, width=NARROW) as seen:
        for address in chosen_addresses(sample):
            page = await seen.open(address)
            assert await overflow(page) == [], address
            if await page.query_selector(".rows tbody tr"):
                assert await style(page, ".rows tbody tr", "display") == "block", address
                inside = "[...document.querySelectorAll('.rows :is(a, button)')].every(onScreen)".replace(
                    "onScreen", ON_SCREEN
                )
                assert await page.evaluate(inside), f"{address}: what can be pressed is on the screen"
        page = await seen.open("tasks?status=pending")
        shown = "getComputedStyle(document.querySelector('td.reason'), '::before').content"
        assert "Why it waits" in await page.evaluate(shown)
        await page.set_viewport_size({"width": WIDE, "height": 900})
        assert await style(page, ".rows tbody tr", "display") == "table-row"
        assert seen.problems == []


async def test_texts_of_any_length_are_beside_their_labels_and_within_the_table(browser: Browser, tq: TaskQ) -> None:
    now = tq.queue.clock.now()
    row = Task(task_id="one", type="order.charge", seq=now, created_at=now // SECOND, status=Status.FAILED, queue="q")
    row = row.replace(completed_at=now // SECOND, error_message=f"ValueError: {'the card was declined ' * 9}")
    running = row.replace(task_id="two", status=Status.RUNNING, completed_at=None, error_message=None, began_at=now)
    running = running.replace(lease_owner=f"worker-{'x' * 60}", fence=1, progress={"done": 700, "total": 1_500})
    await tq.queue.backend.push([row, running])
    async with served(tq, show_args=True) as home, visitor(browser, home, width=NARROW) as seen:
        for address in ("tasks?status=failed", "failures", "./"):
            found = await (await seen.open(address)).evaluate(BESIDE)
            assert found and [each for each in found if each[1] != 104 or not each[2]] == [], address
        await seen.page.set_viewport_size({"width": WIDE, "height": 900})
        for address in ("tasks", "tasks?status=failed"):
            page = await seen.open(address)
            assert await page.evaluate(CUT) == 0, address


async def test_tables_of_tasks_fit_a_small_window(browser: Browser, tq: TaskQ) -> None:
    async with filled(tq, "x" * 60), served(tq, show_args=True) as home, visitor(browser, home, width=1024) as seen:
        cut = {}
        for status in ("", *Status):
            page = await seen.open(f"tasks?status={status}")
            cut[str(status)] = await page.evaluate(CUT) if await page.query_selector(".scroll") else 0
    assert set(cut.values()) == {0}, cut


async def test_filters_are_folded_where_the_screen_is_narrow(browser: Browser, home: str) -> None:
    async with visitor(browser, home, width=NARROW, java_script_enabled=False) as seen:
        page = await seen.open("tasks?queue=mail")
        fields = page.locator("select[name=queue]")
        await expect(fields).to_be_hidden()
        fold = page.locator("summary", has_text="Filter")
        await expect(fold).to_contain_text("mail")
        await fold.click()
        await expect(fields).to_be_visible()
        await page.set_viewport_size({"width": WIDE, "height": 900})
        page = await seen.open("tasks")
        await expect(page.locator("select[name=queue]")).to_be_visible()
        await expect(page.locator("summary").first).to_be_hidden()


async def test_a_wide_table_shows_that_there_is_more(browser: Browser, tq: TaskQ) -> None:
    async with filled(tq) as sample, served(tq) as home, visitor(browser, home, width=NARROW) as seen:
        page = await seen.open(f"group?id={sample.groups[0]}")  # its graph
        assert (await style(page, ".scroll", "backgroundAttachment")).split(", ")[:4] == ["local"] * 2 + ["scroll"] * 2
        assert await overflow(page) == [] and seen.problems == []


async def test_the_current_page_is_in_view_in_the_menu(browser: Browser, home: str) -> None:
    async with visitor(browser, home, width=NARROW) as seen:
        for name in ("", "limits", "settings"):
            box = await (await seen.open(name)).locator(".menu [aria-current]").bounding_box()
            assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= NARROW, name
            assert await seen.page.evaluate("scrollY") == 0
        box = await (await seen.open("tasks?status=expired")).locator(".tabs [aria-current]").bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= NARROW


async def test_bulk_actions_are_there_where_a_task_is(browser: Browser, tq: TaskQ) -> None:
    async with filled(tq), served(tq) as home, visitor(browser, home) as seen:
        await expect((await seen.open("tasks")).locator("#many")).to_be_visible()
        await expect((await seen.open("tasks?type=nothing")).locator("#many")).to_be_hidden()


async def test_no_text_of_a_task_or_a_schedule_makes_a_page_wider_than_the_screen(browser: Browser, tq: TaskQ) -> None:
    text, now = "https://example.com/" + "W" * 3_000, tq.queue.clock.now()
    row = Task(task_id="t" * 200, type="say", seq=now, created_at=now // SECOND, status=Status.FAILED, queue="q" * 200)
    row = row.replace(completed_at=now // SECOND, progress={text: text}, usage={text: 1}, error_message=text)
    await tq.queue.backend.push([row])
    found = []
    async with filled(tq, text) as sample, served(tq, show_args=True) as home, visitor(browser, home) as seen:
        for address in [*chosen_addresses(sample), f"task?id={row.task_id}"]:
            page = await seen.open(address)
            for width in (NARROW, WIDE):
                await page.set_viewport_size({"width": width, "height": 900})
                found += [f"{address} is wider than {width}: {each}" for each in await overflow(page)]
    assert found == []

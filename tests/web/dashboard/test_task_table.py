"""The table of tasks: its columns in each state, the order of the ends, the filter by reason, the way back to it."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.core.limits import Limit
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.web.dashboard.pages import tasks
from tests.support.rows import new
from tests.web.dashboard.conftest import Browse, in_starlette, send

HEADS = {
    "": ["State", "Queue", "Details", "Attempt", "Run time", "Created"],
    "pending": ["Queue", "Why it waits", "Due", "Attempt", "Created"],
    "running": ["Queue", "Progress", "Runs for", "Worker", "Attempt"],
    "completed": ["Queue", "Run time", "Waited", "Attempt", "Ended"],
    "failed": ["Queue", "Error", "Ended", "Attempt", "Run time"],
    "cancelled": ["Queue", "Error", "Ended", "Created"],
    "expired": ["Queue", "Ended", "Created"],
}


async def put(tq: TaskQ, task_id: str, status: Status, **fields: Any) -> None:
    now = tq.queue.clock.now()
    known: dict[str, Any] = {"seq": now, "created_at": now // SECOND, "run_at": now - 9 * SECOND}
    if status is not Status.PENDING:
        known |= {"began_at": now - 4 * SECOND, "started_at": now // SECOND - 4}
        known |= {"ended_at": now - SECOND, "completed_at": now // SECOND - 1}
    await tq.queue.backend.push([new(**{"task_id": task_id, "type": "mail", "status": status, **known, **fields})])


def cells(page: str, task_id: str) -> dict[str, str]:
    """The cells of the row of a task by their labels, without markup."""
    (row,) = [each for each in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if f'href="task?id={task_id}"' in each]
    found = re.findall(r'<td data-label="([^"]*)"[^>]*>(.*?)</td>', row, re.DOTALL)
    return {label: html.unescape(re.sub(r"<[^>]*>", "", text)).strip() for label, text in found}


@pytest.mark.parametrize(("window", "told"), [(1, True), (2, False)])
async def test_a_search_that_did_not_see_every_task_says_so(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch, window: int, told: bool
) -> None:
    monkeypatch.setattr(tasks, "WINDOW", window)
    for task_id in ("one", "two"):
        await put(tq, task_id, Status.FAILED)
    page = (await browse.get("tasks", params={"type": "mail"})).text
    assert (f"Only the newest {window} tasks of each state were searched." in page) is told


@pytest.mark.parametrize("status", HEADS)
async def test_the_columns_are_those_of_the_state(browse: Browse, tq: TaskQ, status: str) -> None:
    await put(tq, "one", Status(status or "failed"), error_message="KeyError: 'k'")
    page = (await browse.get("tasks", params={"status": status})).text
    assert re.findall(r"<th [^>]*>(?:<[^>]*>)?([^<]*)", page)[2:] == HEADS[status]


async def test_the_cells_of_tasks_that_have_ended(tq: TaskQ) -> None:
    await put(tq, "good", Status.COMPLETED, error_message="KeyError: 'first attempt'", retry_count=1)
    await put(tq, "bad", Status.FAILED, error_message="KeyError: 'k'\n\nTraceback", max_retries=0)
    await put(tq, "again", Status.PENDING, error_message="OSError: disk", retry_count=1, run_at=2**52)
    async with in_starlette(tq, show_args=True) as shown, in_starlette(tq) as hidden:
        good = cells((await shown.get("tasks?status=completed")).text, "good")
        assert (good["Run time"], good["Waited"], good["Attempt"]) == ("3.0 s", "5.0 s", "2/4")
        bad = cells((await shown.get("tasks?status=failed")).text, "bad")
        assert (bad["Error"], bad["Attempt"]) == ("KeyError: 'k'", "1/1")
        assert cells((await hidden.get("tasks?status=failed")).text, "bad")["Error"] == "KeyError"
        await put(tq, "killer", Status.FAILED, error_message="poison: its worker died 3 times", crashes=3)
        assert cells((await shown.get("tasks?status=failed")).text, "killer")["Attempt"] == "3 crashes"
        every = (await shown.get("tasks")).text
        assert cells(every, "bad")["Details"] == "KeyError: 'k'" and "first attempt" not in every
        again = cells((await shown.get("tasks?status=pending")).text, "again")
        assert again["Why it waits"] == "next attemptOSError: disk" and again["Due"] != ""


async def test_the_end_of_an_id_and_the_beginning_of_the_params_tell_tasks_apart(tq: TaskQ) -> None:
    task_id = "019ab0a4-6f00-7c3a-9d2e-3f6f3f8a2b11"
    params = {"to": "<b>you</b>", "n": 3, "tags": ["a"], "text": "x" * 900}
    await put(tq, task_id, Status.PENDING, params=params)
    async with in_starlette(tq, show_args=True) as browse:
        page = (await browse.get("tasks")).text
        assert ">…3f6f3f8a2b11</a>" in page
        assert '<span class="under">to=&lt;b&gt;you&lt;/b&gt;, n=3, tags=[&#34;a&#34;], text=xxx' in page
        assert len(re.findall(r'class="under">(.*?)</span>', page)[0]) < 200
    async with in_starlette(tq) as browse:
        assert 'class="under"' not in (await browse.get("tasks")).text
        assert "you" not in (await browse.get("tasks?format=json")).text


async def test_tasks_in_the_order_of_their_ends(browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    at = tq.queue.clock.now() // SECOND
    for task_id, ago in (("first", 5), ("last", 1), ("middle", 3)):
        await put(tq, task_id, Status.FAILED, completed_at=at - ago, ended_at=(at - ago) * SECOND)
    pushed = await browse.get("tasks?status=failed")
    assert 'href="tasks?status=failed&amp;sort=ended"' in pushed.text
    page = await browse.get("tasks?status=failed&sort=ended")
    assert 'aria-sort="descending"' in page.text and "Older tasks" not in page.text
    found = (await browse.get("tasks?status=failed&sort=ended&format=json")).json()["tasks"]
    assert [each["task_id"] for each in found] == ["last", "middle", "first"]
    assert "ended last are shown" not in page.text
    monkeypatch.setattr(tasks, "ROWS", 2)
    page = await browse.get("tasks?status=failed&sort=ended")
    assert "The 2 tasks that ended last are shown." in page.text and "Older tasks" not in page.text
    for other in ("tasks?sort=ended", "tasks?status=pending", "tasks?status=failed&queue=default&sort=ended"):
        assert "sort=ended" not in (await browse.get(other)).text.partition("<thead>")[2], other


async def test_pending_tasks_are_found_by_why_they_wait(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    @tq.task(limit=Limit(1, key="tenant"))
    async def bounded(tenant: str) -> None: ...

    ids = {
        "limit": [(await tq.push("bounded", {"tenant": "a"})).task_id for _ in range(2)][1],
        "delayed": (await tq.push("greet", {"name": "x"}, delay=60)).task_id,
        "paused": (await tq.push("greet", {"name": "x"}, queue="held")).task_id,
    }
    await tq.pause("held")
    for reason, task_id in ids.items():
        data = (await browse.get(f"tasks?status=pending&reason={reason}&format=json")).json()
        assert [each["task_id"] for each in data["tasks"]] == [task_id], reason
        assert (data["searched"], data["matches"], list(data["waits"])) == (4, 1, [task_id])
    page = (await browse.get("tasks?status=pending&reason=paused")).text
    assert '<option value="paused" selected>queue paused</option>' in page
    assert "The newest 4 tasks that match the other filters were searched; 1 match." in page
    assert '<option value="all">' not in page, "the store cannot choose them"
    assert 'name="reason"' not in (await browse.get("tasks?status=failed")).text
    for other in ("tasks?reason=paused", "tasks?status=pending&reason=nonsense"):
        assert len((await browse.get(f"{other}&format=json")).json()["tasks"]) == 4, other
    monkeypatch.setattr(tasks, "SEARCHED", 1)
    assert (await browse.get("tasks?status=pending&reason=delayed&format=json")).json()["tasks"] == []


async def test_a_change_of_chosen_tasks_leads_back_to_the_same_table(tq: TaskQ) -> None:
    await put(tq, "one", Status.FAILED, params={"n": 1})
    async with in_starlette(tq, show_args=True) as browse:
        for address, fields in (
            ("tasks?status=failed&params=n%3D1", {"status": "failed", "params": "n=1"}),
            ("tasks?status=failed&sort=ended", {"status": "failed", "sort": "ended"}),
        ):
            form = (await browse.get(address)).text.partition('id="many"')[2].partition("</form>")[0]
            for name, value in fields.items():
                assert f'<input type="hidden" name="{name}" value="{value}">' in form
            sent = {"which": "selected", "task_id": "one", "sure": "yes"} | fields
            done = await send(browse, "tasks.retry_many", "tasks", **sent)
            assert (done.status_code, done.headers["location"]) == (303, address)


@pytest.mark.parametrize(
    ("before", "back"),
    [
        ("http://test/any/where/tasks?status=failed&type=a+b&evil=1", "tasks?status=failed&amp;type=a+b"),
        ("http://test/any/where/tasks", "tasks"),
        ("http://test/any/where/queues?status=failed", "tasks"),
        ("http://[", "tasks"),
        ("", "tasks"),
    ],
)
async def test_the_way_back_from_a_task_keeps_the_filter(browse: Browse, tq: TaskQ, before: str, back: str) -> None:
    await put(tq, "one", Status.FAILED)
    page = (await browse.get("task?id=one", headers={"Referer": before})).text
    assert f'<p class="crumbs"><a href="{back}">Tasks</a></p>' in page
    assert '<h1><a href="type?name=mail">mail</a></h1>' in page

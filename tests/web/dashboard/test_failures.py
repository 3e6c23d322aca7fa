"""The page of failures by error: its rows, what each leads to, and the button that retries all tasks of a row."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.runtime.queue import bulk
from aiotaskq.web.dashboard import view
from aiotaskq.web.dashboard.pages import failures
from aiotaskq.web.dashboard.pages.failures import searched
from tests.support.rows import new
from tests.web.dashboard.conftest import Browse, form_token, in_starlette, send


async def fail(tq: TaskQ, task_id: str, kind: str, error: str | None, **fields: Any) -> None:
    now = tq.queue.clock.now()
    known = {"status": Status.FAILED, "ended_at": now, "completed_at": now // SECOND, "error_message": error}
    await tq.queue.backend.push([new(**{"task_id": task_id, "type": kind, "seq": now, **known, **fields})])


async def fill(tq: TaskQ) -> None:
    for number in range(3):
        await fail(tq, f"a{number}", "import", f"ValueError: row {number} of <b>\n\nTraceback")
    await fail(tq, "b", "import", "KeyError: 'k'", queue="mail")
    await fail(tq, "c", "mail", None)


def row(page: str, word: str) -> str:
    """The row of the table with this word."""
    (found,) = [each for each in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if word in each]
    return str(found)


async def test_there_is_a_row_for_each_error(tq: TaskQ) -> None:
    await fill(tq)
    async with in_starlette(tq, show_args=True) as browse:
        page = (await browse.get("failures")).text
        most = row(page, "ValueError")
        assert "ValueError: row # of &lt;b&gt;" in most and "<b>" not in page
        assert '<td data-label="Tasks" class="number">3</td>' in most and "<rect" in most
        assert 'href="task?id=a2"' in most and 'href="type?name=import"' in most
        assert page.index("ValueError") < page.index("KeyError")
        assert "Retry all" not in row(page, "type?name=mail"), "there is no error by which they could be found"
        link = html.unescape(re.findall(r'href="(tasks\?[^"]*error=[^"]*)"', most)[0])
        found = (await browse.get(f"{link}&format=json")).json()
        assert [each["task_id"] for each in found["tasks"]] == ["a2", "a1", "a0"]
        latest = (await browse.get("failures?sort=ended&format=json")).json()["failures"]
        assert [each["task_id"] for each in latest] == ["c", "b", "a2"]
        only = (await browse.get("failures?queue=mail&format=json")).json()
        assert [each["error"] for each in only["failures"]] == ["KeyError: 'k'"]
        assert "No task has failed." in (await browse.get("failures?type=none")).text


async def test_without_messages_there_is_a_row_for_each_type_of_error(browse: Browse, tq: TaskQ) -> None:
    await fill(tq)
    page = (await browse.get("failures")).text
    assert "row #" not in page and "messages of errors are not shown" in page
    assert "error=ValueError" in row(page, "ValueError")


@pytest.mark.parametrize("show", [True, False])
async def test_all_tasks_of_a_row_are_retried_after_a_question_with_their_number(tq: TaskQ, show: bool) -> None:
    await fill(tq)
    error = "ValueError: row # of <b>" if show else "ValueError"
    async with in_starlette(tq, show_args=show) as browse:
        page = await browse.get("failures")
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', row(page.text, "ValueError")))
        fields = {name: html.unescape(value) for name, value in fields.items()}
        assert fields["same_error"] == error
        data = fields | {"form_token": form_token(page)}
        question = await browse.post("tasks.retry_many", data=data, headers={"Sec-Fetch-Site": "same-origin"})
        asked = html.unescape(question.text)
        assert "There are 3." in asked
        assert {str(task.status) for task in await tq.find()} == {"failed"}
        done = await send(browse, "tasks.retry_many", "failures", **fields, sure="yes")
        assert done.headers["location"] == "failures"
        assert "Tasks that are pending again: 3." in (await browse.get("failures")).text
    assert {task.task_id for task in await tq.find(status="pending")} == {"a0", "a1", "a2"}


async def test_a_search_for_the_tasks_of_a_row_ends_with_the_time_of_a_request(
    tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tq)
    monkeypatch.setattr(view, "SECONDS", 0.0)
    monkeypatch.setattr(bulk, "RETRY_CHUNK", 1)
    reads, find = [], tq.queue.backend.find

    async def counted(*args: Any) -> Any:
        reads.append(args)
        return await find(*args)

    monkeypatch.setattr(tq.queue.backend, "find", counted)
    async with in_starlette(tq) as browse:
        given = {"which": "all", "status": "failed", "same_error": "OSError", "sure": "yes"}
        await send(browse, "tasks.retry_many", "settings", **given)
        said = "Tasks that are pending again: 0. The time of one request is over; repeat it for the rest."
        assert said in (await browse.get("settings")).text
    assert len(reads) == 1 and await tq.queue.backend.audit.read(10) == []


async def test_who_may_not_retry_has_no_button(tq: TaskQ) -> None:
    await fill(tq)
    async with in_starlette(tq, read_only=True) as browse:
        assert "Retry all" not in (await browse.get("failures")).text


async def test_what_is_not_counted_or_not_shown_is_said(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(tq)
    monkeypatch.setattr(failures, "ROWS", 1)
    async with in_starlette(tq, show_args=True) as browse:
        page = (await browse.get("failures")).text
        assert "There are 3 different errors; the first ones in this order are shown." in page
        assert "failed tasks are counted" not in page
        monkeypatch.setattr(failures, "READ", 2)
        assert "The newest 2 failed tasks are counted." in (await browse.get("failures")).text


async def test_an_open_page_reads_the_failed_tasks_now_and_then(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(tq)
    reads = 0
    find = tq.queue.backend.find

    async def counted(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        return await find(*args)

    monkeypatch.setattr(tq.queue.backend, "find", counted)
    async with in_starlette(tq) as browse:
        await browse.get("failures")
        before = reads
        assert (await browse.get("live", params={"page": "failures"})).json()["parts"]
        assert reads == before, "what was read a moment ago is shown"
        await send(browse, "tasks.retry", "failures", task_id="b")
        await browse.get("failures")
        assert reads > before, "a change is seen at once"


def test_what_is_searched_is_the_same_in_all_tasks_of_a_row() -> None:
    assert searched("ValueError: row # of file # is bad") == "ValueError: row"
    assert searched("OSError: postgresql://me:***@db#/app") == "OSError: postgresql://me:"
    assert searched("KeyError") == "KeyError" and searched("") == ""

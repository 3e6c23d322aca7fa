"""Actions on tasks: push, copy, edit, run again, delete; many at once; and the table's columns and searches."""

from __future__ import annotations

import asyncio
import html
import re
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.core.task import SECOND, Status, Task
from tests.web.dashboard.conftest import Browse, in_starlette, send

Operated = list[dict[str, Any]]


@pytest.fixture
def operated(tq: TaskQ) -> Operated:
    """The audit events."""
    found: Operated = []
    tq.on("operated", lambda event: found.append({name: event.detail[name] for name in ("action", "targets")}))
    return found


async def end(tq: TaskQ, status: Status = Status.COMPLETED, **fields: Any) -> str:
    """Store a task that has ended; return its id."""
    known = {"type": "greet", "params": {"name": "World"}, "completed_at": tq.queue.clock.now() // SECOND}
    now = tq.queue.clock.now()
    row = Task(
        **{"task_id": f"{status}-{now}", "seq": now, "created_at": now // SECOND, **known, **fields, "status": status}
    )
    await tq.queue.backend.push([row])
    return row.task_id


async def pushed(browse: Browse, tq: TaskQ, **fields: str) -> Task:
    done = await send(browse, "add-task", "task-form", **fields)
    assert done.status_code == 303, done.text
    return await tq.get(done.headers["location"].removeprefix("task?id="))


async def test_a_task_is_pushed_by_a_form(browse: Browse, tq: TaskQ, operated: Operated) -> None:
    form = await browse.get("task-form")
    assert '<option value="greet">' in form.text
    task = await pushed(
        browse,
        tq,
        type="greet",
        params='{"name": "you"}',
        queue="mail",
        priority="-2",
        at="2099-01-31T08:00:00Z",
        max_retries="7",
        timeout="2.5",
        unique_key="u",
        idempotency_key="i",
    )
    assert (task.type, task.params, task.queue, task.priority) == ("greet", {"name": "you"}, "mail", -2)
    assert (task.max_retries, task.timeout, task.unique_key, task.idempotency_key) == (7, 2.5, "u", "i")
    assert task.run_at == 4073529600 * SECOND
    again = await send(browse, "add-task", "task-form", type="greet", params='{"name": "x"}', idempotency_key="i")
    assert again.headers["location"] == f"task?id={task.task_id}"
    assert "exists already; none was pushed" in (await browse.get(again.headers["location"])).text
    await asyncio.sleep(0)
    assert operated == [{"action": "add-task", "targets": [task.task_id]}] * 2


async def test_what_is_left_empty_is_that_of_the_type(browse: Browse, tq: TaskQ) -> None:
    task = await pushed(browse, tq, type="greet", params='{"name": "you"}', queue="", priority="", delay="", timeout="")
    assert (task.queue, task.priority, task.max_retries, task.timeout) == ("default", 0, 0, None)
    later = await pushed(browse, tq, type="greet", params='{"name": "you"}', delay="3600")
    assert later.run_at > tq.queue.clock.now() + 3_000 * SECOND


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"params": "{"}, "params: is no JSON"),
        ({"params": "[]"}, "params"),
        ({"params": '{"age": 1}'}, "has no parameter"),
        ({"priority": "high"}, "priority"),
        ({"delay": "-1"}, "delay"),
        ({"at": "soon"}, "at"),
        ({"delay": "1", "at": "2099-01-31T08:00:00Z"}, "give one of the two"),
        ({"type": "nothing"}, "nothing"),
        ({"type": ""}, "type"),
    ],
)
async def test_what_is_refused_is_shown_again(browse: Browse, tq: TaskQ, wrong: dict[str, str], said: str) -> None:
    fields = {"type": "greet", "params": '{"name": "<b>"}', "queue": "own", **wrong}
    page = await send(browse, "add-task", "task-form", **fields)
    assert page.status_code == 422
    assert said in html.unescape(re.search(r'role="alert">.*?</p>', page.text, re.DOTALL)[0])  # type: ignore[index]
    assert 'value="own"' in page.text
    (kept,) = re.findall(r"<textarea.*?>(.*?)</textarea>", page.text, re.DOTALL)
    assert html.unescape(kept) == fields["params"] and "<b>" not in kept
    assert await tq.find() == []


async def test_a_copy_is_filled_from_its_task(tq: TaskQ) -> None:
    source = (await tq.push("greet", {"name": "<b>you</b>"}, queue="mail", priority=4, timeout=9)).task_id
    async with in_starlette(tq, show_args=True) as browse:
        form = await browse.get("task-form", params={"from": source})
        assert 'value="mail"' in form.text and "&lt;b&gt;you&lt;/b&gt;" in form.text and "<b>you" not in form.text
        copy = await pushed(browse, tq, **{"from": source}, type="greet", params='{"name": "me"}', queue="mail")
        assert (copy.params, copy.queue, copy.task_id != source) == ({"name": "me"}, "mail", True)


async def test_a_copy_keeps_params_that_are_not_shown(browse: Browse, tq: TaskQ) -> None:
    source = (await tq.push("greet", {"name": "secret-name"})).task_id
    form = await browse.get("task-form", params={"from": source})
    assert "secret-name" not in form.text and "not shown here" in form.text
    copy = await pushed(browse, tq, **{"from": source}, type="greet", params="")
    assert copy.params == {"name": "secret-name"}


async def test_a_pending_task_is_edited(browse: Browse, tq: TaskQ, operated: Operated) -> None:
    task_id = (await tq.push("greet", {"name": "you"}, delay=3600, timeout=9)).task_id
    page = await browse.get("task", params={"id": task_id})
    assert f'href="task-form?id={task_id}"' in page.text
    fields = {"id": task_id, "fence": "0", "queue": "mail", "priority": "3", "max_retries": "2", "timeout": ""}
    wrong = await send(browse, "edit-task", f"task-form?id={task_id}", **fields, params='{"age": 1}')
    assert wrong.status_code == 422 and "has no parameter" in wrong.text and 'name="fence" value="0"' in wrong.text
    before = await tq.get(task_id)
    done = await send(browse, "edit-task", f"task-form?id={task_id}", **fields)
    assert (done.status_code, done.headers["location"]) == (303, f"task?id={task_id}")
    after = await tq.get(task_id)
    assert after == before.replace(queue="mail", priority=3, max_retries=2, timeout=None, fence=1)
    outdated = await send(browse, "edit-task", f"task-form?id={task_id}", **fields)
    assert (outdated.status_code, "changed meanwhile" in outdated.text) == (409, True)
    await send(browse, "edit-task", f"task-form?id={task_id}", **{**fields, "fence": "1"}, params='{"name": "me"}')
    assert (await tq.get(task_id)).params == {"name": "me"}
    await asyncio.sleep(0)
    assert operated == [{"action": "edit-task", "targets": [task_id]}] * 2


async def test_a_task_that_has_ended_is_not_edited(browse: Browse, tq: TaskQ) -> None:
    task_id = await end(tq)
    assert f"task-form?id={task_id}" not in (await browse.get("task", params={"id": task_id})).text
    fields = {"id": task_id, "fence": "0", "queue": "q", "priority": "1"}
    refused = await send(browse, "edit-task", "tasks", **fields)
    assert (refused.status_code, "only pending tasks are edited" in refused.text) == (409, True)


async def test_a_completed_task_runs_again(browse: Browse, tq: TaskQ, operated: Operated) -> None:
    task_id = await end(tq, result="old", queue="mail", priority=2)
    asked = await send(browse, "rerun-task", f"task?id={task_id}", id=task_id)
    assert asked.status_code == 200 and (await tq.get(task_id)).final
    await send(browse, "rerun-task", f"task?id={task_id}", id=task_id, sure="yes")
    again = await tq.get(task_id)
    assert (again.status, again.result, again.queue, again.priority) == (Status.PENDING, None, "mail", 2)
    refused = await send(browse, "rerun-task", "tasks", id=task_id, sure="yes")
    assert (refused.status_code, "only ended tasks are run again" in refused.text) == (409, True)
    await asyncio.sleep(0)
    assert operated == [{"action": "rerun-task", "targets": [task_id]}]


async def test_an_ended_task_is_deleted(browse: Browse, tq: TaskQ, operated: Operated) -> None:
    gone, kept = await end(tq), await end(tq, Status.FAILED)
    asked = await send(browse, "delete-task", f"task?id={gone}", id=gone)
    assert asked.status_code == 200 and "cannot be undone" in asked.text
    done = await send(browse, "delete-task", f"task?id={gone}", id=gone, sure="yes")
    assert done.headers["location"] == "tasks"
    assert [task.task_id for task in await tq.find()] == [kept]
    live = (await tq.push("greet", {"name": "x"}, delay=60)).task_id
    refused = await send(browse, "delete-task", "tasks", id=live, sure="yes")
    assert (refused.status_code, (await tq.get(live)).status) == (409, Status.PENDING)
    await asyncio.sleep(0)
    assert operated == [{"action": "delete-task", "targets": [gone]}]


async def test_who_may_only_look_has_no_buttons(tq: TaskQ) -> None:
    task_id = await end(tq)
    async with in_starlette(tq, read_only=True) as browse:
        page = await browse.get("task", params={"id": task_id})
        for name in ("rerun-task", "delete-task", "task-form"):
            assert name not in page.text
        for name in ("add-task", "edit-task", "rerun-task", "delete-task"):
            assert (await send(browse, name, "tasks", id=task_id, sure="yes")).status_code == 403
    assert (await tq.get(task_id)).final


async def test_a_task_is_found_by_the_beginning_of_its_id(browse: Browse, tq: TaskQ) -> None:
    for task_id in ("abcd-1", "abcd-2", "abce"):
        await tq.push("greet", {"name": "x"}, task_id=task_id)
    found = await browse.get("task", params={"id": " abcd-2 "})
    assert (found.status_code, "abcd-2" in found.text) == (200, True)
    assert "abce" in (await browse.get("task", params={"id": "abce"})).text
    several = await browse.get("task", params={"id": "abcd"})
    assert (several.status_code, "several task ids begin so" in several.text) == (404, True)
    for unknown in ("abc", "zzzz", "_bcd", "%bcd"):
        assert (await browse.get("task", params={"id": unknown})).status_code == 404

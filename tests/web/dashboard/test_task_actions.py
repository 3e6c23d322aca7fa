"""Actions on tasks: push, copy, edit, run again, delete; many at once; and the table's columns and searches."""

from __future__ import annotations

import asyncio
import html
import re
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.runtime.queue import bulk
from aiotaskq.web.dashboard import view
from aiotaskq.web.dashboard.pages import tasks
from tests.web.dashboard.conftest import Browse, form_token, in_starlette, send

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
    done = await send(browse, "tasks.push", "task-form", **fields)
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
    again = await send(browse, "tasks.push", "task-form", type="greet", params='{"name": "x"}', idempotency_key="i")
    assert again.headers["location"] == f"task?id={task.task_id}"
    assert "exists already; none was pushed" in (await browse.get(again.headers["location"])).text
    await asyncio.sleep(0)
    assert operated == [{"action": "tasks.push", "targets": [task.task_id]}], "none was pushed the second time"


async def test_what_is_left_empty_is_that_of_the_type(browse: Browse, tq: TaskQ) -> None:
    task = await pushed(browse, tq, type="greet", params='{"name": "you"}', queue="", priority="", delay="", timeout="")
    assert (task.queue, task.priority, task.max_retries, task.timeout) == ("default", 0, 0, None)
    later = await pushed(browse, tq, type="greet", params='{"name": "you"}', delay="3600")
    assert later.run_at > tq.queue.clock.now() + 3_000 * SECOND


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"params": "{"}, "Params as JSON: is no JSON"),
        ({"params": "[]"}, "Params as JSON: "),
        ({"params": '{"age": 1}'}, "has no parameter"),
        ({"priority": "high"}, "Priority, the smallest first: "),
        ({"delay": "-1"}, "Due in so many seconds: "),
        ({"at": "soon"}, "Due at this time, with an offset: "),
        ({"delay": "1", "at": "2099-01-31T08:00:00Z"}, "give one of the two"),
        ({"type": "nothing"}, "nothing"),
        ({"type": ""}, "type"),
    ],
)
async def test_what_is_refused_is_shown_again(browse: Browse, tq: TaskQ, wrong: dict[str, str], said: str) -> None:
    fields = {"type": "greet", "params": '{"name": "<b>"}', "queue": "own", **wrong}
    page = await send(browse, "tasks.push", "task-form", **fields)
    assert page.status_code == 422
    assert said in html.unescape(re.search(r'role="alert">.*?</p>', page.text, re.DOTALL)[0])  # type: ignore[index]
    assert 'value="own"' in page.text
    (kept,) = re.findall(r"<textarea.*?>(.*?)</textarea>", page.text, re.DOTALL)
    assert html.unescape(kept) == fields["params"] and "<b>" not in kept
    assert await tq.find() == []


async def test_an_ended_task_is_rerun_as_a_new_one(tq: TaskQ, operated: Operated) -> None:
    source = await end(tq, params={"name": "<b>you</b>"}, queue="mail", priority=4)
    async with in_starlette(tq, show_args=True) as browse:
        assert f'href="task-form?task_id={source}"' in (await browse.get("task", params={"id": source})).text
        form = await browse.get("task-form", params={"task_id": source})
        assert "Rerun the task" in form.text and "&lt;b&gt;you&lt;/b&gt;" in form.text and "<b>you" not in form.text
        wrong = await send(browse, "tasks.rerun", "task-form", task_id=source, params='{"age": 1}')
        assert wrong.status_code == 422 and "has no parameter" in wrong.text and "Rerun the task" in wrong.text
        done = await send(browse, "tasks.rerun", "task-form", task_id=source, params='{"name": "me"}')
        new_id = done.headers["location"].removeprefix("task?id=")
        live = await send(browse, "tasks.rerun", "tasks", task_id=new_id)
        assert (live.status_code, "only ended tasks are rerun" in live.text) == (409, True)
    new = await tq.get(new_id)
    assert (new.params, new.queue, new.priority, new.status) == ({"name": "me"}, "mail", 4, Status.PENDING)
    assert (await tq.get(source)).final
    await asyncio.sleep(0)
    assert operated == [{"action": "tasks.rerun", "targets": [source, new_id]}]


async def test_a_rerun_keeps_params_that_are_not_shown(browse: Browse, tq: TaskQ) -> None:
    source = await end(tq, params={"name": "secret-name"})
    form = await browse.get("task-form", params={"task_id": source})
    assert "secret-name" not in form.text and "not shown here" in form.text
    done = await send(browse, "tasks.rerun", "task-form", task_id=source, params="")
    new = await tq.get(done.headers["location"].removeprefix("task?id="))
    assert new.params == {"name": "secret-name"}


async def test_a_pending_task_is_edited(browse: Browse, tq: TaskQ, operated: Operated) -> None:
    task_id = (await tq.push("greet", {"name": "you"}, delay=3600, timeout=9)).task_id
    page = await browse.get("task", params={"id": task_id})
    assert f'href="task-form?task_id={task_id}"' in page.text
    fields = {"task_id": task_id, "fence": "0", "queue": "mail", "priority": "3", "max_retries": "2", "timeout": ""}
    wrong = await send(browse, "tasks.edit", f"task-form?task_id={task_id}", **fields, params='{"age": 1}')
    assert wrong.status_code == 422 and "has no parameter" in wrong.text and 'name="fence" value="0"' in wrong.text
    before = await tq.get(task_id)
    done = await send(browse, "tasks.edit", f"task-form?task_id={task_id}", **fields)
    assert (done.status_code, done.headers["location"]) == (303, f"task?id={task_id}")
    after = await tq.get(task_id)
    assert after == before.replace(queue="mail", priority=3, max_retries=2, timeout=None, fence=1)
    outdated = await send(browse, "tasks.edit", f"task-form?task_id={task_id}", **fields)
    assert (outdated.status_code, "changed meanwhile" in outdated.text) == (409, True)
    await send(
        browse, "tasks.edit", f"task-form?task_id={task_id}", **{**fields, "fence": "1"}, params='{"name": "me"}'
    )
    assert (await tq.get(task_id)).params == {"name": "me"}
    await asyncio.sleep(0)
    assert operated == [{"action": "tasks.edit", "targets": [task_id]}] * 2


async def test_a_task_that_has_ended_is_not_edited(browse: Browse, tq: TaskQ) -> None:
    task_id = await end(tq)
    assert ">Edit</a>" not in (await browse.get("task", params={"id": task_id})).text
    fields = {"task_id": task_id, "fence": "0", "queue": "q", "priority": "1"}
    refused = await send(browse, "tasks.edit", "tasks", **fields)
    assert (refused.status_code, "only pending tasks are edited" in refused.text) == (409, True)


async def test_an_ended_task_is_deleted(browse: Browse, tq: TaskQ, operated: Operated) -> None:
    gone, kept = await end(tq), await end(tq, Status.FAILED)
    asked = await send(browse, "tasks.delete", f"task?id={gone}", task_id=gone)
    assert asked.status_code == 200 and "cannot be undone" in asked.text
    done = await send(browse, "tasks.delete", f"task?id={gone}", task_id=gone, sure="yes")
    assert done.headers["location"] == "tasks"
    assert [task.task_id for task in await tq.find()] == [kept]
    live = (await tq.push("greet", {"name": "x"}, delay=60)).task_id
    refused = await send(browse, "tasks.delete", "tasks", task_id=live, sure="yes")
    assert (refused.status_code, (await tq.get(live)).status) == (409, Status.PENDING)
    await asyncio.sleep(0)
    assert operated == [{"action": "tasks.delete", "targets": [gone]}]


async def test_who_may_only_look_has_no_buttons(tq: TaskQ) -> None:
    task_id = await end(tq)
    async with in_starlette(tq, read_only=True) as browse:
        page = await browse.get("task", params={"id": task_id})
        for name in ("tasks.rerun", "tasks.delete", "task-form"):
            assert name not in page.text
        for name in ("tasks.push", "tasks.edit", "tasks.rerun", "tasks.delete"):
            assert (await send(browse, name, "tasks", task_id=task_id, sure="yes")).status_code == 403
    assert (await tq.get(task_id)).final


async def test_a_task_is_found_by_the_beginning_of_its_id(browse: Browse, tq: TaskQ) -> None:
    for task_id in ("abcd-1", "abcd-2", "abce"):
        await tq.push("greet", {"name": "x"}, task_id=task_id)
    found = await browse.get("task", params={"id": " abcd-2 "})
    assert (found.status_code, "abcd-2" in found.text) == (200, True)
    assert "abce" in (await browse.get("task", params={"id": "abce"})).text
    several = await browse.get("task", params={"id": "abcd"})
    assert (several.status_code, "several ids begin with it: abcd-1, abcd-2" in several.text) == (404, True)
    for unknown in ("abc", "zzzz", "_bcd", "%bcd"):
        assert (await browse.get("task", params={"id": unknown})).status_code == 404


# ---- many tasks -----------------------------------------------------------------------------------------------------


async def act(browse: Browse, action: str, sure: bool = True, **fields: Any) -> str:
    """Answer the question of an action on many tasks with yes; return what is said then, or else the question."""
    form = form_token(await browse.get("tasks"))
    data = {"form_token": form, **({"sure": "yes"} if sure else {}), **fields}
    answer = await browse.post(action, data=data, headers={"Sec-Fetch-Site": "same-origin"})
    if answer.status_code == 200:
        return html.unescape(answer.text)
    assert answer.status_code == 303, answer.text
    return html.unescape((await browse.get(answer.headers["location"])).text)


async def statuses(tq: TaskQ) -> dict[str, str]:
    return {task.task_id: str(task.status) for task in await tq.find()}


async def test_the_table_offers_what_may_be_done(browse: Browse, tq: TaskQ) -> None:
    task_id = await end(tq)
    page = (await browse.get("tasks")).text
    assert f'name="task_id" value="{task_id}"' in page and 'form="many"' in page
    async with in_starlette(tq, allow=lambda _request, name: name in ("view", "tasks.delete")) as limited:
        page = (await limited.get("tasks")).text
        assert 'formaction="tasks.delete_many"' in page
        assert "tasks.retry_many" not in page and "tasks.cancel_many" not in page
        assert (await send(limited, "tasks.retry_many", "tasks", which="all", sure="yes")).status_code == 403
    async with in_starlette(tq, allow=lambda _request, name: name != "tasks.delete") as limited:
        assert "tasks.delete_many" not in (await limited.get("tasks")).text
        assert (await send(limited, "tasks.delete_many", "tasks", which="all", sure="yes")).status_code == 403
        assert task_id in await statuses(tq)
    async with in_starlette(tq, read_only=True) as reader:
        assert 'type="checkbox"' not in (await reader.get("tasks")).text


@pytest.mark.parametrize("which", ["selected", "all"])
async def test_many_are_retried(browse: Browse, tq: TaskQ, operated: Operated, which: str) -> None:
    failed, cancelled = await end(tq, Status.FAILED), await end(tq, Status.CANCELLED)
    done, other = await end(tq), await end(tq, Status.FAILED, type="other")
    chosen = {"task_id": [failed, cancelled, done]} if which == "selected" else {"type": "greet"}
    question = await act(browse, "tasks.retry_many", sure=False, which=which, **chosen)
    assert ("3 are selected" if which == "selected" else "There are 2.") in question
    before = await statuses(tq)
    assert "pending" not in before.values()
    assert "Tasks that are pending again: 2." in await act(browse, "tasks.retry_many", which=which, **chosen)
    assert await statuses(tq) == {**before, failed: "pending", cancelled: "pending"} and before[other] == "failed"
    await asyncio.sleep(0)
    targets = (
        [failed, cancelled]
        if which == "selected"
        else ["filter: status=failed,cancelled,expired type=greet", "count: 2"]
    )
    assert operated == [{"action": "tasks.retry", "targets": targets}]


@pytest.mark.parametrize("which", ["selected", "all"])
async def test_many_are_cancelled(browse: Browse, tq: TaskQ, operated: Operated, which: str) -> None:
    ids = [(await tq.push("greet", {"name": "x"}, delay=60, queue=queue)).task_id for queue in ("q", "q", "other")]
    ended = await end(tq, queue="q")
    chosen = {"task_id": [ids[0], ids[1], ended, "none"]} if which == "selected" else {"queue": "q"}
    assert ("4" if which == "selected" else "There are 2;") in await act(
        browse, "tasks.cancel_many", sure=False, which=which, **chosen
    )
    assert "cancelled or asked to stop: 2." in await act(browse, "tasks.cancel_many", which=which, **chosen)
    found = await statuses(tq)
    assert [found[each] for each in (*ids, ended)] == ["cancelled", "cancelled", "pending", "completed"]
    await asyncio.sleep(0)
    targets = ids[:2] if which == "selected" else ["filter: status=pending,running queue=q", "count: 2"]
    assert operated == [{"action": "tasks.cancel", "targets": targets}]


@pytest.mark.parametrize("which", ["selected", "all"])
async def test_many_are_deleted(browse: Browse, tq: TaskQ, operated: Operated, which: str) -> None:
    gone = [
        await end(tq, Status.FAILED, error_message="OSError: disk"),
        await end(tq, Status.FAILED, error_message="OSError: full"),
    ]
    kept = [await end(tq, Status.FAILED), await end(tq), (await tq.push("greet", {"name": "x"}, delay=9)).task_id]
    chosen = {"task_id": [*gone, kept[2]]} if which == "selected" else {"status": "failed", "error": "OSError"}
    assert "cannot be undone" in await act(browse, "tasks.delete_many", sure=False, which=which, **chosen)
    assert "Tasks that were deleted: 2." in await act(browse, "tasks.delete_many", which=which, **chosen)
    assert set(await statuses(tq)) == set(kept)
    await asyncio.sleep(0)
    targets = gone if which == "selected" else ["filter: status=failed error=OSError", "count: 2"]
    assert operated == [{"action": "tasks.delete", "targets": targets}]


async def test_members_of_a_group_that_goes_on_are_not_deleted_with_all(browse: Browse, tq: TaskQ) -> None:
    await tq.group([tq.call("greet", {"name": "you"}), tq.call("greet", {"name": "me"})])
    (task,) = await tq.queue.backend.claim("w", tq.queue.clock.now(), 1)
    assert await tq.queue.backend.update([Change(task, settle(task, Completed(), tq.queue.clock.now()))]) == [True]
    assert "Nothing matches." in await act(browse, "tasks.delete_many", sure=False, which="all", type="greet")
    assert "Tasks that were deleted: 0." in await act(browse, "tasks.delete_many", which="all", type="greet")


async def test_all_that_a_schedule_fired(browse: Browse, tq: TaskQ) -> None:
    mine, other = await end(tq, scheduler_task_id="s"), await end(tq, scheduler_task_id="t")
    gone = await end(tq, Status.FAILED, scheduler_task_id="s")
    await act(browse, "tasks.delete_many", which="all", schedule="s", status="failed")
    assert set(await statuses(tq)) == {mine, other}
    await act(browse, "tasks.retry_many", which="all", schedule="s", status="completed")
    assert set((await statuses(tq)).values()) == {"completed"} and gone not in await statuses(tq)


@pytest.mark.parametrize(
    ("action", "fields", "said"),
    [
        ("tasks.retry_many", {"which": "selected"}, "Nothing is selected."),
        ("tasks.retry_many", {}, "Nothing is selected."),
        ("tasks.cancel_many", {"which": "all", "status": "completed"}, "Nothing matches."),
        ("tasks.retry_many", {"which": "all", "type": "none"}, "Nothing matches."),
    ],
)
async def test_nothing_to_do_is_said(browse: Browse, tq: TaskQ, action: str, fields: dict[str, str], said: str) -> None:
    task_id = await end(tq)
    assert said in await act(browse, action, sure=False, **fields)
    await act(browse, action, **fields)
    assert await statuses(tq) == {task_id: "completed"}
    assert await tq.queue.backend.audit.read(1) == []


async def test_more_than_can_be_counted(browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "COUNT_SECONDS", 0.0)
    assert "They are many." in await act(browse, "tasks.delete_many", sure=False, which="all", type="greet")


@pytest.mark.parametrize("which", ["selected", "all"])
async def test_what_is_left_after_the_time_limit_is_said(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr(view, "SECONDS", 0.0)
    monkeypatch.setattr(bulk, "RETRY_CHUNK", 1)
    ids = [await end(tq, Status.FAILED) for _ in range(3)]
    said = await act(browse, "tasks.retry_many", which=which, task_id=ids, status="failed")
    assert "The time of one request is over; repeat it for the rest." in said
    assert list((await statuses(tq)).values()).count("failed") == 2  # a first transaction is always made


# ---- the table ------------------------------------------------------------------------------------------------------


async def test_the_columns_of_a_running_task(browse: Browse, tq: TaskQ) -> None:
    now = tq.queue.clock.now()
    row = Task(task_id="run", type="greet", seq=now, created_at=now // SECOND, run_at=now)
    await tq.queue.backend.push([row])
    (task,) = await tq.queue.backend.claim("host:7", now, 1)
    await tq.queue.backend.report([(task.task_id, task.fence, {"done": 3, "total": 12, "message": "<b>"})])
    page = (await browse.get("tasks")).text
    assert "host:7" in page and '<progress max="12" value="3"' in page and "3/12" in page
    row_data = (await browse.get("tasks", params={"format": "json"})).json()["tasks"][0]
    assert row_data["run_time"] is not None and row_data["run_time"] == int(row_data["run_time"])


@pytest.mark.parametrize("progress", [{"done": "<b>", "total": 3}, {"done": 1}, {"total": 0, "done": 0}, {"x": 1}])
async def test_any_progress_is_no_problem_for_the_table(browse: Browse, tq: TaskQ, progress: dict[str, Any]) -> None:
    await end(tq, Status.FAILED, progress=progress)
    page = await browse.get("tasks")
    assert page.status_code == 200 and "<progress" not in page.text and "<b>" not in page.text


async def test_params_are_searched_in_the_newest_tasks(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "SEARCHED", 3)
    ids = [await end(tq, params={"name": name}) for name in ("Ann", "ann", "Bob", "Hanna")]
    async with in_starlette(tq, show_args=True) as browse:
        page = await browse.get("tasks", params={"params": "ANN"})
        assert "The newest 3 tasks that match the other filters were searched; 2 match." in page.text
        found = (await browse.get("tasks", params={"params": "ANN", "format": "json"})).json()
        assert [each["task_id"] for each in found["tasks"]] == [ids[3], ids[1]]
    async with in_starlette(tq) as browse:
        page = await browse.get("tasks", params={"params": "ann"})
        assert 'name="params"' not in page.text and "were searched" not in page.text
        assert all(each in page.text for each in ids)  # nothing is told by what is found

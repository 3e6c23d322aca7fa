"""Changes by several people and processes at once: stale buttons, overwritten edits, and errors midway."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import text

from aiotaskq import TaskQ
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.core.status import Status
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.queue import operations
from aiotaskq.web.dashboard import counts, site
from tests.support.machine import within
from tests.support.rows import worker_info
from tests.web.dashboard.conftest import Browse, form_token, in_starlette, send

SAME = {"Sec-Fetch-Site": "same-origin"}
SCHEDULE = {"name": "n", "type": "greet", "schedule_type": "interval", "timing": "60"}


async def test_the_button_of_a_queue_is_right_where_counts_are_kept(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "EXACT", 0)
    monkeypatch.setattr(counts, "SHARE", 10**9)
    await tq.push("greet", {"name": "x"})
    assert 'action="queues.pause"' in (await browse.get("queues")).text
    async with TaskQ(tq.url) as other:
        await other.pause()
        page = (await browse.get("queues")).text
        assert 'action="queues.resume"' in page and "≈" in page
        await other.resume()
        assert 'action="queues.pause"' in (await browse.get("queue?name=default")).text


async def test_the_counts_of_few_tasks_are_exact_however_long_they_take(
    tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "EXACT", 2)
    monkeypatch.setattr(counts, "SHARE", 10**12)
    kept, found = counts.Counts(tq), []
    for _ in range(4):
        await tq.push("greet", {"name": "x"})
        counted = await kept.get()
        found.append((counted.stats.counts["pending"], counted.approximate))
    assert found == [(1, False), (2, False), (3, False), (3, True)]


async def test_a_page_that_waits_for_the_counts_of_another_reads_what_is_paused_itself(
    tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, begun, go_on, read = counts.Counts(tq), asyncio.Event(), asyncio.Event(), tq.stats

    async def slow() -> Any:
        found = await read()
        begun.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(tq, "stats", slow)
    first = asyncio.create_task(kept.get())
    await begun.wait()
    await tq.pause("q")
    second = asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    go_on.set()
    assert ((await first).stats.paused, (await second).stats.paused) == ([], ["q"])


# ---- edits ----------------------------------------------------------------------------------------------------------


def seen_of(page: str) -> str:
    found = re.search(r'name="seen" value="(\w+)"', page)
    assert found is not None
    return found[1]


def stored_in(page: str) -> dict[str, tuple[str, str]]:
    """Return each field that says what is stored now, with what was typed."""
    pattern = r'<input name="(\w+)" value="([^"]*)"[^>]*><span class="under">stored now: <b>(.*?)</b>'
    return {name: (typed, stored) for name, typed, stored in re.findall(pattern, page)}


async def test_of_two_forms_of_a_task_the_second_shows_both_versions(tq: TaskQ) -> None:
    task_id = (await tq.push("greet", {"name": "you"}, delay=3600)).task_id
    address = f"task-form?task_id={task_id}"
    fields = {"task_id": task_id, "fence": "0", "queue": "default", "priority": "0", "max_retries": "0", "timeout": ""}
    async with in_starlette(tq, show_args=True) as browse:
        assert (await send(browse, "tasks.edit", address, **fields | {"queue": "mail"})).status_code == 303
        mine = fields | {"priority": "5", "params": '{"name":\r\n"me"}'}
        late = await send(browse, "tasks.edit", address, **mine)
        assert late.status_code == 409 and stored_in(late.text) == {
            "queue": ("default", "mail"),
            "priority": ("5", "0"),
        }
        assert late.text.count("stored now:") == 3 and "&#34;you&#34;" in late.text, "of the params, too"
        assert 'name="fence" value="1"' in late.text, "to save it again is to know of both"
        assert (await send(browse, "tasks.edit", address, **mine | {"fence": "1"})).status_code == 303
        assert ((found := await tq.get(task_id)).priority, found.params) == (5, {"name": "me"})
        await tq.cancel(task_id)
        now = {"queue": "typed", "fence": f"{(await tq.get(task_id)).fence}"}
        ended = await send(browse, "tasks.edit", address, **mine | now)
        assert ended.status_code == 409 and "only pending tasks are edited" in ended.text
        assert "Edit the task" in ended.text and 'value="typed"' in ended.text
        await tq.delete(task_id)
        gone = await send(browse, "tasks.edit", "tasks", **mine)
        assert gone.status_code == 404 and 'href="tasks">Back' in gone.text


async def test_of_two_forms_of_a_schedule_the_second_overwrites_nothing(browse: Browse, tq: TaskQ) -> None:
    schedule_id = (await tq.schedules.add("n", "greet", params={"name": "x"}, interval=60)).task_id
    address = f"schedule-form?id={schedule_id}"
    fields = {**SCHEDULE, "id": schedule_id, "schedule": schedule_id, "seen": seen_of((await browse.get(address)).text)}
    assert (await send(browse, "schedules.update", address, **fields, priority="4")).status_code == 303
    late = await send(browse, "schedules.update", address, **fields, queue="mail", priority="0")
    assert late.status_code == 409 and "changed meanwhile; read it again" in late.text
    assert stored_in(late.text) == {"queue": ("mail", "default"), "priority": ("0", "4")}, "what was typed, and what is"
    assert ((found := await tq.schedules.get(schedule_id)).priority, found.queue) == (4, "default")
    refused = await send(browse, "schedules.update", address, **{**fields, "priority": "high"})
    assert refused.status_code == 422 and seen_of(refused.text) == fields["seen"]
    assert stored_in(refused.text) == {}
    again = fields | {"seen": seen_of(late.text)}
    assert (await send(browse, "schedules.update", address, **again, queue="mail")).status_code == 303
    assert (await tq.schedules.get(schedule_id)).queue == "mail"
    assert (await send(browse, "schedules.update", address, **SCHEDULE, schedule=schedule_id)).status_code == 422


async def test_a_schedule_that_has_fired_meanwhile_is_still_the_one_of_the_form(browse: Browse, tq: TaskQ) -> None:
    schedule_id = (await tq.schedules.add("n", "greet", params={"name": "x"}, interval=60)).task_id
    address = f"schedule-form?id={schedule_id}"
    seen = seen_of((await browse.get(address)).text)
    await tq.schedules.run_now(schedule_id)
    await tq.schedules.pause(schedule_id)
    done = await send(browse, "schedules.update", address, **SCHEDULE, schedule=schedule_id, seen=seen, priority="4")
    assert done.status_code == 303 and (await tq.schedules.get(schedule_id)).priority == 4


async def test_a_schedule_whose_type_is_handled_by_nobody_here_is_edited(browse: Browse, tq: TaskQ) -> None:
    tq.elsewhere("theirs")
    schedule_id = (await tq.schedules.add("n", "theirs", interval=60)).task_id
    tq._registered.elsewhere.clear()
    address = f"schedule-form?id={schedule_id}"
    fields = {**SCHEDULE, "type": "theirs", "schedule": schedule_id}
    fields["seen"] = seen_of((await browse.get(address)).text)
    assert (await send(browse, "schedules.update", address, **fields, priority="4")).status_code == 303
    fields["seen"] = seen_of((await browse.get(address)).text)
    refused = await send(browse, "schedules.update", address, **fields | {"type": "gret"})
    assert refused.status_code == 422 and "did you mean" in refused.text
    assert ((found := await tq.schedules.get("n")).priority, found.task_type) == (4, "theirs")


async def test_an_edit_that_another_one_overtakes_between_its_read_and_its_write(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule_id = (await tq.schedules.add("n", "greet", params={"name": "x"}, interval=60)).task_id
    address = f"schedule-form?id={schedule_id}"
    seen, schedules = seen_of((await browse.get(address)).text), tq.queue.backend.schedules
    assert schedules is not None
    change = schedules.change

    async def overtaken(changes: Any) -> Any:
        monkeypatch.setattr(schedules, "change", change)
        await tq.schedules.update(schedule_id, queue="first")
        return await change(changes)

    monkeypatch.setattr(schedules, "change", overtaken)
    done = await send(browse, "schedules.update", address, **SCHEDULE, schedule=schedule_id, seen=seen, queue="second")
    assert done.status_code == 409 and (await tq.schedules.get(schedule_id)).queue == "first"


@pytest.mark.parametrize("show_args", [False, True])
async def test_a_value_that_is_null_can_be_deleted(tq: TaskQ, show_args: bool) -> None:
    await tq.values.set_public("cookie", None)
    async with in_starlette(tq, show_args=show_args) as browse:
        page = (await browse.get("value?key=cookie")).text
        assert ("<pre>null</pre>" in page) is show_args
        assert "There is no value" not in page and 'action="values.delete"' in page
        await send(browse, "values.delete", "value?key=cookie", key="cookie", sure="yes")
        assert 'action="values.delete"' not in (await browse.get("value?key=cookie")).text


async def test_an_edited_value_expires_when_it_would_have(tq: TaskQ) -> None:
    def fields(page: str) -> dict[str, str]:
        return dict(re.findall(r'<input[^>]* name="(ttl|shown|until)" value="([^"]*)"', page))

    async with in_starlette(tq, show_args=True) as browse:

        async def edit(**changed: str) -> Any:
            given = fields((await browse.get("value?key=cookie")).text)
            return await send(
                browse, "values.set", "value?key=cookie", key="cookie", **{"value": "2", **given, **changed}
            )

        await tq.values.set_public("cookie", 1, ttl=120)
        page = (await browse.get("value?key=cookie")).text
        assert "Expires" in page and fields(page)["ttl"] == fields(page)["shown"] == "120"
        assert (await edit()).status_code == 303
        left = await tq.values.get_ttl("cookie")
        assert left is not None and 0 < left <= 120 and await tq.values.get_public("cookie") == 2
        late = await edit(until="1000")  # the form was open for longer
        assert late.status_code == 422 and "the value has expired meanwhile" in late.text
        assert (await edit(until="x")).status_code == 422
        assert (await edit(ttl="500")).status_code == 303
        assert 120 < (await tq.values.get_ttl("cookie") or 0) <= 500
        assert (await edit(ttl="")).status_code == 303
        assert await tq.values.get_ttl("cookie") is None
        page = (await browse.get("value?key=cookie")).text
        assert "Expires" not in page and fields(page) == {"ttl": "", "shown": "", "until": ""}
        assert (await edit()).status_code == 303 and await tq.values.get_ttl("cookie") is None


@pytest.mark.parametrize("value", [{1, 2}, {1: 2}, float("nan"), b"x"])
async def test_an_object_in_memory_is_not_edited_as_the_text_that_is_shown_of_it(value: Any) -> None:
    async with TaskQ("memory://") as tq, in_starlette(tq, show_args=True) as browse:
        await tq.values.set_public("seen", value)
        await tq.values.set_public("text", {"n": [1, None]})
        page, text = (await browse.get("value?key=seen")).text, (await browse.get("value?key=text")).text
        assert "JSON cannot hold this value" in page and "></textarea>" in page
        assert "JSON cannot hold" not in text and "></textarea>" not in text


async def test_the_list_of_values_says_when_each_expires(browse: Browse, tq: TaskQ) -> None:
    await tq.values.set_public("cookie", 1, ttl=120)
    await tq.values.set_public("rate", 1)
    first, second = (await browse.get("values?format=json")).json()["keys"]
    assert (first["key"], second) == ("cookie", {"key": "rate", "expires": None})
    page = (await browse.get("values")).text
    assert f'<time datetime="{first["expires"]}"' in page and ">never</td>" in page


async def test_a_digest_of_a_form_tells_nothing_of_params_that_are_not_shown(tq: TaskQ) -> None:
    schedule_id = (await tq.schedules.add("n", "greet", params={"name": "x"}, interval=60)).task_id
    digests = []
    for show in (False, True):
        async with in_starlette(tq, show_args=show) as browse:
            before = seen_of((await browse.get(f"schedule-form?id={schedule_id}")).text)
            await tq.schedules.update(schedule_id, params={"name": f"{show}"})
            digests.append(before == seen_of((await browse.get(f"schedule-form?id={schedule_id}")).text))
    assert digests == [True, False]


async def test_each_change_that_is_asked_for_has_a_question(browse: Browse, tq: TaskQ) -> None:
    await tq.push("greet", {"name": "x"}, delay=3_600)
    about = {"task_id": "x", "queue": "q", "key": "k", "group_id": "g", "schedule": "s", "worker_id": "w", "value": "1"}
    asked = {}
    for name in site.actions:
        reply = await send(browse, name, "settings", **about)
        if reply.status_code == 200:  # else the change was made, or refused
            ((button, asked[name]),) = re.findall(r"<h1>(.*?)</h1><p>(.*?)</p>", reply.text)
            assert button and reply.text.count(f">{button}</button>") == 1, name
    of_one = {"groups.cancel", "limits.pause", "schedules.delete", "values.delete"}
    of_tasks = {f"tasks.{name}" for name in ("cancel", "delete", "cancel_many", "delete_many", "retry_many")}
    assert asked.keys() == of_one | of_tasks and all("?" in text for text in asked.values())


async def test_a_question_about_all_names_what_they_are(browse: Browse, tq: TaskQ) -> None:
    await tq.push("greet", {"name": "x"}, delay=3_600, queue="mail <1>")
    fields = {"which": "all", "queue": "mail <1>", "type": "greet"}
    for status, said in (("", "pending, running"), ("pending", "pending")):
        asked = (await send(browse, "tasks.cancel_many", "tasks", **fields, status=status)).text
        assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", asked) == [
            ("Type", "greet"),
            ("Queue", "mail &lt;1&gt;"),
            ("State", said),
        ]
    asked = (await send(browse, "tasks.cancel_many", "tasks", which="all")).text
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", asked) == [("State", "pending, running")]


async def test_a_type_that_no_worker_has_is_asked_about(tq: TaskQ) -> None:
    async with TaskQ(tq.url) as bare, in_starlette(bare) as browse:  # a server that knows no handlers
        push = {"type": "gret", "params": '{"name": "x"}'}
        schedule = {**SCHEDULE, "type": "gret"}
        assert (await send(browse, "tasks.push", "task-form", **push)).status_code == 303, "nothing is known of it"
        assert bare.queue.backend.workers is not None
        until = bare.queue.clock.now() + 10**9
        await bare.queue.backend.workers.register(worker_info("w1", lease_until=until, types=("greet",)))
        for name, page, fields in (("tasks.push", "task-form", push), ("schedules.add", "schedule-form", schedule)):
            asked = await send(browse, name, page, **fields)
            assert asked.status_code == 422 and "Type: no running worker has &#39;gret&#39;" in asked.text, name
            assert 'name="sure" value="gret"' in asked.text
            other = await send(browse, name, page, **fields | {"type": "grete", "sure": "gret"})
            assert other.status_code == 422, "it is another one"
            assert (await send(browse, name, page, **fields, sure="gret")).status_code == 303
            assert (await send(browse, name, page, **fields | {"type": "greet"})).status_code == 303


# ---- problems -------------------------------------------------------------------------------------------------------


async def test_what_is_refused_is_shown_in_the_form_by_the_name_of_its_field(browse: Browse, tq: TaskQ) -> None:
    await tq.limits.set("k", cap=1)
    assert tq.queue.backend.workers is not None
    await tq.queue.backend.workers.register(worker_info("w1", lease_until=tq.queue.clock.now() + 10**9))
    resize = {"worker_id": "w1", "concurrency": "0"}
    for name, fields, said, chinese in (
        ("workers.resize", resize, "Slots: ", "名额："),
        ("limits.set", {"key": "k", "cap": "-7"}, "Tasks at a time: ", "同时执行的任务数："),
        ("limits.set", {"key": "k", "cap": "", "burst": "7"}, "Burst: it is about a rate", "突发量："),
    ):
        for language, label in (("en", said), ("zh", chinese)):
            browse.headers["Accept-Language"] = language
            refused = await send(browse, name, "settings", **fields)
            (alert,) = re.findall(r'role="alert">.*?</svg>(.*?)</p>', refused.text, re.DOTALL)
            assert refused.status_code == 422 and alert.startswith(label), alert
            typed = [each for each in fields.values() if each and each not in ("k", "w1")]
            assert all(f'value="{each}"' in refused.text for each in typed), "what was typed is still there"


async def test_a_problem_has_a_heading_in_words_and_a_way_back(tq: TaskQ) -> None:
    task_id = (await tq.push("greet", {"name": "x"}, delay=60)).task_id
    await tq.cancel(task_id)
    async with in_starlette(tq, allow=lambda _request, name: name != "tasks.delete") as browse:

        def heading_and_back(page: Any) -> tuple[str, str]:
            ((heading, back),) = re.findall(r'<h1>(.*?) <span.*?href="([^"]*)">Back</a>', page.text, re.DOTALL)
            return heading, back

        forbidden = await send(browse, "tasks.delete", "tasks", task_id=task_id)
        assert heading_and_back(forbidden) == ("Not allowed", f"task?id={task_id}")
        many = await send(browse, "tasks.delete_many", "tasks", which="all", type="a b")
        assert heading_and_back(many) == ("Not allowed", "tasks?type=a+b")
        assert heading_and_back(await browse.get("task?id=none")) == ("Not found", "tasks")
        assert heading_and_back(await browse.get("nowhere")) == ("Not found", "./")
        late = await send(browse, "tasks.cancel", "tasks", task_id=task_id, sure="yes")
        assert late.status_code == 409 and "has ended already" in late.text
        assert 'data-page="task"' in late.text and f'data-query="id={task_id}"' in late.text, "the page of the task"


# ---- many tasks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["selected", "all"])
async def test_an_error_midway_is_told_with_what_was_done(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr(operations, "RETRY_CHUNK", 1)
    seen: list[dict[str, Any]] = []
    tq.on("operated")(lambda event: seen.append(event.detail))
    ids = [(await tq.push("greet", {"name": "x"}, delay=60, queue="q")).task_id for _ in range(4)]
    store, name = (tq, "cancel") if which == "selected" else (tq.queue.backend, "update")
    verb, left = getattr(store, name), [2]

    async def failing(what: Any) -> Any:
        if not left[0]:
            raise DatabaseUnavailable("db.internal:5432 is gone")
        left[0] -= 1
        return await verb(what)

    token = form_token(await browse.get("tasks"))
    monkeypatch.setattr(store, name, failing)
    fields: dict[str, Any] = {"form_token": token, "sure": "yes", "which": which, "task_id": ids, "queue": "q"}
    done = await browse.post("tasks.cancel_many", data=fields, headers=SAME)
    assert done.status_code == 503 and "the store does not answer" in done.text and "db.internal" not in done.text
    assert "Tasks that were cancelled or asked to stop: 2." in done.text
    found = [(await tq.get(each)).status for each in ids]
    assert sorted(found) == sorted([Status.CANCELLED] * 2 + [Status.PENDING] * 2)
    changed = ids[:2] if which == "selected" else ["filter: status=pending,running queue=q", "count: 2"]
    assert seen == [{"action": "tasks.cancel", "actor": "", "targets": [*changed, "stopped by: DatabaseUnavailable"]}]


async def test_an_error_of_the_application_midway_is_raised(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    tq.on("operated")(lambda event: seen.append(event.detail))
    task_id = (await tq.push("greet", {"name": "x"}, delay=60)).task_id

    async def failing(_task_id: str) -> bool:
        raise ZeroDivisionError

    async def actor(request: Any) -> str:
        return str(request.headers["x-user"])

    monkeypatch.setattr(tq, "cancel", failing)
    async with in_starlette(tq, actor=actor) as browse:
        browse.headers["x-user"] = "mara"
        with pytest.raises(ZeroDivisionError):
            await send(browse, "tasks.cancel_many", "tasks", which="selected", task_id=task_id, sure="yes")
    assert seen == [], "nothing was done before"


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", [False, True])
async def test_the_message_of_an_error_is_shown_where_params_are(tq: TaskQ, show: bool) -> None:
    async with tq.running():
        handle = await tq.push("greet", {"name": "nobody"})
        with pytest.raises(Exception, match="no such person"):
            await handle.result(within(20))
    async with in_starlette(tq, show_args=show) as browse:
        page = (await browse.get(f"task?id={handle.task_id}")).text
        assert "RuntimeError" in page and ("there is no such person" in page) == show
        for name in ("", "tasks", "failures"):
            assert ("there is no such person" in (await browse.get(name)).text) == show
        assert "there is no such person" not in (await browse.get("task-form?from=" + handle.task_id)).text


# ---- slow statements ------------------------------------------------------------------------------------------------


async def test_a_page_that_takes_too_long_says_what_to_do(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "READ_LIMIT", 0.2)
    backend = tq.queue.backend
    assert isinstance(backend, SqlBackend)
    endless = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")

    async def slow(_where: object, _limit: int) -> Any:
        return await backend.database.read(lambda connection: connection.execute(endless).all())

    monkeypatch.setattr(backend, "find", slow)
    page = await browse.get("tasks?type=x")
    assert page.status_code == 503 and "was cancelled; narrow the filter" in page.text
    assert "缩小筛选范围" in (await browse.get("tasks?type=x", headers={"Accept-Language": "zh"})).text
    assert (await browse.get("tasks?type=x&format=json")).json()["code"] == "ReadTooLong"
    assert (await browse.get("queues")).status_code == 200

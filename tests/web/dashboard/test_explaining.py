"""What pages say of why tasks wait: types without workers, gates, steps, events; and what an operator does then."""

from __future__ import annotations

import asyncio
import html
import re
from typing import Any

import pytest
from msgspec.structs import replace

from aiotaskq import Limit, TaskQ, Workflow, group, sleep_for, step, wait_event
from aiotaskq.app.handle import TaskCall
from aiotaskq.core.outcome import LeaseExpired, marked, settle
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NEVER, NewStep, Step
from aiotaskq.core.task import SECOND, Attempt, Task
from aiotaskq.errors import TaskConflict
from aiotaskq.operations.task_views import AttemptView
from aiotaskq.runtime.queue.bulk import run_now
from aiotaskq.web.dashboard.attention import MOST, unknown_notices
from aiotaskq.web.dashboard.pages.tasks import NARROWEST, timeline, to_scale
from aiotaskq.web.dashboard.words import Words
from tests.support.machine import within
from tests.support.rows import worker_info
from tests.support.waiting import eventually
from tests.web.dashboard.conftest import Browse, in_starlette, send
from tests.web.dashboard.test_pages_activity import period


def text_of(page: Any) -> str:
    """Return the text of a page without its tags."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.text)))


async def registered(tq: TaskQ, owner: str = "w1", **fields: Any) -> None:
    assert tq.queue.backend.workers is not None
    now = tq.queue.clock.now()
    known = {"types": ("greet",), "lease_until": now + 600 * SECOND, "started_at": now, "seen_at": now}
    await tq.queue.backend.workers.register(worker_info(owner, **known | fields))


async def push(tq: TaskQ, type: str = "greet", **options: Any) -> str:
    tq.elsewhere(type)
    return (await tq.push(type, {"name": "x"} if type == "greet" else {}, **options)).task_id


# ---- types -----------------------------------------------------------------------------------------------------------


async def test_the_overview_names_the_types_that_no_worker_knows(browse: Browse, tq: TaskQ) -> None:
    for _ in range(3):
        await push(tq, "legacy_report")
    await push(tq, "greet")
    await push(tq, "legacy_later", delay=60)
    await push(tq, "legacy_elsewhere", queue="mail")  # no worker claims from it, which another notice says
    await push(tq, "legacy_paused", queue="held")
    await tq.pause("held")
    await registered(tq, queues=("default", "held"))
    data = (await browse.get("?format=json")).json()
    about = [each for each in data["attention"] if "type" in each["values"]]
    assert [(each["number"], each["values"]) for each in about] == [(3, {"type": "legacy_report"})]
    page = await browse.get("")
    assert "3 tasks wait for a type that no worker knows: legacy_report." in text_of(page)
    assert 'href="tasks?type=legacy_report&amp;status=pending"' in page.text
    await registered(tq, "w2", types=None)  # one that does not tell may know it
    assert "legacy_report" not in (await browse.get("")).text


def test_of_many_unknown_types_the_most_are_named() -> None:
    found = unknown_notices({f"t{n}": n for n in range(1, MOST + 3)})
    assert [each.values.get("type") for each in found] == [*(f"t{n}" for n in range(MOST + 2, 2, -1)), None]
    assert (found[-1].number, found[-1].kind) == (2, "unknown_types")


async def test_types_without_an_ended_task_are_listed(browse: Browse, tq: TaskQ) -> None:
    await push(tq, "legacy")
    await push(tq, "legacy", delay=60)
    await registered(tq, types=("greet", "of the worker"))
    data = (await browse.get("types?format=json")).json()
    assert data["idle"] == ["greet", "legacy", "of the worker"]
    assert data["waiting"] == {"greet": 0, "legacy": 2, "of the worker": 0} and list(data["unknown"]) == ["legacy"]
    assert "no worker knows this type" in (await browse.get("types")).text


async def test_types_of_which_tasks_have_ended_and_others_wait(browse: Browse, tq: TaskQ) -> None:
    await tq.queue.backend.history.add([period(tq, "completed", "legacy", runs=1)])
    await push(tq, "legacy")
    await registered(tq, types=("greet",))
    page = (await browse.get("types")).text
    assert re.search(
        r'<td data-label="Waiting" class="number"><a href="tasks\?type=legacy&amp;status=pending">1<', page
    )
    assert page.index("legacy") < page.index("no worker knows this type") < page.index("greet")


async def test_what_waits_at_a_limit_or_for_other_tasks_waits(browse: Browse, tq: TaskQ) -> None:
    @tq.task(limit=Limit(1, key="tenant"))
    async def bounded(tenant: str) -> None: ...

    for _ in range(3):
        await tq.push("bounded", {"tenant": "a"})
    flow = Workflow()
    flow.add("first", TaskCall("greet", {"name": "x"}, {}))
    flow.add("second", TaskCall("greet", {"name": "x"}, {}), after=["first"])
    await tq.start(flow)
    data = (await browse.get("types?format=json")).json()
    assert data["waiting"] == {"bounded": 3, "greet": 2}
    assert data["looked_at"] is None


async def test_an_unknown_type_is_not_due_in_some_seconds_for_ever(browse: Browse, tq: TaskQ) -> None:
    task_id, now = await push(tq, "legacy"), tq.queue.clock.now()
    await registered(tq)
    page = await browse.get(f"task?id={task_id}")
    assert "No worker that claims from its queue has a handler for legacy" in text_of(page)
    assert "<dt>Due</dt>" not in page.text
    left = (Attempt(number=1, outcome="released"),)
    times: dict[str, int] = {"seq": now, "created_at": now // SECOND, "run_at": now + 9 * SECOND, "due_at": now}
    row = Task(task_id="put off", type="legacy", attempts=left, started_at=now // SECOND, **times)
    await tq.queue.backend.push([row])
    assert "<dt>Due</dt>" not in (await browse.get("task?id=put+off")).text
    assert "1/4" not in (await browse.get("tasks?type=legacy")).text, "no attempt has begun"
    began = Step(name="a", text="1", version=3)
    await tq.queue.backend.steps.put([NewStep(row.task_id, row.seq, 1, began)])
    assert "No worker has version 3 of legacy" in (await browse.get("task?id=put+off")).text
    assert "no worker has version 3" in (await browse.get("tasks")).text
    assert "<dt>Due</dt>" in (await browse.get(f"task?id={await push(tq, delay=60)}")).text


async def test_what_waits_for_a_group_leads_to_that(browse: Browse, tq: TaskQ) -> None:
    call = TaskCall[Any]("greet", {"name": "x"}, {})
    flow = Workflow().add("parts", group([call]), after="first").add("first", call).add("last", call, after="parts")
    started = await tq.start(flow)
    last = await started.task("last")
    ((inner, _),) = (await last.task()).flow.parents  # type: ignore[union-attr]
    page = await browse.get(f"task?id={last.task_id}")
    assert page.text.count(f'href="group?id={inner}"') == 2, "why it waits, and what it is after"
    assert f"task?id={inner}" not in page.text
    graph = (await browse.get(f"group?id={started.group_id}")).text
    assert graph.count('<path class="edge') == 1 and graph.count('<g class="box') == 3
    assert f'href="group?id={inner}"' in graph and f"task?id={inner}" not in graph
    first = await started.task("first")
    assert (await browse.get(f"task?id={first.task_id}")).text.count("group?id=") == 1, "its group alone"


# ---- the table of tasks ----------------------------------------------------------------------------------------------


async def test_a_page_names_what_waits_for_its_task(browse: Browse, tq: TaskQ) -> None:
    parent = await tq.push("greet", {"name": "x"}, delay=3600)
    path = f"task?id={parent.task_id}"
    assert "<dt>Before</dt>" not in (await browse.get(path)).text
    later = [(await tq.push("greet", {"name": "x"}, after=[parent])).task_id for _ in range(52)]
    page = (await browse.get(path)).text
    before = re.findall(r"<dt>Before</dt><dd>(.*?)</dd>", page)[0]
    assert re.findall(r"task\?id=([^\"]+)", before) == sorted(later)[:50] and before.endswith("and 2 more")
    await parent.cancel()
    assert "<dt>Before</dt>" not in (await browse.get(path)).text


async def test_the_table_says_why_each_task_waits(browse: Browse, tq: TaskQ) -> None:
    @tq.task(limit=Limit(1, key="tenant"))
    async def bounded(tenant: str) -> None: ...

    await registered(tq, queues=("default", "held"), types=("greet", "bounded"))
    flow = Workflow()
    flow.add("first", TaskCall("greet", {"name": "x"}, {}))
    flow.add("second", TaskCall("greet", {"name": "x"}, {}), after=["first"])
    group = await tq.start(flow)
    gated = [(await tq.push("bounded", {"tenant": "a"})).task_id for _ in range(2)]
    wanted = {
        await push(tq): "ready",
        await push(tq, delay=3600): "delayed",
        await push(tq, queue="held"): "queue paused",
        await push(tq, queue="mail"): "no worker for its queue",
        await push(tq, "legacy"): "no worker knows this type",
        (await group.task("second")).task_id: "behind one task",
        gated[1]: "limit tenant:a is full",
    }
    await tq.pause("held")
    page = await browse.get("tasks?status=pending")
    assert page.text.count('data-label="Attempt" class="number">–</td>') == 9, "none has begun"
    rows = {re.findall(r"task\?id=([^\"]+)", row)[0]: row for row in page.text.split("<tr>")[2:]}
    for task_id, words in wanted.items():
        assert words in rows[task_id], (words, rows[task_id])
    data = (await browse.get("tasks?format=json")).json()
    assert {data["waits"][task_id]["reason"] for task_id in wanted} == {
        *("ready", "delayed", "paused", "unknown_type", "parents", "full")
    }


async def test_the_tabs_count_the_queue_and_say_what_they_do_not_count(browse: Browse, tq: TaskQ) -> None:
    for queue in ("default", "mail", "mail"):
        await push(tq, queue=queue)
    data = (await browse.get("tasks?queue=mail&format=json")).json()
    assert (data["counts"]["pending"], data["counts_more"]) == (2, False)
    assert (await browse.get("tasks?format=json")).json()["counts"]["pending"] == 3
    assert "The numbers count" not in (await browse.get("tasks?queue=mail&status=pending")).text
    assert "The numbers count every task; the filter is not in them." in (await browse.get("tasks?type=greet")).text
    both = text_of(await browse.get("tasks?type=greet&queue=mail"))
    assert "The numbers count every task of the queue mail; the other filters are not in them." in both


async def test_a_debounced_task_says_that_a_call_moves_it_and_how_far(browse: Browse, tq: TaskQ) -> None:
    @tq.task(debounce=90, max_wait=600, key="book")
    async def reindex(book: int) -> None: ...

    task_id = (await tq.push("reindex", {"book": 7})).task_id
    due = (await tq.get(task_id)).run_at
    words = Words("en", "UTC")
    said = text_of(await browse.get(f"task?id={task_id}"))
    assert f"It is debounced: it is due at {words.time(due)}, unless its key is called again" in said
    assert "which moves that to 1 min 30 s after the call." in said
    assert f"At the latest it is due at {words.time(due + (600 - 90) * SECOND)}." in said
    page = text_of(await browse.get(f"task?id={await push(tq, delay=60)}"))
    assert "It is debounced" not in page and "It is delayed until" in page


# ---- gates and workers -----------------------------------------------------------------------------------------------


async def test_a_gate_lists_what_holds_it_and_what_waits(browse: Browse, tq: TaskQ) -> None:
    @tq.task(limit=Limit(1, key="tenant"))
    async def bounded(tenant: str) -> None: ...

    first, second, third = [(await tq.push("bounded", {"tenant": "a"})).task_id for _ in range(3)]
    data = (await browse.get("limit?key=tenant:a&format=json")).json()
    assert [each["task_id"] for each in data["holding"]] == [first]
    assert [each["task_id"] for each in data["waiting"]] == [second, third]
    page = await browse.get("limit?key=tenant:a")
    assert all(f'href="task?id={task_id}"' in page.text for task_id in (first, second, third))
    assert '<meter class="full"' in page.text
    assert "primary" not in page.text.split("Set bounds</h2>")[0]
    assert page.text.index("Pause the limit</button>") > page.text.index("Set bounds</button>")
    assert 'class="button danger">Pause the limit' in re.sub(r"\s+>", ">", page.text)
    asked = await send(browse, "limits.pause", "limit?key=tenant:a", key="tenant:a")
    assert asked.status_code == 200 and "Pause the limit tenant:a?" in text_of(asked)
    for action in ("limits.pause", "limits.resume", "limits.reset"):
        refused = await send(browse, action, "limit?key=tenant:a", key="tenent:", sure="yes")
        assert refused.status_code == 404 and "no handler declares it" in text_of(refused)


async def test_a_worker_says_what_it_can_run_and_a_run_names_its_worker(browse: Browse, tq: TaskQ) -> None:
    @tq.task(timeout=90)
    async def bounded_run() -> None: ...

    now = tq.queue.clock.now()
    await registered(tq, types=("bounded_run", "greet", "greet@2", "odd@name"), busy=1, version="2.4.1")
    task_id = (await tq.push("bounded_run")).task_id
    (task,) = await tq.queue.backend.claim("w1", now + SECOND, 1)
    page = await browse.get("worker?id=w1")
    assert all(f'href="type?name={name}"' in page.text for name in ("greet", "bounded_run"))
    assert f'href="task?id={task_id}"' in page.text
    assert "Version 2.4.1 aiotaskq 0" in text_of(page) and "2.4.1" in (await browse.get("workers")).text
    assert "odd@name" in page.text and "greet@2" not in page.text, "a version of a type is none"
    run = (await browse.get("worker?id=w1&format=json")).json()["worker"]["runs"][0]
    assert (run["task_id"], run["timeout"]) == (task.task_id, 90)
    shown = await browse.get(f"task?id={task_id}")
    assert "Version 2.4.1 Worker" in text_of(shown) and "on w1, fence 1" in text_of(shown)
    assert 'href="worker?id=w1"' in shown.text and "1 min 30 s" in text_of(shown)
    runs = (await browse.get(f"task?id={task_id}&format=json")).json()["runs"]
    assert (runs["worker"], runs["timeout"], runs["registered"]) == ("w1", 90, True)
    assert runs["lease_until"] is not None and runs["elapsed"] is not None
    assert '<a href="worker?id=worker-a" title="worker-a!alone">worker-a!alone</a>' in await _list_with(
        browse, tq, "worker-a!alone"
    )
    await registered(tq, types=None)
    assert "not known" in text_of(await browse.get("worker?id=w1"))


async def test_an_attempt_says_where_it_ran_and_poison_how_many_there_were(tq: TaskQ) -> None:
    owner = "worker-db1-42-0-0123456789ab"
    seen = "its process died, or its lease was not renewed: worker worker-db1-42-0-0123456789ab, last seen"
    attempts = tuple(
        Attempt(number=n, began_at=n, outcome="lost", error=f"{seen} X", worker=owner, version="2.4.1", fence=n + 4)
        for n in (1, 2, 3)
    )
    poison = settle(marked(Task(task_id="a", type="t", status=Status.RUNNING, crashes=2)), LeaseExpired(), 1)
    row = Task(task_id="poison", type="t", status=Status.FAILED, error_message=poison.error_message, attempts=attempts)
    row = row.replace(max_retries=5, crashes=3, created_at=1, completed_at=1)
    await tq.queue.backend.push([row])
    async with in_starlette(tq, show_args=True) as browse:
        page = await browse.get("task?id=poison")
        chinese = text_of(await browse.get("task?id=poison", headers={"Accept-Language": "zh"}))
    text = text_of(page)
    assert all(f"on db1, version 2.4.1, fence {n}" in text for n in (5, 6, 7)) and f'title="{owner}"' in page.text
    assert f"{seen} X" in text and "Retries 0 of at most 5" in text and "Attempt 1 of" not in text
    assert "在 db1 上，版本 2.4.1，fence 7" in chinese and "最后一次心跳 X" in chinese and "died" not in chinese
    assert "poison：它的工作进程死亡了 3 次" in chinese


async def _list_with(browse: Browse, tq: TaskQ, owner: str) -> str:
    """Return the table with a task that this owner runs."""
    await push(tq)
    await tq.queue.backend.claim(owner, tq.queue.clock.now() + SECOND, 1)
    return (await browse.get("tasks?status=running")).text


async def test_a_queue_lists_the_workers_that_claim_from_it(browse: Browse, tq: TaskQ) -> None:
    await registered(tq, "all", busy=1)
    await registered(tq, "mail only", queues=("mail",), busy=3, concurrency=4)
    await registered(tq, "elsewhere", queues=("other",))
    await registered(tq, "dead", lease_until=1)
    await tq.workers.quiet("all")
    data = (await browse.get("queue?name=mail&format=json")).json()
    assert data["workers"] == 2
    assert [(each["id"], each["busy"], each["quiet"]) for each in data["claiming"]] == [
        ("mail only", 3, False),
        ("all", 1, True),
    ]
    page = await browse.get("queue?name=mail")
    assert 'href="worker?id=mail+only"' in page.text and "3/4" in page.text
    assert (await browse.get("queue?name=none&format=json")).json()["claiming"][0]["id"] == "all"


async def test_the_filter_suggests_types(browse: Browse, tq: TaskQ) -> None:
    await push(tq, "legacy")
    await registered(tq, types=("of the worker", "of the worker@2"))
    page = await browse.get("tasks")
    names = re.findall(r'<option value="([^"]*)"></option>', page.text)
    assert names == ["greet", "legacy", "of the worker"]


async def test_the_events_page_says_whose_events_it_shows(browse: Browse) -> None:
    assert "whichever process runs them" in (await browse.get("activity")).text
    async with TaskQ("memory://") as alone, in_starlette(alone) as browse_alone:
        assert "The store is in the memory of this process" in (await browse_alone.get("activity")).text


# ---- run now ---------------------------------------------------------------------------------------------------------


async def test_a_delayed_task_runs_now(browse: Browse, tq: TaskQ) -> None:
    told: list[Any] = []
    tq.on("operated", lambda event: told.append((event.detail["action"], event.detail["targets"])))
    task_id = await push(tq, delay=3600)
    assert "Run now</button>" in (await browse.get(f"task?id={task_id}")).text
    done = await send(browse, "tasks.run_now", f"task?id={task_id}", task_id=task_id)
    assert (done.status_code, done.headers["location"]) == (303, f"task?id={task_id}")
    task = await tq.get(task_id)
    assert task.due_us <= tq.queue.clock.now() and told == [("tasks.run_now", [task_id])]
    assert "Run now</button>" not in (await browse.get(f"task?id={task_id}")).text
    again = await send(browse, "tasks.run_now", f"task?id={task_id}", task_id=task_id)
    assert again.status_code == 409 and "is due already" in text_of(again)
    assert (await browse.get("tasks.run_now", params={"id": task_id})).status_code == 404, "no GET changes anything"


# ---- steps and events ------------------------------------------------------------------------------------------------


async def test_the_steps_of_a_task_are_in_its_timeline_and_its_event_can_be_emitted(tq: TaskQ) -> None:
    @tq.task
    async def order(number: int) -> Any:
        await step("reserve", lambda: {"secret": number})
        return await wait_event(f"paid:{number}")

    @tq.task
    async def nap() -> None:
        await sleep_for("long", hours=3)

    async with tq.running(2, scheduler=False), in_starlette(tq, show_args=True) as browse, in_starlette(tq) as hidden:
        handle, sleeper = await order.push(number=7), await nap.push()
        await eventually(lambda: _left(tq, handle.task_id, sleeper.task_id))
        address = f"task?id={handle.task_id}"
        data = (await browse.get(f"{address}&format=json")).json()
        moments = [(each["kind"], each["name"], each["now"]) for each in data["moments"]]
        assert moments == [
            ("wait", "paid:7", True),
            ("step", "reserve", False),
            ("attempt", "", False),
            ("pushed", "", False),
        ]
        assert (data["moments"][1]["value"], data["task"]["waiting"]["event"]) == ('{"secret":7}', "paid:7")
        assert "secret" not in (await hidden.get(address)).text
        assert "for the event paid:7" in (await browse.get("tasks")).text
        waits = (await browse.get("events?format=json")).json()
        assert (waits["awaited"], waits["emitted"]) == ([{"key": "paid:7", "tasks": 1}], [])

        asleep = await browse.get(f"task?id={sleeper.task_id}")
        assert "Its handler sleeps until" in asleep.text and "Run now</button>" in asleep.text
        woken = await send(browse, "tasks.run_now", f"task?id={sleeper.task_id}", task_id=sleeper.task_id)
        assert woken.status_code == 303
        async with asyncio.timeout(within(20)):
            await sleeper.result()
        ended = await browse.get(f"task?id={sleeper.task_id}")
        assert "ended early" in text_of(ended), ended.text
        with pytest.raises(TaskConflict, match="waits for an event in its handler; emit the event"):
            await run_now(tq.queue, await tq.get(handle.task_id))

        fields = {"key": "paid:7", "task": handle.task_id, "value": '{"by": "Ana"}'}
        form = f"event-form?key=paid%3A7&amp;task={handle.task_id}"
        assert f'href="{form}"' in (await browse.get(address)).text
        assert 'href="event-form?key=paid%3A7"' in (await browse.get("events")).text
        asked = await browse.get(html.unescape(form))
        assert "The tasks that wait for it go on" in text_of(asked) and 'value="paid:7"' in asked.text
        wrong = await send(browse, "events.emit", address, **{**fields, "value": "{"})
        assert wrong.status_code == 422 and "Value as JSON: is no JSON" in wrong.text and ">{</textarea>" in wrong.text
        assert f'name="task" value="{handle.task_id}"' in wrong.text and await handle.status() is Status.PENDING
        done = await send(browse, "events.emit", address, **fields)
        assert (done.status_code, done.headers["location"]) == (303, address)
        async with asyncio.timeout(within(20)):
            assert await handle.result() == {"by": "Ana"}
        kinds = [each["kind"] for each in (await browse.get(f"{address}&format=json")).json()["moments"]]
        assert kinds[:2] == ["attempt", "event"] and kinds[-1] == "pushed"
        emitted = (await browse.get("events?format=json")).json()["emitted"]
        assert [(each["key"], each["value"]) for each in emitted] == [("paid:7", '{"by":"Ana"}')]
        assert (await hidden.get("events?format=json")).json()["emitted"][0]["value"] is None
        twice = await send(browse, "events.emit", "events", key="paid:7")
        assert (twice.status_code, twice.headers["location"]) == (303, "events")
        assert "was emitted before" in (await browse.get("events")).text
        assert (await browse.get("events?key=x&format=json")).json()["emitted"] == []


async def _left(tq: TaskQ, *ids: str) -> bool:
    tasks = [await tq.get(task_id) for task_id in ids]
    return all(task.status is Status.PENDING and task.attempts for task in tasks)


def test_a_timeline_is_in_the_order_of_time() -> None:
    now = 1_750_000_000
    task = Task(task_id="a", type="t", created_at=now, run_at=NEVER, attempts=())
    attempts = [
        AttemptView(n, f"2025-06-15T15:0{6 + n}:40Z", ended_at=None, run_time=None, outcome=None, error=None)
        for n in (1, 2)
    ]
    steps = [
        Step(name="pack", n=1, text="1", at=(now + 61) * SECOND),
        Step(name="pack", number=2, n=2, text="2", at=(now + 61) * SECOND),
        Step(name="late", n=3, kind="wait", text=str(NEVER), at=(now + 121) * SECOND),
        Step(name="late", n=4, kind="event", text="", at=(now + 122) * SECOND),
        Step(name="paid", n=5, kind="wait", text=str(NEVER), at=(now + 123) * SECOND),
    ]
    found = timeline(task, attempts, steps, show=False)
    assert [(each["kind"], each["name"]) for each in found] == [
        ("wait", "paid"),
        ("event", "late"),
        ("wait", "late"),
        ("attempt", ""),
        ("step", "pack#2"),
        ("step", "pack"),
        ("attempt", ""),
        ("pushed", ""),
    ]
    assert [each["now"] for each in found] == [True] + [False] * 7, "a wait whose event has come is over"
    assert [each["timed_out"] for each in found][:3] == [False, True, False]
    assert {each["value"] for each in found} == {None} and {each["until"] for each in found} == {None}


def test_the_runs_of_a_task_are_drawn_to_scale_from_its_push() -> None:
    second = 1_750_000_000
    pushed = second * SECOND + 250_000
    task = Task(task_id="a", type="t", status=Status.FAILED, created_at=second, seq=pushed)

    def drawn(*runs: tuple[int, float, float | None], status: Status = Status.FAILED, now: float = 100) -> Any:
        attempts = tuple(
            Attempt(
                number=number,
                began_at=pushed + round(began * SECOND),
                ended_at=None if ended is None else pushed + round(ended * SECOND),
                outcome="lost" if ended is None else "failed",
            )
            for number, began, ended in runs
        )
        return to_scale(replace(task, attempts=attempts, status=status), pushed + round(now * SECOND))

    assert drawn() is None
    found = drawn((1, 2, 4), (2, 6, 10))
    assert [(each["place"], each["width"], each["seconds"]) for each in found["runs"]] == [(200, 200, 2), (600, 400, 4)]
    assert (found["waited"], found["ran"]) == (4, 6)
    waits = drawn((1, 2, 4), status=Status.PENDING, now=20)
    assert [(each["place"], each["width"]) for each in waits["runs"]] == [(100, 100)] and waits["waited"] == 18
    lost = drawn((1, 0, None), (2, 5, 10))
    assert [each["seconds"] for each in lost["runs"]] == [5, 5], "it ended before the next run at the latest"
    assert drawn((7, 2, 4), (8, 4, 6))["waited"] == 0, "when it was pushed says nothing of the runs that are known"
    short = drawn((1, 0, 90), (2, 100, 100))["runs"]
    assert (short[1]["width"], short[1]["place"]) == (NARROWEST, 1_000 - NARROWEST)
    assert drawn((1, 0, 0))["ran"] == 0, "no time at all"

"""What needs attention: each notice in a store in a known state, its age, its actor, and the button that mends it."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Limit, Rate, TaskQ
from aiotaskq.app.internal import internal
from aiotaskq.backends.change import ScheduleChange
from aiotaskq.core.alerts import ALERTS
from aiotaskq.core.notes import NewNotes
from aiotaskq.core.outcome import Completed
from aiotaskq.core.schedule import paused
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.runtime.audit import audit
from aiotaskq.web.dashboard.attention import LATE
from aiotaskq.web.dashboard.attention import MOST as MOST_NOTICES
from tests.web.dashboard.conftest import Browse, in_starlette, send
from tests.web.dashboard.test_pages_activity import CHINESE, period, register, run, worker


async def notices(browse: Browse) -> list[str]:
    page = (await browse.get("")).text
    items = re.findall(r'<li class="\w+"><svg.*?</svg><span class="grow"><a href="[^"]*">(.*?)</a>', page)
    assert bool(items) != ("Nothing needs attention." in page)
    return [html.unescape(each) for each in items]


async def test_nothing_needs_attention_in_a_quiet_store(browse: Browse) -> None:
    assert "Nothing needs attention." in (await browse.get("")).text
    assert await notices(browse) == []


async def test_ready_tasks_without_a_worker_need_attention(browse: Browse, tq: TaskQ) -> None:
    await tq.push("greet", {"name": "World"})
    assert await notices(browse) == ["1 task is ready, but no worker runs."]
    page = await browse.get("", headers=CHINESE)
    assert "1 个任务已就绪，但没有运行中的工作进程。" in page.text and 'href="workers"' in page.text
    await register(tq, worker(tq, quiet=True))
    await tq.workers.quiet("w1")
    assert await notices(browse) == ["1 task is ready, but every worker is quiet."]
    await tq.workers.wake("w1")
    assert await notices(browse) == []


async def test_a_queue_that_no_worker_claims_needs_attention(browse: Browse, tq: TaskQ) -> None:
    await register(tq, worker(tq, queues=("mails",)))
    await tq.push("greet", {"name": "World"}, queue="batch")
    await tq.push("greet", {"name": "World"}, queue="later", delay=3600)
    told = "Tasks of the queue batch are ready, but no worker claims from it."
    assert await notices(browse) == [told]
    assert 'href="queue?name=batch"' in (await browse.get("")).text
    assert told in (await browse.get("queue?name=batch")).text
    assert "no worker claims" not in (await browse.get("queue?name=later")).text


async def test_a_paused_queue_with_tasks_needs_attention(browse: Browse, tq: TaskQ) -> None:
    await tq.push("greet", {"name": "World"}, queue="batch")
    await tq.pause("batch")
    await tq.pause("empty")
    assert await notices(browse) == ["The queue batch is paused, and 1 task waits in it."]


async def test_failed_tasks_of_the_last_hour_need_attention_before_and_after_the_history_has_them(
    tmp_path: Path,
) -> None:
    async with TaskQ(f"sqlite:///{tmp_path}/failed.db", history=False) as tq, in_starlette(tq) as browse:

        @tq.task(max_retries=0)
        async def fail() -> None:
            raise RuntimeError("no")

        await run(tq, await tq.push("fail"))
        assert await notices(browse) == ["1 task has failed in the last hour."]
        await tq.queue.backend.history.add([period(tq, "failed", "fail", runs=5)])
        async with in_starlette(tq) as later:  # what the first one has read is kept for some seconds
            assert await notices(later) == ["5 tasks have failed in the last hour."]


async def test_gates_that_keep_tasks_need_attention(browse: Browse, tq: TaskQ) -> None:
    @tq.task(limit=Limit(1, key="tenant"))
    async def load(tenant: int) -> None: ...

    await register(tq, worker(tq))
    for tenant in range(MOST_NOTICES + 2):
        await tq.push_many([("load", {"tenant": tenant})] * 2)
    await tq.limits.pause("tenant:3")
    found = await notices(browse)
    assert found[0] == "The limit tenant:3 is paused, and 1 task waits at it."
    assert found[1] == "The limit tenant:0 is full, and 1 task waits at it."
    assert len(found) == MOST_NOTICES + 1 and found[-1] == "Tasks wait at 2 other limits."
    assert 'href="limit?key=tenant%3A3"' in (await browse.get("")).text


async def test_a_used_up_budget_needs_attention(browse: Browse, tq: TaskQ) -> None:
    @tq.task()
    async def load() -> None: ...

    await register(tq, worker(tq))
    group = await tq.group([load.call()] * 3, budget={"tokens": 10})
    (task,) = await tq.queue.backend.claim("w", tq.queue.clock.now(), 1)
    await tq.queue.backend.notes.add([NewNotes(task.task_id, task.fence, (), {"tokens": 12})])
    text = f"The budget of the group {group.group_id} is used up, and 2 tasks wait for more."
    assert await notices(browse) == [text]
    assert f'href="group?id={group.group_id}"' in (await browse.get("")).text
    for state in ("used up", "open"):
        listed, shown = await browse.get("limits"), await browse.get(f"limit?key=budget:{group.group_id}")
        for page in (listed, shown):
            assert state in page.text and "budget of a group" in page.text
            assert f'href="group?id={group.group_id}"' in page.text
            assert not any(f'action="limits.{verb}"' in page.text for verb in ("resume", "pause", "set"))
        about = "no further member starts until it is raised" in (await browse.get(f"group?id={group.group_id}")).text
        assert about is (state == "used up")
        await group.set_budget({"tokens": 20})
    await group.set_budget({"tokens": 1})
    await tq.queue.settle(task, Completed(None))
    await group.cancel()
    page = await browse.get(f"group?id={group.group_id}")
    assert "12 / 1" in page.text and "no further member starts until it is raised" not in page.text


async def test_a_late_schedule_needs_attention(browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    await tq.schedules.add(name="Ping", task="greet", interval=60, schedule_id="ping", params={"name": "World"})
    assert await notices(browse) == []
    real = tq.queue.clock.now
    monkeypatch.setattr(tq.queue.clock, "now", lambda: real() + 10 * SECOND + LATE)
    assert await notices(browse) == []
    monkeypatch.setattr(tq.queue.clock, "now", lambda: real() + 70 * SECOND + LATE)
    assert await notices(browse) == ["The schedule Ping is late: no scheduler has fired it."]
    page = (await browse.get("")).text
    assert 'href="schedule?id=ping"' in page and "for 1 min<" in page


async def test_what_is_paused_says_for_how_long_and_by_whom_and_is_resumed_from_there(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    @tq.task(limit=Limit(1, key="tenant"))
    async def load(tenant: int) -> None: ...

    await register(tq, worker(tq, lease_until=2**60))
    await tq.push_many([("load", {"tenant": 1})] * 2)
    await tq.push("greet", {"name": "World"}, queue="batch")
    schedule = (await tq.schedules.add("Ping", "greet", interval=3600, params={"name": "World"})).task_id
    targets = {"queues.pause": "batch", "limits.pause": "tenant:1", "schedules.pause": schedule}
    for action, target in targets.items():
        await audit(tq.queue, "api", action, "mara", [target])
    await tq.pause("batch")
    await tq.limits.pause("tenant:1")
    await tq.schedules.pause(schedule)
    real = tq.queue.clock.now
    monkeypatch.setattr(tq.queue.clock, "now", lambda: real() + 34 * 60 * SECOND)
    assert await notices(browse) == [
        "The queue batch is paused, and 1 task waits in it.",
        "The limit tenant:1 is paused, and 1 task waits at it.",
        "The schedule Ping is paused.",
    ]
    page, chinese = (await browse.get("")).text, (await browse.get("", headers=CHINESE)).text
    assert page.count(">for 34 min by mara<") == 3 and chinese.count(">已 34 分 操作人 mara<") == 3
    for action, name in (("queues.pause", "queue"), ("limits.pause", "key"), ("schedules.pause", "schedule")):
        fields = {name: targets[action], "back": "overview"}
        done = await send(browse, action.replace("pause", "resume"), "", **fields)
        assert (done.status_code, done.headers["location"]) == (303, "./")
    assert (await tq.paused(), (await tq.limits.get("tenant:1")).state) == ([], "open")
    assert (await tq.schedules.get(schedule)).state == "active"
    await tq.pause("batch")  # by a program: the audit log has the resume alone
    assert ">for" not in (await browse.get("")).text.split("The queue batch")[1].split("</li>")[0]


async def test_poison_and_dead_workers_need_attention(browse: Browse, tq: TaskQ) -> None:
    now = tq.queue.clock.now()
    await register(tq, worker(tq))
    await register(tq, worker(tq, "w2", busy=3, seen_at=now - 180 * SECOND, lease_until=now - 120 * SECOND))
    about: dict[str, Any] = {"type": "greet", "status": Status.FAILED, "created_at": now // SECOND}
    about |= {"completed_at": now // SECOND, "error_message": "poison: its worker died 3 times"}
    await tq.queue.backend.push([Task(task_id="a", seq=1, crashes=3, **about), Task(task_id="b", seq=2, **about)])
    await tq.queue.backend.history.add([period(tq, "lost", "greet", runs=2)])
    dead = "The worker db1 · 42 does not answer; it had 3 tasks."
    lost = "2 runs were lost in the last hour: their workers died, or did not renew their leases."
    one = "A task of the type greet was failed as poison: each worker that ran it has died."
    assert await notices(browse) == ["2 tasks have failed in the last hour.", one, lost, dead]
    page = (await browse.get("")).text
    assert 'href="task?id=a"' in page and 'href="worker?id=w2"' in page and "for 3 min<" in page
    said = page.split(one)[1].split("</li>")[0]
    assert "data-ago" in said and ">for" not in said, "it does not last"
    await tq.queue.backend.push([Task(task_id="c", seq=3, crashes=3, **about)])
    assert "2 tasks were failed as poison: each worker that ran them has died." in await notices(browse)
    assert 'href="tasks?status=failed&amp;error=poison"' in (await browse.get("")).text
    listed = (await browse.get("tasks?status=failed&error=poison")).text
    assert 'href="task?id=a"' in listed and 'href="task?id=c"' in listed


async def test_a_run_of_ten_times_its_p99_needs_attention(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(tq, worker(tq, lease_until=2**60))
    task_id = (await tq.push("greet", {"name": "World"})).task_id
    await tq.queue.backend.history.add([period(tq, "completed", "greet", runs=20, micros=20 * SECOND)])
    await tq.queue.backend.claim("w1", tq.queue.clock.now(), 1)
    assert await notices(browse) == []
    real = tq.queue.clock.now
    monkeypatch.setattr(tq.queue.clock, "now", lambda: real() + 250 * SECOND)
    (found,) = await notices(browse)
    assert found.startswith("A task of the type greet has run for more than ten times its p99, which is 2")
    page = (await browse.get("")).text
    assert f'href="task?id={task_id}"' in page and "for 4 min<" in page
    asked = await send(browse, "tasks.cancel", "", task_id=task_id, back="overview")
    done = await send(browse, "tasks.cancel", "", task_id=task_id, back="overview", sure="yes")
    assert (asked.status_code, done.status_code, done.headers["location"]) == (200, 303, "./")


async def test_long_runs_of_many_types_are_found_one_look_after_the_other(browse: Browse, tq: TaskQ) -> None:
    now, types = tq.queue.clock.now(), [f"t{place:02}" for place in range(12)]
    for place, name in enumerate(types):
        began = now - (900 - place) * SECOND
        about: dict[str, Any] = {"type": name, "status": Status.RUNNING, "created_at": began // SECOND}
        await tq.queue.backend.push([Task(task_id=name, seq=place + 1, began_at=began, fence=1, **about)])
    await tq.queue.backend.history.add([period(tq, "completed", types[-1], runs=20, micros=SECOND)])
    assert [await notices(browse) for _ in range(2)] == [[], []], "of the others nothing is known"
    (found,) = await notices(browse)
    assert found.startswith("A task of the type t11 has run for more than ten times its p99")


async def test_a_rate_with_a_long_line_needs_attention(browse: Browse, tq: TaskQ) -> None:
    @tq.task(rate=Rate(1, per=10))
    async def ask() -> None: ...

    await register(tq, worker(tq))
    await tq.push_many([("ask", {})] * 6)
    assert await notices(browse) == [], "they need less than a minute"
    await tq.push_many([("ask", {})] * 6)
    text = "The rate of the limit ask is used up: 11 tasks wait, which takes 1 min 50 s at this rate."
    assert await notices(browse) == [text]


async def test_a_queue_that_grows_needs_attention(browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    await register(tq, worker(tq, lease_until=2**60))
    await tq.push("greet", {"name": "first"})
    real = tq.queue.clock.now
    monkeypatch.setattr(tq.queue.clock, "now", lambda: real() + 6 * 60 * SECOND)
    await tq.push_many([("greet", {"name": f"{n}"}) for n in range(20)])
    text = "The queue default grows: 4 tasks become ready in a minute, and 2 end."
    for ended, found in ((10, [text]), (20, [])):
        await tq.queue.backend.history.add([period(tq, "completed", "greet", runs=ended)])
        async with in_starlette(tq) as fresh:  # what the first one has read of the history is kept for some seconds
            assert await notices(fresh) == found


async def test_an_alert_that_fires_needs_attention(browse: Browse, tq: TaskQ) -> None:
    since = tq.queue.clock.now() - 125 * SECOND
    stored = {"oldest_ready": [since, "a task has been ready for 90 s"], "other": "junk"}
    await tq.values.set_public(ALERTS, stored)
    assert await notices(browse) == ["Alert: a task has been ready for too long."]
    assert "for 2 min<" in (await browse.get("")).text
    await tq.values.set_public(ALERTS, "junk")
    assert await notices(browse) == []


async def test_schedules_that_are_stopped_need_attention(browse: Browse, tq: TaskQ) -> None:
    for name in ("a", "b", "c"):
        await tq.schedules.add(name, "greet", interval=60, schedule_id=name, params={"name": "World"})
    stored = internal(tq).scheduler().schedules
    for row in await stored.get(["a", "b"]):
        assert row is not None
        outcome: Any = {"a": "disabled", "b": "paused"}[row.task_id]
        await stored.change([ScheduleChange(row, paused(row, tq.queue.clock.now(), outcome))])
    assert await notices(browse) == ["The schedule a is disabled: it could not be fired.", "The schedule b is paused."]


async def test_more_than_four_notices_are_in_two_columns(browse: Browse, tq: TaskQ) -> None:
    for place in range(5):
        await tq.push("greet", {"name": "World"}, queue=f"q{place}")
        await tq.pause(f"q{place}")
        assert ('class="attention two"' in (await browse.get("")).text) is (place == 4)

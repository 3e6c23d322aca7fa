"""The operations API: the same requests to Starlette, FastAPI and aiohttp have the same answers."""

from __future__ import annotations

from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import to_iso
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.types import Attempt, Task
from tests.web.applications import DOORS, SECRET, Ask, refused


async def test_a_task_is_pushed_shown_cancelled_and_retried(ask: Ask, tq: TaskQ) -> None:
    body = {"type": "greet", "params": {"name": "you"}, "delay": 3600, "idempotency_key": "one", "priority": 3}
    first = await ask.post("tasks", json=body)
    assert (first.status_code, first.json()["created"]) == (201, True)
    task_id = first.json()["task_id"]
    assert first.headers["location"] == f"tasks/{task_id}"
    again = await ask.post("tasks", json=body)
    assert (again.status_code, again.json()) == (200, {"task_id": task_id, "created": False})
    assert first.headers["x-content-type-options"] == "nosniff"
    shown = (await ask.get(f"tasks/{task_id}")).json()
    assert (shown["status"], shown["priority"], shown["idempotency_key"]) == ("pending", 3, "one")
    assert shown["run_at"].endswith("Z") and not {"params", "result", "extra"} & shown.keys()

    refused(await ask.post(f"tasks/{task_id}/retry"), 409, "TaskConflict", "is pending")
    cancelled = await ask.post(f"tasks/{task_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    refused(await ask.post(f"tasks/{task_id}/cancel"), 409, "TaskConflict", "has ended already: cancelled")
    assert (await ask.post(f"tasks/{task_id}/retry")).json()["status"] == "pending"
    assert (await tq.get(task_id)).params == {"name": "you"}
    for verb in ("cancel", "retry"):
        refused(await ask.post(f"tasks/none/{verb}"), 404, "NotFound", "there is no task none")
    refused(await ask.get("tasks/none"), 404, "NotFound")


async def test_calls_are_debounced_and_throttled(ask: Ask, tq: TaskQ) -> None:
    rule = {"debounce": 3600, "max_wait": 9000, "merge": "last", "key": "all"}
    first = await ask.post("tasks", json={"type": "greet", "params": {"name": "me"}, **rule})
    again = await ask.post("tasks", json={"type": "greet", "params": {"name": "you"}, **rule})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["task_id"] == again.json()["task_id"]
    assert (await tq.get(first.json()["task_id"])).params == {"name": "you"}
    once = {"type": "greet", "params": {"name": "me"}, "throttle": 100_000_000}
    assert [(await ask.post("tasks", json=once)).status_code for _ in range(2)] == [201, 200]
    refused(await ask.post("tasks", json={**once, "debounce": 1}), 422, "ValidationError", "give one of the two")
    refused(await ask.post("tasks", json={**once, "merge": "first"}), 422, "ValidationError", "merge")


async def test_the_attempts_of_a_task_are_shown(door: Any, tq: TaskQ) -> None:
    where = {"worker": "worker-db1-42-0-0123456789ab", "version": "2.4.1", "fence": 3}
    past = Attempt(number=3, began_at=5_000_000, ended_at=5_250_000, outcome="failed", error=f"E: {SECRET}", **where)
    row = Task(task_id="a", type="greet", status=Status.FAILED, error_message="E: x", completed_at=5, attempts=(past,))
    await tq.queue.backend.push([row])
    async with door(tq, show_args=True) as ask:
        shown = (await ask.get("tasks/a")).json()
    assert (shown["run_time"], shown["attempts"]) == (
        0.25,
        [
            {
                "number": 3,
                "began_at": "1970-01-01T00:00:05Z",
                "ended_at": "1970-01-01T00:00:05.250000Z",
                "run_time": 0.25,
                "outcome": "failed",
                "error": f"E: {SECRET}",
                "host": "db1",
                **where,
            }
        ],
    )
    async with door(tq) as ask:
        assert (await ask.get("tasks/a")).json()["attempts"] == [{**shown["attempts"][0], "error": "E"}]
        listed = await ask.get("tasks")
    assert listed.json()["tasks"][0]["run_time"] == 0.25
    assert SECRET not in listed.text and "attempts" not in listed.json()["tasks"][0]


async def test_ids_and_keys_may_be_any_text(ask: Ask, tq: TaskQ) -> None:
    for odd in ("a/b c", "x/cancel", "你好?&#%"):
        pushed = await ask.post("tasks", json={"type": "greet", "params": {"name": odd}, "task_id": odd, "delay": 60})
        assert pushed.status_code == 201, pushed.text
        found = await ask.get(pushed.headers["location"])
        assert (found.status_code, found.json()["task_id"]) == (200, odd)
        quoted = pushed.headers["location"].removeprefix("tasks/")
        assert (await ask.put(f"values/{quoted}", json={"value": odd})).status_code == 200
        assert await tq.values.get_public(odd) == odd
        assert (await ask.post(f"tasks/{quoted}/cancel")).json()["status"] == "cancelled"


async def test_tasks_are_paged_and_filtered(ask: Ask, tq: TaskQ) -> None:
    await tq.push_many([{"type": "greet", "params": {"name": str(n)}, "queue": f"q{n % 2}"} for n in range(5)])
    seen, cursor = [], None
    while True:
        page = (await ask.get("tasks", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        assert len(page["tasks"]) <= 2
        seen += [task["task_id"] for task in page["tasks"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == [task.task_id for task in await tq.find()] and len(seen) == 5
    some = (await ask.get("tasks?status=pending&status=failed&queue=q1&type=greet")).json()["tasks"]
    assert [task["queue"] for task in some] == ["q1", "q1"]
    assert (await ask.get("tasks", params={"status": "failed"})).json() == {"tasks": [], "next": None}
    assert (await ask.get("tasks", params={"schedule": "none"})).json()["tasks"] == []
    refused(await ask.get("tasks", params={"cursor": "gone"}), 404, "NotFound")


async def fail(tq: TaskQ, error: str, **options: Any) -> str:
    """Let a new task fail; return its id."""
    handle = await tq.push("greet", {"name": "you"}, **options)
    backend, now = tq.queue.backend, tq.queue.clock.now()
    (task,) = await backend.claim("w", now, 1)
    after = task.replace(status=Status.FAILED, completed_at=now // SECOND, error_message=error)
    assert await backend.update([Change(task, after)]) == [True]
    return handle.task_id


async def test_a_purge_leaves_the_members_of_a_group_that_goes_on(ask: Ask, tq: TaskQ) -> None:
    await tq.group([tq.call("greet", {"name": "you"}), tq.call("greet", {"name": "me"})])
    (task,) = await tq.queue.backend.claim("w", tq.queue.clock.now(), 1)
    assert await tq.queue.backend.update([Change(task, settle(task, Completed(), tq.queue.clock.now()))]) == [True]
    for dry_run in (True, False):
        answer = await ask.post("tasks/delete", json={"type": "greet", "dry_run": dry_run})
        assert answer.json() == {"count": 0, "dry_run": dry_run}


async def test_tasks_are_retried_and_purged_by_filter(ask: Ask, tq: TaskQ) -> None:
    for error in ("ValueError: no disk", "ValueError: no luck", "OSError: no disk"):
        await fail(tq, error, queue="q")
    await tq.push("greet", {"name": "me"}, delay=3_600)

    async def count(path: str, **body: Any) -> int:
        answer = await ask.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["dry_run"] is body.get("dry_run", False)
        found: int = answer.json()["count"]
        return found

    assert await count("tasks/retry", error="disk", dry_run=True) == 0  # a hidden message is not searched
    assert await count("tasks/retry", error="ValueError", dry_run=True) == 2
    assert await count("tasks/delete", error="ValueError", queue="q", dry_run=True) == 2
    assert await count("tasks/delete", since="2100-01-01T00:00:00Z", dry_run=True) == 0
    assert (await tq.stats()).counts["failed"] == 3
    assert await count("tasks/retry", error="OSError") == 1 and await count("tasks/retry", type="other") == 0
    assert await count("tasks/retry", status=["cancelled"], queue="q") == 0
    assert await count("tasks/delete", status=["completed"]) == 0
    assert await count("tasks/delete", since=0, older_than=3600, status=["failed"], error="ValueError") == 0
    assert await count("tasks/delete", since=0, status=["failed"], error="ValueError") == 2
    counts = (await tq.stats()).counts
    assert (counts["pending"], counts["failed"]) == (2, 0)
    await fail(tq, "KeyError: no disk", queue="q")
    found = (await ask.get("tasks", params={"error": "KeyError", "since": "0"})).json()["tasks"]
    assert [task["error"] for task in found] == ["KeyError"]
    assert (await ask.get("tasks", params={"since": "2100-01-01T00:00:00Z"})).json()["tasks"] == []
    for path in ("tasks/retry", "tasks/delete"):
        refused(
            await ask.post(path, json={"dry_run": True}), 422, "ValidationError", "at least one of status, type, queue"
        )
        refused(await ask.post(path, json={"status": ["pending"]}), 422, "ValidationError", "status")
        refused(await ask.post(path, json={"dryrun": True}), 422, "ValidationError", "dryrun")
        refused(await ask.post(path, json={"error": "a\0"}), 422, "ValidationError", "error")


async def test_wrong_parameters_are_named_first(ask: Ask) -> None:
    words = "status: 'nope' is unknown; use cancelled, completed, expired, failed, pending, running"
    time = "is not a time; write it as 2026-03-28T12:00:00Z or 2026-03-28T12:00:00+01:00"
    assert (await ask.get("tasks?status=nope")).json()["detail"] == words
    assert (await ask.get("tasks?limit=0")).json()["detail"] == "limit: Expected `int` >= 1"
    assert (await ask.get("history?since=2h")).json()["detail"] == f"since: '2h' {time}"
    for body, said in (
        ({"type": "a", "at": "2026-03-28T12:00"}, f"at: '2026-03-28T12:00' {time}"),
        ({"type": "a", "merge": "newest"}, "merge: 'newest' is unknown; use first, last, list"),
        ({"type": "a", "priority": "1"}, "priority: Expected `int | null`, got `str`"),
        ([], "Expected `object`, got `array`"),
    ):
        refused(answer := await ask.post("tasks", json=body), 422, "ValidationError")
        assert answer.json()["detail"] == said


async def test_unknown_query_parameters_are_refused(ask: Ask) -> None:
    for path, known in (
        ("tasks", "status, type, queue, schedule, since, tag, error, limit, cursor, params"),
        ("schedules", "enabled, limit, cursor, params"),
        ("tasks/none", "there are params"),
        ("stats", "there are none here"),
    ):
        refused(await ask.get(f"{path}?statuz=failed"), 422, "UnknownParameter", "unknown parameter 'statuz'; ")
        refused(await ask.get(f"{path}?statuz=failed"), 422, "UnknownParameter", known)
    refused(await ask.post("queues/q/pause?dry_run=1"), 422, "UnknownParameter", "dry_run")
    assert (await ask.get("healthz?probe=7")).status_code == 200


@pytest.mark.parametrize("name", DOORS)
async def test_a_query_parameter_of_the_host_is_let_through(name: str, tq: TaskQ) -> None:
    async with DOORS[name](tq, own_query=["key"]) as ask:
        assert (await ask.get("stats?key=a&key=b")).status_code == 200
        assert (await ask.get("tasks?key=a&limit=1")).status_code == 200
        refused(await ask.get("stats?keys=a"), 422, "UnknownParameter")


async def test_query_parameters_are_bounded(ask: Ask, tq: TaskQ) -> None:  # J6
    await tq.push_many([{"type": "greet", "params": {"name": "x"}} for _ in range(3)])
    assert len((await ask.get("tasks", params={"limit": 10**9})).json()["tasks"]) == 3
    for name, value in [
        ("limit", "0"),
        ("limit", "-1"),
        ("limit", "1e99"),
        ("limit", "9" * 5000),
        ("status", "asleep"),
        ("type", "x" * 101),
        ("cursor", "x" * 256),
        ("params", "everything"),
    ]:
        refused(await ask.get("tasks", params={name: value}), 422, "ValidationError")
    refused(await ask.get("tasks?limit=1&limit=2"), 422, "ValidationError", "limit: given more than once")
    for count in ("0", "1001", "9" * 30):
        refused(await ask.get("preview/schedules", params={"interval": 60, "count": count}), 422, "ValidationError")
    assert (await ask.get("tasks?" + "&".join(["status=failed"] * 500))).json()["tasks"] == []


async def test_schedules_are_made_changed_fired_and_deleted(ask: Ask, tq: TaskQ) -> None:
    body = {
        "name": "Nightly",
        "type": "greet",
        "cron": "0 2 * * *",
        "timezone": "Asia/Shanghai",
        "params": {"name": "night"},
        "schedule_id": "nightly",
    }
    made = await ask.post("schedules", json=body)
    assert (made.status_code, made.headers["location"]) == (201, "schedules/nightly")
    assert made.json()["enabled"] and "params" not in made.json()
    refused(await ask.post("schedules", json=body), 409, "TaskConflict", "there is a schedule nightly")
    wrong = body | {"schedule_id": "wrong", "cron": "0 61 * * *"}
    refused(await ask.post("schedules", json=wrong), 422, "CronError", "61")
    two = body | {"schedule_id": "two", "interval": 60}
    refused(await ask.post("schedules", json=two), 422, "ValidationError", "exactly one of cron, interval and at")
    every = {"name": "e", "type": "greet", "interval": 60}
    every["params"] = {"name": "e"}
    every_id = (await ask.post("schedules", json=every)).json()["task_id"]

    listed = [(await ask.get("schedules?limit=1")).json()]
    listed.append((await ask.get("schedules", params={"limit": 1, "cursor": listed[0]["next"]})).json())
    assert {page["schedules"][0]["task_id"] for page in listed} == {"nightly", every_id}
    assert listed[1]["next"] is None
    refused(await ask.get("schedules?cursor=gone"), 404, "NotFound")

    assert (await ask.post("schedules/nightly/pause")).json()["enabled"] is False
    enabled = (await ask.get("schedules?enabled=true")).json()["schedules"]
    assert [each["task_id"] for each in enabled] == [every_id]
    assert (await ask.post("schedules/nightly/resume")).json()["enabled"] is True
    times = (await ask.get("preview/schedules?schedule=nightly&count=2")).json()["times"]
    assert [time[10:] for time in times] == ["T02:00:00+08:00"] * 2

    changes = {"cron": "30 3 * * *", "max_runs": 3, "timeout": 5}
    changed = (await ask.patch("schedules/nightly", json=changes)).json()
    assert [changed[name] for name in ("cron_expression", "max_runs", "timeout")] == [*changes.values()]
    assert (await ask.patch("schedules/nightly", json={"timeout": None})).json()["timeout"] is None
    refused(await ask.patch("schedules/nightly", json={}), 422, "ValidationError", "update: give one of cron, ")
    refused(await ask.patch("schedules/nightly", json={"enabled": False}), 422, "ValidationError", "unknown field")

    fired = await ask.post("schedules/nightly/run_now")
    task = await tq.get(fired.json()["task_id"])
    assert (task.type, task.params, task.scheduler_task_id) == ("greet", {"name": "night"}, "nightly")
    times = (await ask.get("preview/schedules?schedule=nightly&count=9")).json()["times"]
    assert [time[10:] for time in times] == ["T03:30:00+08:00"] * 2  # one of its three runs is made

    assert (await ask.delete("schedules/nightly")).json() == {"schedule_id": "nightly"}
    for method, path in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/run_now"),
        ("POST", "/pause"),
        ("POST", "/resume"),
    ]:
        refused(await ask.request(method, f"schedules/nightly{path}"), 404, "NotFound", "there is no schedule nightly")
    refused(await ask.patch("schedules/nightly", json={"priority": 1}), 404, "NotFound")


async def test_no_path_hides_a_schedule(ask: Ask, tq: TaskQ) -> None:
    for verb in ("preview", "history", "run_now"):
        await tq.schedules.add("any", "greet", params={"name": "you"}, interval=60, schedule_id=verb)
        assert (await ask.get(f"schedules/{verb}")).json()["task_id"] == verb


async def test_the_preview_of_a_stored_schedule_begins_with_its_next_run(ask: Ask, tq: TaskQ) -> None:
    at = 4_000_000_000
    add = tq.schedules.add
    await add("i", "greet", params={"name": "x"}, interval=90, start_at=at, timezone="UTC", schedule_id="i")
    await add("o", "greet", params={"name": "x"}, at=at, timezone="UTC", schedule_id="o")
    first = "2096-10-02T07:06:40+00:00"
    assert (await ask.get("preview/schedules?schedule=i&count=2")).json()["times"] == [
        first,
        "2096-10-02T07:08:10+00:00",
    ]
    assert (await ask.get("preview/schedules?schedule=o")).json()["times"] == [first]
    assert (await ask.get("schedules/o")).json()["next_run_at"] == "2096-10-02T07:06:40Z"
    assert (await ask.get("preview/schedules", params={"at": at, "timezone": "UTC"})).json()["times"] == [first]
    same = {"at": "2096-10-02T09:06:40+02:00", "timezone": "UTC"}
    assert (await ask.get("preview/schedules", params=same)).json()["times"] == [first]
    refused(await ask.get("preview/schedules"), 422, "ValidationError", "exactly one of cron, interval and at")
    in_zone = {"at": "2096-10-02T15:06:40", "timezone": "Asia/Shanghai"}
    assert (await ask.get("preview/schedules", params=in_zone)).json()["times"] == ["2096-10-02T15:06:40+08:00"]
    refused(await ask.get("preview/schedules?at=soon"), 422, "ValidationError", "at: 'soon' is not a time")
    assert len((await ask.get("preview/schedules?schedule=i&count=5&max_runs=2")).json()["times"]) == 2
    assert (await ask.get(f"preview/schedules?schedule=o&at={at + 60}")).json()["times"] == [
        "2096-10-02T07:07:40+00:00"
    ]
    refused(await ask.get("preview/schedules?schedule=i&after=1"), 422, "ValidationError", "after: it is about")


async def test_public_values_are_listed_by_key_only(door: Any, tq: TaskQ) -> None:  # J8
    async with door(tq) as ask:
        for number in range(3):
            assert (await ask.put(f"values/k{number}", json={"value": SECRET, "ttl": 60})).json() == {
                "key": f"k{number}"
            }
        page = (await ask.get("values?limit=2")).json()
        assert page == {"keys": ["k0", "k1"], "next": "k1"}
        assert (await ask.get("values", params={"cursor": page["next"]})).json() == {"keys": ["k2"], "next": None}
        refused(await ask.get("values/k0"), 403, "NotShown", "show_args=True")
        assert (await ask.delete("values/k0")).json() == {"key": "k0"}
        refused(await ask.delete("values/k0"), 404, "NotFound")
        refused(await ask.put("values/k0", json={"value": 1, "ttl": 0}), 422, "ValidationError")
        assert (await ask.put("values/k2", json={"value": 2})).status_code == 200  # it keeps its time to live
        assert 0 < (await tq.values.get_ttl("k2") or 0) <= 60
        for key, body in (("k1", {"value": SECRET, "ttl": None}), ("new", {"value": 1})):
            assert (await ask.put(f"values/{key}", json=body)).status_code == 200
            assert await tq.values.get_ttl(key) is None
    async with door(tq, show_args=True) as ask:
        assert (await ask.get("values/k1")).json() == {"key": "k1", "value": SECRET, "ttl": None}
        assert 0 < (await ask.get("values/k2")).json()["ttl"] <= 60
        refused(await ask.get("values/k0"), 404, "NotFound")


async def test_stats_queues_and_health(ask: Ask, tq: TaskQ) -> None:
    await tq.push("greet", {"name": "x"}, queue="mail")
    assert (await ask.post("queues/mail/pause")).json() == {"queue": "mail", "paused": True}
    stats = (await ask.get("stats")).json()
    assert (stats["counts"]["pending"], stats["ready"], stats["paused"]) == (1, 0, ["mail"])
    assert (await ask.post("queues/mail/resume")).json() == {"queue": "mail", "paused": False}
    assert (await ask.get("stats")).json()["ready"] == 1
    assert (await ask.get("healthz")).json() == {"status": "ok", "parts": {}}
    assert (await ask.get("readyz")).json() == {"status": "ok", "parts": {"store": "ok"}}
    async with tq.running():
        ready = (await ask.get("readyz")).json()
    assert ready == {"status": "ok", "parts": {"store": "ok", "workers": "ok", "scheduler": "ok"}}


async def test_limits_are_listed_and_changed(ask: Ask, tq: TaskQ) -> None:
    assert (await ask.get("limits")).json() == {"limits": [], "more": False}
    refused(await ask.get("limits/openai"), 404, "NotFound", "there is no limit openai")
    shown = (await ask.put("limits/openai", json={"cap": 3, "rate": 100, "per": 10, "burst": 4})).json()
    assert (shown["cap"], shown["rate"], shown["burst"], shown["fixed"]) == (3, 10, 4, True)
    shown = (await ask.put("limits/openai", json={"rate": None, "max_waiting": 9})).json()
    assert (shown["cap"], shown["rate"], shown["max_waiting"]) == (3, None, 9)
    refused(await ask.put("limits/openai", json={}), 422, "ValidationError", "name what to set")
    refused(await ask.put("limits/openai", json={"per": 5}), 422, "ValidationError", "per, burst: they are about rate")
    assert (await ask.post("limits/openai/pause", json={"seconds": 60})).json()["paused_until"].endswith("Z")
    assert (await ask.post("limits/openai/resume")).json()["state"] == "open"
    assert (await ask.post("limits/openai/reset")).json()["fixed"] is False
    for verb in ("pause", "resume", "reset"):
        answer = await ask.post(f"limits/opanai/{verb}", json={} if verb == "pause" else None)
        refused(answer, 404, "NotFound", "did you mean 'openai'?")
    assert [each["key"] for each in (await ask.get("limits")).json()["limits"]] == ["openai"]


async def test_a_pending_task_is_edited(ask: Ask, tq: TaskQ) -> None:
    task_id = (await tq.push("greet", {"name": "you"}, delay=3600, timeout=5)).task_id
    due = "2099-01-31T08:00:00+00:00"
    body = {"params": {"name": "me"}, "priority": -2, "queue": "mail", "at": due, "max_retries": 0, "timeout": None}
    changed = await ask.patch(f"tasks/{task_id}", json=body)
    assert (changed.status_code, changed.json()["run_at"]) == (200, "2099-01-31T08:00:00Z")
    task = await tq.get(task_id)
    assert (task.params, task.priority, task.queue) == ({"name": "me"}, -2, "mail")
    assert (task.max_retries, task.timeout) == (0, None)
    refused(await ask.patch(f"tasks/{task_id}", json={"params": {"age": 1}}), 422, "ValidationError", "params")
    refused(await ask.patch(f"tasks/{task_id}", json={}), 422, "ValidationError", "give one of")
    refused(await ask.patch(f"tasks/{task_id}", json={"status": "failed"}), 422, "ValidationError")
    refused(await ask.patch("tasks/none", json={"priority": 1}), 404, "NotFound")
    await tq.cancel(task_id)
    refused(await ask.patch(f"tasks/{task_id}", json={"priority": 1}), 409, "TaskConflict", "only pending")


async def test_an_ended_task_is_deleted(ask: Ask, tq: TaskQ) -> None:
    task_id = (await tq.push("greet", {"name": "you"})).task_id
    refused(await ask.delete(f"tasks/{task_id}"), 409, "TaskConflict", "only ended tasks are deleted")
    await tq.cancel(task_id)
    assert (await ask.delete(f"tasks/{task_id}")).json() == {"task_id": task_id}
    refused(await ask.delete(f"tasks/{task_id}"), 404, "NotFound")


async def test_a_schedule_is_backfilled_and_its_history_shown(ask: Ask, tq: TaskQ) -> None:
    start = int(SystemClock().now() // SECOND // 3600 * 3600) - 5 * 3600
    options: dict[str, Any] = {"interval": 3600, "start_at": start, "timezone": "UTC", "schedule_id": "hourly"}
    await tq.schedules.add("hourly", "greet", params={"name": "h"}, **options)
    await tq.schedules.pause("hourly")
    span = {"since": to_iso(start * SECOND), "until": to_iso((start + 3 * 3600) * SECOND)}
    dry = (await ask.post("schedules/hourly/backfill", json=span | {"dry_run": True})).json()
    assert len(dry["times"]) == 3 and dry["pushed"] is False and await tq.find(type="greet") == []
    refused(await ask.post("schedules/hourly/backfill", json=span | {"limit": 2}), 422, "ValidationError")
    done = (await ask.post("schedules/hourly/backfill", json=span)).json()
    assert done == {"times": dry["times"], "pushed": True}
    assert len(await tq.find(type="greet", scheduler_task_id="hourly")) == 3
    again = (await ask.post("schedules/hourly/backfill", json=span)).json()
    assert again == {"times": [], "pushed": False}, "none is fired twice"
    history = (await ask.get("schedules/hourly/history")).json()["history"]
    assert {"backfilled", "paused"} <= {each["outcome"] for each in history}
    assert sum(each["count"] for each in history if each["outcome"] == "backfilled") == 3
    planned = (await ask.get("preview/schedules?schedule=hourly&count=3")).json()
    assert len(planned["planned"]) == 3 and planned["times"] == [each["start"] for each in planned["planned"]]
    for wrong in ({}, {"since": "yesterday"}, span | {"limit": 0}, span | {"more": 1}):
        refused(await ask.post("schedules/hourly/backfill", json=wrong), 422, "ValidationError")
    refused(await ask.post("schedules/gone/backfill", json=span), 404, "NotFound", "there is no schedule gone")
    refused(await ask.get("schedules/gone/history"), 404, "NotFound", "there is no schedule gone")

"""The event ``operated`` of changes by the operations API: action, actor, targets, and an error that stopped it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.audit import KIND
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.core.instants import to_iso
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.queue import operations
from tests.support.rows import NOW
from tests.web.applications import Ask, in_starlette

Door = Callable[..., AbstractAsyncContextManager[Ask]]
Seen = list[tuple[str, list[str]]]


@pytest.fixture
def seen(tq: TaskQ) -> Seen:
    found: Seen = []
    tq.on("operated")(lambda event: found.append((event.detail["action"], event.detail["targets"])))
    return found


async def test_each_door_tells_who_has_changed_what(door: Door, tq: TaskQ) -> None:
    details: list[dict[str, Any]] = []
    tq.on("operated")(lambda event: details.append(event.detail))

    async def actor(request: Any) -> str:
        return str(request.headers["x-user"])

    async with door(tq, actor=actor) as ask:
        assert (await ask.post("queues/mail/pause", headers={"X-User": "mara"})).status_code == 200
        assert (await ask.get("stats", headers={"X-User": "mara"})).status_code == 200
        (entry,) = (await ask.get("audit", params={"target": "mail"})).json()["entries"]
        assert len((await ask.get("audit", params={"target": "mai"})).json()["entries"]) == 1
        assert (await ask.get("audit", params={"target": "ail"})).json() == {"entries": []}
    assert details == [{"action": "queues.pause", "actor": "mara", "targets": ["mail"]}]
    assert entry.pop("at").endswith("Z")
    assert entry == {"door": "api", "count": 1, "undecodable": None, **details[0]}


async def test_an_entry_that_cannot_be_read_is_listed_as_such(tq: TaskQ) -> None:
    await tq.queue.backend.side.put(KIND, [SideRow(f"{NOW:020d} 1", '{"door":"web"}')])
    async with in_starlette(tq) as ask:
        assert (await ask.post("queues/mail/pause")).status_code == 200
        good, bad = (await ask.get("audit")).json()["entries"]
        assert good["action"] == "queues.pause"
        assert (bad["at"], bad["door"], bad["action"], bad["targets"]) == (to_iso(NOW), "unknown", "", [])
        assert bad["undecodable"]
        assert len((await ask.get("audit", params={"target": "mail"})).json()["entries"]) == 1


async def test_each_kind_of_change_names_its_targets(tq: TaskQ, seen: Seen) -> None:
    async with in_starlette(tq) as ask:
        body = {"type": "greet", "params": {"name": "x"}, "idempotency_key": "k"}
        task_id = (await ask.post("tasks", json=body)).json()["task_id"]
        assert (await ask.post("tasks", json=body)).status_code == 200  # none was pushed
        schedule: dict[str, Any] = {
            "name": "n",
            "type": "greet",
            "interval": 60,
            "params": {"name": "x"},
        }
        schedule_id = (await ask.post("schedules", json=schedule)).json()["task_id"]
        fired = (await ask.post(f"schedules/{schedule_id}/run_now")).json()["task_id"]
        assert (await ask.post(f"tasks/{task_id}/cancel")).status_code == 200
        assert (await ask.post("tasks/retry", json={"status": ["cancelled"], "dry_run": True})).json()["count"] == 1
        assert (await ask.post("tasks/retry", json={"status": ["cancelled"]})).json()["count"] == 1
        assert (await ask.delete(f"tasks/{task_id}")).status_code == 409  # nothing was changed
        assert (await ask.post("workers/quiet", json={})).json()["count"] == 0  # a change of nothing is none
        assert (await ask.post("groups/mend")).status_code == 200
    assert seen == [
        ("tasks.push", [task_id]),
        ("schedules.add", [schedule_id]),
        ("schedules.run_now", [schedule_id, fired]),
        ("tasks.cancel", [task_id]),
        ("tasks.retry", ["filter: status=cancelled", "count: 1"]),
        ("groups.mend", ["count: 0"]),
    ]


async def test_what_was_done_before_an_error_is_told(tq: TaskQ, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "PURGE_CHUNK", 1)
    for _ in range(3):
        await (await tq.push("greet", {"name": "x"})).cancel()
    purge, left = tq.queue.backend.purge, [2]

    async def failing(*args: Any) -> int:
        if not left[0]:
            raise DatabaseUnavailable("gone")
        left[0] -= 1
        return await purge(*args)

    monkeypatch.setattr(tq.queue.backend, "purge", failing)
    async with in_starlette(tq) as ask:
        answer = await ask.post("tasks/delete", json={"status": ["cancelled"]})
    assert answer.status_code == 503
    targets = ["filter: status=cancelled", "count: 2", "stopped by: DatabaseUnavailable"]
    assert seen == [("tasks.delete", targets)]

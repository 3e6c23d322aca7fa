"""Tags in the operations API, in each framework."""

from __future__ import annotations

from aiotaskq import TaskQ
from tests.web.applications import Ask, refused


async def test_tasks_are_pushed_with_tags_and_found_by_them(ask: Ask, tq: TaskQ) -> None:
    made = (
        await ask.post(
            "tasks", json={"type": "greet", "params": {"name": "a"}, "tags": {"order": "17", "tenant": "a b"}}
        )
    ).json()
    await tq.push("greet", {"name": "a"}, tags={"order": "18"})
    (found,) = (await ask.get("tasks?tag=order=17&tag=tenant=a%20b")).json()["tasks"]
    assert (found["task_id"], found["tags"]) == (made["task_id"], {"order": "17", "tenant": "a b"})
    assert (await ask.get("tasks?tag=order=17&tag=tenant=c")).json()["tasks"] == []
    assert (await ask.post("tasks/cancel", json={"tag": ["order=17"], "dry_run": True})).json()["count"] == 1
    refused(await ask.get("tasks?tag=order"), 422, "ValidationError", "tag: 'order' is none")
    refused(
        await ask.post("tasks", json={"type": "greet", "params": {"name": "a"}, "tags": {"order": 17}}),
        422,
        "ValidationError",
        "tags",
    )
    wrong = await ask.post("tasks", json={"type": "greet", "params": {"name": "a"}, "tags": {"a b": "1"}})
    refused(wrong, 422, "ValidationError", "tags: 'a b' is no name of a tag")


async def test_a_schedule_has_tags(ask: Ask, tq: TaskQ) -> None:
    body = {"name": "s", "type": "greet", "params": {"name": "a"}, "interval": 60, "tags": {"order": "17"}}
    assert (await ask.post("schedules", json=body)).json()["tags"] == {"order": "17"}
    assert (await ask.patch("schedules/s", json={"tags": {}})).json()["tags"] == {}

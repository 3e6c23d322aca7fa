"""The operations API on groups, chains and workflows, in each framework."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete

from aiotaskq import TaskQ, Workflow, chain
from aiotaskq.app.handle import TaskCall
from aiotaskq.backends.sql.rows import TASKS
from tests.support.machine import within
from tests.web.applications import SECRET, Ask, refused


def call(name: str) -> TaskCall[Any]:
    return TaskCall("greet", {"name": name}, {})


async def test_groups_are_listed_by_state_and_page(ask: Ask, tq: TaskQ) -> None:
    assert (await ask.get("groups")).json() == {"groups": [], "next": None}
    for number in range(3):
        await tq.group([call("you")], group_id=f"g{number}", name=f"night {number}")
    await tq.group_handle("g1").cancel()
    page = (await ask.get("groups?limit=2")).json()
    assert ([each["group_id"] for each in page["groups"]], page["next"]) == (["g2", "g1"], "g1")
    rest = (await ask.get("groups", params={"cursor": page["next"]})).json()
    assert ([each["group_id"] for each in rest["groups"]], rest["next"]) == (["g0"], None)
    one = rest["groups"][0]
    assert (one["name"], one["status"], one["remaining"], one["ended_at"]) == ("night 0", "running", 1, None)
    assert one["created_at"].endswith("Z")
    for status, ids in [("running", ["g2", "g0"]), ("cancelled", ["g1"]), ("completed", []), ("failed", [])]:
        listed = (await ask.get("groups", params={"status": status})).json()
        assert [each["group_id"] for each in listed["groups"]] == ids, status
    both = (await ask.get("groups?status=running&status=cancelled&limit=2")).json()
    assert ([each["group_id"] for each in both["groups"]], both["next"]) == (["g2", "g1"], "g1")
    refused(await ask.get("groups?status=pending"), 422, "ValidationError")
    refused(await ask.get("groups?cursor=none"), 404, "NotFound", "there is no group none")


async def test_the_budget_of_a_group_is_raised(ask: Ask, tq: TaskQ) -> None:
    await tq.group([call("you"), call("me")], group_id="g", budget={"tokens": 10})
    await tq.group([call("you")], group_id="free")
    shown = (await ask.get("groups/g")).json()
    assert (shown["usage"], shown["budget"], shown["used_up"]) == ({}, {"tokens": 10}, False)
    changed = (await ask.post("groups/g/budget", json={"budget": {"tokens": 20, "cost": 0.5}})).json()
    assert (changed["budget"], changed["used_up"]) == ({"tokens": 20, "cost": 0.5}, False)
    assert (await ask.post("groups/g/budget", json={"budget": {"tokens": 0}})).json()["used_up"] is True
    assert [state.state for state in await tq.limits.some(["budget:g"])] == ["used_up"]
    refused(
        await ask.post("groups/free/budget", json={"budget": {"tokens": 1}}), 409, "TaskConflict", "without a budget"
    )
    refused(await ask.post("groups/g/budget", json={"budget": {}}), 422, "ValidationError", "at least one name")
    refused(await ask.post("groups/none/budget", json={"budget": {"tokens": 1}}), 404, "NotFound")


async def test_a_group_is_shown_with_the_edges_of_its_graph(ask: Ask, tq: TaskQ) -> None:
    order = Workflow("order 1")
    order.add("charge", call("nobody"))
    order.add("send", call("you"), after={"charge": "run"})
    order.add("rest", chain(call("a"), call("b"), name="night"))
    started = await tq.start(order)
    charge, send = [handle.task_id for handle in await started.tasks()]
    async with tq.running():
        await tq.queue.groups.wait(started.group_id, timeout=within(20))
    shown = (await ask.get(f"groups/{started.group_id}")).json()
    assert {name: shown[name] for name in ("status", "total", "completed", "failed", "next")} == {
        "status": "failed",
        "total": 3,
        "completed": 2,
        "failed": 1,
        "next": None,
    }
    first, second, inner = shown["members"]
    assert (first["task_id"], first["name"], first["status"]) == (charge, "charge", "failed")
    assert (first["error"], first["type"]) == ("RuntimeError", "greet")
    assert first["children"] == [{"task_id": send, "on_failure": "run"}] and first["parents"] == []
    assert (second["parents"], second["children"], second["waits"]) == ([charge], [], 0)
    assert second["started_at"].endswith("Z") and second["ended_at"].endswith("Z")
    assert (inner["is_group"], inner["type"], inner["name"], inner["status"]) == (True, "group", "rest", "completed")
    assert inner["progress"]["completed"] == 2
    below = (await ask.get(f"groups/{inner['task_id']}")).json()
    assert (below["parent_id"], below["name"], len(below["members"])) == (started.group_id, "night", 2)
    assert SECRET not in str(shown)

    page = (await ask.get(f"groups/{started.group_id}?limit=2")).json()
    assert ([each["name"] for each in page["members"]], page["next"]) == (["charge", "send"], 2)
    page = (await ask.get(f"groups/{started.group_id}?cursor=2")).json()
    assert ([each["name"] for each in page["members"]], page["next"]) == (["rest"], None)
    refused(await ask.get("groups/none"), 404, "NotFound", "there is no group none")
    refused(await ask.get(f"groups/{started.group_id}?cursor=x"), 422, "ValidationError")


async def test_what_a_group_pushes_at_its_end_is_shown(ask: Ask, tq: TaskQ) -> None:
    group = await tq.group([call("a")], then=call("all"), on_failure=call("some"))
    then = {"kind": "then", "type": "greet", "task_id": None, "status": None}
    shown = (await ask.get(f"groups/{group.group_id}")).json()["callbacks"]
    assert shown == [then, then | {"kind": "on_failure"}]
    async with tq.running():
        await tq.queue.groups.wait(group.group_id, timeout=within(20))
    then, failure = (await ask.get(f"groups/{group.group_id}")).json()["callbacks"]
    assert failure["task_id"] is None and failure["status"] is None
    (pushed,) = [each for each in await tq.find(type="greet") if each.params == {"name": "all"}]
    assert then["task_id"] == pushed.task_id and then["status"] in ("pending", "running", "completed")


async def test_a_group_is_cancelled_retried_and_mended(ask: Ask, tq: TaskQ) -> None:
    group = await tq.group([call("a"), call("b")], group_id="g")
    cancelled = (await ask.post("groups/g/cancel")).json()
    assert (cancelled["status"], cancelled["cancelled"], cancelled["cancel_requested"]) == ("cancelled", 2, True)
    refused(await ask.post("groups/g/cancel"), 409, "TaskConflict", "group g has ended already: cancelled")
    assert (await ask.post("groups/g/retry")).json() == {"group_id": "g", "retried": 2}
    assert (await ask.get("groups/g")).json()["generation"] == 2
    assert (await ask.post("groups/mend")).json() == {"mended": 0}
    gone = (await group.tasks())[0].task_id
    engine: Any = tq.queue.backend
    await engine.database.write(lambda connection: connection.execute(delete(TASKS).where(TASKS.c.task_id == gone)))
    assert (await ask.post("groups/mend")).json() == {"mended": 1}
    first, second = (await ask.get("groups/g")).json()["members"]
    assert (first["task_id"], first["type"], first["status"], second["status"]) == (gone, None, None, "pending")
    for verb in ("cancel", "retry"):
        refused(await ask.post(f"groups/none/{verb}"), 404, "NotFound", "there is no group none")


@pytest.mark.parametrize("path", ["groups/g/cancel", "groups/g/retry", "groups/mend"])
async def test_groups_are_not_changed_where_that_is_refused(door: Any, tq: TaskQ, path: str) -> None:
    await tq.group([call("a")], group_id="g")
    async with door(tq, read_only=True) as ask:
        refused(await ask.post(path), 403, "ReadOnly")
        assert (await ask.get("groups/g")).json()["status"] == "running"

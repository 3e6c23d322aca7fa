"""The operations API on events and steps, in each framework."""

from __future__ import annotations

import asyncio

from aiotaskq import EventTimeout, TaskQ, sleep_for, step, wait_event
from tests.support.machine import within
from tests.support.waiting import eventually
from tests.web.applications import Ask, refused


async def test_an_event_lets_a_task_go_on(ask: Ask, tq: TaskQ) -> None:
    @tq.task
    async def order(n: int) -> str:
        charged: int = await step("charge", lambda: n)
        await sleep_for("nag", 0)
        try:
            await wait_event("never", timeout=0)
        except EventTimeout:
            charged += 1
        approved = await wait_event("approved:17", timeout=3600)
        return f"{charged} {approved}"

    async with tq.running(), asyncio.timeout(within(20)):
        handle = await order.push(n=5)
        await eventually(lambda: tq.worker is not None and not tq.worker.tasks)
        path = f"tasks/{handle.task_id}/steps"
        while len(steps := (await ask.get(path)).json()["steps"]) < 3:
            await asyncio.sleep(0.01)
        assert [(each["kind"], each["name"]) for each in steps] == [
            ("step", "charge"),
            ("event", "never"),
            ("wait", "approved:17"),
        ]
        assert steps[1]["timed_out"] and steps[2]["until"].endswith("Z")
        assert all("value" not in each for each in steps)
        refused(await ask.get(f"{path}?params=true"), 403, "NotShown", "params and values are not shown here")
        refused(await ask.get("tasks/none/steps"), 404, "NotFound", "there is no task none")
        emitted = await ask.post("events/approved:17/emit", json={"value": {"by": "é"}})
        assert emitted.json() == {"key": "approved:17", "emitted": True}
        assert (await ask.post("events/approved:17/emit", json={"value": 2})).json()["emitted"] is False
        assert await handle.result() == "6 {'by': 'é'}"


async def test_events_are_listed_and_shown(ask: Ask) -> None:
    assert (await ask.get("events")).json() == {"events": [], "next": None}
    for key, options in (("a:1", {"expires": 60}), ("a:2", {"expires": None}), ("b", {})):
        assert (await ask.post(f"events/{key}/emit", json=options)).json() == {"key": key, "emitted": True}
    page = (await ask.get("events?prefix=a:&limit=1")).json()
    assert ([each["key"] for each in page["events"]], page["next"]) == (["a:1"], "a:1")
    rest = (await ask.get("events?prefix=a:&cursor=a:1")).json()
    assert ([each["key"] for each in rest["events"]], rest["next"]) == (["a:2"], None)
    assert rest["events"][0]["expires_at"] is None and "value" not in rest["events"][0]
    assert (await ask.get("events/b")).json()["at"].endswith("Z")
    refused(await ask.get("events/none"), 404, "NotFound", "there is no event none")
    refused(await ask.post("events/x/emit", json={"expires": 0}), 422, "ValidationError", "expires")

"""The operations API on workers and the history, in each framework."""

from __future__ import annotations

import asyncio

from aiotaskq import TaskQ
from tests.support.waiting import eventually
from tests.web.applications import Ask, refused


async def test_workers_are_listed_shown_and_steered(ask: Ask, tq: TaskQ) -> None:
    go_on = asyncio.Event()

    @tq.task
    async def holds() -> None:
        await go_on.wait()

    async with tq.running(concurrency=2):
        worker = tq.worker
        assert worker is not None
        handle = await holds.push()
        await eventually(lambda: worker.tasks)
        path = f"workers/{worker.owner}"
        (one,) = (await ask.get("workers")).json()["workers"]
        assert (one["id"], one["concurrency"], one["quiet"], one["wanted_concurrency"]) == (
            worker.owner,
            2,
            False,
            None,
        )
        assert one["seen_at"].endswith("Z")
        shown = (await ask.get(path)).json()
        assert [(run["task_id"], run["type"]) for run in shown["running"]] == [(handle.task_id, "holds")]
        assert shown["running"][0]["began_at"].endswith("Z")
        assert (await ask.post(f"{path}/quiet")).json() == {"workers": 1, "quiet": True}
        assert (await ask.get(path)).json()["quiet"] is True
        assert (await ask.post(f"{path}/wake")).json() == {"workers": 1, "quiet": False}
        assert (await ask.post("workers/quiet", json={"dry_run": True})).json() == {"count": 1, "dry_run": True}
        assert (await ask.get(path)).json()["quiet"] is False
        assert (await ask.post("workers/quiet", json={})).json() == {"count": 1, "dry_run": False}
        assert (await ask.get(path)).json()["quiet"] is True
        assert (await ask.post("workers/wake", json={})).json() == {"count": 1, "dry_run": False}
        assert (await ask.post(f"{path}/resize", json={"concurrency": 5})).json()["wanted_concurrency"] == 5
        refused(await ask.post(f"{path}/resize", json={"concurrency": 0}), 422, "ValidationError", "concurrency")
        refused(await ask.get("workers/nobody"), 404, "NotFound", "there is no worker nobody")
        refused(await ask.post("workers/nobody/quiet"), 404, "NotFound", "there is no worker nobody")
        go_on.set()


async def test_the_history_is_shown(ask: Ask, tq: TaskQ) -> None:
    assert (await ask.get("history")).json() == {"totals": [], "periods": [], "more": False}

    @tq.task
    async def quick() -> None: ...

    async with tq.running():
        for handle in [await quick.push() for _ in range(3)]:
            await handle.result()
    found = (await ask.get("history?step=86400&type=quick&since=0&queue=default")).json()["periods"]
    assert [(each["kind"], each["n"], each["seconds"]) for each in found] == [("completed", 3, 86_400)]
    assert 0 <= found[0]["run_p50"] <= found[0]["run_p95"] <= found[0]["run_p99"]
    assert found[0]["at"].endswith("T00:00:00Z")
    assert (await ask.get("history?until=2026-01-01T00:00:00Z&since=0")).json()["periods"] == []
    refused(await ask.get("history?step=0"), 422, "ValidationError", "step")

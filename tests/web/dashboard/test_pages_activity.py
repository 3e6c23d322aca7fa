"""Overview, task types, queues, workers and events: what they say about a store in a known state."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from aiotaskq import TaskQ
from aiotaskq.backends.audit import KIND
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.core.history import MINUTE, Period, Sums, begin_of
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.errors import TaskFailed
from aiotaskq.runtime.audit import audit
from aiotaskq.runtime.hooks import NAMES, Hooks
from aiotaskq.runtime.queue.operations import unclaimed_queues
from aiotaskq.web.dashboard import happened as feed_module
from aiotaskq.web.dashboard.happened import MOST, Feed
from aiotaskq.web.dashboard.past import deploys
from tests.support.machine import within
from tests.web.dashboard.conftest import Browse, in_starlette, send

CHINESE = {"Accept-Language": "zh"}


async def data(browse: Browse, path: str) -> dict[str, Any]:
    return msgspec.json.decode((await browse.get(path, params={"format": "json"})).content)


def period(tq: TaskQ, kind: str, type: str, *, runs: int, micros: int = 1_000_000, queue: str = "default") -> Period:
    sums = Sums()
    sums.add_runs([micros] * runs, [20_000] * runs)
    at = begin_of(tq.queue.clock.now(), MINUTE) - 2 * MINUTE * SECOND
    return sums.period((at, MINUTE, queue, type, kind, ""))


def worker(tq: TaskQ, owner: str = "w1", **changes: Any) -> WorkerInfo:
    now = tq.queue.clock.now()
    known: dict[str, Any] = {
        "owner": owner,
        "host": "db1",
        "pid": 42,
        "aiotaskq": "0.1.0",
        "version": "2.4.1",
        "started_at": now,
        "seen_at": now,
        "lease_until": now + 60 * SECOND,
        "queues": None,
        "concurrency": 10,
        "busy": 0,
    }
    return WorkerInfo(**known | changes)


async def run(tq: TaskQ, task: Any) -> None:
    async with tq.running():
        with contextlib.suppress(TaskFailed):
            await task.result(timeout=within(10))


async def register(tq: TaskQ, info: WorkerInfo) -> None:
    registry = tq.queue.backend.workers
    assert registry is not None
    await registry.register(info)


async def test_the_latest_failures_are_those_that_ended_last(browse: Browse, tq: TaskQ) -> None:
    now = tq.queue.clock.now() // SECOND
    rows = [
        Task(task_id=f"t{age}", type="greet", seq=place, status=Status.FAILED, created_at=now, completed_at=now - age)
        for place, age in enumerate((5, 1, 9, 3, 7, 2))
    ]
    await tq.queue.backend.push(rows)
    found = (await browse.get("", params={"format": "json"})).json()["failed"]
    assert [each["task_id"] for each in found] == ["t1", "t2", "t3", "t5", "t7"]


async def test_workers_of_every_queue_claim_all(tq: TaskQ) -> None:
    await tq.push("greet", {"name": "World"}, queue="batch")

    async def unclaimed(*workers: WorkerInfo) -> list[str]:
        return await unclaimed_queues(tq.queue.backend, await tq.stats(), workers, tq.queue.clock.now())

    assert await unclaimed(worker(tq, queues=("mails",))) == ["batch"]
    assert await unclaimed(worker(tq, queues=("mails",)), worker(tq, "w2")) == []
    assert await unclaimed() == ["batch"]
    await tq.pause("batch")
    assert await unclaimed() == []


# ---- charts ----


@pytest.mark.parametrize("path", ["", "type?name=greet", "queue?name=default"])
async def test_charts_are_drawn_and_said_in_both_languages(browse: Browse, tq: TaskQ, path: str) -> None:
    empty = await browse.get(path)
    assert "The first minute appears here" in empty.text and "<figure" not in empty.text
    await tq.queue.backend.history.add(
        [period(tq, "completed", "greet", runs=4), period(tq, "failed", "greet", runs=1)]
    )
    async with in_starlette(tq) as browse:
        english, chinese = await browse.get(path), await browse.get(path, headers=CHINESE)
    assert english.text.count("<figure") == chinese.text.count("<figure") == 3
    assert 'aria-label="Throughput: completed 4, failed 1"' in english.text
    assert 'aria-label="吞吐量: 已完成 4, 失败 1"' in chinese.text
    assert "nan" not in english.text.lower().replace("finance", "")


@pytest.mark.parametrize("span", ["1h", "24h", "7d", "90d", "other"])
async def test_the_span_is_a_link_and_marked(browse: Browse, span: str) -> None:
    page = (await browse.get("", params={"span": span})).text
    marked = span if span != "other" else "1h"
    assert f'<a href="./?span={marked}" aria-current="true">' in page
    assert page.count('aria-current="true"') == 2, "the other one is how it is split"


async def test_a_process_that_writes_no_history_says_so(tmp_path: Path) -> None:
    async with TaskQ(f"sqlite:///{tmp_path}/quiet.db", history=False).running() as tq, in_starlette(tq) as browse:
        assert "history=False" in (await browse.get("")).text


# ---- types and queues ----


async def test_types_are_sorted_by_links(browse: Browse, tq: TaskQ) -> None:
    await tq.queue.backend.history.add(
        [
            period(tq, "completed", "quick", runs=9, micros=1_000),
            period(tq, "completed", "slow", runs=3, micros=5_000_000),
            period(tq, "failed", "slow", runs=1),
        ]
    )
    orders = {}
    for sort in ("completed", "failed", "share", "p95", "name", "nonsense"):
        found = msgspec.json.decode((await browse.get("types", params={"sort": sort, "format": "json"})).content)
        orders[sort] = [each["name"] for each in found["types"]]
        assert found["idle"] == ["greet"]
    assert orders["completed"] == orders["name"] == orders["nonsense"] == ["quick", "slow"]
    assert orders["failed"] == orders["share"] == orders["p95"] == ["slow", "quick"]
    page = (await browse.get("types", params={"sort": "p95"})).text
    assert 'href="type?name=slow&amp;span=1h"' in page and 'aria-sort="descending"' in page and "25 %" in page
    day = (await browse.get("types?span=24h")).text
    assert re.findall(r">(0\.00[1-9])\d?</td>", day) == ["0.006", "0.002"], "few are not none"


async def test_the_overview_shows_what_comes_into_queues_and_goes_out(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(tq, worker(tq, queues=("mails",), concurrency=4, lease_until=2**60))
    await tq.push("greet", {"name": "World"}, queue="mails")
    periods = [("completed", 30), ("failed", 10)]
    await tq.queue.backend.history.add([period(tq, kind, "greet", runs=n, queue="mails") for kind, n in periods])
    (card,) = (await data(browse, ""))["queues"]
    assert (card["ready"], card["slots"], card["came"], card["into"]) == (1, 4, None, ""), "one look is not enough"
    await tq.push_many([{"type": "greet", "params": {"name": "World"}, "queue": "mails"}] * 3)
    real = tq.queue.clock.now
    for minutes in (1, 2):
        monkeypatch.setattr(tq.queue.clock, "now", lambda at=minutes: real() + at * 60 * SECOND)
        cards = {each["queue"]["name"]: each for each in (await data(browse, ""))["queues"]}
    card = cards["mails"]
    assert (card["ended"], card["failed"]) == (4, 10) and 0 < card["came"] <= 3
    assert card["out"] and card["ticks"]
    page = (await browse.get("")).text
    assert 'aria-label="Out per minute: 4, failed: 10"' in page and "<dd>1 min</dd>" in page
    assert 'href="tasks?queue=mails&amp;status=running">0/4</a>' in page


async def test_a_queue_shows_its_depth_and_is_paused_from_its_page(browse: Browse, tq: TaskQ) -> None:
    for _ in range(3):
        await tq.push("greet", {"name": "World"}, queue="batch")
    await tq.push("greet", {"name": "World"}, queue="batch", delay=60)
    await register(tq, worker(tq, queues=("batch",)))
    found = msgspec.json.decode((await browse.get("queue", params={"name": "batch", "format": "json"})).content)
    assert (found["ready"], found["later"], found["workers"]) == (3, 1, 1)
    assert found["queue"]["next_age"] is not None
    rows = (await data(browse, "queues"))["queues"]
    assert [row["name"] for row in rows if row["next_age"] is not None] == ["batch"]
    done = await send(browse, "queues.pause", "queue?name=batch", queue="batch")
    assert done.headers["location"] == "queue?name=batch" and await tq.paused() == ["batch"]
    page = (await browse.get("queue?name=batch")).text
    assert "Held by the pause" in page
    await send(browse, "queues.resume", "queues", queue="batch")
    assert await tq.paused() == []


@pytest.mark.parametrize("name", ["queue", "type"])
async def test_a_page_about_one_thing_needs_its_name(browse: Browse, name: str) -> None:
    assert (await browse.get(name)).status_code == 422
    hostile = await browse.get(name, params={"name": "<script>alert(1)</script>"})
    assert hostile.status_code == 200 and "<script>alert" not in hostile.text


# ---- workers ----


async def test_workers_are_listed_with_what_they_run(browse: Browse, tq: TaskQ) -> None:
    assert "No worker runs." in (await browse.get("workers")).text
    await register(tq, worker(tq, busy=1))
    await register(tq, worker(tq, "w2", lease_until=1))
    task = await tq.push("greet", {"name": "World"})
    (claimed,) = await tq.queue.backend.claim("w1", tq.queue.clock.now(), 1)
    assert claimed.task_id == task.task_id
    rows = (await data(browse, "workers"))["workers"]
    by = {row["id"]: row for row in rows}
    assert [run["task_id"] for run in by["w1"]["runs"]] == [task.task_id]
    assert (by["w1"]["alive"], by["w2"]["alive"]) == (True, False)
    page = (await browse.get("worker?id=w1")).text
    assert f"task?id={task.task_id}" in page and "db1 · 42" in page


async def test_the_latest_versions_of_the_application_are_told(browse: Browse, tq: TaskQ) -> None:
    registry = tq.queue.backend.workers
    assert registry is not None
    assert (await data(browse, "workers"))["versions"] == []
    now = tq.queue.clock.now()
    for number in range(5):
        await registry.note_version(worker(tq, version=f"2.4.{number}", started_at=now - (9 - number) * SECOND))
    assert await deploys(tq, now - 6 * SECOND) == [(now - 6 * SECOND, "2.4.3"), (now - 5 * SECOND, "2.4.4")]
    page = await browse.get("workers")
    assert re.findall(r"Version (\S+) since", page.text) == ["2.4.4", "2.4.3", "2.4.2"]
    assert "版本 2.4.4，始于 " in (await browse.get("workers", headers=CHINESE)).text


async def test_workers_are_quieted_woken_and_resized(browse: Browse, tq: TaskQ) -> None:
    await register(tq, worker(tq))
    done = await send(browse, "workers.quiet", "workers", worker_id="w1")
    assert done.headers["location"] == "worker?id=w1" and (await tq.workers.get("w1")).quiet
    assert ">Wake<" in (await browse.get("workers")).text
    await send(browse, "workers.wake", "workers", worker_id="w1")
    assert not (await tq.workers.get("w1")).quiet
    await send(browse, "workers.resize", "worker?id=w1", worker_id="w1", concurrency="4")
    assert (await tq.workers.get("w1")).wanted_concurrency == 4
    assert "asked for 4" in (await browse.get("worker?id=w1")).text
    wrong = await send(browse, "workers.resize", "worker?id=w1", worker_id="w1", concurrency="many")
    assert wrong.status_code == 422 and (await tq.workers.get("w1")).wanted_concurrency == 4
    asked = await send(browse, "workers.quiet_many", "workers")
    assert "Quiet all workers (1)?" in asked.text and not (await tq.workers.get("w1")).quiet
    await send(browse, "workers.quiet_many", "workers", sure="yes")
    assert (await tq.workers.get("w1")).quiet
    await send(browse, "workers.wake_many", "workers")
    assert not (await tq.workers.get("w1")).quiet


async def test_a_store_without_a_registry_says_so() -> None:
    async with TaskQ("memory://") as tq, in_starlette(tq) as browse:
        assert "This store has no registry of workers." in (await browse.get("workers")).text
        assert (await browse.get("")).status_code == 200


# ---- events ----


async def test_events_are_listed_with_what_was_before_the_first_look(browse: Browse, tq: TaskQ) -> None:
    before = await tq.push("greet", {"name": "before"})
    (event,) = (await data(browse, "activity"))["happened"]
    assert (event["name"], event["task_id"]) == ("pushed", before.task_id)
    task = await tq.push("greet", {"name": "nobody"}, priority=1)
    await run(tq, task)
    found = (await data(browse, "activity"))["happened"]
    of_task = [(each["name"], each["task_id"]) for each in reversed(found) if each["task_id"] == task.task_id]
    assert of_task == [("pushed", task.task_id), ("started", task.task_id), ("failed", task.task_id)]
    failed = msgspec.json.decode((await browse.get("activity", params={"name": "failed", "format": "json"})).content)
    assert [each["name"] for each in failed["happened"]] == ["failed"]
    page = (await browse.get("activity")).text
    assert "RuntimeError" in page and "there is no such person" not in page
    assert '"><span></span></td>' not in page, "a first start has no details"


async def test_what_operators_did_in_any_process_is_listed(browse: Browse, tq: TaskQ) -> None:
    await send(browse, "queues.pause", "queues", queue="default")
    async with TaskQ(tq.url) as elsewhere:
        await audit(elsewhere.queue, "cli", "tasks.retry", "mara@db1", [f"task {number}" for number in range(60)])
    both = (await browse.get("activity", params={"format": "json", "name": "operated"})).json()["happened"]
    bulk, pause = (each["change"] for each in both)
    assert (pause["action"], pause["door"], pause["targets"][0]) == ("queues.pause", "dashboard", "default")
    assert (bulk["actor"], bulk["targets"][2], bulk["count"]) == ("mara@db1", "task 2", 60)
    page = (await browse.get("activity")).text
    assert '<a class="id" href="task?id=task+0" title="task 0">task 0</a>' in page
    assert "by mara@db1 · command line" in page and "and 57 more" in page
    assert "运维人员" in (await browse.get("activity", headers=CHINESE)).text


async def test_the_page_of_a_thing_lists_what_was_done_with_it(browse: Browse, tq: TaskQ) -> None:
    task = await tq.push("greet", {"name": "x"}, delay=60)
    for action, target in (("queues.pause", "default"), ("limits.pause", "default"), ("tasks.run_now", task.task_id)):
        await audit(tq.queue, "api", action, "mara", [target])
    (pause,) = (await browse.get("queue?name=default&format=json")).json()["changes"]
    assert (pause["action"], pause["actor"]) == ("queues.pause", "mara")
    assert "by mara · operations API" in (await browse.get("queue?name=default")).text
    run, pushed = (await browse.get(f"task?id={task.task_id}&format=json")).json()["moments"]
    assert (run["kind"], run["change"]["action"], pushed["kind"]) == ("operated", "tasks.run_now", "pushed")
    assert "by mara · operations API" in (await browse.get(f"task?id={task.task_id}")).text


async def test_entries_that_cannot_be_read_are_listed_and_hide_no_page(browse: Browse, tq: TaskQ) -> None:
    await audit(tq.queue, "api", "queues.pause", "mara", ["default"])
    (known,) = await tq.queue.backend.audit.read(1)
    odd = [replace(known, at=at, action="{x} %s") for at in (10**30, -(10**30))]  # readable, and never written by us
    texts = ["{", *(msgspec.json.encode(each).decode() for each in odd)]
    rows = [SideRow(f"{known.at - number:020d} {number}", text) for number, text in enumerate(texts, 1)]
    await tq.queue.backend.side.put(KIND, rows)
    task = await tq.push("greet", {"name": "x"})
    schedule = (await tq.schedules.add("n", "greet", params={"name": "x"}, interval=60)).task_id
    await tq.limits.set("k", cap=1)
    for path in ("activity", "queue?name=default", f"task?id={task.task_id}", f"schedule?id={schedule}", "limit?key=k"):
        assert (await browse.get(path)).status_code == 200, path
    assert "an entry that cannot be read" in (await browse.get("activity")).text
    assert "无法读取的条目" in (await browse.get("activity", headers=CHINESE)).text
    assert "by mara · operations API" in (await browse.get("queue?name=default")).text


async def test_nothing_is_collected_without_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = 0

    class Clock:
        def ticks(self) -> int:
            return ticks

    monkeypatch.setattr(feed_module, "SystemClock", Clock)
    hooks = Hooks()
    feed = Feed(hooks)
    assert not hooks.wanted
    hooks.call("skipped", 1)
    assert feed.read(None, 10) == [] and hooks.wanted
    for at in range(MOST + 5):
        hooks.call("skipped", at)
    assert [each.at for each in feed.read(None, 2)] == [MOST + 4, MOST + 3] and len(feed.read(None, 10_000)) == MOST
    ticks = 61 * SECOND
    hooks.call("skipped", 0)
    assert not hooks.wanted and all(name not in hooks for name in NAMES)
    assert feed.read("skipped", 10) == []


async def test_a_listener_is_taken_away_without_the_others() -> None:
    hooks, heard, others = Hooks(), [], []
    hooks.on("failed", heard.append)
    hooks.on("failed", others.append)
    hooks.off("failed", others.append)
    hooks.off("failed", others.append)
    hooks.off("pushed", heard.append)
    hooks.call("failed", 1)
    assert len(heard) == 1 and not others and hooks.wanted
    hooks.off("failed", heard.append)
    assert not hooks.wanted and "failed" not in hooks

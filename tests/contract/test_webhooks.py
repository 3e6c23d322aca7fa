"""Messages of webhooks are pushed by the transaction that ends the task, on each store."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.core.alerts import ALERTS
from aiotaskq.core.task import Task
from aiotaskq.core.webhooks import WEBHOOK, Webhook
from aiotaskq.errors import TaskFailed
from aiotaskq.runtime import webhook_sender
from aiotaskq.testing import virtual
from tests.support.backends import Store
from tests.support.machine import watchdog, within
from tests.support.waiting import eventually


async def test_alerts_begin_and_end_and_one_task_evaluates_them(store: Store, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    schedules = f"sqlite:///{tmp_path}/schedules.db"

    def wired() -> TaskQ:
        tq = TaskQ(store.url, schedules=schedules)
        tq.alerts(dead_letters=1, every=0.02)
        tq.webhook("https://example.com/alerts", secret=bytes(32), queue="hooks", on="alert")
        tq.on("alert", lambda event: told.append((event.detail["rule"], event.detail["state"])))

        @tq.task(max_retries=0)
        async def bad() -> None:
            raise RuntimeError("no")

        return tq

    async with wired() as tq:
        for _ in range(2):  # a second start finds the task of the first
            async with tq.running(queues=["default"], scheduler=False):
                if not told:
                    await tq.push("bad")
                async with asyncio.timeout(within(20)):
                    while len(told) < 1:
                        await asyncio.sleep(0.01)
        assert [str(each.status) for each in await tq.find(type=ALERTS)] == ["pending"]
        await tq.purge(status=["failed"])
        async with tq.running(queues=["default"], scheduler=False), asyncio.timeout(within(20)):
            while len(told) < 2:
                await asyncio.sleep(0.01)
        assert told == [("dead_letters", "firing"), ("dead_letters", "resolved")]
        sent = await tq.find(type=WEBHOOK)
        assert sorted(task.params["body"]["type"] for task in sent) == ["alert.firing", "alert.resolved"]
        assert len({task.params["body"]["data"]["since"] for task in sent}) == 1
        assert await tq.values.get_public(ALERTS) == {}


async def test_the_end_of_a_task_pushes_its_messages(store: Store, tmp_path: Path) -> None:
    schedules = f"sqlite:///{tmp_path}/schedules.db"
    async with TaskQ(store.url, schedules=schedules) as tq:
        tq.webhook("https://example.com/failed", secret=bytes(32), queue="hooks")
        ends = ("completed", "failed")
        tq.webhook("https://example.com/all", name="all", secret=bytes(32), queue="hooks", on=ends, types="bad")

        @tq.task(max_retries=1, backoff=0.01)
        async def bad() -> None:
            raise RuntimeError("no")

        @tq.task
        async def good() -> None: ...

        async with tq.running(queues=["default"], scheduler=False):  # nothing sends the messages
            handles = [await bad.push(), await good.push()]
            async with asyncio.timeout(within(20)):
                for handle in handles:
                    with contextlib.suppress(TaskFailed):
                        await handle.result()
        sent: list[Task] = await tq.find(type=WEBHOOK)
        told = sorted((task.params["webhook"], task.params["body"]["data"]["task_id"]) for task in sent)
        assert told == [(name, handles[0].task_id) for name in ("all", "example.com")]
        assert {task.queue for task in sent} == {"hooks"} and {str(task.status) for task in sent} == {"pending"}


async def test_cancelled_and_expired_tasks_are_told_of(store: Store, tmp_path: Path) -> None:
    schedules = f"sqlite:///{tmp_path}/schedules.db"
    async with virtual(url=store.url, schedules=schedules, scheduler=False, lease=7 * 86_400) as kit:
        tq = kit.tq
        tq.webhook("https://example.com/ends", secret=bytes(32), queue="hooks", on=("cancelled", "expired"))
        tq.elsewhere("work")
        await tq.pause("hooks")  # nothing is sent
        one, two, three, late, taken = [
            await tq.push("work", delay=60, expires=expires, unique_key=key)
            for key, expires in (("a", None), ("b", None), ("c", None), ("d", 30), ("e", 30))
        ]
        assert await one.cancel()
        await tq.pause()
        await kit.advance(minutes=2)
        newer = await tq.push("work", delay=7200, unique_key="e")
        assert newer.created, "the expired task gave its key up"
        assert await tq.cancel_many(type="work") in (3, 4)
        sent = [each.params["body"] for each in await tq.find(type=WEBHOOK)]
        told = {body["data"]["task_id"]: body["type"] for body in sent}
        ends = {each.task_id: f"task.{await each.status()}" for each in (one, two, three, late, taken, newer)}
        assert told == ends and told[taken.task_id] == "task.expired" and told[one.task_id] == "task.cancelled"


async def test_a_receiver_that_hangs_holds_one_slot(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, sending, most = asyncio.Event(), Counter[str](), Counter[str]()

    async def hangs(webhook: Webhook, *_: object) -> int:
        sending[webhook.host] += 1
        most[webhook.host] = max(most[webhook.host], sending[webhook.host])
        await release.wait()
        sending[webhook.host] -= 1
        return 204

    monkeypatch.setattr(webhook_sender, "deliver", hangs)
    async with TaskQ(store.url, schedules=f"sqlite:///{tmp_path}/schedules.db") as tq:
        for name in ("one.test", "other.test"):
            tq.webhook(f"https://{name}/failed", secret=bytes(32))

        @tq.task(max_retries=0)
        async def bad() -> None:
            raise RuntimeError("no")

        @tq.task
        async def good() -> None: ...

        async with tq.running(3, scheduler=False), asyncio.timeout(watchdog()):
            for handle in [await bad.push() for _ in range(5)]:
                with pytest.raises(TaskFailed):
                    await handle.result()
            await eventually(lambda: sending.total() == 2)
            for handle in [await good.push() for _ in range(5)]:
                await handle.result()
            assert sending == {"one.test": 1, "other.test": 1}
            release.set()
            await eventually(lambda: counted(tq))
    assert most == {"one.test": 1, "other.test": 1}


async def counted(tq: TaskQ) -> bool:
    """Whether all messages were sent."""
    return await tq.count(type=WEBHOOK, status="completed") == 10


async def test_a_message_of_an_unknown_webhook_is_left_to_others(store: Store, tmp_path: Path) -> None:
    schedules = f"sqlite:///{tmp_path}/schedules.db"
    rounds = dict.fromkeys(("poll_interval", "heartbeat", "reap_interval"), 1_000.0)  # of a day, few
    options: Any = {"scheduler": False, "history": False, "retention": None, "lease": 7 * 86_400, **rounds}
    async with virtual(url=store.url, schedules=schedules, **options) as kit:
        kit.tq.webhook("https://example.com/known", secret=bytes(32))
        sent = await kit.tq.push(WEBHOOK, {"webhook": "other", "body": {}})
        await kit.advance(hours=1)
        row = await sent.task()
        assert (str(row.status), row.retry_count) == ("pending", 0)
        await kit.tq.pause()
        await kit.advance(hours=24)
        await kit.tq.resume()
        await kit.advance(minutes=2)
        row = await sent.task()
        assert str(row.status) == "failed" and "webhook other: it is not registered" in str(row.error_message)

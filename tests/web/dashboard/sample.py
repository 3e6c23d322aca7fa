"""A task queue with something on every page: tasks in each state, gates, groups, schedules, values and a worker.

Every text that a user of the library can choose is a parameter, so that pages can be looked at with harmless and with
hostile ones.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

from aiotaskq import Limit, Rate, TaskQ, Workflow, current_task
from aiotaskq.app.handle import TaskCall
from aiotaskq.core.errors import MAX_KEY, MAX_NAME
from aiotaskq.core.status import Status
from aiotaskq.runtime.audit import audit
from aiotaskq.web.dashboard.site import pages
from tests.support.waiting import eventually

PLAIN = "a plain text"
EXAMPLES = ("failed", "running", "parked", "paused", "expired")
"""Tasks whose pages have parts of their own."""


class Sample:
    """What the addresses of pages about one thing name."""

    def __init__(self, tq: TaskQ) -> None:
        self.tq = tq
        self.tasks: dict[str, str] = {}
        """Ids by what they are examples of."""
        self.groups: list[str] = []
        self.schedules: list[str] = []
        self.limits: list[str] = []
        self.values: list[str] = []
        self.workers: list[str] = []
        self.names: list[str] = ["say", "default"]
        """Of types and of queues."""

    def addresses(self) -> list[str]:
        """Return an address of every page, and of each thing that it can show."""
        found: list[str] = []
        for name, page in pages.items():
            if "id" in page.parameters and name not in ("tasks", "schedules"):
                known = {"tasks": [*self.tasks.values()], "groups": self.groups, "schedules": self.schedules}
                known["workers"] = self.workers
                found += [f"{name}?{urlencode({'id': each})}" for each in known[page.section]]
            elif "key" in page.parameters and name not in ("limits", "events", "event-form"):
                keys = {"limits": self.limits, "values": self.values}[page.section]
                found += [f"{name}?{urlencode({'key': each})}" for each in keys]
            elif name in ("queue", "type"):
                found += [f"{name}?{urlencode({'name': each})}" for each in self.names]
            else:
                found.append(name)
        return found


@contextlib.asynccontextmanager
async def filled(tq: TaskQ, *texts: str) -> AsyncIterator[Sample]:
    """Put tasks and all the rest into an open queue, each with these texts; a worker runs until it is left."""
    sample, release = Sample(tq), asyncio.Event()

    @tq.task(max_retries=0)
    async def say(text: str) -> dict[str, str]:
        return {text: text}

    @tq.task(max_retries=0)
    async def fail(text: str) -> None:
        raise RuntimeError(text)

    @tq.task
    async def linger(text: str) -> None:
        await current_task().progress(1, 3, text)
        current_task().log(text)
        await release.wait()

    @tq.task(limit=Limit(1, key="tenant"))
    async def bounded(tenant: str) -> None:
        await release.wait()

    @tq.task(rate=Rate(1, per=3600), name="metered")
    async def metered() -> None: ...

    async with tq.running(100, scheduler=False):
        try:
            for place, text in enumerate(texts or (PLAIN,)):
                await _put(sample, f"{place}", text)
            sample.workers = [each.owner for each in await tq.workers.list()]
            yield sample
        finally:
            release.set()


async def _put(sample: Sample, place: str, text: str) -> None:
    tq = sample.tq
    key = _printable(text)
    name = key[:MAX_NAME]
    tq.elsewhere(name)
    sample.names.append(name)
    call, failing = TaskCall("say", {"text": text}, {}), TaskCall("fail", {"text": text}, {})
    pushed: dict[str, Any] = {
        "completed": await tq.push("say", {"text": text}),
        "failed": await tq.push("fail", {"text": text}),
        "running": await tq.push("linger", {"text": text}),
        "first": await tq.push("bounded", {"tenant": key}),
        "parked": await tq.push("bounded", {"tenant": key}),
        "closed": await tq.push("bounded", {"tenant": f"{key} closed"}, delay=3600),
        "metered": await tq.push("metered"),
        "delayed": await tq.push(name, {text: text}, delay=3600, queue=name),
        "keys": await tq.push("say", {"text": text}, delay=3600, unique_key=f"u{key}", idempotency_key=f"i{key}"),
        "cancelled": await tq.push("say", {"text": text}, delay=3600),
        "expired": await tq.push("say", {"text": text}, delay=3600, expires=0.000_001),
        "paused": await tq.push("say", {"text": text}, queue=f"{name[:-1]}!"),
    }
    sample.tasks |= {f"{kind} {place}": handle.task_id for kind, handle in pushed.items()}
    await pushed["cancelled"].cancel()
    await audit(tq.queue, "api", "tasks.retry_many", text, [text, pushed["failed"].task_id, f"filter: {text}"])
    for action, target in (("limits.pause", f"tenant:{key}"), ("queues.pause", f"{name[:-1]}!")):
        await audit(tq.queue, "cli", action, text, [target])
    await tq.pause(f"{name[:-1]}!")
    workflow = Workflow(key[:90]).add(key[:90], call).add(f"{key[:90]} after", failing, after=[key[:90]])
    sample.groups.append((await tq.start(workflow)).group_id)
    sample.groups.append((await tq.group([call], name=key[:90])).group_id)
    sample.values.append(f"{key} {place}")
    await tq.values.set_public(sample.values[-1], {text: [text]})
    sample.limits += [f"tenant:{key}", f"tenant:{key} closed"]
    await tq.limits.pause(sample.limits[-1])
    timings: list[dict[str, Any]] = [{"cron": "0 2 * * *"}]
    timings += [{"interval": 3600, "max_runs": 5}]
    for timing in timings:
        about: dict[str, Any] = {"description": text, "queue": name, "params": {"text": text}}
        sample.schedules.append((await tq.schedules.add(name, "say", **timing, **about)).task_id)
    await tq.schedules.run_now(sample.schedules[0])
    await tq.schedules.pause(sample.schedules[-1])
    await eventually(lambda: _settled(tq, pushed))


async def _settled(tq: TaskQ, pushed: dict[str, Any]) -> bool:
    states = {kind: (await tq.get(handle.task_id)).status for kind, handle in pushed.items()}
    wanted = {kind: kind for kind in ("completed", "failed", "running", "cancelled")} | {"first": "running"}
    return all(states[kind] == state for kind, state in wanted.items())


def _printable(text: str) -> str:
    """Return the text as a key can hold it."""
    return "".join(char if char.isprintable() else "?" for char in text)[: MAX_KEY - 20]


def chosen_addresses(sample: Sample) -> list[str]:
    """Return an address of each page, and those of some tasks."""
    first = {address.partition("?")[0]: address for address in reversed(sample.addresses())}
    examples = [f"task?id={sample.tasks[f'{kind} 0']}" for kind in EXAMPLES]
    return [*first.values(), *examples, *(f"tasks?status={status}" for status in Status), "./?span=24h&by=type"]

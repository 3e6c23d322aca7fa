"""Redis stores, servers and programs for the tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator

from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Change, Claim, ScheduleChange
from aiotaskq.backends.listeners import CANCEL
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, TaskFilter
from tests.support import nursery
from tests.support.machine import watchdog
from tests.support.programs import ROOT
from tests.support.rows import LEASE, NOW, completed, ids, new, new_schedule, worker_info
from tests.support.servers import Valkey


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisBackend]:
    backend = connect(url)
    assert isinstance(backend, RedisBackend)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@contextlib.contextmanager
def own_server(durable: bool = False, **settings: str) -> Iterator[Valkey]:
    made = Valkey(durable, **settings)
    try:
        yield made
    finally:
        made.kill()


async def every_verb(backend: Backend) -> None:
    """A life of some tasks and values in which each verb is used, and works."""
    a, b, c = await backend.push([new(unique_key="u", queue="q1", idempotency_key="i"), new(priority=3), new()])
    await backend.push([new(queue="paused", expires_at=NOW - 5, run_at=NOW - 9)])
    await backend.set_paused("paused", True)
    assert await backend.paused() == ["paused"]
    assert await backend.next_run_at(NOW) == NOW
    assert await backend.count_ready(NOW) == 3
    claimed = await backend.claim("o", NOW, 10, lease_until=LEASE)
    assert ids(claimed) == ids([a, c, b])
    a, c, b = claimed
    assert backend.workers is not None
    await backend.workers.register(worker_info())
    assert await backend.workers.heartbeat(worker_info())
    assert await backend.workers.all() == [worker_info()]
    (held,) = await backend.push([new(queue="held")])
    await backend.claim("w", NOW, 1, queues=["held"])
    assert (await backend.workers.held(["w"]))["w"] == [(held.task_id, 1, False)]
    assert await backend.workers.remove(worker_info())
    assert ids(await backend.overdue(NOW - 9, 10)) == [held.task_id]
    assert ids(await backend.find(TaskFilter(status=(Status.RUNNING,), queue="held"), 10)) == [held.task_id]
    assert await backend.delete([held.task_id]) == 1
    assert await backend.report([(a.task_id, a.fence, {"done": 1})]) == [True]
    assert await backend.request_cancel([b.task_id]) == [True]
    assert await backend.cancelling([a.task_id, b.task_id]) == [b.task_id]
    assert set(ids(await backend.overdue(LEASE, 10))) >= set(ids([b, c]))
    assert await backend.update([Change(a, completed(a), then=(new(scheduler_task_id="s"),))]) == [True]
    assert await backend.exchange([Change(a, completed(a))], Claim("o", NOW, 1, queues=["none"])) == ([False], [])
    assert await backend.active(["s"]) == {"s": 1}
    assert (await backend.stats(NOW)).counts["completed"] == 1
    assert len(await backend.find(TaskFilter(type="t"), 10)) == 5
    assert await backend.get([a.task_id, "none"]) == [completed(a, progress={"done": 1}), None]
    assert await backend.purge(TaskFilter(), 10) == 1
    assert await backend.delete([b.task_id]) == 1
    await backend.values.put([("k", [1], NOW + 1), ("l", 2, None)])
    assert await backend.values.get(["k", "l"], NOW) == [([1],), (2,)]
    assert (await backend.values.keys(NOW), await backend.values.count(NOW)) == (["k", "l"], 2)
    assert await backend.values.delete(["l"], NOW) == [True]
    assert await backend.values.expire(NOW + 1, 5) == 1
    await backend.values.clear()
    await every_verb_of_schedules(backend)
    assert await backend.ping() is not None


async def every_verb_of_schedules(backend: Backend) -> None:
    """A life of a schedule in which each verb is used, and works."""
    schedules = backend.schedules
    assert schedules is not None
    made, task = new_schedule(), new(queue="fired")
    assert await schedules.add([made]) == [made]
    assert await schedules.due(NOW, 5) == await schedules.all() == await schedules.written_after(NOW - SECOND) == [made]
    assert await schedules.next_due() == NOW
    fired = ScheduleChange(made, made.replace(run_count=1, outbox=(new(),)), (task,))
    assert await schedules.change([fired, fired]) == [True, False]
    assert await schedules.undelivered(5) == await schedules.get([made.task_id])
    assert await schedules.delete([made.task_id, made.task_id]) == [True, False]
    assert await schedules.all() == await schedules.undelivered(5) == await schedules.due(NOW, 5) == []
    assert await backend.delete([task.task_id]) == 1


def run_program(code: str, *args: str) -> str:
    """Run Python in a process of its own, which must end well; return what it prints."""
    run = nursery.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *args],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=watchdog(),
    )
    assert run.returncode == 0, run.stderr
    # The server of the tests keeps nothing on disk, which is a warning.
    assert not [line for line in run.stderr.splitlines() if "nothing is kept on disk" not in line], run.stderr
    return run.stdout


async def hears(one: RedisBackend, other: RedisBackend) -> None:
    """Tell something from the other until it is heard by the one: the subscription takes its time."""
    heard: list[tuple[str, list[str]]] = []
    await one.watch()
    stop = one.listeners.listen(lambda kind, names: heard.append((kind, list(names))))
    async with asyncio.timeout(watchdog()):
        while (CANCEL, ["x"]) not in heard:
            other.listeners.notify(CANCEL, ["x"])
            await asyncio.sleep(0.02)
    stop()

"""Redis: each transition is one script, and rows and indexes agree after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from aiotaskq.backends.base import Change, Claim
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.parking import parked
from aiotaskq.core.task import Task, TaskFilter
from tests.backends.redis.stores import every_verb
from tests.support.rows import LEASE, NOW, completed, ids, new, worker_info
from tests.support.servers import Server


@pytest.fixture
async def sent(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The name of every command that is sent from now on."""
    commands: list[Any] = []
    execute = RedisConnections.execute

    async def spy(self: RedisConnections, *words: Any) -> Any:
        commands.append(words[0])
        return await execute(self, *words)

    # So that the server knows the scripts, those with gates too, which a large update is made with.
    await every_verb(backend)
    flow = Flow(gates=(("g", Bounds(cap=2)),))
    gated = await backend.push([parked(new(flow=flow, queue="gated"), 0) for _ in range(2)])
    one, other = await backend.claim("o", NOW, 2, queues=["gated"])
    assert await backend.update([Change(one, completed(one))]) == [True]
    assert await backend.exchange([Change(other, completed(other))], Claim("o", NOW, 1, queues=["gated"])) == (
        [True],
        [],
    )
    assert await backend.delete(ids(gated)) == 2
    shelf = await backend.push([new(queue="shelf")])
    await backend.set_paused("shelf", True)  # parks what is ready
    assert await backend.delete(ids(shelf)) == 1
    monkeypatch.setattr(RedisConnections, "execute", spy)
    return commands


async def test_each_verb_that_writes_reads_and_then_runs_one_script(
    backend: RedisBackend, sent: list[Any]
) -> None:  # G-6
    async def sends(verb: Awaitable[Any], commands: list[str]) -> Any:
        sent.clear()
        answer = await verb
        assert [word for word in sent if word != "PUBLISH"] == commands
        return answer

    tasks = [new(queue=f"q{n % 3}", expires_at=NOW + 5) for n in range(300)]
    await sends(backend.push(tasks), ["EVALSHA"])
    claimed = await sends(backend.claim("o", NOW, 200, lease_until=LEASE), ["EVALSHA"])
    await sends(backend.workers.register(worker_info()), ["EVALSHA"])
    await sends(backend.workers.heartbeat(worker_info()), ["HMGET", "EVALSHA"])
    await sends(backend.workers.remove(worker_info()), ["HMGET", "EVALSHA"])
    await sends(backend.report([(t.task_id, t.fence, {"n": 1}) for t in claimed]), ["HMGET", "EVALSHA"])
    await sends(backend.request_cancel(ids(claimed[:5])), ["HMGET", "EVALSHA"])
    await sends(backend.update([Change(t, completed(t), then=(new(),)) for t in claimed[5:]]), ["EVALSHA"])
    changes = [Change(t, completed(t)) for t in await backend.claim("o", NOW, 50, lease_until=LEASE)]
    held, more = await sends(backend.exchange(changes, Claim("o", NOW, 100, lease_until=LEASE)), ["EVALSHA"])
    assert (held, len(more)) == ([True] * 50, 100)
    await sends(backend.delete(ids(claimed)), ["EVALSHA", "HMGET", "EVALSHA"])
    # What follows at gates is read as the rule asks for it, and committed only if something changes.
    await sends(backend.set_paused("q1", True), ["EVALSHA", "HKEYS", *["EVALSHA"] * 3])
    await sends(backend.values.put([(f"k{n}", n, NOW) for n in range(200)]), ["EVALSHA"])
    await sends(backend.values.expire(NOW - 1, 100), ["EVALSHA"])
    await sends(backend.values.delete([f"k{n}" for n in range(200)], NOW - 1), ["EVALSHA", "HMGET", "EVALSHA"])


async def test_a_page_of_a_filter_is_two_scripts_and_grows(backend: RedisBackend, sent: list[Any]) -> None:
    await backend.push([new(queue=f"find{n % 2}") for n in range(300)])
    sent.clear()
    assert len(await backend.find(TaskFilter(queue="find1"), 120)) == 120
    assert [word for word in sent if word != "PUBLISH"] == ["EVALSHA"] * 4


async def test_flushed_scripts_are_sent_again(backend: RedisBackend, server: Server) -> None:  # G-9
    flushes = 0
    working = True

    async def flush() -> None:
        nonlocal flushes
        while working:
            await asyncio.to_thread(server.execute, "SCRIPT FLUSH")
            flushes += 1

    flusher = asyncio.ensure_future(flush())
    claimed: list[Task] = []
    while flushes < 30:
        await backend.push([new() for _ in range(3)])
        part = await backend.claim("o", NOW, 3, lease_until=LEASE)
        assert await backend.update([Change(task, completed(task)) for task in part]) == [True] * 3
        claimed += part
    working = False
    await flusher
    assert (await backend.stats(NOW)).counts["completed"] == len(claimed) == len(set(ids(claimed)))

"""Redis: rows that are undecodable, newer or gone, and large numbers."""

from __future__ import annotations

import asyncio

import pytest

from aiotaskq.backends.base import Change
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, TaskFilter
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, ended, ids, new, pushed, read, running
from tests.support.servers import Server, Valkey


@pytest.mark.parametrize(
    ("piece", "good", "broken", "told"),
    [
        ("body", b'{"n":57}', b"{nicht json", "params"),
        ("body", b'{"n":57}', b"[1, 2]", "params"),
        ("body", b'{"n":57}', b'{"a": NaN}', "params"),
        ("body", b'{"n":57}', b'{"a": "\xff"}', "params"),
        ("body", b'"type":"t"', b'"type":"\xff\xfe"', "body"),
        ("body", b'"type":"t"', b'"type":5', "type"),
        ("body", b'"type":"t",', b"", "type"),
        ("body", b'"timeout":5.0', b'"timeout":"soon"', "timeout"),
        ("state", b'"retry_count":2', b'"retry_count":"many"', "retry_count"),
        ("state", b'"result":[1]', b'"result":{', "state"),
        ("state", b"pending 7 0", b"pending high 0", "state"),
        ("state", b"pending 7 0 ", b"", "state"),
    ],
)
async def test_an_undecodable_row_is_handed_out_and_kept(  # A16, I5
    backend: RedisBackend, server: Server, prefix: str, piece: str, good: bytes, broken: bytes, told: str
) -> None:
    assert isinstance(server, Valkey)
    made = [
        new(params={"n": n}, timeout=5.0, retry_count=2, fence=7, result=[1], unique_key=f"u{n}") for n in range(100)
    ]
    tasks = await backend.push(made)
    bad = tasks[57]
    key = f"{{{prefix}}}:{piece}"
    stored = server.ask("HGET", key, bad.task_id)
    assert stored.count(good) == 1
    damaged = stored.replace(good, broken)
    server.ask("HSET", key, bad.task_id, damaged)
    assert (await backend.find(TaskFilter(), 100))[42].undecodable is not None
    claimed = await backend.claim("o", NOW, 100, lease_until=LEASE)
    assert ids(claimed) == ids(tasks)
    assert [(task.task_id, told in task.undecodable) for task in claimed if task.undecodable] == [(bad.task_id, True)]
    assert (claimed[57].status, claimed[57].lease_until) == (Status.RUNNING, LEASE)
    if piece == "body":
        assert claimed[57] == bad.replace(
            **{
                name: getattr(claimed[57], name)
                for name in ("status", "fence", "lease_owner", "lease_until", "started_at", "began_at", "undecodable")
                + (("params",) if told == "params" else ("type", "timeout") if told != "body" else _WRITTEN_ONCE)
            }
        )
    failed = claimed[57].replace(status=Status.FAILED, error_message="undecodable")
    assert await backend.update([Change(claimed[57], failed)]) == [True]
    (other,) = await backend.push([new(unique_key="u57")])  # the key is free, whether or not it could be read
    assert other.undecodable is None and await backend.delete([other.task_id]) == 1
    revived = failed.replace(status=Status.PENDING, error_message=None)
    assert await backend.update([Change(failed, revived)]) == [True]
    assert piece == "state" or server.ask("HGET", key, bad.task_id) == damaged  # every change writes the state
    assert await backend.delete([bad.task_id]) == 1


_WRITTEN_ONCE = ("type", "params", "timeout", "unique_key", "created_at")


async def test_a_field_of_a_newer_version_is_no_damage(backend: RedisBackend, server: Server, prefix: str) -> None:
    assert isinstance(server, Valkey)
    task = await pushed(backend)
    for piece in ("body", "state"):
        stored = server.ask("HGET", f"{{{prefix}}}:{piece}", task.task_id)
        server.ask("HSET", f"{{{prefix}}}:{piece}", task.task_id, stored + b',"mood":"good"')
    assert await read(backend, task) == task


async def test_a_row_that_vanished_leaves_no_trouble(backend: RedisBackend, server: Server, prefix: str) -> None:  # G-4
    """As an operator's HDEL may leave it."""
    assert isinstance(server, Valkey)
    keys = {"unique_key": "u", "idempotency_key": "i", "expires_at": NOW + 50}
    waiting, held = await pushed(backend, **keys), await pushed(backend, priority=-1)
    await backend.claim("o", NOW, 1, lease_until=LEASE)
    finished = await ended(backend, priority=-1)
    for task in (waiting, held, finished):
        for piece in ("body", "state"):
            server.execute(f"HDEL {{{prefix}}}:{piece} {task.task_id}")
    after = await pushed(backend)
    assert ids(await backend.claim("o", NOW, 5, lease_until=LEASE * 2)) == [after.task_id]
    assert await backend.next_run_at(NOW) is None
    assert await backend.claim("o", NOW + 60, 5) == []
    assert server.ask("ZCARD", f"{{{prefix}}}:expiring") == 0, "the entry is dropped"
    assert await backend.overdue(LEASE + 99, 5) == []
    assert ids(await backend.find(TaskFilter(), 5)) == [after.task_id]
    assert await backend.purge(TaskFilter(), 5) == 0
    assert (await backend.workers.held(["owner"]))["owner"] == []
    again = new(unique_key="u", idempotency_key="i")
    assert (await backend.push([again]))[0] is again


async def test_rows_that_vanished_do_not_hide_what_is_overdue(
    backend: RedisBackend, server: Server, prefix: str
) -> None:  # G-4
    gone = [await running(backend, lease_until=NOW + n) for n in range(4)]
    held = await running(backend, lease_until=NOW + 9)
    for task in gone:
        for piece in ("body", "state"):
            server.execute(f"HDEL {{{prefix}}}:{piece} {task.task_id}")
    found = [ids(await backend.overdue(NOW + 99, 2)) for _ in range(3)]
    assert found == [[], [], [held.task_id]], "each look drops the entries without a row"


async def test_an_index_that_lags_behind_its_rows_deletes_nothing(
    backend: RedisBackend, server: Server, prefix: str
) -> None:  # G-4
    """As a replica may leave it that was promoted while it lagged: a task is among the ended ones, and waits."""
    assert isinstance(server, Valkey)
    waits = await pushed(backend)
    server.ask("ZADD", f"{{{prefix}}}:ended:failed", NOW // SECOND - 9, waits.task_id)
    assert await backend.purge(TaskFilter(status=(Status.FAILED,)), 5) == 0
    assert await read(backend, waits) == waits
    assert server.ask("ZCARD", f"{{{prefix}}}:ended:failed") == 0, "the entry is dropped"


async def test_dropped_entries_hide_no_task_from_a_purge(
    backend: RedisBackend, server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(server, Valkey)
    monkeypatch.setattr("aiotaskq.backends.redis.backend.READ", 2)
    for number in range(2):
        server.ask("ZADD", f"{{{prefix}}}:ended:failed", number, f"gone-{number}")
    task = await ended(backend, Status.FAILED)
    assert await backend.purge(TaskFilter(), 5) == 1
    assert await backend.get([task.task_id]) == [None]


async def test_more_expired_tasks_than_one_sweep_takes(backend: RedisBackend) -> None:
    await backend.push([new(expires_at=NOW + 1) for _ in range(10_005)])
    last = await pushed(backend)
    assert ids(await backend.claim("o", NOW + 1, 5, lease_until=LEASE)) == [last.task_id]
    assert await backend.count_ready(NOW + 1) == 0
    assert await backend.next_run_at(NOW + 1) is None
    assert len(await backend.overdue(NOW + 1, 20_000)) == 10_005
    assert await backend.claim("o", NOW, 5) == []  # also if the clock was set back: it is the reaper's


async def test_numbers_that_are_not_exact_in_lua(backend: RedisBackend) -> None:  # I3
    task = await pushed(backend, fence=2**62, params={"n": 2**63 - 1, "m": -(2**63)}, result=2**53 + 1)
    (claimed,) = await backend.claim("o", NOW, 1, lease_until=LEASE)
    assert (claimed.fence, claimed.params, claimed.result) == (2**62 + 1, task.params, 2**53 + 1)
    assert await backend.report([(task.task_id, 2**62, {}), (task.task_id, 2**62 + 1, {})]) == [False, True]


@pytest.mark.parametrize("fence", [10**15 - 1, 10**16 - 1, 19_999_999_999_999_999, 2**53, 2**53 + 1])
async def test_a_fence_rises_by_one_whatever_its_size(backend: RedisBackend, fence: int) -> None:  # I3, B10
    await pushed(backend, fence=fence)
    assert [task.fence for task in await backend.claim("o", NOW, 1)] == [fence + 1]


async def test_a_purge_looks_behind_what_it_keeps(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.backends.redis.backend.READ", 3)
    tasks = [await ended(backend, type="kept" if n < 7 else "gone") for n in range(12)]
    async with asyncio.timeout(within(10)):
        assert await backend.purge(TaskFilter(type="gone"), 100) == 5
    assert ids(await backend.find(TaskFilter(), 100)) == ids(tasks[6::-1])

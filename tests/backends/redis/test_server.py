"""Redis: the server's settings: eviction, persistence, memory, passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends import connect
from aiotaskq.backends.base import Change
from aiotaskq.backends.redis.address import Address
from aiotaskq.core.status import Status
from aiotaskq.core.task import TaskFilter
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from tests.backends.redis.stores import every_verb, opened, own_server
from tests.support.rows import LEASE, NOW, completed, ids, new, pushed, worker_info
from tests.support.servers import Server


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "allkeys-random"])
async def test_a_server_that_evicts_is_refused(policy: str, lines: list[str]) -> None:  # G-3
    with own_server(maxmemory_policy=policy) as server:
        with pytest.raises(DatabaseUnavailable) as raised:
            async with opened(server.url("a")):
                pass
        for words in (f"maxmemory-policy is {policy}", "noeviction", "eviction=any"):
            assert words in str(raised.value)
        async with opened(f"{server.url('a')}&eviction=any") as backend:
            await every_verb(backend)
        assert any(policy in line for line in lines)
        server.ask("CONFIG SET maxmemory-policy noeviction")
        async with opened(server.url("a")) as backend:
            await pushed(backend)


def test_an_unknown_value_of_eviction_is_refused() -> None:
    with pytest.raises(ValidationError, match="eviction='yes' is not one of refuse, any"):
        connect("redis://localhost/0?eviction=yes")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"appendonly": "yes", "appendfsync": "always"}, "INFO every write is on disk before it is answered"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "INFO a power loss loses at most about 2 s of writes"),
        ({"appendonly": "yes", "appendfsync": "no"}, "WARNING a power loss loses what the system has not written yet"),
        ({"appendonly": "no", "save": "3600 1"}, "WARNING only snapshots are kept"),
        ({"appendonly": "no", "save": ""}, "WARNING nothing is kept on disk"),
    ],
)
async def test_logs_at_the_start_what_the_persistence_promises(  # G-11
    settings: dict[str, str], said: str, lines: list[str]
) -> None:
    with own_server(False, **settings) as server:
        async with opened(server.url("a")) as backend:
            other = backend.another()
            await other.open()
            await other.close()
        level, _, words = said.partition(" ")
        (line,) = [line for line in lines if "maxmemory-policy noeviction" in line]  # one line, also for twins
        assert line.startswith(level) and words in line


async def test_a_password_is_never_shown(lines: list[str], tmp_path: Path) -> None:  # J9
    with own_server() as server:
        server.ask("CONFIG SET requirepass sesame-open")
        good = server.url("a").replace("//", "//:sesame-open@")
        bad = server.url("a").replace("//", "//user:sesame-wrong@")
        async with opened(good) as backend:
            await every_verb(backend)
            assert "sesame" not in repr(backend) + repr(TaskQ(good)) + repr(Address(good).shown)
        with pytest.raises(DatabaseUnavailable) as raised:
            async with opened(bad):
                pass
        server.kill()
        with pytest.raises(DatabaseUnavailable) as away:
            async with opened(good):
                pass
    for text in (str(raised.value), str(away.value), *lines):
        assert "sesame" not in text
    assert "user:***@" in str(raised.value) and ":***@" in str(away.value)
    for wrong in ("redis://:sesame@h:port/0", "redis://:sesame@h/0?socket_timeout=long"):
        with pytest.raises(ValidationError) as refused:
            connect(wrong)
        assert "sesame" not in str(refused.value)


async def test_full_memory_stops_pushes_only(server: Server) -> None:  # G-3
    with own_server() as full:
        async with opened(full.url("a")) as backend:
            tasks = await backend.push(
                [new(scheduler_task_id="s") for _ in range(10)]
            )  # a deletion notes that each was
            (soon,) = await backend.push([new(priority=9, expires_at=NOW + 5)])
            await backend.values.put([("k", 1, NOW), ("l", 1, None)])
            await backend.workers.register(worker_info())
            full.ask("CONFIG SET maxmemory 1")
            for verb in (backend.push([new(), new()]), backend.values.put([("m", 1, None)])):
                with pytest.raises(DatabaseUnavailable, match="memory is full, nothing was written"):
                    await verb
            assert await backend.count_ready(NOW) == 11
            claimed = await backend.claim("o", NOW, 10, lease_until=LEASE)
            assert ids(claimed) == ids(tasks)
            assert await backend.workers.heartbeat(worker_info(busy=10, lease_until=LEASE + 1))
            await backend.workers.register(worker_info("another"))
            assert len((await backend.workers.held(["o"]))["o"]) == 0
            assert await backend.report([(claimed[0].task_id, 1, {"n": 1})]) == [True]
            assert await backend.request_cancel([claimed[9].task_id]) == [True]
            follower = new(type="follower")
            changes = [Change(task, completed(task, result="r" * 100), then=(follower,)) for task in claimed[:5]]
            assert await backend.update(changes) == [True] * 5
            back = claimed[5].replace(status=Status.PENDING, lease_owner=None, lease_until=None)
            assert await backend.update([Change(claimed[5], back)]) == [True]
            assert ids(await backend.overdue(NOW + 5, 5)) == [soon.task_id]
            await backend.set_paused("q", True)
            assert await backend.paused() == ["q"]
            assert await backend.count_ready(NOW + 9) == 2  # puts the expired one aside
            assert await backend.purge(TaskFilter(), 3) == 3
            assert await backend.delete([claimed[6].task_id]) == 1
            assert await backend.values.delete(["l"], NOW) == [True]
            assert await backend.values.expire(NOW, 5) == 1
            full.ask("CONFIG SET maxmemory 0")
            assert (await backend.stats(NOW)).counts == {
                "pending": 3, "running": 3, "completed": 2, "failed": 0, "cancelled": 0, "expired": 0
            }  # fmt: skip
            await pushed(backend)

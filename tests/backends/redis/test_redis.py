"""The Redis backend where it is not like the others: one script a verb, keys, rows, what a server must promise."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

import aiotaskq
import aiotaskq.sync
from aiotaskq import DatabaseUnavailable, TaskQ, ValidationError
from aiotaskq.backends import connect
from aiotaskq.backends.base import CANCEL, ENDED, READY, TAKEN, Backend, Change
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.backends.redis.connection import RedisLink
from aiotaskq.core.task import SECOND, Status, Task, TaskFilter
from aiotaskq.errors import ClosedError, SchemaTooNew, WrongLoop
from tests.support.machine import watchdog
from tests.support.rows import LEASE, NOW, ended, ids, new, pushed, read, running
from tests.support.servers import Server, Unavailable, Valkey, valkey

ROOT = Path(__file__).parent.parent.parent.parent
_numbers = iter(range(10**6))


@pytest.fixture(scope="module")
def server(unavailable: dict[str, str]) -> Server:
    try:
        return valkey(durable=False)
    except Unavailable as error:
        unavailable["redis"] = str(error)
        pytest.skip(f"redis: {error}")


@pytest.fixture
def prefix() -> str:
    return f"redis.{next(_numbers)}"


@pytest.fixture
def url(server: Server, prefix: str) -> Iterator[str]:
    yield server.url(prefix)
    server.drop(prefix)


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisBackend]:
    backend = connect(url)
    assert isinstance(backend, RedisBackend)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@pytest.fixture
async def backend(url: str) -> AsyncIterator[RedisBackend]:
    async with opened(url) as made:
        yield made


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged: level and message."""
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message).strip()), format="{level} {message}", level="DEBUG")
    yield said
    logger.remove(sink)


@contextlib.contextmanager
def own_server(durable: bool = False, **settings: str) -> Iterator[Valkey]:
    made = Valkey(durable, **settings)
    try:
        yield made
    finally:
        made.kill()


def done(task: Task, **fields: Any) -> Task:
    values = {"status": Status.COMPLETED, "completed_at": NOW // SECOND, "lease_owner": None, "lease_until": None}
    return task.replace(**{**values, **fields})


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(watchdog()):
        while not condition():
            await asyncio.sleep(0.01)


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
    assert await backend.heartbeat([(a.task_id, a.fence)], LEASE + 1) == [False]
    assert await backend.report([(a.task_id, a.fence, {"done": 1})]) == [True]
    assert await backend.request_cancel([b.task_id]) == [True]
    assert await backend.cancelling([a.task_id, b.task_id]) == [b.task_id]
    assert set(ids(await backend.overdue(LEASE, 10))) >= set(ids([b, c]))
    assert await backend.update([Change(a, done(a), then=(new(scheduler_task_id="s"),))]) == [True]
    assert await backend.exchange([Change(a, done(a))], "o", NOW, 1, queues=["none"]) == ([False], [])
    assert await backend.active(["s"]) == {"s": 1}
    assert (await backend.stats(NOW)).counts["completed"] == 1
    assert len(await backend.find(TaskFilter(type="t"), 10)) == 5
    assert await backend.get([a.task_id, "none"]) == [done(a, progress={"done": 1}), None]
    assert await backend.purge(TaskFilter(), 10) == 1
    assert await backend.delete([b.task_id]) == 1
    await backend.values.put([("k", [1], NOW + 1), ("l", 2, None)])
    assert await backend.values.get(["k", "l"], NOW) == [([1],), (2,)]
    assert (await backend.values.keys(NOW), await backend.values.count(NOW)) == (["k", "l"], 2)
    assert await backend.values.delete(["l"], NOW) == [True]
    assert await backend.values.expire(NOW + 1, 5) == 1
    await backend.values.clear()
    assert await backend.ping() is not None


def run_program(code: str, *args: str) -> str:
    """Run Python in a process of its own, which must end well; return what it prints."""
    run = subprocess.run(
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


# ---- each transition is one script ----------------------------------------------------------------------------------


async def test_each_verb_that_writes_is_one_script(  # G-6
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    execute = RedisLink.execute

    async def spy(self: RedisLink, *words: Any) -> Any:
        sent.append(words[0])
        return await execute(self, *words)

    await every_verb(backend)  # so that the server knows the scripts
    monkeypatch.setattr(RedisLink, "execute", spy)

    async def sends(verb: Awaitable[Any], commands: list[str]) -> Any:
        sent.clear()
        answer = await verb
        assert [word for word in sent if word != "PUBLISH"] == commands
        return answer

    tasks = [new(queue=f"q{n % 3}", expires_at=NOW + 5) for n in range(300)]
    await sends(backend.push(tasks), ["EVALSHA"])
    claimed = await sends(backend.claim("o", NOW, 200, lease_until=LEASE), ["EVALSHA"])
    await sends(backend.heartbeat([(t.task_id, t.fence) for t in claimed], LEASE + 1), ["EVALSHA"])
    await sends(backend.report([(t.task_id, t.fence, {"n": 1}) for t in claimed]), ["EVALSHA"])
    await sends(backend.request_cancel(ids(claimed[:5])), ["EVALSHA"])
    await sends(backend.update([Change(t, done(t), then=(new(),)) for t in claimed[5:]]), ["EVALSHA"])
    changes = [Change(t, done(t)) for t in await backend.claim("o", NOW, 50, lease_until=LEASE)]
    held, more = await sends(backend.exchange(changes, "o", NOW, 100, lease_until=LEASE), ["EVALSHA"])
    assert (held, len(more)) == ([True] * 50, 100)
    await sends(backend.delete(ids(claimed)), ["EVALSHA"])
    await sends(backend.set_paused("q1", True), ["EVALSHA"])
    await sends(backend.values.put([(f"k{n}", n, NOW) for n in range(200)]), ["EVALSHA"])
    await sends(backend.values.expire(NOW, 100), ["EVALSHA"])
    await sends(backend.values.delete([f"k{n}" for n in range(200)], NOW), ["EVALSHA"])


async def test_a_renewal_and_a_reaper_at_the_same_time_have_one_winner(backend: RedisBackend, url: str) -> None:  # G-7
    async with opened(url) as other:
        for number in range(40):
            task = await running(backend, lease_until=NOW + 10)
            back = task.replace(status=Status.PENDING, lease_owner=None, lease_until=None, crashes=1)
            renew = backend.heartbeat([(task.task_id, task.fence)], NOW + 99)
            reap = other.update([Change(task, back, lease_over=True)])
            first, second = (renew, reap) if number % 2 else (reap, renew)
            answers: tuple[Any, ...] = await asyncio.gather(first, second)
            kept = answers[1 - number % 2] == [False]
            assert answers[number % 2] == [not kept]
            now = await read(backend, task)
            assert (now.status, now.lease_until) == ((Status.RUNNING, NOW + 99) if kept else (Status.PENDING, None))
            await backend.delete([task.task_id])


async def test_flushed_scripts_harm_nothing(backend: RedisBackend, server: Server) -> None:  # G-9
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
        assert await backend.update([Change(task, done(task)) for task in part]) == [True] * 3
        claimed += part
    working = False
    await flusher
    assert (await backend.stats(NOW)).counts["completed"] == len(claimed) == len(set(ids(claimed)))


# ---- keys -----------------------------------------------------------------------------------------------------------


async def test_all_keys_are_in_one_hash_tag_and_none_is_left(  # G-8
    backend: RedisBackend, server: Server, prefix: str
) -> None:
    before = set(server.execute("KEYS *")[0][0])
    await every_verb(backend)
    mine = set(server.execute("KEYS *")[0][0]) - before
    assert mine and all(key.startswith(f"{{{prefix}}}:".encode()) for key in mine)
    everything = await backend.find(TaskFilter(), 100)
    assert await backend.delete(ids(everything)) == len(everything)
    await backend.set_paused("paused", False)
    left = {key.decode().split("}:")[1] for key in set(server.execute("KEYS *")[0][0]) - before}
    assert left - {f"fired:{task.task_id}" for task in everything} <= {"format"}  # these end by themselves
    assert all(0 < server.ask("TTL", f"{{{prefix}}}:{name}") <= 3600 for name in left - {"format"})


async def test_a_user_who_is_limited_to_the_prefix(server: Server, prefix: str, lines: list[str]) -> None:  # G-8
    commands = "+eval +evalsha +hmget +smembers +publish +subscribe +ping +time +select"
    inside = "+hget +hset +hdel +hgetall +hincrby +hkeys +hlen +get +set +del +unlink +sadd +srem +zadd +zrem +zrange"
    inside += " +zrangebyscore +zrevrangebylex +zcount +zscore +zcard +zunion"
    server.execute(f"ACL SETUSER small on >secret resetkeys resetchannels -@all ~{{{prefix}}}:* &{{{prefix}}}:*")
    server.execute(f"ACL SETUSER small {commands} {inside}")
    small = server.url(prefix).replace("//", "//small:secret@")
    async with opened(small) as backend:
        assert any("could not be checked" in line for line in lines)
        await every_verb(backend)
        async with opened(small) as other:
            await _hears(other, backend)
    with pytest.raises(DatabaseUnavailable, match="may not do this") as raised:
        async with opened(server.url(f"{prefix}.other").replace("//", "//small:secret@")):
            pass
    assert "secret" not in str(raised.value)
    server.execute("ACL DELUSER small")


async def _hears(one: RedisBackend, other: RedisBackend) -> None:
    """Tell something from the other until it is heard by the one: the subscription takes its time."""
    heard: list[tuple[str, list[str]]] = []
    await one.watch()
    stop = one.hints.listen(lambda kind, names: heard.append((kind, list(names))))
    async with asyncio.timeout(watchdog()):
        while (CANCEL, ["x"]) not in heard:
            other.hints.tell(CANCEL, ["x"])
            await asyncio.sleep(0.02)
    stop()


async def test_a_cluster_and_a_slot_that_moves(prefix: str) -> None:  # G-8, G-4
    options: dict[str, Any] = {"cluster_enabled": "yes", "cluster_require_full_coverage": "no"}
    with own_server(**options) as first, own_server(**options) as second:
        first.ask("CLUSTER ADDSLOTSRANGE 0 8191")
        second.ask("CLUSTER ADDSLOTSRANGE 8192 16383")
        first.ask(f"CLUSTER MEET 127.0.0.1 {second.port} {second.bus_port}")
        slot = first.ask("CLUSTER", "KEYSLOT", f"{{{prefix}}}:")
        nodes = (first, second)
        owner, stranger = nodes if slot < 8192 else nodes[::-1]
        await until(lambda: all(b"cluster_state:ok" in node.ask("CLUSTER INFO") for node in nodes))
        async with opened(stranger.url(prefix)) as backend, opened(owner.url(prefix)) as same:
            task = await pushed(backend)
            assert await read(same, task) == task
            assert await same.delete([task.task_id]) == 1
            await every_verb(same)
            await _hears(backend, same)
            # The slot goes to the other node, empty; both hear of it.
            name = stranger.ask("CLUSTER MYID").decode()
            owner.ask("FLUSHALL")
            for node in nodes:
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", name)
            again = await pushed(same)
            assert await read(backend, again) == again
            # That node dies, and the slot comes back.
            stranger.kill()
            owner.ask("CLUSTER", "SETSLOT", slot, "NODE", owner.ask("CLUSTER MYID").decode())
            with pytest.raises(DatabaseUnavailable):
                await same.count_ready(NOW)
            assert await same.count_ready(NOW) == 0


@pytest.mark.parametrize("prefix", ["", "a}b", "{a", "a:b", "a b", "a*", "ä", "x" * 65])
def test_a_prefix_is_a_plain_name(prefix: str) -> None:  # J7
    with pytest.raises(ValidationError, match="prefix"):
        connect(f"redis://localhost/0?prefix={prefix}")


@pytest.mark.parametrize(
    "name",
    ["*", "[a]", "{x}", "}:", "a:b", ":", "-1:x", "'); redis.call('FLUSHALL') --", "\r\n*1\r\n$8\r\nFLUSHALL", "%d"],
)
async def test_names_are_only_data(backend: RedisBackend, name: str) -> None:  # J7, I10
    other = await pushed(backend, queue="other")
    keys = {"unique_key": name, "idempotency_key": name, "scheduler_task_id": name[:36]}
    task = await pushed(backend, queue=name, type=name, **keys)
    assert await backend.active([name[:36]]) == {name[:36]: 1}
    assert await backend.count_ready(NOW, [name]) == 1
    await backend.set_paused(name, True)
    assert await backend.paused() == [name]
    assert await backend.claim("o", NOW, 5, queues=[name]) == []
    await backend.set_paused(name, False)
    assert (await backend.stats(NOW)).queues == {"other": {"pending": 1}, name: {"pending": 1}}
    assert ids(await backend.push([new(unique_key=name)])) == [task.task_id]
    (claimed,) = await backend.claim(name, NOW, 5, queues=[name], lease_until=LEASE)
    assert (claimed.queue, claimed.lease_owner) == (name, name)
    assert await backend.report([(task.task_id, 1, {name: name})]) == [True]
    assert await backend.find(TaskFilter(type=name, queue=name), 5) == [claimed.replace(progress={name: name})]
    await backend.values.put([(name, name, None)])
    assert await backend.values.get([name], NOW) == [(name,)]
    assert await backend.delete([task.task_id]) == 1
    assert await read(backend, other) == other


async def test_namespaces_do_not_see_each_other(backend: RedisBackend, server: Server, prefix: str) -> None:
    async with opened(server.url(f"{prefix}.other")) as other:
        task = await pushed(backend, unique_key="u")
        assert await other.get([task.task_id]) == [None]
        await pushed(other, unique_key="u")
        assert await backend.count_ready(NOW) == await other.count_ready(NOW) == 1
    server.drop(f"{prefix}.other")


# ---- rows -----------------------------------------------------------------------------------------------------------


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
                for name in ("status", "fence", "lease_owner", "lease_until", "started_at", "undecodable")
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
    keys = {"unique_key": "u", "idempotency_key": "i", "expires_at": NOW + 50}
    waiting, held = await pushed(backend, **keys), await pushed(backend, priority=-1)
    await backend.claim("o", NOW, 1, lease_until=LEASE)
    finished = await ended(backend, priority=-1)
    for task in (waiting, held, finished):
        for piece in ("body", "state"):
            server.execute(f"HDEL {{{prefix}}}:{piece} {task.task_id}")
    after = await pushed(backend)
    assert ids(await backend.claim("o", NOW, 5)) == [after.task_id]
    assert await backend.next_run_at(NOW) is None
    assert await backend.overdue(LEASE + 99, 5) == []
    assert ids(await backend.find(TaskFilter(), 5)) == [after.task_id]
    assert await backend.purge(TaskFilter(), 5) == 0
    assert await backend.heartbeat([(held.task_id, 1)], LEASE) == [None]
    again = new(unique_key="u", idempotency_key="i")
    assert (await backend.push([again]))[0] is again


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


async def test_more_expired_tasks_than_one_step_puts_aside(backend: RedisBackend) -> None:
    await backend.push([new(expires_at=NOW + 1) for _ in range(10_005)])
    last = await pushed(backend)
    assert ids(await backend.claim("o", NOW + 1, 5)) == [last.task_id]
    assert await backend.count_ready(NOW + 1) == 0
    assert await backend.next_run_at(NOW + 1) is None
    assert len(await backend.overdue(NOW + 1, 20_000)) == 10_005
    assert await backend.claim("o", NOW, 5) == []  # also if the clock was set back: it is the reaper's


async def test_numbers_above_what_lua_counts_exactly(backend: RedisBackend) -> None:  # I3
    task = await pushed(backend, fence=2**62, params={"n": 2**63 - 1, "m": -(2**63)}, result=2**53 + 1)
    (claimed,) = await backend.claim("o", NOW, 1, lease_until=LEASE)
    assert (claimed.fence, claimed.params, claimed.result) == (2**62 + 1, task.params, 2**53 + 1)
    assert await backend.heartbeat([(task.task_id, 2**62)], LEASE) == [None]
    assert await backend.heartbeat([(task.task_id, 2**62 + 1)], LEASE) == [False]


@pytest.mark.parametrize("fence", [10**15 - 1, 10**16 - 1, 19_999_999_999_999_999, 2**53, 2**53 + 1])
async def test_a_fence_rises_by_one_whatever_its_size(backend: RedisBackend, fence: int) -> None:  # I3, B10
    await pushed(backend, fence=fence)
    assert [task.fence for task in await backend.claim("o", NOW, 1)] == [fence + 1]


# ---- an exchange ----------------------------------------------------------------------------------------------------


async def consistent(backend: RedisBackend, server: Server, prefix: str) -> None:
    """Every index says what the rows say."""
    assert isinstance(server, Valkey)
    rows = await backend.find(TaskFilter(), 1_000)
    assert len(rows) == server.ask("HLEN", f"{{{prefix}}}:state") == server.ask("HLEN", f"{{{prefix}}}:body")
    counts = (await backend.stats(NOW)).counts
    for status in Status:
        those = [row for row in rows if row.status is status]
        assert counts[status] == len(those)
        assert await backend.find(TaskFilter(status=(status,)), 1_000) == those
        for name in ("is", "ended") if those and those[0].final else ():
            assert server.ask("ZCARD", f"{{{prefix}}}:{name}:{status}") == len(those)
    live = [row for row in rows if not row.final]
    assert server.ask("ZCARD", f"{{{prefix}}}:is:live") == len(live)
    assert server.ask("ZCARD", f"{{{prefix}}}:running") == counts["running"]
    keys = {row.unique_key.encode(): row.task_id.encode() for row in live if row.unique_key}
    assert server.ask("HGETALL", f"{{{prefix}}}:unique") == keys
    lanes = {f"{row.priority}:{row.queue}" for row in live if row.status is Status.PENDING}
    assert {name.decode() for name in server.ask("ZRANGE", f"{{{prefix}}}:heads", 0, -1)} == lanes
    assert sum(server.ask("ZCARD", f"{{{prefix}}}:lane:{lane}") for lane in lanes) == counts["pending"]


async def test_an_exchange_claims_what_its_own_changes_made_claimable(
    backend: RedisBackend, server: Server, prefix: str
) -> None:
    await backend.push([new(), new(unique_key="u"), new(), new(queue="q2", priority=2), new(scheduler_task_id="s")])
    claimed = await backend.claim("o", NOW, 5, lease_until=LEASE)
    plain, keyed, again, elsewhere, fired = sorted(claimed, key=lambda task: task.seq)
    (other,) = await backend.push([new()])
    back = again.replace(status=Status.PENDING, lease_owner=None, lease_until=None, retry_count=1)
    follower = new(unique_key="u")
    changes = [
        Change(plain, done(plain)),
        Change(plain, done(plain, result="twice")),
        Change(keyed, done(keyed), then=(follower,)),
        Change(again, back),
        Change(elsewhere, done(elsewhere, status=Status.FAILED)),
        Change(fired.replace(fence=7), done(fired)),
    ]
    held, claimed = await backend.exchange(changes, "p", NOW, 10, lease_until=LEASE + 1)
    assert held == [True, False, True, True, True, False]
    assert ids(claimed) == ids([again, other, follower])
    assert [(task.fence, task.lease_owner, task.lease_until) for task in claimed] == [
        (2, "p", LEASE + 1), (1, "p", LEASE + 1), (1, "p", LEASE + 1)
    ]  # fmt: skip
    assert await read(backend, plain) == done(plain)
    await consistent(backend, server, prefix)


async def test_changes_of_one_row_in_one_call(backend: RedisBackend, server: Server, prefix: str) -> None:
    first = await running(backend)
    ended_ = done(first)
    revived = ended_.replace(status=Status.PENDING, completed_at=None)
    assert await backend.update([Change(first, ended_), Change(ended_, revived)]) == [True, True]
    await consistent(backend, server, prefix)
    held = revived.replace(status=Status.RUNNING, lease_owner="o", lease_until=LEASE)
    assert await backend.update([Change(revived, held), Change(held, done(held))]) == [True, True]
    await consistent(backend, server, prefix)
    assert await read(backend, first) == done(held)


async def test_a_newer_format_is_left_alone(url: str, server: Server, prefix: str) -> None:
    server.execute(f"SET {{{prefix}}}:format 2")
    with pytest.raises(SchemaTooNew, match="format 2"):
        async with opened(url):
            pass


# ---- hints ----------------------------------------------------------------------------------------------------------


async def test_what_one_process_does_another_hears_once(backend: RedisBackend, url: str) -> None:
    async with opened(url) as other:
        await _hears(other, backend)
        await backend.watch()
        await backend.watch()
        await _hears(backend, other)
        heard: list[tuple[str, list[str]]] = []
        own: list[str] = []
        other.hints.listen(lambda kind, names: heard.append((kind, sorted(names))))
        backend.hints.listen(lambda kind, _names: own.append(kind))
        (task,) = await backend.push([new()])
        await until(lambda: heard == [(READY, [])])
        (claimed,) = await backend.claim("o", NOW, 1, lease_until=LEASE)
        backend.hints.tell(TAKEN)
        await until(lambda: heard[1:] == [(TAKEN, [])])
        await backend.request_cancel([task.task_id])
        await until(lambda: heard[2:] == [(CANCEL, [task.task_id])])
        claimed = await read(backend, task)
        await backend.update([Change(claimed, done(claimed))])
        await until(lambda: heard[3:] == [(ENDED, [task.task_id])])
        await backend.ping()
        assert own == [READY, TAKEN, CANCEL, ENDED]


async def test_a_thread_may_tell(backend: RedisBackend, url: str) -> None:
    async with opened(url) as other:
        await _hears(other, backend)
        heard: list[str] = []
        other.hints.listen(lambda kind, _names: heard.append(kind))
        await asyncio.to_thread(backend.hints.tell, ENDED, ["a"])
        await until(lambda: heard == [ENDED])


async def test_foreign_words_on_the_channel_are_ignored(  # J7
    backend: RedisBackend, server: Server, prefix: str
) -> None:
    assert isinstance(server, Valkey)
    async with opened(server.url(prefix)) as other:
        await _hears(backend, other)
        heard: list[str] = []
        backend.hints.listen(lambda kind, _names: heard.append(kind))
        for words in ("", "nonsense", "[]", '["me", {"boom": []}]', '["me", {"ready": [1]}]', '["me", 5]', b"\xff"):
            server.ask("PUBLISH", f"{{{prefix}}}:hints", words)
        other.hints.tell(TAKEN)
        await until(lambda: heard)
        assert heard == [TAKEN]


async def test_very_many_names_are_told_as_unknown(backend: RedisBackend, url: str) -> None:  # G-10
    async with opened(url) as other:
        await _hears(other, backend)
        heard: list[tuple[str, list[str]]] = []
        other.hints.listen(lambda kind, names: heard.append((kind, list(names))))
        for number in range(5_000):
            backend.hints.tell(ENDED, [f"id-{number}"])
        await until(lambda: heard)
        assert heard == [(ENDED, [])]


async def test_what_was_told_just_before_the_close_goes_out(backend: RedisBackend, url: str) -> None:
    heard: list[str] = []
    async with opened(url) as other:
        await _hears(backend, other)
        backend.hints.listen(lambda kind, _names: heard.append(kind))
        await other.push([new()])
    await until(lambda: READY in heard)


# ---- what a server must promise -------------------------------------------------------------------------------------


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


def test_another_word_for_eviction_is_refused() -> None:
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
async def test_says_at_the_start_what_the_persistence_promises(  # G-11
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
            assert "sesame" not in repr(backend) + repr(TaskQ(good)) + repr(vars(backend._link.address)["shown"])
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
            tasks = await backend.push([new() for _ in range(10)])
            (soon,) = await backend.push([new(priority=9, expires_at=NOW + 5)])
            await backend.values.put([("k", 1, NOW), ("l", 1, None)])
            full.ask("CONFIG SET maxmemory 1")
            for verb in (backend.push([new(), new()]), backend.values.put([("m", 1, None)])):
                with pytest.raises(DatabaseUnavailable, match="memory is full, nothing was written"):
                    await verb
            assert await backend.count_ready(NOW) == 11
            claimed = await backend.claim("o", NOW, 10, lease_until=LEASE)
            assert ids(claimed) == ids(tasks)
            assert await backend.heartbeat([(t.task_id, t.fence) for t in claimed], LEASE + 1) == [False] * 10
            assert await backend.report([(claimed[0].task_id, 1, {"n": 1})]) == [True]
            assert await backend.request_cancel([claimed[9].task_id]) == [True]
            follower = new(type="follower")
            changes = [Change(task, done(task, result="r" * 100), then=(follower,)) for task in claimed[:5]]
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


# ---- loops, forks, closing ------------------------------------------------------------------------------------------


LOOPS = """
import asyncio, sys
from aiotaskq.backends import connect
from tests.support.rows import new, NOW

backend = connect(sys.argv[1])

async def use(number):
    await backend.watch()
    await backend.push([new()])
    assert await backend.count_ready(NOW) == number
    if number == 3:
        await backend.close()

for number in (1, 2, 3):
    asyncio.run(use(number))  # the first two end with everything open
print("done")
"""


def test_usable_again_in_another_loop(url: str) -> None:
    assert run_program(LOOPS, url) == "done\n"


async def test_open_in_another_loop_is_refused(backend: RedisBackend) -> None:
    def elsewhere() -> None:
        asyncio.run(backend.count_ready(NOW))

    with pytest.raises(WrongLoop, match="another event loop"):
        await asyncio.to_thread(elsewhere)
    assert await backend.count_ready(NOW) == 0


async def test_closed_stays_closed_and_opens_again(backend: RedisBackend) -> None:
    await backend.watch()
    await backend.close()
    await backend.close()
    for verb in (backend.count_ready(NOW), backend.watch(), backend.ping()):
        with pytest.raises(ClosedError):
            await verb
    backend.hints.tell(READY)  # nobody to tell it to; no harm
    await backend.open()
    assert await backend.count_ready(NOW) == 0


async def test_nothing_is_left_behind(url: str, server: Server) -> None:
    def clients() -> int:
        return len(server.execute("CLIENT LIST")[0][0].splitlines())

    await until(lambda: clients() == 1)
    tasks = asyncio.all_tasks()
    async with opened(url) as backend:
        await backend.watch()
        await asyncio.gather(*(backend.ping() for _ in range(50)))
        assert 1 < clients() <= 12  # its connections, the listening one, and the one that asks
    assert asyncio.all_tasks() == tasks
    await until(lambda: clients() == 1)


FORK = """
import asyncio, gc, os, sys
from aiotaskq.backends import connect
from tests.support.rows import new, NOW

backend = connect(sys.argv[1])

async def use(count):
    if sys.argv[2] == "watching":
        await backend.watch()
    await asyncio.gather(*(backend.push([new()]) for _ in range(10)))
    assert await backend.count_ready(NOW) >= count

async def in_child():
    await use(20)
    gc.collect()  # what was the parent's must not be closed here: they share the sockets, and what watches them

async def parent():
    await use(10)
    while len(asyncio.all_tasks()) > 1 + (sys.argv[2] == "watching"):
        await asyncio.sleep(0.01)  # until the hints are out: nothing holds the connections then but the pool
    child = os.fork()
    if child == 0:
        asyncio.run(in_child())
        os._exit(0)
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        await use(20)
        if pid:
            assert status == 0, status
            await use(40)  # on every connection
            assert await backend.count_ready(NOW) % 10 == 0
            await backend.close()
            return

asyncio.run(parent())
print("both work")
"""


@pytest.mark.parametrize("how", ["watching", "not watching"])
def test_after_a_fork_both_work(url: str, how: str) -> None:  # E1, E2
    assert run_program(FORK, url, how) == "both work\n"


def test_without_the_extra_one_line_says_so() -> None:
    code = "import sys; sys.modules['redis'] = None\nfrom aiotaskq import TaskQ\nTaskQ('redis://localhost/0')"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert "MissingExtra: redis is not installed; install the extra redis" in last


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_the_schemes(scheme: str) -> None:
    assert isinstance(connect(f"{scheme}://localhost:1/0"), RedisBackend)
    address = RedisBackend(f"{scheme}://me:word@host:7/3?socket_timeout=2&prefix=p&max_connections=4")._link.address
    assert (address.prefix, address.root, address.connections) == ("p", "{p}:", 4)
    options = {name: address.options[name] for name in ("host", "port", "db", "username", "password", "socket_timeout")}
    assert options == {"host": "host", "port": 7, "db": 3, "username": "me", "password": "word", "socket_timeout": 2.0}
    assert RedisBackend("rediss://host")._link.address.options["connection_class"].__name__ == "SSLConnection"


# ---- the front ------------------------------------------------------------------------------------------------------


async def test_the_documented_queue(url: str) -> None:
    queue = aiotaskq.RedisQueue(url, visibility=30)
    task_id = await queue.push_task({"type": "mail", "params": {"to": "é🙂"}, "own": 1}, priority=2)
    assert (await queue.get_queue_size(), await queue.is_empty()) == (1, False)
    task = await queue.pop_task(timeout=0)
    assert task is not None and (task["task_id"], task["params"], task["own"]) == (task_id, {"to": "é🙂"}, 1)
    await queue.task_done()
    assert (await queue.get(task_id)).status is Status.COMPLETED
    assert await queue.pop_task(timeout=0) is None
    await queue.set_public("cookie", {"a": 1}, ttl=60)
    assert await queue.get_public("cookie") == {"a": 1}
    await queue.close()
    with pytest.raises(ValidationError, match="a Redis server is needed"):
        aiotaskq.RedisQueue("sqlite:///x.db")


def test_the_documented_queue_blocking(url: str) -> None:
    queue, other = aiotaskq.sync.RedisQueue(url), aiotaskq.sync.RedisQueue(url)
    task_id = queue.push_task({"type": "mail"})
    task = other.pop_task(timeout=watchdog())
    assert task is not None and task["task_id"] == task_id
    other.task_done()
    assert queue.get(task_id).status is Status.COMPLETED
    queue.close()
    other.close()


async def test_schedules_live_in_sql_and_fire_into_redis(url: str, tmp_path: Path) -> None:
    tq = TaskQ(url, schedules=f"sqlite:///{tmp_path}/schedules.db", poll_interval=0.2)
    ran = asyncio.Event()

    @tq.task(name="job")
    async def job() -> None:
        ran.set()

    scheduler = tq.scheduler  # it runs with the workers, since it is used
    async with tq.running():
        schedule = await scheduler.add_scheduler_task("n", "job", "once", execute_at=1)
        async with asyncio.timeout(watchdog()):
            await ran.wait()
        (task,) = await tq.find(scheduler_task_id=schedule)
        await tq.handle(task.task_id).result(timeout=watchdog())


# The process's database is fixed at its first use, so each of these is a process of its own.
REFUSED = """
import os, sys
import aiotaskq, aiotaskq.sync
from aiotaskq import NotSupported

os.chdir(sys.argv[1])
tries = []
for kind in (aiotaskq.TaskQ, aiotaskq.sync.TaskQ):
    tq = kind("redis://me:sesame@localhost:1/0")
    apart = kind("redis://localhost:1/0", schedules="redis://localhost:1/1")
    tries.append(lambda tq=tq: tq.schedule(interval=1))
    for each in (tq, apart):
        tries.append(lambda tq=each: tq.scheduler.add_scheduler_task("n", "t", "interval", interval_seconds=1))
tries.append(lambda: aiotaskq.Scheduler(queue=aiotaskq.RedisQueue("redis://me:sesame@localhost:1/0")))
for each in tries:
    try:
        each()
    except NotSupported as error:
        print(error)
print(os.listdir())
"""


def test_without_a_database_for_all_hosts_a_schedule_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each host had a file of its own in its working directory, so each fired every due time.
    monkeypatch.delenv("AIOTASKQ_DATABASE_URL", raising=False)
    monkeypatch.delenv("AIOTASKQ_QUEUE_URL", raising=False)
    *refused, files = run_program(REFUSED, str(tmp_path)).splitlines()
    assert len(refused) == 7 and files == "[]"
    for said in refused:
        assert said.startswith("schedules: redis://") and "sesame" not in said
        assert said.endswith(
            "name one SQL database for all hosts: TaskQ(..., schedules='postgresql://...'), AIOTASKQ_DATABASE_URL, "
            "or --schedules on the command line"
        )


NAMED = """
import sys
import aiotaskq

url, schedules = sys.argv[1:]
tq = aiotaskq.TaskQ(url, schedules=schedules or None)
tq.schedule(interval=1)
assert tq.scheduler is tq.scheduler
aiotaskq.Scheduler(queue=aiotaskq.RedisQueue("redis://localhost:1/0"), url=schedules or None)
print("taken")
"""


@pytest.mark.parametrize("how", ["schedules", "variable", "queue"])
def test_with_a_database_named_schedules_are_taken(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = f"sqlite:///{tmp_path}/schedules.db"
    variables = {"AIOTASKQ_DATABASE_URL": how == "variable", "AIOTASKQ_QUEUE_URL": how == "queue"}
    for name, is_set in variables.items():
        monkeypatch.delenv(name, raising=False)
        if is_set:
            monkeypatch.setenv(name, database)
    given = database if how == "schedules" else ""
    assert run_program(NAMED, "redis://localhost:1/0", given) == "taken\n"


async def test_without_a_schedule_no_database_is_needed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOTASKQ_DATABASE_URL", raising=False)
    tq = TaskQ(url)

    @tq.task
    async def work() -> int:
        return 1

    async with tq.running():
        assert await (await work.push()).result(timeout=watchdog()) == 1
        assert (await tq.health())["store"] is None
    assert list(tmp_path.iterdir()) == []

"""Redis: keys, prefixes, users with limited rights, clusters."""

from __future__ import annotations

from typing import Any

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.core.task import TaskFilter
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from tests.backends.redis.stores import every_verb, hears, opened, own_server
from tests.support.rows import LEASE, NOW, ids, new, pushed, read
from tests.support.servers import Server
from tests.support.waiting import eventually


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
    inside = "+hget +hset +hdel +hgetall +hincrby +hkeys +hvals +hlen +get +set +del +unlink +sadd +srem +zadd"
    inside += (
        " +zrem +zrange +zrangebyscore +zrangebylex +zrevrangebylex +zcount +zmscore +zcard +zunion +exists +hscan"
    )
    server.execute(f"ACL SETUSER small on >secret resetkeys resetchannels -@all ~{{{prefix}}}:* &{{{prefix}}}:*")
    server.execute(f"ACL SETUSER small {commands} {inside}")
    small = server.url(prefix).replace("//", "//small:secret@")
    async with opened(small) as backend:
        assert any("could not be checked" in line for line in lines)
        await every_verb(backend)
        async with opened(small) as other:
            await hears(other, backend)
    with pytest.raises(DatabaseUnavailable, match="may not do this") as raised:
        async with opened(server.url(f"{prefix}.other").replace("//", "//small:secret@")):
            pass
    assert "secret" not in str(raised.value)
    server.execute("ACL DELUSER small")


async def test_a_cluster_and_a_slot_that_moves(prefix: str) -> None:  # G-8, G-4
    options: dict[str, Any] = {"cluster_enabled": "yes", "cluster_require_full_coverage": "no"}
    with own_server(**options) as first, own_server(**options) as second:
        first.ask("CLUSTER ADDSLOTSRANGE 0 8191")
        second.ask("CLUSTER ADDSLOTSRANGE 8192 16383")
        first.ask(f"CLUSTER MEET 127.0.0.1 {second.port} {second.bus_port}")
        slot = first.ask("CLUSTER", "KEYSLOT", f"{{{prefix}}}:")
        nodes = (first, second)
        owner, stranger = nodes if slot < 8192 else nodes[::-1]
        await eventually(lambda: all(b"cluster_state:ok" in node.ask("CLUSTER INFO") for node in nodes))
        async with opened(stranger.url(prefix)) as backend, opened(owner.url(prefix)) as same:
            task = await pushed(backend)
            assert await read(same, task) == task
            assert await same.delete([task.task_id]) == 1
            await every_verb(same)
            await hears(backend, same)
            # Another namespace is on the other node, whichever node its URL names.
            names = (f"{prefix}.{n}" for n in range(100))
            apart = next(n for n in names if (owner.ask("CLUSTER", "KEYSLOT", f"{{{n}}}:") < 8192) != (slot < 8192))
            async with opened(owner.url(apart)) as other:
                await every_verb(other)
                assert await other.count_ready(NOW) and stranger.ask("DBSIZE")
            # The slot goes to the other node, empty; both hear of it.
            name, former = (node.ask("CLUSTER MYID").decode() for node in (stranger, owner))
            owner.ask("FLUSHALL")
            # Without these two the new owner gets no newer epoch, and what the nodes still say to each other undoes it.
            stranger.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", former)
            owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", name)
            with pytest.raises(DatabaseUnavailable, match="ASK"):
                await pushed(same)
            for node in (stranger, owner):
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

"""Redis: wake-ups between processes."""

from __future__ import annotations

import asyncio

from aiotaskq.backends.base import Change
from aiotaskq.backends.listeners import CANCEL, ENDED, READY, TAKEN
from aiotaskq.backends.redis.backend import RedisBackend
from tests.backends.redis.stores import hears, opened
from tests.support.rows import LEASE, NOW, completed, new, read
from tests.support.servers import Server, Valkey
from tests.support.waiting import eventually


async def test_a_hint_reaches_another_process_once(backend: RedisBackend, url: str) -> None:
    async with opened(url) as other:
        await hears(other, backend)
        await backend.watch()
        await backend.watch()
        await hears(backend, other)
        heard: list[tuple[str, list[str]]] = []
        own: list[str] = []
        other.listeners.listen(lambda kind, names: heard.append((kind, sorted(names))))
        backend.listeners.listen(lambda kind, _names: own.append(kind))
        (task,) = await backend.push([new()])
        await eventually(lambda: heard == [(READY, [])])
        (claimed,) = await backend.claim("o", NOW, 1, lease_until=LEASE)
        backend.listeners.notify(TAKEN)
        await eventually(lambda: heard[1:] == [(TAKEN, [])])
        await backend.request_cancel([task.task_id])
        await eventually(lambda: heard[2:] == [(CANCEL, [task.task_id])])
        claimed = await read(backend, task)
        await backend.update([Change(claimed, completed(claimed))])
        await eventually(lambda: heard[3:] == [(ENDED, [task.task_id])])
        await backend.ping()
        assert own == [READY, TAKEN, CANCEL, ENDED]


async def test_a_thread_may_notify(backend: RedisBackend, url: str) -> None:
    async with opened(url) as other:
        await hears(other, backend)
        heard: list[str] = []
        other.listeners.listen(lambda kind, _names: heard.append(kind))
        await asyncio.to_thread(backend.listeners.notify, ENDED, ["a"])
        await eventually(lambda: heard == [ENDED])


async def test_foreign_messages_on_the_channel_are_ignored(  # J7
    backend: RedisBackend, server: Server, prefix: str
) -> None:
    assert isinstance(server, Valkey)
    async with opened(server.url(prefix)) as other:
        await hears(backend, other)
        heard: list[str] = []
        backend.listeners.listen(lambda kind, _names: heard.append(kind))
        for words in ("", "nonsense", "[]", '["me", {"boom": []}]', '["me", {"ready": [1]}]', '["me", 5]', b"\xff"):
            server.ask("PUBLISH", f"{{{prefix}}}:hints", words)
        other.listeners.notify(TAKEN)
        await eventually(lambda: heard)
        assert heard == [TAKEN]


async def test_a_hint_with_too_many_names_is_sent_without(backend: RedisBackend, url: str) -> None:  # G-10
    async with opened(url) as other:
        await hears(other, backend)
        heard: list[tuple[str, list[str]]] = []
        other.listeners.listen(lambda kind, names: heard.append((kind, list(names))))
        for number in range(5_000):
            backend.listeners.notify(ENDED, [f"id-{number}"])
        await eventually(lambda: heard)
        assert heard == [(ENDED, [])]


async def test_a_cancel_of_many_tasks_names_all_of_them(backend: RedisBackend, url: str) -> None:
    names = [f"id-{number}" for number in range(5_000)]
    async with opened(url) as other:
        await hears(other, backend)
        heard: list[str] = []
        other.listeners.listen(lambda _kind, some: heard.extend(some), CANCEL)
        backend.listeners.notify(CANCEL, names)
        await eventually(lambda: set(names) <= set(heard))


async def test_a_hint_just_before_close_is_sent(backend: RedisBackend, url: str) -> None:
    heard: list[str] = []
    async with opened(url) as other:
        await hears(backend, other)
        backend.listeners.listen(lambda kind, _names: heard.append(kind))
        await other.push([new()])
    await eventually(lambda: READY in heard)

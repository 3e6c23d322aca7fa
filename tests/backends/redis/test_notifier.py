"""Redis: wake-ups between processes."""

from __future__ import annotations

import asyncio

from aiotaskq.backends.base import CANCEL, ENDED, READY, TAKEN, Change
from aiotaskq.backends.redis.backend import RedisBackend
from tests.backends.redis.stores import hears, opened
from tests.support.rows import LEASE, NOW, completed, new, read
from tests.support.servers import Server, Valkey
from tests.support.waiting import eventually


async def test_what_one_process_does_anotherhears_once(backend: RedisBackend, url: str) -> None:
    async with opened(url) as other:
        await hears(other, backend)
        await backend.watch()
        await backend.watch()
        await hears(backend, other)
        heard: list[tuple[str, list[str]]] = []
        own: list[str] = []
        other.hints.listen(lambda kind, names: heard.append((kind, sorted(names))))
        backend.hints.listen(lambda kind, _names: own.append(kind))
        (task,) = await backend.push([new()])
        await eventually(lambda: heard == [(READY, [])])
        (claimed,) = await backend.claim("o", NOW, 1, lease_until=LEASE)
        backend.hints.tell(TAKEN)
        await eventually(lambda: heard[1:] == [(TAKEN, [])])
        await backend.request_cancel([task.task_id])
        await eventually(lambda: heard[2:] == [(CANCEL, [task.task_id])])
        claimed = await read(backend, task)
        await backend.update([Change(claimed, completed(claimed))])
        await eventually(lambda: heard[3:] == [(ENDED, [task.task_id])])
        await backend.ping()
        assert own == [READY, TAKEN, CANCEL, ENDED]


async def test_a_thread_may_tell(backend: RedisBackend, url: str) -> None:
    async with opened(url) as other:
        await hears(other, backend)
        heard: list[str] = []
        other.hints.listen(lambda kind, _names: heard.append(kind))
        await asyncio.to_thread(backend.hints.tell, ENDED, ["a"])
        await eventually(lambda: heard == [ENDED])


async def test_foreign_words_on_the_channel_are_ignored(  # J7
    backend: RedisBackend, server: Server, prefix: str
) -> None:
    assert isinstance(server, Valkey)
    async with opened(server.url(prefix)) as other:
        await hears(backend, other)
        heard: list[str] = []
        backend.hints.listen(lambda kind, _names: heard.append(kind))
        for words in ("", "nonsense", "[]", '["me", {"boom": []}]', '["me", {"ready": [1]}]', '["me", 5]', b"\xff"):
            server.ask("PUBLISH", f"{{{prefix}}}:hints", words)
        other.hints.tell(TAKEN)
        await eventually(lambda: heard)
        assert heard == [TAKEN]


async def test_very_many_names_are_told_as_unknown(backend: RedisBackend, url: str) -> None:  # G-10
    async with opened(url) as other:
        await hears(other, backend)
        heard: list[tuple[str, list[str]]] = []
        other.hints.listen(lambda kind, names: heard.append((kind, list(names))))
        for number in range(5_000):
            backend.hints.tell(ENDED, [f"id-{number}"])
        await eventually(lambda: heard)
        assert heard == [(ENDED, [])]


async def test_what_was_told_just_before_the_close_goes_out(backend: RedisBackend, url: str) -> None:
    heard: list[str] = []
    async with opened(url) as other:
        await hears(backend, other)
        backend.hints.listen(lambda kind, _names: heard.append(kind))
        await other.push([new()])
    await eventually(lambda: READY in heard)

"""Redis that became a replica, or a cluster that does not serve our slot: an error names the fault."""

from __future__ import annotations

import asyncio

import pytest

from aiotaskq.backends.base import Change
from aiotaskq.errors import DatabaseUnavailable
from tests.backends.redis.faults.proxied import opened, persist, through
from tests.support.proxy import Proxy
from tests.support.rows import NOW, completed, new, pushed, read, running, worker_info
from tests.support.servers import Valkey


async def test_a_server_that_became_a_replica(server: Valkey) -> None:  # G-4, F6
    async with opened(server.url("a")) as backend:
        task = await running(backend)
        server.ask("REPLICAOF 127.0.0.1 1")
        for verb in (lambda: backend.push([new()]), lambda: backend.update([Change(task, completed(task))])):
            with pytest.raises(DatabaseUnavailable):
                await verb()
        server.ask("REPLICAOF NO ONE")
        assert await backend.update([Change(task, completed(task))]) == [True]
        assert await backend.count_ready(NOW) == 0


async def test_a_name_that_points_to_another_server_now(server: Valkey, proxy: Proxy) -> None:  # G-4, F6
    """As after a failover: the old one is a replica, and connections to it are still open."""
    other = Valkey(durable=False)
    try:
        async with opened(through(proxy)) as backend:
            await asyncio.gather(*(backend.ping() for _ in range(5)))
            server.ask(f"REPLICAOF 127.0.0.1 {other.port}")
            proxy._target = ("127.0.0.1", other.port)
            with pytest.raises(DatabaseUnavailable):
                await pushed(backend)
            await pushed(backend)
            async with opened(other.url("a")) as there:
                assert await there.count_ready(NOW) == 1
    finally:
        other.kill()


async def test_too_few_replicas(server: Valkey) -> None:  # G-4
    async with opened(server.url("a")) as backend:
        task = await running(backend)
        server.ask("CONFIG SET min-replicas-to-write 1")
        for verb in (
            lambda: backend.push([new(), new()]),
            lambda: backend.claim("o", NOW, 5),
            lambda: backend.update([Change(task, completed(task), then=(new(),))]),
            lambda: backend.workers.register(worker_info()),
        ):
            with pytest.raises(DatabaseUnavailable):
                await verb()
        server.ask("CONFIG SET min-replicas-to-write 0")
        assert await read(backend, task) == task
        assert (await backend.stats(NOW)).counts["running"] == 1
        assert await backend.count_ready(NOW) == 0


async def test_a_cluster_without_our_slot() -> None:  # G-4, G-8
    alone = Valkey(durable=False, cluster_enabled="yes")
    try:
        with pytest.raises(DatabaseUnavailable):
            async with opened(alone.url("a")):
                pass
        alone.ask("CLUSTER ADDSLOTSRANGE 0 16383")

        async def push() -> None:
            async with opened(alone.url("a")) as backend:
                await pushed(backend)

        await persist(push)
    finally:
        alone.kill()

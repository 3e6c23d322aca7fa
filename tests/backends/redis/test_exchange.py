"""Redis: changes and a claim in one call."""

from __future__ import annotations

import pytest

from aiotaskq.backends.base import Change, Claim
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.core.status import Status
from aiotaskq.core.task import TaskFilter
from aiotaskq.errors import SchemaTooNew
from tests.backends.redis.stores import opened
from tests.support.rows import LEASE, NOW, completed, ids, new, read, running
from tests.support.servers import Server, Valkey


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
    held = sum(server.ask("ZCARD", f"{{{prefix}}}:{name}") for name in ("held", "leased"))
    assert held == counts["running"]
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
        Change(plain, completed(plain)),
        Change(plain, completed(plain, result="twice")),
        Change(keyed, completed(keyed), then=(follower,)),
        Change(again, back),
        Change(elsewhere, completed(elsewhere, status=Status.FAILED)),
        Change(fired.replace(fence=7), completed(fired)),
    ]
    held, claimed = await backend.exchange(changes, Claim("p", NOW, 10, lease_until=LEASE + 1))
    assert held == [True, False, True, True, True, False]
    assert ids(claimed) == ids([again, other, follower])
    assert [(task.fence, task.lease_owner, task.lease_until) for task in claimed] == [
        (2, "p", LEASE + 1), (1, "p", LEASE + 1), (1, "p", LEASE + 1)
    ]  # fmt: skip
    assert await read(backend, plain) == completed(plain)
    await consistent(backend, server, prefix)


async def test_changes_of_one_row_in_one_call(backend: RedisBackend, server: Server, prefix: str) -> None:
    first = await running(backend)
    ended_ = completed(first)
    revived = ended_.replace(status=Status.PENDING, completed_at=None)
    assert await backend.update([Change(first, ended_), Change(ended_, revived)]) == [True, True]
    await consistent(backend, server, prefix)
    held = revived.replace(status=Status.RUNNING, lease_owner="o", lease_until=LEASE)
    assert await backend.update([Change(revived, held), Change(held, completed(held))]) == [True, True]
    await consistent(backend, server, prefix)
    assert await read(backend, first) == completed(held)


async def test_a_newer_format_is_left_alone(url: str, server: Server, prefix: str) -> None:
    server.execute(f"SET {{{prefix}}}:format 2")
    with pytest.raises(SchemaTooNew, match="format 2"):
        async with opened(url):
            pass

"""Redis: groups are decided in transactions, whose commit is one script that compares what they have read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.base import Change, Claim
from aiotaskq.backends.redis import reads, transactions
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.scripts import script
from aiotaskq.backends.redis.transactions import OPTIMISTIC
from aiotaskq.core.groups import CANCEL, FAIL, RUN, GroupState
from aiotaskq.core.ids import new_id
from aiotaskq.core.outcome import Completed, Failed, Outcome, Requeued, settle
from aiotaskq.core.plan import Node, Outline, in_group, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.core.webhooks import WEBHOOK, make_webhook
from aiotaskq.errors import DatabaseUnavailable
from tests.backends.redis.stores import opened
from tests.support.codecs import Keyed
from tests.support.rows import LEASE, NOW, ids, new
from tests.support.servers import Valkey

LATER = NOW + SECOND
BROKEN = Failed("no", retryable=False)


def callbacks() -> dict[str, Task]:
    return {"then": new(type="then", seq=NOW), "on_failure": new(type="alert", seq=NOW)}


def tree(roots: int, children: int) -> Outline:
    """A workflow of roots with so many children each, of which each has one child."""
    nodes: list[Node] = []
    for root in range(roots):
        nodes.append(Node(f"{root}", new(type="root")))
        for child in range(children):
            nodes.append(Node(f"{root} {child}", new(type="child"), {f"{root}": CANCEL}))
            nodes.append(Node(f"{root} {child} leaf", new(type="leaf"), {f"{root} {child}": CANCEL}))
    return Outline(group_id=new_id(), nodes=tuple(nodes), named=True, **callbacks())


async def state(backend: RedisBackend, group_id: str) -> GroupState:
    (found,) = await backend.groups.get([group_id])
    assert found is not None
    return found


async def end(backend: RedisBackend, *tasks: Task, outcome: Outcome = BROKEN) -> list[bool]:
    return await backend.update([Change(task, settle(task, outcome, LATER)) for task in tasks])


async def claim(backend: RedisBackend, limit: int = 2_000) -> list[Task]:
    return await backend.claim("o", LATER, limit, lease_until=LEASE)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each script that is run from now on."""
    seen: list[str] = []
    original = RedisConnections.evaluate

    async def evaluate(redis: RedisConnections, name: str, *args: Any) -> Any:
        seen.append(name)
        return await original(redis, name, *args)

    monkeypatch.setattr(RedisConnections, "evaluate", evaluate)
    return seen


@pytest.fixture
async def other(url: str) -> AsyncIterator[RedisBackend]:
    """Another process."""
    async with opened(url) as made:
        yield made


class Meddler:
    """Before each of the first commits of one backend, another process writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, backend: RedisBackend) -> None:
        self.writes: list[Callable[[], Awaitable[object]]] = []
        """One for each commit."""
        self.commits = 0
        original = RedisConnections.evaluate

        async def evaluate(redis: RedisConnections, name: str, *args: Any) -> Any:
            if name == "commit" and redis is backend._redis:
                self.commits += 1
                if self.writes:
                    await self.writes.pop(0)()
            return await original(redis, name, *args)

        monkeypatch.setattr(RedisConnections, "evaluate", evaluate)


@pytest.fixture
def meddler(monkeypatch: pytest.MonkeyPatch, backend: RedisBackend) -> Meddler:
    return Meddler(monkeypatch, backend)


async def members(backend: RedisBackend, count: int) -> tuple[str, list[Task]]:
    """Push a group, and claim its tasks."""
    made = Outline(group_id=new_id(), nodes=tuple(Node(f"{n}", new(type="m")) for n in range(count)), **callbacks())
    assert await backend.groups.push(plan(made, NOW))
    return made.group_id, await claim(backend)


async def test_all_that_follows_from_many_ends_is_one_commit(backend: RedisBackend, called: list[str]) -> None:
    made = tree(2, 700)
    assert await backend.groups.push(plan(made, NOW))
    roots = await claim(backend)
    called.clear()
    assert await end(backend, *roots) == [True, True]
    assert called[-1] == "commit" and set(called[:-1]) == {"read"}
    found = await state(backend, made.group_id)
    assert (found.remaining, found.failed, found.cancelled, found.status) == (0, 2, 2_800, Status.FAILED)
    (alert,) = await claim(backend)
    assert alert.type == "alert"
    assert await backend.find(TaskFilter(status=(Status.PENDING, Status.RUNNING), type="leaf"), 1) == []


async def test_a_commit_that_does_not_come_has_changed_nothing(backend: RedisBackend, meddler: Meddler) -> None:
    made = tree(1, 2)
    await backend.groups.push(plan(made, NOW))
    (root,) = await claim(backend)

    async def cut() -> None:
        raise DatabaseUnavailable("cut")

    meddler.writes = [cut]
    with pytest.raises(DatabaseUnavailable, match="cut"):
        await end(backend, root)
    assert (await state(backend, made.group_id)).remaining == 5
    assert await backend.get([root.task_id]) == [root]
    assert await end(backend, root) == [True]
    assert (await state(backend, made.group_id)).remaining == 0


async def test_a_group_that_changes_before_the_commit_is_read_again(
    backend: RedisBackend, other: RedisBackend, meddler: Meddler
) -> None:
    group_id, tasks = await members(backend, 3)
    meddler.commits, meddler.writes = 0, [lambda: end(other, tasks[1], outcome=Completed())]
    assert await end(backend, tasks[0]) == [True]
    assert meddler.commits == 2
    found = await state(backend, group_id)
    assert (found.remaining, found.failed, found.completed) == (1, 1, 1)


async def test_a_task_that_ends_elsewhere_before_the_commit_ends_once(
    backend: RedisBackend, other: RedisBackend, meddler: Meddler
) -> None:
    group_id, (task, _) = await members(backend, 2)
    meddler.writes = [lambda: end(other, task, outcome=Completed())]
    assert await end(backend, task) == [False]
    found = await state(backend, group_id)
    assert (found.remaining, found.failed, found.completed) == (1, 0, 1)


async def test_what_was_missing_is_compared_too(backend: RedisBackend, other: RedisBackend, meddler: Meddler) -> None:
    made = plan(Outline(group_id=new_id(), nodes=(Node("a", new()),), **callbacks()), NOW)
    meddler.writes = [lambda: other.groups.push(made)]
    assert not await backend.groups.push(msgspec.structs.replace(made, tasks=(new(seq=NOW + 1),)))
    assert (await backend.stats(NOW)).counts["pending"] == 1
    task = in_group(new(), made.groups[0].group_id, new_id(), NOW)
    meddler.writes = [lambda: other.groups.add(made.groups[0].group_id, [task], NOW)]
    assert await backend.groups.add(made.groups[0].group_id, [task], NOW) == 0
    assert (await state(backend, made.groups[0].group_id)).total == 2


async def test_what_meets_many_conflicts_waits_longer_after_each(
    backend: RedisBackend, other: RedisBackend, meddler: Meddler, monkeypatch: pytest.MonkeyPatch
) -> None:
    group_id, (first, *others) = await members(backend, 6)
    failures: list[int] = []

    def backoff(count: int, first: float, longest: float) -> float:
        failures.append(count)
        return 0.0

    monkeypatch.setattr(transactions, "backoff", backoff)
    meddler.writes = [partial(end, other, task) for task in others[:4]]
    assert await end(backend, first) == [True]
    assert failures == list(range(1, 6 - OPTIMISTIC))
    assert (await state(backend, group_id)).remaining == 1


@pytest.mark.parametrize("exchange", [False, True])
async def test_a_reader_that_knows_of_no_group_ends_a_member(backend: RedisBackend, exchange: bool) -> None:
    """Its reader knew the row before it was pushed again; the script that meets it has written nothing yet."""
    await backend.push([new() for _ in range(1_100)])
    *others, last = await claim(backend)
    await backend.delete([last.task_id])
    again = new(task_id=last.task_id, fence=last.fence - 1)
    made = Outline(group_id=new_id(), nodes=(Node("a", again),), **callbacks())
    await backend.groups.push(plan(made, NOW))
    (claimed,) = await claim(backend)
    assert (claimed.task_id, claimed.fence) == (last.task_id, last.fence)
    changes = [Change(task, settle(task, Completed(), LATER)) for task in (*others, last)]
    if exchange:
        held, (then,) = await backend.exchange(changes, Claim("o", LATER, 5))
    else:
        held = await backend.update(changes)
        (then,) = await claim(backend)
    assert all(held)
    assert (then.type, (await state(backend, made.group_id)).status) == ("then", Status.COMPLETED)


async def test_messages_of_webhooks_are_coded_in_the_commit(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    original = RedisConnections.evaluate

    async def evaluate(redis: RedisConnections, name: str, *args: Any) -> Any:
        sent.extend(args)
        return await original(redis, name, *args)

    monkeypatch.setattr(RedisConnections, "evaluate", evaluate)
    backend = connect(url, codec=Keyed("k"))
    await backend.open()
    try:
        backend.groups.webhooks = {"w": make_webhook("https://a.test/", bytes(32), name="w", on="cancelled")}
        await backend.groups.push(plan(tree(1, 1), NOW))
        (root,) = await backend.claim("o", LATER, 1, lease_until=LEASE)
        await backend.update([Change(root, settle(root, BROKEN, LATER))])
        messages = await backend.find(TaskFilter(type=WEBHOOK), 10)
        assert [each.params["body"]["type"] for each in messages] == ["task.cancelled"] * 2
        words = b"".join(each for each in sent if isinstance(each, bytes))
        assert WEBHOOK.encode() in words and b"task.cancelled" not in words
    finally:
        await backend.close()


async def test_a_unique_key_that_a_newer_task_has_keeps_a_member_from_coming_back(backend: RedisBackend) -> None:
    """The script that writes it knows that; what would have followed is not written either."""
    nodes = (Node("a", new(type="a", unique_key="u")), Node("b", new(type="b")))
    made = Outline(group_id=new_id(), nodes=nodes, **callbacks())
    await backend.groups.push(plan(made, NOW))
    a, b = sorted(await claim(backend), key=lambda task: task.type)
    assert await end(backend, a) == [True]
    (ended,) = await backend.get([a.task_id])
    assert ended is not None
    newer = new(unique_key="u")
    assert await backend.push([newer]) == [newer]
    changes = [Change(ended, settle(ended, Requeued(), LATER)), Change(b, settle(b, Completed(), LATER))]
    assert await backend.update(changes) == [False, True]
    found = await state(backend, made.group_id)
    assert (found.remaining, found.failed, found.completed, found.generation) == (0, 1, 1, 1)


async def test_a_push_that_is_repeated_is_the_same_push(backend: RedisBackend) -> None:
    made = plan(Outline(group_id=new_id(), nodes=(Node("a", new()),), **callbacks()), NOW)
    assert await backend.groups.push(made)
    assert await backend.groups.push(made)
    (group,) = await backend.groups.find(10)
    assert (group.total, group.remaining, group.then) == (1, 1, made.groups[0].then)
    assert len(await claim(backend)) == 1


async def test_rows_that_another_program_deleted_are_counted_again(
    server: Valkey, backend: RedisBackend, prefix: str
) -> None:
    first = [Node(name, new(type=name)) for name in "ab"]
    first += [Node("c", new(type="c"), {"a": RUN, "b": CANCEL}), Node("d", new(type="d"), {"c": FAIL})]
    inner = Outline(group_id=new_id(), nodes=tuple(first), named=True, **callbacks())
    outer = Outline(group_id=new_id(), nodes=(Node("inner", inner), Node("x", new(type="x"))))
    await backend.groups.push(plan(outer, NOW))
    assert await backend.groups.mend(LATER) == 0
    (a,) = await backend.find(TaskFilter(type="a"), 1)
    server.ask("HDEL", f"{{{prefix}}}:state", a.task_id)
    assert await backend.groups.mend(LATER) == 2  # its child, and its group
    assert await backend.groups.mend(LATER) == 0
    found = await state(backend, inner.group_id)
    assert (found.remaining, found.cancelled, found.failed, found.needed_by) == (1, 2, 1, 1)
    (b,) = await backend.find(TaskFilter(type="b"), 1)
    server.ask("HDEL", f"{{{prefix}}}:state", b.task_id)
    assert await backend.groups.mend(LATER) == 1
    assert (await state(backend, inner.group_id)).status is Status.FAILED
    assert (await state(backend, outer.group_id)).remaining == 1
    assert {task.type for task in await claim(backend)} == {"x", "alert"}


@pytest.mark.parametrize(
    ("key", "text"),
    [("groups", b'{"group_id":'), ("groups", b"[]"), ("groups:then", b'{"then":5}'), ("groups:then", b"\xff")],
)
async def test_a_group_that_cannot_be_read_is_logged_and_holds_up_nothing(
    server: Valkey, backend: RedisBackend, prefix: str, lines: list[str], key: str, text: bytes
) -> None:
    damaged, (first, second) = await members(backend, 2)
    good, _ = await members(backend, 1)
    server.ask("HSET", f"{{{prefix}}}:{key}", damaged, text)
    assert await end(backend, first, second) == [True, True]
    assert [group.group_id for group in await backend.groups.find(10)] == [good]
    assert await backend.groups.get([damaged]) == [None]
    assert await backend.groups.mend(LATER) == 0
    assert any(f"group {damaged} cannot be read" in line for line in lines)
    assert await backend.purge(TaskFilter(), 10) == 0, "whether the group has ended is not known"
    again = Outline(group_id=damaged, nodes=(Node("a", new()),))
    assert not await backend.groups.push(plan(again, NOW)), "its row is there"
    assert server.ask("HGET", f"{{{prefix}}}:{key}", damaged) == text


async def test_the_members_of_a_large_group_are_counted_some_at_a_time(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await members(backend, 5)
    read: list[int] = []
    original = RedisConnections.execute

    async def execute(redis: RedisConnections, *words: Any) -> Any:
        if words[0] == "HMGET" and words[1].endswith(":state"):
            read.append(len(words) - 2)
        return await original(redis, *words)

    monkeypatch.setattr(RedisConnections, "execute", execute)
    monkeypatch.setattr(reads, "READ", 2)
    assert await backend.groups.mend(LATER) == 0
    assert read[-3:] == [2, 2, 1]


async def test_a_member_that_is_added_while_a_group_is_counted_is_not_missing(
    server: Valkey, backend: RedisBackend, other: RedisBackend, meddler: Meddler, prefix: str
) -> None:
    group_id, (gone, _) = await members(backend, 2)
    server.ask("HDEL", f"{{{prefix}}}:state", gone.task_id)
    reads: list[str] = []
    execute = RedisConnections.execute

    async def add() -> None:
        reads.append("conflict")
        assert await other.groups.add(group_id, [in_group(new(), group_id, new_id(), NOW)], NOW) == 1

    async def spy(redis: RedisConnections, *words: Any) -> Any:
        if redis is backend._redis and reads:
            reads.append(str(words[1]).partition(":")[2].partition(":")[0] or str(words[1]))
        return await execute(redis, *words)

    meddler.writes = [add]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisConnections, "execute", spy)
        assert await backend.groups.mend(LATER) == 1
    # What the commit does not compare, the members and their statuses, is read behind the group.
    assert reads[:1] == ["conflict"] and reads.index("groups") < reads.index(script("read_many").sha)
    found = await state(backend, group_id)
    assert (found.total, found.remaining, found.cancelled) == (3, 2, 1)


async def test_the_keys_of_groups_are_in_the_hash_tag_and_none_is_left(
    backend: RedisBackend, server: Valkey, prefix: str
) -> None:
    def keys() -> set[bytes]:
        return set(server.ask("KEYS", "*"))

    before = keys()
    made = tree(2, 2)
    outer = Outline(
        group_id=new_id(), nodes=(Node("inner", made), Node("x", new())), budget={"tokens": 1}, **callbacks()
    )
    await backend.groups.push(plan(outer, NOW))
    assert await backend.groups.add(outer.group_id, [in_group(new(), outer.group_id, new_id(), NOW)], NOW) == 1
    await backend.groups.request_cancel(outer.group_id)
    assert len(await backend.groups.cancelling(10)) == 2
    assert all(key.startswith(f"{{{prefix}}}:".encode()) for key in keys() - before)
    assert all(await end(backend, *await claim(backend)))
    tasks = await backend.find(TaskFilter(), 100)
    assert await backend.delete(ids(tasks)) == len(tasks) == 12
    assert await backend.groups.purge(LATER + 1, 10) == 2
    assert keys() - before <= {f"{{{prefix}}}:{name}".encode() for name in ("format",)}

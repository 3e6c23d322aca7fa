"""Tasks that the store ends itself are told of, too, by the transaction that ends them: on each store, the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ, chain
from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.groups import CANCEL, FAIL, RUN
from aiotaskq.core.ids import new_id
from aiotaskq.core.outcome import Completed, Failed, Outcome, settle
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.core.webhooks import WEBHOOK, Webhook, make_webhook, messages
from aiotaskq.testing import virtual
from tests.contract.test_codec import stored_text
from tests.support.backends import Store
from tests.support.codecs import Keyed
from tests.support.rows import LEASE, NOW, new, read

BROKEN = Failed("Boom: no", retryable=False)
EDGES = {
    "first": {},
    "cancelled": {"first": CANCEL},
    'fa"iled/é 🙂': {"first": FAIL},
    "below": {"cancelled": CANCEL},
    "runs": {"first": RUN},
}


def hooks() -> dict[str, Webhook]:
    made = [
        make_webhook("https://a.test/all", bytes(32), name="all", queue="hooks", on=("failed", "cancelled", "expired")),
        make_webhook("https://a.test/some", bytes(32), name='s"ome', on="cancelled", types=("below", "runs")),
        make_webhook("https://a.test/where", bytes(32), name="where", on=("failed",), queues='q"é', max_retries=3),
        make_webhook("https://a.test/none", bytes(32), name="none", on=("completed", "expired")),
        make_webhook("https://a.test/other", bytes(32), name="other", on="cancelled", queues="elsewhere"),
    ]
    return {each.name: each for each in made}


@pytest.fixture
def told(backend: Backend) -> dict[str, Webhook]:
    """The webhooks of the backend."""
    made = backend.groups.webhooks = hooks()
    return made


async def pushed(backend: Backend) -> dict[str, Task]:
    """A workflow whose first task has begun; by name."""
    nodes = tuple(
        Node(name, new(type=name, queue='q"é', scheduler_task_id="nightly" if name == "below" else None), after)
        for name, after in EDGES.items()
    )
    made = plan(Outline(group_id=new_id(), nodes=nodes, named=True), NOW)
    assert await backend.groups.push(made)
    (first,) = await backend.claim("o", NOW + SECOND, 9, lease_until=LEASE)
    return {**{task.type: task for task in made.tasks}, "first": first}


async def settled(backend: Backend, task: Task, outcome: Outcome, now: int) -> bool:
    return (await backend.update([Change(task, settle(task, outcome, now))]))[0]


async def sent(backend: Backend) -> list[Task]:
    return await backend.find(TaskFilter(type=WEBHOOK), 100)


def plain(tasks: list[Task]) -> list[dict[str, Any]]:
    """What a message is, without its id and its push stamp."""
    fields = (
        "type",
        "params",
        "queue",
        "max_retries",
        "timeout",
        "created_at",
        "due",
        "status",
        "priority",
        "extra",
        "flow",
    )
    return sorted(({name: getattr(task, name) for name in fields} for task in tasks), key=str)


@pytest.mark.parametrize("now", [NOW + SECOND, NOW + 86_400 * 400 * SECOND + 123_456])
async def test_each_child_that_ends_by_its_parent(backend: Backend, told: dict[str, Webhook], now: int) -> None:
    tasks = await pushed(backend)
    stale = tasks["first"].replace(fence=7)
    assert not await settled(backend, stale, BROKEN, now) and await sent(backend) == [], "nothing was written"
    assert await settled(backend, tasks["first"], BROKEN, now)
    ended = {name: await read(backend, tasks[name]) for name in EDGES if name not in ("first", "runs")}
    assert [str(task.status) for task in ended.values()] == ["cancelled", "failed", "cancelled"]
    found = await sent(backend)
    assert plain(found) == plain([each for task in ended.values() for each in messages(told, task, now)])
    assert len(found) == 3 + 1 + 1, "of all; of the one below; of the failed one in its queue"
    assert len({task.task_id for task in found}) == 5
    assert [task.parked for task in found].count(False) == 1, "one message is sent to a host at a time"
    taken = await backend.claim("o", now, 9, queues=["hooks"], lease_until=now + SECOND)
    assert [task.type for task in taken] == [WEBHOOK], "it is ready"
    assert await settled(backend, taken[0], Completed(204), now)


async def test_a_parent_that_is_deleted(backend: Backend, told: dict[str, Webhook]) -> None:
    tasks = await pushed(backend)
    assert await backend.delete([tasks["first"].task_id]) == 1
    found = [task.params["body"] for task in await sent(backend) if task.params["webhook"] == "all"]
    assert sorted((body["type"], body["data"]["type"]) for body in found) == [
        ("task.cancelled", "below"),
        ("task.cancelled", "cancelled"),
        ("task.failed", 'fa"iled/é 🙂'),
    ]
    (failed,) = [body["data"] for body in found if body["type"] == "task.failed"]
    assert failed["error"] == f"not started: task {tasks['first'].task_id} (first), for which it waits, was cancelled"


async def test_a_process_without_webhooks_tells_nothing(backend: Backend) -> None:
    tasks = await pushed(backend)
    assert await settled(backend, tasks["first"], BROKEN, NOW + SECOND)
    assert await sent(backend) == []


async def test_messages_are_stored_and_read_with_a_codec(durable_store: Store) -> None:
    backend = connect(durable_store.url, codec=Keyed("k"))
    await backend.open()
    try:
        backend.groups.webhooks = hooks()
        tasks = await pushed(backend)
        assert await settled(backend, tasks["first"], BROKEN, NOW + SECOND)
        ended = [await read(backend, tasks[name]) for name in EDGES if name not in ("first", "runs")]
        expected = [each for task in ended for each in messages(hooks(), task, NOW + SECOND)]
        assert plain(await sent(backend)) == plain(expected)
        stored = await stored_text(durable_store)
        assert WEBHOOK in stored and "task.cancelled" not in stored and "timestamp" not in stored
    finally:
        await backend.close()


async def test_a_chain_that_a_worker_fails(store: Store, tmp_path: Path) -> None:
    schedules = f"sqlite:///{tmp_path}/schedules.db"
    async with virtual(url=store.url, schedules=schedules, scheduler=False) as kit:
        tq = kit.tq
        tq.webhook("https://example.com/ends", secret=bytes(32), queue="hooks", on=("failed", "cancelled"))

        @tq.task(max_retries=0)
        async def bad() -> None:
            raise RuntimeError("no")

        await tq.pause("hooks")  # nothing is sent
        await tq.start(chain(bad.call(), bad.call(), bad.call()))
        await kit.advance(minutes=1)
        bodies = [each.params["body"] for each in await tq.find(type=WEBHOOK)]
        assert sorted(body["type"] for body in bodies) == ["task.cancelled", "task.cancelled", "task.failed"]


async def test_a_task_that_is_dropped(store: Store, tmp_path: Path) -> None:
    schedules = f"sqlite:///{tmp_path}/schedules.db"
    async with TaskQ(store.url, schedules=schedules, maxsize=1, when_full="drop_oldest") as tq:
        tq.webhook("https://example.com/ends", secret=bytes(32), queue="hooks", on="cancelled")
        tq.elsewhere("work")
        await tq.pause("hooks")  # what waits there is not counted
        dropped, kept = [await tq.push("work", {"n": n}) for n in range(2)]
        assert [await dropped.status(), await kept.status()] == ["cancelled", "pending"]
        (about,) = [each.params["body"]["data"] for each in await tq.find(type=WEBHOOK)]
        assert (about["task_id"], about["error"]) == (dropped.task_id, "dropped: the queue is full")

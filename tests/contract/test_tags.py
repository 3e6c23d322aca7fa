"""Tags: names with values by which tasks are found, on each store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import TaskQ
from aiotaskq.app.running import look
from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Change, matching
from aiotaskq.backends.side_rows import TAG
from aiotaskq.backends.sql.engines import parse_url
from aiotaskq.core.alerts import holding, make_rules
from aiotaskq.core.outcome import Cancelled, Completed, Failed, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.errors import QueueFull, ValidationError
from aiotaskq.runtime.copy import copy
from aiotaskq.testing import virtual
from aiotaskq.testing.kit import Kit
from tests.support.backends import Store
from tests.support.codecs import Keyed
from tests.support.rows import LEASE, NOW, new

ORDER = {"order": "17"}
BOTH = {"order": "17", "tenant": "a b ü=;:"}


@pytest.fixture
async def kit(store: Store) -> AsyncIterator[Kit]:
    tq = registered(TaskQ(store.url, retention=None))
    async with virtual(tq, store.url, scheduler=False) as kit:
        yield kit


@pytest.fixture
def tq(kit: Kit) -> TaskQ:
    return kit.tq


def registered(tq: TaskQ) -> TaskQ:
    @tq.task(name="mail", tags={"team": "a", "kind": "mail"})
    async def mail(**_params: Any) -> None: ...

    @tq.task(name="end")
    async def end() -> None: ...

    @tq.task(name="failing", max_retries=0)
    async def failing() -> None:
        raise ValueError("x")

    return tq


def tagged(tags: dict[str, str], **fields: object) -> Task:
    return new(extra={"tags": tags}, **fields)


def ids(tasks: Iterable[Task]) -> list[str]:
    return [task.task_id for task in tasks]


async def found(backend: Backend, limit: int = 100, **where: object) -> list[str]:
    return ids(await backend.find(TaskFilter(**where), limit))  # type: ignore[arg-type]


async def rows_beside(backend: Backend, tasks: Iterable[str]) -> list[tuple[str, str]]:
    """What is stored of the tags of these tasks beside them, where the store looks for them by that."""
    rows = await backend.store.look(lambda tx: tx.side.of(TAG, list(tasks)))
    return [(row.owner, row.name) for row in rows]


async def test_tasks_are_found_by_all_of_the_tags_the_newest_first(backend: Backend) -> None:
    rows = [tagged(ORDER), tagged(BOTH), new(), tagged({"order": "1"}), tagged({"order": "17", "tenant": "b"})]
    await backend.push(rows)
    first, both, _, one, other = ids(rows)
    assert await found(backend, tags=ORDER) == [other, both, first]
    assert await found(backend, tags=BOTH) == [both]
    assert await found(backend, tags={"order": "1"}) == [one]
    assert await found(backend, tags={"order": "17", "tenant": "none"}) == []
    assert await found(backend, tags={"Order": "17"}) == await found(backend, tags={"order": "17 "}) == []
    assert await found(backend, tags=ORDER, type="other") == []
    assert [task.tags for task in await backend.find(TaskFilter(tags=BOTH), 1)] == [BOTH]


async def test_pages_of_tags_follow_each_other(backend: Backend) -> None:
    rows = [tagged(ORDER if number % 3 else BOTH) for number in range(10)]
    await backend.push(rows)
    newest = ids(reversed(rows))
    assert await found(backend, 4, tags=ORDER) == newest[:4]
    assert await found(backend, 4, tags=ORDER, after=newest[3]) == newest[4:8]
    assert await found(backend, 4, tags=ORDER, after=newest[7]) == newest[8:]
    assert await found(backend, 4, tags=BOTH, after=newest[3]) == [newest[6], newest[9]]


async def test_where_many_tasks_have_a_tag(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sql.tasks", "redis.reads"):
        monkeypatch.setattr(f"aiotaskq.backends.{module}.FEW", 2)
    rows = [tagged([ORDER, BOTH, {"tenant": BOTH["tenant"]}][number % 3]) for number in range(12)]
    await backend.push([*rows, new()])
    newest = list(reversed(rows))
    for tags in (ORDER, BOTH):
        wanted = ids(filter(matching(TaskFilter(tags=tags)), newest))
        assert await found(backend, tags=tags) == wanted
        assert await found(backend, 2, tags=tags, after=wanted[1], status=(Status.PENDING,)) == wanted[2:4]


async def test_a_filter_has_the_status_that_a_task_has_now(backend: Backend) -> None:
    rows = [tagged(ORDER), tagged(ORDER), tagged(ORDER)]
    await backend.push(rows)
    (claimed,) = await backend.claim("w", NOW, 1, lease_until=LEASE)
    await backend.update([Change(claimed, settle(claimed, Completed(None), NOW))])
    assert await found(backend, tags=ORDER, status=(Status.COMPLETED,)) == [claimed.task_id]
    assert len(await found(backend, tags=ORDER, status=(Status.PENDING, Status.RUNNING))) == 2


async def test_the_tags_go_with_the_task(backend: Backend) -> None:
    rows = [tagged(BOTH), tagged(BOTH), tagged(BOTH), new()]
    await backend.push(rows)
    first, second, third, plain = ids(rows)
    ends = [settle(row, Cancelled(), NOW) for row in (rows[0], rows[3])]
    await backend.update([Change(row, end) for row, end in zip((rows[0], rows[3]), ends, strict=True)])
    assert await backend.purge(TaskFilter(tags={"order": "other"}), 10) == 0
    assert await backend.purge(TaskFilter(tags=BOTH, status=(Status.CANCELLED,)), 10) == 1
    assert await backend.get([plain, first]) == [ends[1], None]
    assert await backend.delete([second]) == 1
    assert {owner for owner, _ in await rows_beside(backend, ids(rows))} <= {third}
    assert await found(backend, tags=ORDER) == [third]
    # A new task under the old id has none of them.
    again = new(task_id=first)
    await backend.push([again])
    assert await found(backend, tags=ORDER) == [third]


async def test_a_push_in_conflict_tags_nothing(backend: Backend) -> None:
    row = tagged(ORDER, unique_key="k")
    await backend.push([row])
    other, same = tagged({"order": "18"}, unique_key="k"), tagged({"order": "19"}, task_id=row.task_id)
    stored = await backend.push([other, same, tagged(BOTH)])
    assert ids(stored)[:2] == [row.task_id] * 2
    assert await found(backend, tags={"order": "18"}) == await found(backend, tags={"order": "19"}) == []
    await backend.push([row])  # again, as after an answer that was lost
    assert await found(backend, tags=ORDER) == [stored[2].task_id, row.task_id]


async def test_a_refused_push_tags_nothing(store: Store) -> None:
    async with TaskQ(store.url, maxsize=1, when_full="raise") as tq:
        await tq.push("t", tags=ORDER)
        with pytest.raises(QueueFull):
            await tq.push("t", tags={"order": "18"})
        assert len(await tq.find(tags=ORDER)) == 1
        assert await tq.find(tags={"order": "18"}) == []
        with pytest.raises(ValidationError):
            await tq.push_many([("t", {}), {"type": "t", "tags": {"order": 17}}])


async def test_in_a_session(sql_store: Store) -> None:
    engine = create_async_engine(parse_url(sql_store.url))
    async with TaskQ(sql_store.url) as tq:
        async with AsyncSession(engine) as session:
            await tq.push("t", tags=ORDER, session=session)
            await session.rollback()
        assert await tq.find(tags=ORDER) == []
        async with AsyncSession(engine) as session:
            await tq.push_many([("t", {}), {"type": "t", "tags": ORDER}], session=session)
            await session.commit()
        assert len(await tq.find(tags=ORDER)) == 1
    await engine.dispose()


async def test_those_of_the_handler_and_of_the_push(tq: TaskQ) -> None:
    handle = await tq.push("mail")
    other = await tq.push("mail", tags={"team": "b", "order": "17"})
    assert (await handle.task()).tags == {"team": "a", "kind": "mail"}
    assert (await other.task()).tags == {"team": "b", "kind": "mail", "order": "17"}
    assert ids(await tq.find(tags={"team": "b"})) == [other.task_id]
    assert await tq.count(tags={"kind": "mail"}) == 2
    many = await tq.push_many([("mail", {}), {"type": "end", "tags": ORDER}])
    assert ids(await tq.find(tags=ORDER)) == [many[1].task_id, other.task_id]


async def test_those_of_the_handler_count_for_the_bound(kit: Kit, tq: TaskQ) -> None:
    own = {f"n{number}": "1" for number in range(16)}
    with pytest.raises(ValidationError, match=r"^tags: 18 are more than 16$"):
        await tq.push("mail", tags=own)
    await tq.schedules.add("s", "mail", interval=60, tags=own)
    handle = await tq.schedules.run_now("s")
    assert (await handle.task()).tags == own, "a schedule that was stored before the handler had tags goes on"


async def test_groups_follow_ups_and_schedules_have_their_own(kit: Kit, tq: TaskQ) -> None:
    await tq.group([tq.call("end", tags=ORDER), tq.call("mail")], then=tq.call("mail", tags={"order": "18"}))
    await tq.push("end", on_success="mail", tags={"order": "20"})
    schedule = await tq.schedules.add("s", "mail", interval=60, tags={"order": "19", "team": "c"})
    assert schedule.tags == {"order": "19", "team": "c"}
    await tq.schedules.run_now("s")
    await kit.drain()
    tags = {task.tags.get("order"): task.tags for task in await tq.find(type="mail")}
    own = {"team": "a", "kind": "mail"}
    assert tags == {"18": {**own, "order": "18"}, "19": {**own, "order": "19", "team": "c"}, None: own}
    assert await tq.count(tags={"kind": "mail"}) == 4
    for order in ("17", "18", "19", "20"):
        assert len(await tq.find(tags={"order": order})) == 1
    await tq.schedules.update("s", tags=None)
    assert (await tq.schedules.get("s")).tags == {}


async def test_bulk_actions_take_tags(store: Store) -> None:
    async with TaskQ(store.url) as tq:
        for order in ("17", "18"):
            await tq.push("t", max_retries=0, tags={"order": order})
        rows = await tq.queue.backend.claim("w", tq.queue.clock.now() + SECOND, 2, lease_until=LEASE)
        ends = [settle(row, Failed("Error: x"), NOW) for row in rows]
        assert all(await tq.queue.backend.update([Change(*each) for each in zip(rows, ends, strict=True)]))
        assert await tq.count(status="failed", tags=ORDER) == 1
        assert await tq.retry_many(tags=ORDER) == 1
        assert [task.status for task in await tq.find(tags=ORDER)] == [Status.PENDING]
        assert await tq.cancel_many(tags=ORDER) == 1
        assert await tq.purge(tags=ORDER, dry_run=True) == await tq.purge(tags=ORDER) == 1
        assert await tq.count(status="failed") == 1


async def test_they_stay_in_a_tasks_life(kit: Kit, tq: TaskQ) -> None:
    handle = await tq.push("failing", {}, tags=ORDER, task_id="one", delay=60)
    await tq.edit("one", priority=3, delay=0)
    await kit.drain()
    await tq.retry("one")
    await kit.drain()
    await tq.push("end", tags={"order": "18"}, task_id="one", if_ended="retry")
    await kit.drain()
    task = await handle.task()
    assert (task.type, task.status, task.tags) == ("end", Status.COMPLETED, ORDER)
    copied = await tq.rerun("one")
    assert ids(await tq.find(tags=ORDER)) == [copied.task_id, "one"]
    assert await tq.find(tags={"order": "18"}) == []


async def test_a_debounced_task_keeps_those_of_its_first_call(tq: TaskQ) -> None:
    options = {"debounce": 60, "key": "k"}
    await tq.push("end", tags=ORDER, **options)  # type: ignore[arg-type]
    handle = await tq.push("end", tags={"order": "18"}, **options)  # type: ignore[arg-type]
    assert not handle.created
    assert [task.tags for task in await tq.find(tags=ORDER)] == [ORDER]
    assert await tq.find(tags={"order": "18"}) == []


async def test_with_a_codec_they_are_found_all_the_same(durable_store: Store) -> None:
    tq = registered(TaskQ(durable_store.url, codec=Keyed("k"), retention=None))
    async with virtual(tq, durable_store.url, scheduler=False) as kit:
        await tq.group([tq.call("end", tags=ORDER)], then=tq.call("mail", tags={"order": "18"}))
        await tq.push("end", {}, tags=BOTH, on_success="mail")
        await tq.schedules.add("s", "mail", interval=60, tags={"order": "19"})
        await tq.schedules.run_now("s")
        await kit.drain()
        assert sorted(task.type for task in await tq.find(tags={"team": "a"})) == ["mail"] * 3
        assert [task.tags for task in await tq.find(tags=BOTH)] == [BOTH]
        assert len(await tq.find(tags={"order": "18"})) == len(await tq.find(tags={"order": "19"})) == 1
        assert await tq.purge(tags=ORDER) == 2
    backend = connect(durable_store.url)  # another one, without the codec
    await backend.open()
    assert len(await backend.find(TaskFilter(tags={"team": "a"}), 10)) == 3
    await backend.close()


async def test_a_copy_in_another_store_has_them(durable_store: Store, backend: Backend) -> None:
    from aiotaskq.backends.memory.backend import MemoryBackend

    source = MemoryBackend()
    row = tagged(BOTH, run_at=NOW + 60 * SECOND)
    await source.push([row, new()])
    await copy(source, backend, NOW)
    assert await found(backend, tags=BOTH) == [row.task_id]
    (read,) = await backend.get([row.task_id])
    assert read == row


async def test_a_retry_and_a_lost_answer_leave_them(backend: Backend) -> None:
    row = tagged(ORDER)
    await backend.push([row])
    (claimed,) = await backend.claim("w", NOW, 1, lease_until=LEASE)
    assert claimed.tags == ORDER
    then = (tagged({"order": "18"}),)
    after = settle(claimed, Failed("Error: x"), NOW)
    assert await backend.update([Change(claimed, after, then)]) == [True]
    assert await backend.update([Change(claimed, after, (tagged({"order": "19"}),))]) == [False]
    assert await found(backend, tags=ORDER) == [row.task_id]
    assert await found(backend, tags={"order": "18"}) == ids(then)
    assert await found(backend, tags={"order": "19"}) == []


async def test_an_alert_rule_counts_the_dead_letters_with_its_tags(kit: Kit) -> None:
    rules = make_rules(2, None, None, None, 30, {"tenant": "acme"})
    found = []
    for tags in ({}, {}, {"tenant": "acme"}, {"tenant": "zeta"}, {"tenant": "acme", "order": "17"}):
        await kit.tq.push("failing", tags=tags)
        await kit.drain()
        found.append(holding(rules, await look(kit.tq.queue.backend, None, rules, kit.clock.now())))
    assert found == [{}] * 4 + [{"dead_letters": "tasks with tenant=acme that have failed for good: 2 or more"}]

"""Sleeps, waits and events on each store: no wake-up is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.change import Leave
from aiotaskq.backends.listeners import READY
from aiotaskq.backends.sql.engines import async_engine, parse_url
from aiotaskq.backends.sql.transaction import SqlTransactions
from aiotaskq.backends.steps import Steps, event_row
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.edit import edited
from aiotaskq.core.gate import PARKED, Bounds, Flow
from aiotaskq.core.outcome import Released
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NEVER, Suspension
from aiotaskq.core.task import SECOND, Task
from aiotaskq.runtime.step_verbs import StepVerbs
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, completed, read, running
from tests.support.step_rows import LATER, asleep, emit, event, of, suspend, wait
from tests.support.waiting import eventually


@pytest.fixture
def steps(backend: Backend) -> Steps:
    return backend.steps


async def test_a_task_that_sleeps_is_pending_until_then(backend: Backend, steps: Steps) -> None:
    task = await running(backend)
    sleep = of(task, "nag", str(LATER), kind="sleep")
    assert await suspend(steps, task, asleep(task), sleep)
    row = await read(backend, task)
    assert (row.status, row.run_at, row.fence) == (Status.PENDING, LATER, task.fence)
    assert await steps.read(task.task_id, task.seq) == [sleep.step]
    assert await backend.claim("w2", LATER - 1, 1, lease_until=LEASE) == []
    (woken,) = await backend.claim("w2", LATER, 1, lease_until=LATER + 60 * SECOND)
    assert woken.fence == task.fence + 1
    assert not await suspend(steps, task, asleep(task), of(task, "late", "1", kind="sleep")), "a zombie"
    assert await steps.read(task.task_id, task.seq) == [sleep.step]


@pytest.mark.promise("[steps, sleeps and events](steps.md#guarantees)")
async def test_an_event_wakes_all_that_wait_for_it(backend: Backend, steps: Steps, hints: list[Any]) -> None:
    first, second, other, sleeping = [await running(backend) for _ in range(4)]
    assert [await wait(steps, each) for each in (first, second)] == [True, True]
    assert await wait(steps, other, "other", NEVER)
    assert await suspend(steps, sleeping, asleep(sleeping), of(sleeping, "x", str(LATER), kind="sleep"))
    assert await steps.waiting(["paid", "other", "none"]) == {"paid": 2, "other": 1, "none": 0}
    assert list((await steps.awaited(9)).items()) == [("other", 1), ("paid", 2)]
    assert (await steps.awaited(1), await steps.awaited(9, prefix="p")) == ({"other": 1}, {"paid": 2})
    assert await backend.claim("w2", LATER - 1, 9, lease_until=LEASE) == []
    assert await steps.event("paid", NOW) is None
    hints.clear()
    paid = event(text='{"by":"é"}', at=NOW + 5)
    assert await emit(steps, paid) == paid
    assert READY in [kind for kind, _ in hints]
    assert await steps.event("paid", NOW) == paid
    assert await steps.waiting(["paid", "other"]) == {"paid": 0, "other": 1}
    assert await steps.awaited(9) == {"other": 1}
    claimed = await backend.claim("w2", NOW + 5, 9, lease_until=LEASE)
    assert {task.task_id for task in claimed} == {first.task_id, second.task_id}
    assert (await read(backend, other)).run_at == NEVER
    assert (await read(backend, sleeping)).run_at == LATER


async def test_the_first_event_of_a_key_stays(backend: Backend, steps: Steps) -> None:
    first = event(text='"first"', expires_at=NOW + 10)
    assert await emit(steps, first) == first
    assert await emit(steps, event(text='"second"', at=NOW + 9)) == first
    assert await steps.event("paid", NOW + 9) == first
    assert await steps.event("paid", NOW + 10) is None
    later = event(text='"third"', at=NOW + 10)
    assert await emit(steps, later) == later, "the first one has expired"
    assert await steps.event("paid", NOW + 10) == later
    assert await steps.expire(NOW + 99, 9) == 0, "the one that is there does not expire"
    assert await steps.event("paid", NOW + 99) == later


async def test_an_event_that_is_there_is_not_waited_for(backend: Backend, steps: Steps) -> None:
    task, late = await running(backend), await running(backend)
    await emit(steps, event(expires_at=NOW + 10))
    assert await wait(steps, task)
    row = await read(backend, task)
    assert (row.status, row.run_at) == (Status.PENDING, NOW)
    assert [step.kind for step in await steps.read(task.task_id, task.seq)] == ["wait", "event"], "it may expire"
    assert await steps.waiting(["paid"]) == {"paid": 0}
    new_step = of(late, "paid", str(LATER), kind="wait", at=NOW + 10)
    assert await suspend(steps, late, asleep(late), new_step, woken=asleep(late, NOW))
    assert (await read(backend, late)).run_at == LATER, "it has expired"


async def test_a_task_that_went_on_is_not_woken(backend: Backend, steps: Steps) -> None:
    timed_out, cancelled, deleted = [await running(backend) for _ in range(3)]
    retried = await running(backend, priority=9)
    assert all([await wait(steps, each, until=NOW + SECOND) for each in (timed_out, cancelled, deleted, retried)])
    ready = await read(backend, cancelled)
    gone = ready.replace(status=Status.CANCELLED, completed_at=NOW // SECOND)
    assert await backend.update([Change(ready, gone)]) == [True]
    assert await backend.delete([deleted.task_id]) == 1
    run, retried = await backend.claim("w2", NOW + SECOND, 9, lease_until=LEASE)
    assert run.task_id == timed_out.task_id
    assert await backend.update([Change(retried, asleep(retried))]) == [True]
    assert await suspend(steps, run, asleep(run), of(run, "later", str(LATER), kind="sleep", n=2))
    assert await steps.waiting(["paid"]) == {"paid": 0}
    await emit(steps, event())
    assert (await read(backend, run)).run_at == (await read(backend, retried)).run_at == LATER
    assert (await read(backend, cancelled)).status is Status.CANCELLED


async def test_a_task_waits_for_several_events(backend: Backend, steps: Steps) -> None:
    task, other = await running(backend), await running(backend)
    ends = {"a": NEVER, "b": LATER, "c": NOW + 9}
    new = [of(task, key, str(end), kind="wait", n=n) for n, (key, end) in enumerate(ends.items(), 1)]
    new += [of(task, "a", str(NEVER), kind="wait", n=4, number=2), of(task, "nag", str(NOW + 9), kind="sleep", n=5)]
    assert await suspend(steps, task, asleep(task, NOW + 9), *new, woken=asleep(task, NOW))
    assert await wait(steps, other, "b", NEVER)
    assert await steps.read(task.task_id, task.seq) == [each.step for each in new]
    assert await steps.waiting(list(ends)) == {"a": 1, "b": 2, "c": 1}
    assert await steps.awaited(9) == {"a": 1, "b": 2, "c": 1}
    b, a = event("b", "2", at=NOW + 5), event("a", "1", at=NOW + 6, expires_at=NOW + 7)
    assert await emit(steps, b) == b
    assert (await read(backend, task)).run_at == (await read(backend, other)).run_at == NOW + 5
    assert await emit(steps, a) == a, "it is due already"
    assert (await read(backend, task)).run_at == NOW + 5
    await emit(steps, event("c", "3", at=NOW + 10))
    found = [(step.kind, step.label, step.n) for step in await steps.read(task.task_id, task.seq)]
    assert found == [
        *(("wait", "a", 1), ("event", "a", 1), ("wait", "b", 2), ("event", "b", 2), ("wait", "c", 3)),
        *(("wait", "a#2", 4), ("event", "a#2", 4), ("sleep", "nag", 5)),
    ], "the event c came behind the timeout"
    assert await steps.waiting(list(ends)) == {"a": 0, "b": 0, "c": 0}


async def test_of_several_events_one_is_there_and_the_others_are_waited_for(backend: Backend, steps: Steps) -> None:
    task = await running(backend)
    await emit(steps, event("b", "2"))
    new = [of(task, key, str(NEVER), kind="wait", n=n) for n, key in enumerate("abc", 1)]
    assert await suspend(steps, task, asleep(task, NEVER), *new, woken=asleep(task, NOW))
    assert (await read(backend, task)).run_at == NOW
    found = [(step.kind, step.name) for step in await steps.read(task.task_id, task.seq)]
    assert found == [("wait", "a"), ("wait", "b"), ("event", "b"), ("wait", "c")]
    assert await steps.waiting(list("abc")) == {"a": 1, "b": 0, "c": 1}
    await emit(steps, event("a"))
    assert [(step.kind, step.name) for step in await steps.read(task.task_id, task.seq)][1] == ("event", "a")


async def test_what_sleeps_and_waits_goes_on_with_an_event_of_the_meantime(backend: Backend, steps: Steps) -> None:
    task = await running(backend)
    new = of(task, "nag", str(LATER), kind="sleep"), of(task, "paid", str(NEVER), kind="wait", n=2)
    await emit(steps, event())
    verbs = StepVerbs(backend, VirtualClock(NOW + SECOND))
    assert await verbs.suspend(task, Released("sleeps", ran=True, suspended=Suspension(LATER, new)))
    assert (await read(backend, task)).run_at == NOW + SECOND


@pytest.mark.parametrize("came", ["before", "while it ran", "while it ran, and expired"])
async def test_an_event_of_the_meantime_is_met_by_a_task_that_waits_anew(
    backend: Backend, steps: Steps, came: str
) -> None:
    task = await running(backend)
    new = [of(task, "a", str(NEVER), kind="wait"), of(task, "b", str(NEVER), kind="wait", n=2)]
    assert await suspend(steps, task, asleep(task, NEVER), *new, woken=asleep(task, NOW))
    await emit(steps, event("a"))
    late = event("b", '"late"', expires_at=None if came == "while it ran" else NOW + 1)
    if came == "before":
        await emit(steps, late)
    (run,) = await backend.claim("w2", NOW, 1, lease_until=LEASE)
    if came != "before":
        await emit(steps, late)
    at = NOW + 2
    anew = of(run, "b", str(NEVER), kind="wait", n=2, at=at)
    assert await suspend(steps, run, asleep(run, NEVER), anew, woken=asleep(run, at))
    assert (await read(backend, run)).run_at == at
    found = [(step.kind, step.name, step.text) for step in await steps.read(task.task_id, task.seq)]
    assert found[2:] == [("wait", "b", str(NEVER)), ("event", "b", '"late"')]


async def test_several_tasks_are_left_and_several_events_emitted_at_once(backend: Backend, steps: Steps) -> None:
    tasks = [await running(backend) for _ in range(4)]
    lost = tasks[1].replace(fence=0)
    leaves = [
        Leave(Change(task, asleep(task, NEVER)), [of(task, key, str(NEVER), kind="wait")], asleep(task, NOW))
        for task, key in zip([tasks[0], lost, tasks[2]], ["k2", "k1", "k1"], strict=True)
    ]
    leaves.append(Leave(Change(tasks[3], asleep(tasks[3])), [of(tasks[3], "nag", str(LATER), kind="sleep")]))
    assert await steps.suspend(leaves) == [True, False, True, True]
    assert [len(await steps.read(task.task_id, task.seq)) for task in tasks] == [1, 0, 1, 1]
    assert await steps.waiting(["k1", "k2"]) == {"k1": 1, "k2": 1}
    first, again, other = event("k1"), event("k1", "2"), event("k2", "3", expires_at=NOW + 1)
    assert await steps.emit([first, again, other]) == [first, first, other]
    assert [(await read(backend, task)).run_at for task in (tasks[0], tasks[2], tasks[3])] == [NOW, NOW, LATER]
    assert [step.text for step in await steps.read(tasks[0].task_id, tasks[0].seq)][1:] == ["3"]
    assert (await steps.emit([]), await steps.suspend([])) == ([], [])


async def test_a_task_waits_for_one_event_at_a_time(backend: Backend, steps: Steps) -> None:
    task = await running(backend)
    assert await wait(steps, task, "first", NOW + 1)
    (run,) = await backend.claim("w2", NOW + 1, 1, lease_until=LEASE)
    assert await wait(steps, run, "second", NEVER)
    assert await steps.waiting(["first", "second"]) == {"first": 0, "second": 1}
    await emit(steps, event("first"))
    assert (await read(backend, task)).run_at == NEVER
    await emit(steps, event("second"))
    assert (await read(backend, task)).run_at == NOW


async def test_events_are_listed_and_expire(backend: Backend, steps: Steps) -> None:
    keys = ["b:2", "a", "b:1", "b_3", "B:4"]
    for number, key in enumerate(keys):
        await emit(steps, event(key, str(number), expires_at=NOW + number if number else None))
    task = await running(backend)
    assert await wait(steps, task, "b:9")
    found = await steps.events(NOW, 9, prefix="b:")
    assert [(each.key, each.value) for each in found] == [("b:1", 2), ("b:2", 0)]
    assert sorted(each.key for each in await steps.events(NOW, 9)) == sorted(keys)
    page = await steps.events(NOW, 2)
    rest = await steps.events(NOW, 9, after=page[-1].key)
    assert sorted(each.key for each in [*page, *rest]) == sorted(keys)
    assert sorted(each.key for each in await steps.events(NOW + 2, 9)) == ["B:4", "b:2", "b_3"]
    assert await steps.expire(NOW + 3, 2) == 2
    assert await steps.expire(NOW + 3, 9) == 1
    assert sorted(each.key for each in await steps.events(NOW, 9)) == ["B:4", "b:2"]
    assert await steps.waiting(["b:9"]) == {"b:9": 1}
    await emit(steps, event("b:9"))
    assert (await read(backend, task)).run_at == NOW


async def test_a_task_with_gates_passes_them_again(backend: Backend, steps: Steps) -> None:
    flow = Flow(gates=(("openai", Bounds(cap=1)),))
    parked: dict[str, Any] = {"flow": flow, "run_at": PARKED, "due_at": NOW - 2_000 * SECOND, "gate": "openai"}
    task = await running(backend, **parked)
    back = asleep(task, PARKED).replace(due_at=LATER)
    new_step = of(task, "paid", str(LATER), kind="wait")
    assert await suspend(steps, task, back, new_step, woken=back.replace(due_at=NOW))
    other = await running(backend, **parked)
    assert other.task_id != task.task_id, "it holds no slot while it waits"
    await emit(steps, event(at=NOW + 5))
    row = await read(backend, task)
    assert row.parked and row.due_at == NOW + 5
    assert await backend.claim("w2", NOW + 6, 1, lease_until=LEASE) == []
    await backend.update([Change(other, completed(other, ended_at=NOW + 7))])
    await backend.gates.admit(NOW + 7, 10)
    (passed,) = await backend.claim("w2", NOW + 7, 1, lease_until=LEASE)
    assert passed.task_id == task.task_id


@pytest.mark.parametrize("meanwhile", [False, True], ids=["before", "meanwhile"])
async def test_a_task_that_is_edited_still_waits(
    backend: Backend, steps: Steps, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    task = await running(backend)
    assert await wait(steps, task, until=NEVER)
    row = await read(backend, task)
    edit, get = Change(row, edited(row, {"max_retries": 9}, lambda task: task)), backend.get

    async def edited_after_it_was_read(ids: Sequence[str]) -> list[Task | None]:
        found = await get(ids)
        monkeypatch.undo()
        assert await backend.update([edit]) == [True]
        return found

    if meanwhile:  # only a store that wakes tasks behind the write of their event reads them
        monkeypatch.setattr(backend, "get", edited_after_it_was_read)
    else:
        assert await backend.update([edit]) == [True]
        assert await steps.waiting(["paid"]) == {"paid": 1}
    await emit(steps, event())
    monkeypatch.undo()
    assert (await read(backend, task)).run_at == NOW
    assert await steps.waiting(["paid"]) == {"paid": 0}


async def test_no_wake_up_is_lost(shared_store: Store) -> None:
    """A task that begins to wait, and an event that comes in that moment, from two processes."""
    backends = [shared_store.backend, await shared_store.another()]
    first, second = (backend.steps for backend in backends)
    async with asyncio.timeout(within(60)):
        for number in range(10):
            key = f"k{number}"
            tasks = [await running(backends[0]) for _ in range(2)]
            await asyncio.gather(
                wait(first, tasks[0], key, NEVER),
                emit(second, event(key)),
                wait(second, tasks[1], key, NEVER),
                emit(first, event(key, "2")),
            )
            assert [(await read(backends[0], task)).run_at for task in tasks] == [NOW, NOW]
            assert len(await backends[0].claim("w2", NOW, 9, lease_until=LEASE)) == 2


# ---- in the caller's transaction -------------------------------------------------------------------------------------


async def test_in_a_transaction_of_the_caller(sql_store: Store) -> None:
    backend = sql_store.backend
    steps = backend.steps
    task, waiting, sleeping = [await running(backend) for _ in range(3)]
    assert await wait(steps, waiting, until=NEVER)
    assert await wait(steps, sleeping, "other", NEVER)
    engine = async_engine(parse_url(sql_store.url))
    async with engine.connect() as connection:
        assert await steps.add_with(connection, of(task)) == of(task).step
        assert await steps.emit([event()], session=connection) == [event()]
        await connection.rollback()
    assert await steps.read(task.task_id, task.seq) == []
    assert await steps.event("paid", NOW) is None
    assert (await read(backend, waiting)).run_at == NEVER
    async with engine.begin() as connection:
        assert await steps.add_with(connection, of(task)) == of(task).step
        assert await steps.add_with(connection, of(task, text="2")) == of(task).step
        assert await steps.add_with(connection, of(task.replace(fence=0))) is None
        assert await steps.emit([event()], session=connection) == [event()]
    await engine.dispose()
    assert await steps.read(task.task_id, task.seq) == [of(task).step]
    assert await steps.event("paid", NOW) == event()
    assert (await read(backend, waiting)).run_at == NOW
    assert (await read(backend, sleeping)).run_at == NEVER


async def test_what_a_caller_woke_and_could_not_let_pass_is_mended(sql_store: Store) -> None:
    backend = sql_store.backend
    steps = backend.steps
    task = await running(backend)
    assert await wait(steps, task, until=NEVER)
    assert await steps.mend(NOW) == 0
    await emit(steps, event("other"))
    await backend.side.put("event", [event_row(event())])  # as if that were all of an ``emit`` that was committed
    assert await steps.mend(NOW) == 1
    assert (await read(backend, task)).run_at == NOW
    assert await steps.mend(NOW) == 0


async def test_a_task_with_gates_that_a_caller_wakes_passes_them_after_the_commit(sql_store: Store) -> None:
    backend = sql_store.backend
    steps = backend.steps
    flow = Flow(gates=(("openai", Bounds(cap=1)),))
    task = await running(backend, flow=flow, run_at=PARKED, due_at=NOW - 2_000 * SECOND, gate="openai")
    back = asleep(task, PARKED).replace(due_at=NEVER)
    new_step = of(task, "paid", str(NEVER), kind="wait")
    assert await suspend(steps, task, back, new_step, woken=back.replace(due_at=NOW))
    await backend.gates.admit(NOW, 10)
    engine = async_engine(parse_url(sql_store.url))
    async with engine.begin() as connection:
        assert await steps.emit([event(at=NOW + 5)], session=connection) == [event(at=NOW + 5)]
    await engine.dispose()

    async def passed() -> bool:
        await backend.gates.admit(NOW + 6, 10)
        (gate,) = await backend.gates.find(["openai"])
        return gate.held == 1

    await eventually(passed, 5)


async def test_the_row_of_an_event_that_did_not_come_goes_and_the_wait_stays(sql_store: Store) -> None:
    backend = sql_store.backend
    steps = backend.steps
    task = await running(backend)
    assert await wait(steps, task, until=NEVER)
    await steps.expire(NOW, 9)
    assert sql_store.execute("SELECT * FROM aiotaskq_side WHERE kind = 'event'") == []
    await emit(steps, event(at=NOW + 3))
    assert (await read(backend, task)).run_at == NOW + 3


async def test_a_gate_that_a_caller_could_not_admit_is_mended(
    sql_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies behind the commit of the caller; the gate would be looked at when the timeout is over."""
    backend = sql_store.backend
    steps = backend.steps
    flow = Flow(gates=(("openai", Bounds(cap=1)),))
    task = await running(backend, flow=flow, run_at=PARKED, due_at=NOW - 2_000 * SECOND, gate="openai")
    back = asleep(task, PARKED).replace(due_at=LATER)
    new_step = of(task, "paid", str(LATER), kind="wait")
    assert await suspend(steps, task, back, new_step, woken=back.replace(due_at=NOW))
    assert await backend.gates.admit(NOW, 10) == LATER
    monkeypatch.setattr(SqlTransactions, "_start", lambda *_: None)
    engine = async_engine(parse_url(sql_store.url))
    async with engine.begin() as connection:
        assert await steps.emit([event(at=NOW + 5)], session=connection) == [event(at=NOW + 5)]
    await engine.dispose()
    await backend.gates.admit(NOW + 6, 10)
    assert await backend.claim("w2", NOW + 6, 1, lease_until=LEASE) == []
    await steps.mend(NOW + 7)
    await backend.gates.admit(NOW + 7, 10)
    (passed,) = await backend.claim("w2", NOW + 7, 1, lease_until=LEASE)
    assert passed.task_id == task.task_id

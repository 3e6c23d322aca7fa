"""Steps and events on each store: the first write stays, of the run that has the task; and no wake-up is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.listeners import READY
from aiotaskq.backends.sql.engines import async_engine, parse_url
from aiotaskq.backends.sql.gates import SqlGates
from aiotaskq.backends.steps import Steps, Wait
from aiotaskq.core.codec import Zlib
from aiotaskq.core.edit import edited
from aiotaskq.core.gate import PARKED, Bounds, Flow
from aiotaskq.core.steps import NEVER, EventValue, NewStep, Step
from aiotaskq.core.task import SECOND, Status, Task, TaskFilter
from aiotaskq.errors import NotSupported, ValidationError
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, completed, ended, new, pushed, read, running

LATER = NOW + 3 * 86_400 * SECOND


def steps_of(backend: Backend) -> Steps:
    assert backend.steps is not None
    return backend.steps


@pytest.fixture
def steps(backend: Backend) -> Steps:
    return steps_of(backend)


def of(task: Task, name: str = "charge", text: str = "1", **fields: Any) -> NewStep:
    return NewStep(task.task_id, task.seq, task.fence, Step(name=name, text=text, **{"at": NOW, **fields}))


def event(key: str = "paid", text: str = "1", **fields: Any) -> EventValue:
    return EventValue(key=key, text=text, **{"at": NOW, **fields})


def asleep(task: Task, until: int = LATER) -> Task:
    return task.replace(status=Status.PENDING, run_at=until, lease_owner=None, lease_until=None)


async def wait(steps: Steps, task: Task, key: str = "paid", until: int = LATER) -> bool:
    new_step = of(task, key, str(until), kind="wait")
    return await steps.suspend(Change(task, asleep(task, until)), new_step, Wait(key, asleep(task, NOW)))


async def again(backend: Backend, task: Task, now: int = NOW) -> Task:
    """End the lease of a task, and claim it again."""
    assert await backend.update([Change(task, asleep(task, NOW))]) == [True]
    (claimed,) = await backend.claim("w2", now, 1, lease_until=LEASE)
    return claimed


# ---- steps -----------------------------------------------------------------------------------------------------------


async def test_what_is_added_is_read_in_order(backend: Backend, steps: Steps) -> None:
    task, other = await running(backend), await running(backend)
    assert await steps.add([]) == []
    assert await steps.read(task.task_id, task.seq) == []
    new = [
        of(task, "z", '{"a":"é 🙂 $aiotaskq1$"}'),
        of(task, "z", "2", number=2, n=2),
        of(task, "z", str(LATER), kind="sleep", n=3),
        of(task, "A", "", kind="event", n=4, at=NOW + 7),
    ]
    assert await steps.add([new[0], of(other), new[1], *new[2:]]) == [
        new[0].step,
        of(other).step,
        *(each.step for each in new[1:]),
    ]
    found = await steps.read(task.task_id, task.seq)
    assert found == [each.step for each in new]
    assert [step.label for step in found] == ["z", "z#2", "z", "A"]
    assert (found[0].value, found[2].until, found[3].timed_out) == ({"a": "é 🙂 $aiotaskq1$"}, LATER, True)
    assert await steps.read(other.task_id, other.seq) == [of(other).step]


async def test_only_the_run_that_has_the_task_writes(backend: Backend, steps: Steps) -> None:
    held, finished, waiting = await running(backend), await ended(backend), await pushed(backend)
    missing = NewStep("missing", 1, 1, Step(name="x", text="1"))
    zombie = of(held.replace(fence=held.fence - 1))
    assert await steps.add([of(finished), zombie, of(waiting), missing, of(held, "good")]) == [None] * 4 + [
        of(held, "good").step
    ]
    assert [step.name for step in await steps.read(held.task_id, held.seq)] == ["good"]
    next_run = await again(backend, held)
    assert await steps.add([of(held, "late")]) == [None], "a zombie with an old fence"
    assert await steps.add([of(next_run, "now", n=2)]) == [of(next_run, "now", n=2).step]
    assert [step.name for step in await steps.read(held.task_id, held.seq)] == ["good", "now"]


async def test_the_first_write_of_a_step_stays(backend: Backend, steps: Steps) -> None:
    task = await running(backend)
    first = of(task, text='"first"')
    assert await steps.add([first]) == [first.step]
    fresh = of(task, "fresh", n=2)
    assert await steps.add([of(task, text='"second"', at=NOW + 1), fresh]) == [first.step, fresh.step]
    assert await steps.read(task.task_id, task.seq) == [first.step, fresh.step]


async def test_steps_are_put_before_their_task(backend: Backend, steps: Steps) -> None:
    task = new(fence=1)
    await steps.put([])
    await steps.put([of(task), of(task, "b", n=2)])
    await backend.push([task])
    (claimed,) = await backend.claim("w", NOW, 1, lease_until=LEASE)
    assert claimed.fence == 2
    assert await steps.add([of(claimed, text="2")]) == [of(task).step], "the first write stays"
    assert [step.name for step in await steps.read(task.task_id, task.seq)] == ["charge", "b"]
    assert await backend.delete([task.task_id]) == 1
    assert await steps.read(task.task_id, task.seq) == []


async def test_a_task_that_is_pushed_again_has_no_steps(backend: Backend, steps: Steps) -> None:
    task = await running(backend)
    await steps.add([of(task)])
    done = completed(task)
    anew = done.replace(
        status=Status.PENDING, completed_at=None, seq=task.seq + 1, fence=done.fence + 1, params={"n": 2}
    )
    assert await backend.update([Change(task, done), Change(done, anew)]) == [True, True]
    (second,) = await backend.claim("w2", NOW, 1, lease_until=LEASE)
    assert await steps.read(second.task_id, second.seq) == []
    assert await steps.add([of(second, text="2")]) == [of(second, text="2").step]
    assert [step.text for step in await steps.read(second.task_id, second.seq)] == ["2"]


async def test_steps_go_with_their_task(backend: Backend, steps: Steps) -> None:
    kept, deleted, dropped, purged = [await running(backend) for _ in range(4)]
    await steps.add([of(each) for each in (kept, deleted, dropped, purged)])
    assert await backend.update([Change(each, completed(each)) for each in (dropped, purged)]) == [True, True]
    assert await backend.delete([deleted.task_id]) == 1
    assert await backend.delete([dropped.task_id], ended=True) == 1
    assert await backend.purge(TaskFilter(status=(Status.COMPLETED,)), 10) == 1
    found = [len(await steps.read(each.task_id, each.seq)) for each in (kept, deleted, dropped, purged)]
    assert found == [1, 0, 0, 0]


async def test_a_codec_encodes_the_texts(durable_store: Store) -> None:
    backend = durable_store.backend
    steps = steps_of(backend)
    task = await running(backend)
    steps.codec = Zlib(over=0)
    secret, key = '"' + "secret " * 100 + '"', event("s", '"' + "secret " * 100 + '"')
    assert await steps.add([of(task, text=secret)]) == [of(task, text=secret).step]
    assert await steps.emit(key) == key
    assert (await steps.read(task.task_id, task.seq))[0].text == secret
    assert await steps.event("s", NOW) == (await steps.events(NOW, 1))[0] == key
    if durable_store.is_sql:
        for table in ("aiotaskq_step", "aiotaskq_event"):
            ((stored,),) = durable_store.execute(f"SELECT value FROM {table}")
            assert "secret" not in stored
    steps.codec = None
    # What cannot be decoded is kept, and told.
    (left,) = await steps.read(task.task_id, task.seq)
    assert left.undecodable == "ValueError" and not left.timed_out
    with pytest.raises(ValidationError, match=r"step charge cannot be decoded \(ValueError\)"):
        _ = left.value
    plain = event("t")
    await steps.emit(plain)
    one, other = await steps.events(NOW, 2)
    assert (one.key, one.undecodable, other) == ("s", "ValueError", plain)
    with pytest.raises(ValidationError, match="event s cannot be decoded"):
        _ = one.value
    fork = new(fence=1)
    await steps.put([NewStep(fork.task_id, fork.seq, fork.fence, left)])
    steps.codec = Zlib(over=0)
    assert await steps.read(fork.task_id, fork.seq) == [of(task, text=secret).step], "copied as it was stored"


async def test_steps_without_a_task_are_found_and_dropped(backend: Backend, steps: Steps) -> None:
    task, other = await running(backend), await running(backend)
    gone, waits = new(fence=1), new(fence=1)
    await steps.add([of(task)])
    assert await wait(steps, other)
    await steps.put([of(gone), of(gone, "b", n=2), of(waits)])
    assert sorted(await steps.orphans(10)) == sorted([gone.task_id, waits.task_id])
    assert len(await steps.orphans(1)) == 1
    await steps.drop([])
    await steps.drop([gone.task_id, task.task_id, other.task_id])
    assert await steps.orphans(10) == [waits.task_id]
    assert await steps.read(gone.task_id, gone.seq) == []
    assert await steps.read(task.task_id, task.seq) == [of(task).step] and await steps.waiting(["paid"]) == {"paid": 1}


class Xor:
    """A codec with a key. The first one writes, each of them reads."""

    def __init__(self, *keys: int) -> None:
        self._keys = keys

    def encode(self, data: bytes, /) -> bytes:
        return bytes([self._keys[0], *(each ^ self._keys[0] for each in data)])

    def decode(self, data: bytes, /) -> bytes:
        if data[0] not in self._keys:
            raise LookupError(f"no key {data[0]}")
        return bytes(each ^ data[0] for each in data[1:])


async def test_steps_and_events_are_written_anew_with_another_key(durable_store: Store) -> None:
    backend = durable_store.backend
    steps = steps_of(backend)
    task, other, plain = await running(backend), await running(backend), await running(backend)
    with pytest.raises(NotSupported, match="these steps have no codec"):
        await steps.recode([task.task_id])
    with pytest.raises(NotSupported, match="these events have no codec"):
        await steps.recode_events(["paid"])
    await steps.add([of(plain)])
    steps.codec = Xor(1)
    new_steps = [of(task), of(task, text='"é"', number=2, n=2), of(task, "late", "", kind="event", n=3)]
    await steps.add(new_steps)
    await steps.emit(event("one", '"1"'))
    steps.codec = Xor(9)
    await steps.add([of(other)])
    await steps.emit(event("other", '"2"'))

    steps.codec = Xor(2, 1)
    ids = [task.task_id, other.task_id, plain.task_id, "missing"]
    assert await steps.recode(ids) == (3, [f"{other.task_id} charge"])
    assert await steps.recode_events(["one", "other", "missing"]) == (1, ["other"])
    assert await steps.recode([]) == await steps.recode_events([]) == (0, [])
    steps.codec = Xor(2)
    assert await steps.read(task.task_id, task.seq) == [each.step for each in new_steps]
    assert await steps.read(plain.task_id, plain.seq) == [of(plain).step]
    assert await steps.event("one", NOW) == event("one", '"1"')
    steps.codec = Xor(9)
    assert await steps.read(other.task_id, other.seq) == [of(other).step], "what cannot be decoded stays"
    assert await steps.event("other", NOW) == event("other", '"2"')


# ---- sleeps and waits ------------------------------------------------------------------------------------------------


async def test_a_task_that_sleeps_is_pending_until_then(backend: Backend, steps: Steps) -> None:
    task = await running(backend)
    sleep = of(task, "nag", str(LATER), kind="sleep")
    assert await steps.suspend(Change(task, asleep(task)), sleep)
    row = await read(backend, task)
    assert (row.status, row.run_at, row.fence) == (Status.PENDING, LATER, task.fence)
    assert await steps.read(task.task_id, task.seq) == [sleep.step]
    assert await backend.claim("w2", LATER - 1, 1, lease_until=LEASE) == []
    (woken,) = await backend.claim("w2", LATER, 1, lease_until=LATER + 60 * SECOND)
    assert woken.fence == task.fence + 1
    assert not await steps.suspend(Change(task, asleep(task)), of(task, "late", "1", kind="sleep")), "a zombie"
    assert await steps.read(task.task_id, task.seq) == [sleep.step]


@pytest.mark.promise("[steps, sleeps and events](steps.md#guarantees)")
async def test_an_event_wakes_all_that_wait_for_it(backend: Backend, steps: Steps, hints: list[Any]) -> None:
    first, second, other, sleeping = [await running(backend) for _ in range(4)]
    assert [await wait(steps, each) for each in (first, second)] == [True, True]
    assert await wait(steps, other, "other", NEVER)
    assert await steps.suspend(Change(sleeping, asleep(sleeping)), of(sleeping, "x", str(LATER), kind="sleep"))
    assert await steps.waiting(["paid", "other", "none"]) == {"paid": 2, "other": 1, "none": 0}
    assert list((await steps.awaited(9)).items()) == [("other", 1), ("paid", 2)]
    assert (await steps.awaited(1), await steps.awaited(9, prefix="p")) == ({"other": 1}, {"paid": 2})
    assert await backend.claim("w2", LATER - 1, 9, lease_until=LEASE) == []
    assert await steps.event("paid", NOW) is None
    hints.clear()
    paid = event(text='{"by":"é"}', at=NOW + 5)
    assert await steps.emit(paid) == paid
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
    assert await steps.emit(first) == first
    assert await steps.emit(event(text='"second"', at=NOW + 9)) == first
    assert await steps.event("paid", NOW + 9) == first
    assert await steps.event("paid", NOW + 10) is None
    later = event(text='"third"', at=NOW + 10)
    assert await steps.emit(later) == later, "the first one has expired"
    assert await steps.event("paid", NOW + 10) == later


async def test_an_event_that_is_there_is_not_waited_for(backend: Backend, steps: Steps) -> None:
    task, late = await running(backend), await running(backend)
    await steps.emit(event(expires_at=NOW + 10))
    assert await wait(steps, task)
    row = await read(backend, task)
    assert (row.status, row.run_at) == (Status.PENDING, NOW)
    assert await steps.waiting(["paid"]) == {"paid": 0}
    new_step = of(late, "paid", str(LATER), kind="wait", at=NOW + 10)
    assert await steps.suspend(Change(late, asleep(late)), new_step, Wait("paid", asleep(late, NOW)))
    assert (await read(backend, late)).run_at == LATER, "it has expired"


async def test_a_task_that_went_on_is_not_woken(backend: Backend, steps: Steps) -> None:
    timed_out, cancelled, deleted = [await running(backend) for _ in range(3)]
    assert all([await wait(steps, each, until=NOW + SECOND) for each in (timed_out, cancelled, deleted)])
    ready = await read(backend, cancelled)
    gone = ready.replace(status=Status.CANCELLED, completed_at=NOW // SECOND)
    assert await backend.update([Change(ready, gone)]) == [True]
    assert await backend.delete([deleted.task_id]) == 1
    (run,) = await backend.claim("w2", NOW + SECOND, 9, lease_until=LEASE)
    assert run.task_id == timed_out.task_id
    assert await steps.suspend(Change(run, asleep(run)), of(run, "later", str(LATER), kind="sleep", n=2))
    assert await steps.waiting(["paid"]) == {"paid": 0}
    await steps.emit(event())
    assert (await read(backend, run)).run_at == LATER
    assert (await read(backend, cancelled)).status is Status.CANCELLED


async def test_a_task_waits_for_one_event_at_a_time(backend: Backend, steps: Steps) -> None:
    task = await running(backend)
    assert await wait(steps, task, "first", NOW + 1)
    (run,) = await backend.claim("w2", NOW + 1, 1, lease_until=LEASE)
    assert await wait(steps, run, "second", NEVER)
    assert await steps.waiting(["first", "second"]) == {"first": 0, "second": 1}
    await steps.emit(event("first"))
    assert (await read(backend, task)).run_at == NEVER
    await steps.emit(event("second"))
    assert (await read(backend, task)).run_at == NOW


async def test_events_are_listed_and_expire(backend: Backend, steps: Steps) -> None:
    keys = ["b:2", "a", "b:1", "b_3", "B:4"]
    for number, key in enumerate(keys):
        await steps.emit(event(key, str(number), expires_at=NOW + number if number else None))
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
    await steps.emit(event("b:9"))
    assert (await read(backend, task)).run_at == NOW


async def test_a_task_with_gates_passes_them_again(backend: Backend, steps: Steps) -> None:
    flow = Flow(gates=(("openai", Bounds(cap=1)),))
    parked: dict[str, Any] = {"flow": flow, "run_at": PARKED, "due_at": NOW - 2_000 * SECOND, "gate": "openai"}
    task = await running(backend, **parked)
    back = asleep(task, PARKED).replace(due_at=LATER)
    new_step = of(task, "paid", str(LATER), kind="wait")
    assert await steps.suspend(Change(task, back), new_step, Wait("paid", back.replace(due_at=NOW)))
    other = await running(backend, **parked)
    assert other.task_id != task.task_id, "it holds no slot while it waits"
    await steps.emit(event(at=NOW + 5))
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
    await steps.emit(event())
    monkeypatch.undo()
    assert (await read(backend, task)).run_at == NOW
    assert await steps.waiting(["paid"]) == {"paid": 0}


async def test_no_wake_up_is_lost(shared_store: Store) -> None:
    """A task that begins to wait, and an event that comes in that moment, from two processes."""
    backends = [shared_store.backend, await shared_store.another()]
    first, second = map(steps_of, backends)
    async with asyncio.timeout(within(60)):
        for number in range(10):
            key = f"k{number}"
            tasks = [await running(backends[0]) for _ in range(2)]
            await asyncio.gather(
                wait(first, tasks[0], key, NEVER),
                second.emit(event(key)),
                wait(second, tasks[1], key, NEVER),
                first.emit(event(key, "2")),
            )
            assert [(await read(backends[0], task)).run_at for task in tasks] == [NOW, NOW]
            assert len(await backends[0].claim("w2", NOW, 9, lease_until=LEASE)) == 2


# ---- in the caller's transaction -------------------------------------------------------------------------------------


async def test_in_a_transaction_of_the_caller(sql_store: Store) -> None:
    backend = sql_store.backend
    steps = steps_of(backend)
    task, waiting, sleeping = [await running(backend) for _ in range(3)]
    assert await wait(steps, waiting, until=NEVER)
    assert await wait(steps, sleeping, "other", NEVER)
    engine = async_engine(parse_url(sql_store.url))
    async with engine.connect() as connection:
        assert await steps.add_with(connection, of(task)) == of(task).step
        assert await steps.emit_with(connection, event()) == event()
        await connection.rollback()
    assert await steps.read(task.task_id, task.seq) == []
    assert await steps.event("paid", NOW) is None
    assert (await read(backend, waiting)).run_at == NEVER
    async with engine.begin() as connection:
        assert await steps.add_with(connection, of(task)) == of(task).step
        assert await steps.add_with(connection, of(task, text="2")) == of(task).step
        assert await steps.add_with(connection, of(task.replace(fence=0))) is None
        assert await steps.emit_with(connection, event()) == event()
    await engine.dispose()
    assert await steps.read(task.task_id, task.seq) == [of(task).step]
    assert await steps.event("paid", NOW) == event()
    assert (await read(backend, waiting)).run_at == NOW
    assert (await read(backend, sleeping)).run_at == NEVER


async def test_what_a_caller_woke_and_could_not_let_pass_is_mended(sql_store: Store) -> None:
    backend = sql_store.backend
    steps = steps_of(backend)
    task = await running(backend)
    assert await wait(steps, task, until=NEVER)
    assert await steps.mend(NOW) == 0
    await steps.emit(event("other"))
    sql_store.execute("UPDATE aiotaskq_event SET at = :at, value = '1', expires_at = NULL WHERE at IS NULL", at=NOW)
    assert await steps.mend(NOW) == 1
    assert (await read(backend, task)).run_at == NOW
    assert await steps.mend(NOW) == 0


async def test_a_gate_that_a_caller_could_not_admit_is_mended(
    sql_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies behind the commit of the caller; the gate would be looked at when the timeout is over."""
    backend = sql_store.backend
    steps = steps_of(backend)
    flow = Flow(gates=(("openai", Bounds(cap=1)),))
    task = await running(backend, flow=flow, run_at=PARKED, due_at=NOW - 2_000 * SECOND, gate="openai")
    back = asleep(task, PARKED).replace(due_at=LATER)
    new_step = of(task, "paid", str(LATER), kind="wait")
    assert await steps.suspend(Change(task, back), new_step, Wait("paid", back.replace(due_at=NOW)))
    assert await backend.gates.admit(NOW, 10) == LATER
    monkeypatch.setattr(SqlGates, "after_commit", lambda *_: None)
    engine = async_engine(parse_url(sql_store.url))
    async with engine.begin() as connection:
        assert await steps.emit_with(connection, event(at=NOW + 5)) == event(at=NOW + 5)
    await engine.dispose()
    await backend.gates.admit(NOW + 6, 10)
    assert await backend.claim("w2", NOW + 6, 1, lease_until=LEASE) == []
    await steps.mend(NOW + 7)
    await backend.gates.admit(NOW + 7, 10)
    (passed,) = await backend.claim("w2", NOW + 7, 1, lease_until=LEASE)
    assert passed.task_id == task.task_id

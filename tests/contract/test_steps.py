"""Steps on each store: the first write stays, of the run that has the task."""

from __future__ import annotations

import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.steps import Steps
from aiotaskq.core.codec import Zlib
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NewStep, Step
from aiotaskq.core.task import TaskFilter
from aiotaskq.errors import NotSupported, ValidationError
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, completed, ended, new, pushed, running
from tests.support.step_rows import LATER, again, asleep, emit, event, of, suspend, wait


@pytest.fixture
def steps(backend: Backend) -> Steps:
    return backend.steps


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
    assert await backend.delete([waiting.task_id]) == 1
    first = await running(backend, task_id="id", seq=NOW)
    assert await backend.delete(["id"]) == 1
    second = await running(backend, task_id="id", seq=NOW + 1)
    assert (second.fence, await steps.add([of(first)])) == (first.fence, [None]), "it is other work"
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
    steps = backend.steps
    task = await running(backend)
    steps.codec = Zlib(over=0)
    secret, key = '"' + "secret " * 100 + '"', event("s", '"' + "secret " * 100 + '"')
    assert await steps.add([of(task, text=secret)]) == [of(task, text=secret).step]
    assert await emit(steps, key) == key
    assert (await steps.read(task.task_id, task.seq))[0].text == secret
    assert await steps.event("s", NOW) == (await steps.events(NOW, 1))[0] == key
    if durable_store.is_sql:
        for kind in ("step", "event"):
            ((stored,),) = durable_store.execute("SELECT value FROM aiotaskq_side WHERE kind = :kind", kind=kind)
            assert "secret" not in stored
    steps.codec = None
    # What cannot be decoded is kept, and told.
    (left,) = await steps.read(task.task_id, task.seq)
    assert left.undecodable == "ValueError" and not left.timed_out
    with pytest.raises(ValidationError, match=r"step charge cannot be decoded \(ValueError\)"):
        _ = left.value
    plain = event("t")
    await emit(steps, plain)
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


class Broken(Xor):
    """A codec that writes nothing."""

    def encode(self, data: bytes, /) -> bytes:
        raise LookupError("no key")


async def test_a_task_is_not_left_without_its_sleep_where_the_codec_raises(backend: Backend, steps: Steps) -> None:
    task = await running(backend)
    steps.codec = Broken()
    with pytest.raises(LookupError, match="no key"):
        await suspend(steps, task, asleep(task), of(task, "nag", str(LATER), kind="sleep"))
    assert await backend.get([task.task_id]) == [task]
    assert await steps.read(task.task_id, task.seq) == []


async def test_steps_and_events_are_written_anew_with_another_key(durable_store: Store) -> None:
    backend = durable_store.backend
    steps = backend.steps
    task, other, plain = await running(backend), await running(backend), await running(backend)
    with pytest.raises(NotSupported, match="has no codec"):
        await steps.recode([task.task_id])
    with pytest.raises(NotSupported, match="has no codec"):
        await steps.recode_events(["paid"])
    await steps.add([of(plain)])
    steps.codec = Xor(1)
    new_steps = [of(task), of(task, text='"é"', number=2, n=2), of(task, "late", "", kind="event", n=3)]
    await steps.add(new_steps)
    await emit(steps, event("one", '"1"'))
    steps.codec = Xor(9)
    await steps.add([of(other)])
    await emit(steps, event("other", '"2"'))

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

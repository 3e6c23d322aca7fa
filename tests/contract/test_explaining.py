"""What tells why tasks wait, on each store: the tasks at a gate, types of pending tasks, steps of several tasks."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.pending_types import PendingType
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.steps import NewStep, Step
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.worker_info import MOST_TYPES, told_names
from aiotaskq.errors import ResultTimeout
from aiotaskq.runtime.queue.queue import Queue
from tests.support.rows import LEASE, NOW, ended, ids, new, pushed, running, worker_info

MINUTE, DAY = 60 * SECOND, 86_400 * SECOND
_seqs = itertools.count(NOW)  # tasks pass at the time of their push


def at_gates(*keys: str, due: int = NOW, **fields: object) -> Task:
    """A task parked at the first of these gates, each of which holds one."""
    flow = Flow(gates=tuple((key, Bounds(cap=1)) for key in keys))
    return parked(new(flow=flow, seq=next(_seqs), **fields), due)


async def test_the_tasks_at_a_gate_are_those_that_hold_it_and_those_that_wait(backend: Backend) -> None:
    assert await backend.gates.tasks("a", 10) == ([], [])
    first, second, third = at_gates("a", "b"), at_gates("a", "b", priority=5), at_gates("a")
    await backend.push([first, second, third])
    (ran,) = await backend.claim("o", NOW, 10, lease_until=LEASE)
    assert ran.task_id == first.task_id
    for key, waiting in (("a", [third, second]), ("b", [])):
        assert await backend.gates.tasks(key, 10) == ([first.task_id], ids(waiting)), "slots of passed gates, too"
    assert await backend.gates.tasks("a", 1) == ([first.task_id], [third.task_id])
    assert await backend.update([Change(ran, settle(ran, Completed(), NOW + SECOND))]) == [True]
    assert await backend.gates.tasks("b", 10) == ([], [])
    assert await backend.gates.tasks("a", 10) == ([third.task_id], [second.task_id])
    await backend.gates.change("a", GateChange(closed_until=NOW + MINUTE), NOW)
    assert await backend.gates.tasks("a", 10) == ([third.task_id], [second.task_id])


async def test_pending_types_are_counted_by_queue(backend: Backend) -> None:
    assert await backend.pending_types(NOW, 100) == []
    await ended(backend, type="old")
    await running(backend, type="busy")
    rows = [("q", "mail", NOW), ("q", "mail", NOW + MINUTE), ("q", "report", NOW - 1), ("other é", "mail", NOW)]
    for queue, kind, run_at in rows:
        await pushed(backend, queue=queue, type=kind, run_at=run_at)
    await backend.push(
        [new(queue="q", type="legacy", run_at=NOW + 5, due_at=NOW)]
    )  # put off: no worker has its handler
    await backend.push([at_gates("g", type="free"), at_gates("g", type="parked")])
    found = sorted(await backend.pending_types(NOW, 100))
    free = PendingType("default", "free", 1, 1)
    mail, report, legacy = (
        PendingType("q", "mail", 2, 1),
        PendingType("q", "report", 1, 1),
        PendingType("q", "legacy", 1, 1),
    )
    assert found == sorted([free, PendingType("other é", "mail", 1, 1), legacy, mail, report])
    before = {(each.queue, each.type): each.due for each in await backend.pending_types(NOW - 1, 100)}
    assert before["q", "report"] == 1 and sum(before.values()) == 1, "what was due by then"
    few = await backend.pending_types(NOW, 1)
    assert (sum(each.count for each in few), legacy in few) == (2, True), "what is put off, and no more rows than that"


async def test_types_are_looked_for_in_each_priority(backend: Backend) -> None:
    await backend.push([new(type=f"hidden {n}", priority=-1, run_at=NOW + DAY) for n in range(3)])
    await backend.push([new(type=f"due {n}", priority=n // 4, run_at=NOW - n) for n in range(8)])
    await backend.push([new(type="put off", priority=1, run_at=NOW + MINUTE, due_at=NOW)])
    found = {each.type: each.due for each in await backend.pending_types(NOW, 6)}
    assert found["put off"] == 1 and {"due 3", "due 7"} <= found.keys()


async def test_the_steps_of_several_tasks_are_read_at_once(backend: Backend) -> None:
    steps = backend.steps
    assert steps is not None
    tasks = [await running(backend) for _ in range(3)]
    assert await steps.read_many([]) == []
    made = [
        NewStep(task.task_id, task.seq, task.fence, Step(name=name, n=n, text="1", at=NOW))
        for task in tasks[:2]
        for n, name in enumerate("ba", 1)
    ]
    await steps.add(made)
    again = tasks[0].replace(seq=tasks[0].seq + 1)  # pushed anew under its id: it has no steps
    assert await steps.read_many([again]) == [[]]
    assert [[step.name for step in each] for each in await steps.read_many([*tasks, again])] == [
        ["b", "a"],
        ["b", "a"],
        [],
        [],
    ]


def test_a_worker_tells_of_its_types_unless_they_are_too_many() -> None:
    assert told_names({"b": 1, "a": 2}) == ("a", "b")
    assert told_names([]) == ()
    assert len(told_names(map(str, range(MOST_TYPES))) or ()) == MOST_TYPES
    assert told_names(map(str, range(MOST_TYPES + 1))) is None


async def test_a_wait_that_is_over_says_that_nothing_will_run_the_task(backend: Backend) -> None:
    queue = Queue(backend, VirtualClock(NOW))
    task = await pushed(backend, queue="q", type="mail")

    async def said() -> str:
        with pytest.raises(ResultTimeout) as error:
            await queue.wait_for_end(task.task_id, timeout=0)
        return str(error.value).partition(" is pending after 0 s")[2]

    if backend.workers is None:  # a worker in memory is in this process, and in no registry
        for queues, expected in (
            (("other",), "; no worker claims from queue 'q': 'async with tq.running()' starts some"),
            (("q",), ""),
            (None, ""),
        ):
            queue.local_workers[:] = [SimpleNamespace(queues=queues)]
            assert await said() == expected
    else:
        assert (await said()).startswith("; no worker claims from queue 'q': 'async with tq.running()'")
        await backend.workers.register(worker_info(types=("report",)))
        assert await said() == "; no worker has a handler of this type"
        await backend.workers.register(worker_info("other", types=("mail",)))
        assert await said() == ""
    await backend.set_paused("q", True)
    assert await said() == "; queue 'q' is paused"

"""The consumers of the memory backend: pops and workers wait in ``asyncio.Queue.get``; no wake-up is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from aiotaskq import MemoryQueue
from aiotaskq.backends.change import Claim
from aiotaskq.backends.listeners import READY
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.memory.ready_queue import Arrivals, Queues
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.runtime.handler import Handler
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.worker.worker import Worker
from tests.backends.memory.queues import in_thread, settled
from tests.support.machine import within
from tests.support.rows import NOW, new

# ---- consumers ------------------------------------------------------------------------------------------------------


class Counted(MemoryBackend):
    """Counts how often a consumer looks for tasks."""

    looks = 0

    async def _claim(self, wanted: Claim) -> list[Task]:
        self.looks += 1
        return await super()._claim(wanted)


async def waiting_pops(queue: Queue, count: int) -> list[asyncio.Task[Any]]:
    pops = [asyncio.create_task(queue.pop_task()) for _ in range(count)]
    await settled()
    return pops


async def test_a_pop_waits_in_the_get_of_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    get = asyncio.Queue.get

    def spied(queue: asyncio.Queue[Any]) -> Any:
        calls.append(queue)
        return get(queue)

    monkeypatch.setattr(asyncio.Queue, "get", spied)
    queue = MemoryQueue()
    (pop,) = await waiting_pops(queue, 1)
    assert len(calls) == 1 and isinstance(calls[0], Arrivals)
    assert READY not in queue.backend.listeners.by_kind, "there is one way to be woken"
    await queue.push_task({"type": "t"})
    await settled()
    assert pop.done() and len(calls) == 1


async def test_a_push_wakes_one_pop_the_one_that_has_waited_longest() -> None:
    backend = Counted()
    queue = Queue(backend, VirtualClock())
    pops = await waiting_pops(queue, 5)
    backend.looks = 0
    for number, pop in enumerate(pops):
        await queue.push_task({"type": "t", "params": {"n": number}})
        await settled()
        assert pop.done() and pop.result()["params"] == {"n": number}
        assert not any(later.done() for later in pops[number + 1 :])
    assert backend.looks == 5


async def test_many_at_once_wake_as_many() -> None:
    queue = Queue(MemoryBackend(), VirtualClock())
    pops = await waiting_pops(queue, 5)
    await queue.add([new(seq=n, run_at=0) for n in range(3)])
    await settled()
    assert [pop.done() for pop in pops] == [True] * 3 + [False] * 2
    for pop in pops[3:]:
        pop.cancel()


async def test_a_worker_waits_in_the_queue_for_its_named_queues() -> None:
    backend = Counted()
    clock = VirtualClock()
    queue = Queue(backend, clock)
    ran: list[str] = []
    tq = {}
    for name in ("a", "b"):

        async def handle(name: str = name) -> None:
            ran.append(name)

        handler = Handler("t", handle, "loop", new(type="t"))
        tq[name] = Worker(queue, {"t": handler}, queues=[name], poll_interval=3600)
        await tq[name].start()
    await settled()
    assert READY not in backend.listeners.by_kind
    backend.looks = 0
    await queue.add([new(queue="b", type="t", run_at=0)])
    await settled()
    assert ran == ["b"]
    assert backend.looks == 2, "one that found it, and one that found nothing more"
    for worker in tq.values():
        stopping = asyncio.create_task(worker.stop())
        await clock.advance(1)
        await stopping


async def test_a_worker_without_a_free_slot_leaves_the_next_task_to_a_pop() -> None:
    backend, clock = MemoryBackend(), VirtualClock()
    queue = Queue(backend, clock)
    free = asyncio.Event()
    handler = Handler("t", free.wait, "loop", new(type="t"))
    worker = Worker(queue, {"t": handler}, concurrency=1, poll_interval=3600)
    await worker.start()
    await queue.add([new(task_id="first", run_at=0)])
    await settled()
    assert (await queue.get("first")).status == "running"
    (pop,) = await waiting_pops(queue, 1)
    await queue.add([new(task_id="second", run_at=0)])
    await settled()
    assert pop.done() and pop.result()["task_id"] == "second"
    free.set()
    stopping = asyncio.create_task(worker.stop())
    await clock.advance(1)
    await stopping


async def test_a_task_that_is_enqueued_without_the_lock_wakes_a_consumer() -> None:
    backend = MemoryBackend()
    waiting = asyncio.ensure_future(backend.arrivals().wait())
    await settled()
    await asyncio.to_thread(backend.enqueue, new(run_at=0))
    async with asyncio.timeout(within(5)):
        await waiting


VERBS: dict[str, Callable[[MemoryBackend], Any]] = {
    "get": lambda backend: backend.get(["a"]),
    "find": lambda backend: backend.find(TaskFilter(), 10),
    "claim": lambda backend: backend.claim("o", NOW, 10),
    "ids_with_prefix": lambda backend: backend.ids_with_prefix(["a"], 10),
    "count_ready": lambda backend: backend.count_ready(NOW),
    "next_run_at": lambda backend: backend.next_run_at(NOW),
    "stats": lambda backend: backend.stats(NOW),
    "least_ready": lambda backend: backend.least_ready(NOW, 10),
    "push": lambda backend: backend.push([new(task_id="a", seq=9)]),
    "delete": lambda backend: backend.delete(["a"]),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_sees_a_task_that_was_enqueued_without_the_lock(verb: str) -> None:
    pushed, enqueued = MemoryBackend(), MemoryBackend()
    task = new(task_id="a", run_at=0)
    await pushed.push([task])
    enqueued.enqueue(task)
    for _ in range(2):
        assert await VERBS[verb](enqueued) == await VERBS[verb](pushed)


async def test_join_waits_for_a_task_that_was_enqueued_without_the_lock() -> None:
    backend = MemoryBackend()
    backend.enqueue(new(task_id="a", run_at=0))
    assert await backend.count_ready(NOW) == 1
    joining = asyncio.create_task(backend.queues["default"].join())
    await settled()
    assert not joining.done()
    await backend.delete(["a"])
    await settled()
    assert joining.done()


async def test_a_claim_wakes_the_next_consumer_for_the_tasks_that_are_left() -> None:
    backend = MemoryBackend()
    await backend.push([new(run_at=5, seq=1), new(run_at=5, seq=1)])
    waiting = asyncio.create_task(backend.arrivals().wait())
    await settled()
    assert not waiting.done()
    assert len(await backend.claim("o", 5, 1)) == 1
    await settled()
    assert waiting.done()


def queues() -> Queues:
    return Queues({}, BriefLock())


def put(queues: Queues) -> None:
    task = new(run_at=0)
    queues.rows[task.task_id] = task  # type: ignore[index]
    queues[task.queue].put_nowait(task)


@pytest.mark.parametrize("stays", [False, True])
async def test_a_consumer_that_does_not_take_wakes_the_next(stays: bool) -> None:
    tasks = queues()
    first, second = Arrivals(tasks, None), Arrivals(tasks, None)
    waits = [asyncio.create_task(each.wait()) for each in (first, second)]
    await settled()
    put(tasks)
    await settled()
    assert [wait.done() for wait in waits] == [True, False]
    if stays:
        first.wanted = False
        waits.append(asyncio.create_task(first.wait()))
    else:
        first.close()
    await settled()
    assert waits[1].done()
    first()
    await settled()
    assert all(wait.done() for wait in waits)


async def test_a_consumer_waits_again_for_a_task_that_another_one_took() -> None:
    tasks = queues()
    arrivals = Arrivals(tasks, None)
    waiting = asyncio.create_task(arrivals.wait())
    await settled()
    put(tasks)
    assert tasks.take_one(NOW, None) is not None
    await settled()
    assert not waiting.done() and len(tasks.line) == 1
    put(tasks)
    await waiting
    assert not tasks.line


async def test_a_consumer_that_wants_no_task_is_woken_by_a_call_only() -> None:
    tasks = queues()
    full, free = Arrivals(tasks, None), Arrivals(tasks, None)
    full.wanted = False
    waits = [asyncio.create_task(each.wait()) for each in (full, free)]
    await settled()
    put(tasks)
    await settled()
    assert [wait.done() for wait in waits] == [False, True]
    in_thread(full)
    await settled()
    assert waits[0].done()
    assert not tasks.line


@pytest.mark.parametrize("first", [50.0, 5.0, None])
async def test_a_waiting_consumer_is_woken_for_an_earlier_delay(first: float | None) -> None:
    clock = VirtualClock()
    backend = MemoryBackend()
    queue = Queue(backend, clock)

    def delayed(seconds: float) -> Task:
        now = clock.now()
        return new(run_at=now + int(seconds * SECOND), seq=now)

    if first is not None:
        task = delayed(first)
        await queue.add([task])
        if first == 5.0:
            assert await queue.cancel(task.task_id)  # its entry is still in the queue
    (pop,) = await waiting_pops(queue, 1)
    await queue.add([delayed(10)])
    await clock.advance(9.9)
    assert not pop.done()
    await clock.advance(0.1)
    assert pop.done() and pop.result() is not None


# ---- no pop waits while there is a task ------------------------------------------------------------------------------


NAMES: list[tuple[str, ...] | None] = [None, ("a",), ("a", "b")]


class Consumers(RuleBasedStateMachine):
    """Consumers of several named queues come, wait, take and leave; queues are paused; tasks come and are deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.backend = MemoryBackend()
        self.now = 1
        self.pushed = itertools.count()
        self.consumers: list[tuple[asyncio.Task[Task], tuple[str, ...] | None]] = []
        self.taken: list[str] = []

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def consume(self, names: tuple[str, ...] | None) -> Task:
        with contextlib.closing(self.backend.arrivals(names)) as arrivals:
            while True:
                arrivals.clear()
                if claimed := await self.backend.claim("me", self.now, 1, queues=names):
                    self.taken.append(claimed[0].task_id)
                    return claimed[0]
                await arrivals.wait()

    @rule(names=st.sampled_from(NAMES))
    def come(self, names: tuple[str, ...] | None) -> None:
        self.consumers.append((self.loop.create_task(self.consume(names)), names))

    @rule(which=st.integers(0, 5))
    def leave(self, which: int) -> None:
        if which < len(self.consumers):
            self.consumers[which][0].cancel()

    @rule(name=st.sampled_from("ab"), priority=st.integers(0, 1), delay=st.integers(0, 3), thread=st.booleans())
    def push(self, name: str, priority: int, delay: int, thread: bool) -> None:
        number = next(self.pushed)
        task = new(
            task_id=str(number), queue=name, priority=priority, run_at=self.now + delay, seq=self.now + number % 2
        )
        if thread:
            in_thread(asyncio.run, self.backend.push([task]))
        else:
            self.run(self.backend.push([task]))

    @rule(names=st.sampled_from(NAMES))
    def steal(self, names: tuple[str, ...] | None) -> None:
        self.taken += [task.task_id for task in self.run(self.backend.claim("thief", self.now, 1, queues=names))]

    @rule(name=st.sampled_from("ab"), paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:
        self.run(self.backend.set_paused(name, paused))

    @rule(number=st.integers(0, 9))
    def delete(self, number: int) -> None:
        self.run(self.backend.delete([str(number)]))

    @rule()
    def pass_time(self) -> None:
        self.now += 1
        for each in list(self.backend.queues.consumers):  # as the clock does, for each waiting consumer
            if (consumer := each()) is not None:
                consumer()

    @rule()
    def rest(self) -> None:
        self.run(settled(50))
        for each, _ in self.consumers:
            if each.done() and not each.cancelled():
                each.result()
        self.consumers = [each for each in self.consumers if not each[0].done()]
        for _, names in self.consumers:
            ready = self.run(self.backend.count_ready(self.now, names))
            assert ready == 0, "a consumer waits while there is a task for it"
        assert len(set(self.taken)) == len(self.taken)
        assert len(self.backend.queues.line) == len(self.consumers)

    def teardown(self) -> None:
        self.rest()
        for each, _ in self.consumers:
            each.cancel()
        self.run(settled())
        self.loop.close()


TestConsumers = Consumers.TestCase
TestConsumers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

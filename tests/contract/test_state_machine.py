"""Random sequences of every verb on tasks: each backend must behave like a model in plain Python.

``AIOTASKQ_SOAK=20 pytest tests/contract/test_state_machine.py`` runs twenty times as many examples.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from aiotaskq.backends.base import Change, matching
from aiotaskq.core.outcome import (
    Backoff,
    Cancelled,
    Completed,
    Expired,
    Failed,
    IllegalTransition,
    LeaseExpired,
    Outcome,
    Released,
    Requeued,
    Rerun,
    TimedOut,
    marked,
    owner_of,
    settle,
    unmarked,
)
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import SECOND, Task, TaskFilter, claim_order
from tests.support.backends import STORES, Store
from tests.support.rows import worker_info

T = TypeVar("T")
SOAK = int(os.environ.get("AIOTASKQ_SOAK", "1"))
START = 1_750_000_000 * SECOND
QUEUES = ["a", "b"]
POP = "pop-1"
WORKERS = ["worker-1", "worker-2"]
OWNERS = [*WORKERS, POP]


class Model:
    """The contract in its simplest form; the rules are those of ``settle``."""

    def __init__(self) -> None:
        self.rows: dict[str, Task] = {}
        self.paused: set[str] = set()
        self.workers: dict[str, int] = {}  # their leases

    def in_the_way(self, task: Task) -> Task | None:
        def held(row: Task) -> bool:
            return (
                row.idempotency_key is not None and row.idempotency_key == task.idempotency_key
            )  # while the row is kept

        def unique(row: Task) -> bool:
            return not row.final and row.unique_key is not None and row.unique_key == task.unique_key

        if task.task_id in self.rows:
            return self.rows[task.task_id]
        by_key = [row for row in self.rows.values() if held(row)]
        return next(iter([*by_key, *(row for row in self.rows.values() if unique(row))]), None)

    def push(self, tasks: list[Task]) -> list[Task]:
        answers = []
        for task in tasks:
            row = self.in_the_way(task)
            if row is None:
                self.rows[task.task_id] = task
            same = row is None or (row.task_id, row.seq) == (task.task_id, task.seq)
            answers.append(task if same or row is None else row)
        return answers

    def claimable(self, now: int, queues: list[str] | None) -> list[Task]:
        return [
            task
            for task in self.rows.values()
            if task.status is Status.PENDING
            and task.run_at <= now
            and (task.expires_at is None or task.expires_at > now)
            and task.queue not in self.paused
            and (queues is None or task.queue in queues)
        ]

    def claim(self, owner: str, now: int, limit: int, queues: list[str] | None, lease_until: int | None) -> list[Task]:
        claimed = []
        for task in sorted(self.claimable(now, queues), key=claim_order)[:limit]:
            lease = {"lease_owner": owner, "lease_until": lease_until, "started_at": now // SECOND, "began_at": now}
            self.rows[task.task_id] = task.replace(status=Status.RUNNING, fence=task.fence + 1, **lease)
            claimed.append(self.rows[task.task_id])
        return claimed

    def update(self, changes: list[Change]) -> list[bool]:
        return [self._update(change) for change in changes]

    def _update(self, change: Change) -> bool:
        before, after = change.before, change.after
        row = self.rows.get(before.task_id)
        if row is None or row.status is not before.status or row.fence != before.fence:
            return False
        if change.lease_over and (row.lease_owner, row.lease_until) != (before.lease_owner, before.lease_until):
            return False
        if after.status not in FINAL and row.cancel_requested != before.cancel_requested:
            return False
        if before.status in FINAL and after.status not in FINAL and after.unique_key is not None:
            others = (other for other in self.rows.values() if other.task_id != row.task_id and not other.final)
            if any(other.unique_key == after.unique_key for other in others):
                return False
        self.rows[row.task_id] = after.replace(progress=row.progress)
        self.push(list(change.then))
        return True

    def held(self, task_id: str, fence: int) -> bool:
        row = self.rows.get(task_id)
        return row is not None and row.status is Status.RUNNING and row.fence == fence

    def orphans(self) -> list[Task]:
        rows = [row for row in self.rows.values() if row.status is Status.RUNNING and row.lease_until is None]
        return [row for row in rows if row.lease_owner and owner_of(row) not in self.workers]

    def overdue(self, now: int) -> list[Task]:
        late = [(t.lease_until, t) for t in self.rows.values() if t.status is Status.RUNNING]
        late += [(t.expires_at, t) for t in self.rows.values() if t.status is Status.PENDING]
        return [task for when, task in late if when is not None and when <= now]

    def next_run_at(self, now: int, queues: list[str] | None = None) -> int | None:
        if self.claimable(now, queues):
            return now
        waiting = [
            task.run_at
            for task in self.rows.values()
            if task.status is Status.PENDING
            and task.queue not in self.paused
            and (queues is None or task.queue in queues)
            and (task.expires_at is None or task.expires_at > now)
        ]
        return min(waiting, default=None)

    def find(self, where: TaskFilter, limit: int) -> list[Task]:
        return sorted(filter(matching(where), self.rows.values()), key=lambda t: -t.seq)[:limit]


queues = st.none() | st.lists(st.sampled_from(QUEUES), unique=True)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Completed, st.none() | st.integers()),
    st.builds(
        Failed,
        st.just("boom"),
        retryable=st.booleans(),
        backoff=st.just(Backoff(base=0.00001)),
        chance=st.floats(0, 0.9),
    ),
    st.builds(TimedOut, st.just(1.0), backoff=st.just(Backoff(base=0.00001))),
    st.builds(Released, st.just("given back"), delay=st.integers(0, 20)),
    st.builds(Cancelled),
    st.builds(LeaseExpired),
    st.builds(Expired),
    st.builds(Requeued),
)


class QueueMachine(RuleBasedStateMachine):
    """Bundles hold rows as they were read: a row may be stale when it is used."""

    seen: Bundle[Task] = Bundle("seen")
    store_of: ClassVar[Store]
    run: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.now = START
        self.seq = START - 1_000_000

    def do(self, verb: Coroutine[Any, Any, T]) -> T:
        result: T = self.run(verb)
        return result

    @property
    def backend(self) -> Any:
        return self.store_of.backend

    def make(self, **fields: Any) -> Task:
        # The same ids in each run of an example: where a store may choose, it may go by them.
        self.seq += 1
        return Task(task_id=f"task-{self.seq}", type="t", created_at=self.now // SECOND, seq=self.seq, **fields)

    @initialize()
    def empty(self) -> None:
        self.do(_wipe(self.store_of))

    @rule(
        target=seen,
        fields=st.lists(
            st.fixed_dictionaries(
                {"queue": st.sampled_from(QUEUES), "priority": st.integers(-1, 1)},
                optional={
                    "unique_key": st.sampled_from(["u1", "u2"]),
                    "idempotency_key": st.sampled_from(["i1", "i2"]),
                    "max_retries": st.integers(0, 2),
                    "params": st.just({"p": [1]}),
                },
            ),
            min_size=1,
            max_size=3,
        ),
        delay=st.sampled_from([0, 0, 0, 5, 30]),
        expires=st.sampled_from([None, None, 3, 40]),
    )
    def push(self, fields: list[dict[str, Any]], delay: int, expires: int | None) -> Any:
        until = None if expires is None else self.now + expires
        tasks = [self.make(run_at=self.now + delay, expires_at=until, **each) for each in fields]
        answers = self.do(self.backend.push(tasks))
        expected = self.model.push(tasks)
        assert answers == expected
        assert [a is t for a, t in zip(answers, tasks, strict=True)] == [
            e is t for e, t in zip(expected, tasks, strict=True)
        ]
        return multiple(*answers)

    @rule(task=seen)
    def push_again(self, task: Task) -> None:
        if task.status is not Status.PENDING:
            return  # only pending tasks are ever pushed
        assert self.do(self.backend.push([task])) == self.model.push([task])

    @rule(
        target=seen,
        owner=st.sampled_from(OWNERS),
        limit=st.integers(1, 4),
        queues=queues,
        lease=st.sampled_from([2, 10, 50]),
    )
    def claim(self, owner: str, limit: int, queues: list[str] | None, lease: int) -> Any:
        until = self.now + lease if owner == POP else None
        arguments = (owner, self.now, limit)
        claimed = self.do(self.backend.claim(*arguments, queues=queues, lease_until=until))
        assert claimed == self.model.claim(*arguments, queues, until)
        return multiple(*claimed)

    @rule(target=seen, tasks=st.lists(seen, min_size=1, max_size=3), outcome=outcomes, follow=st.booleans())
    def settle(self, tasks: list[Task], outcome: Outcome, follow: bool) -> Any:
        """A worker, an operator or a former owner writes outcomes, from rows that it read some time ago."""
        changes = []
        for task in tasks:
            with contextlib.suppress(IllegalTransition):
                after = settle(task, outcome, self.now)
                changes.append(Change(task, after, (self.make(queue="a", run_at=self.now),) if follow else ()))
        held = self.do(self.backend.update(changes))
        assert held == self.model.update(changes)
        return multiple(*(change.after for change, ok in zip(changes, held, strict=True) if ok))

    @rule(target=seen, pick=st.integers(0, 50), outcome=outcomes)
    def settle_fresh(self, pick: int, outcome: Outcome) -> Any:
        """The same with a row as it is now, which is the usual case."""
        if not self.model.rows:
            return multiple()
        rows = list(self.model.rows.values())
        return self.settle([rows[pick % len(rows)]], outcome, False)

    @rule(
        target=seen,
        pick=st.integers(0, 50),
        fields=st.fixed_dictionaries(
            {"queue": st.sampled_from(QUEUES), "priority": st.integers(-1, 1)},
            optional={
                "params": st.just({"again": [1]}),
                "timeout": st.just(2.5),
                "on_failure": st.just("mail"),
            },
        ),
    )
    def run_again(self, pick: int, fields: dict[str, Any]) -> Any:
        """The id of a row that has ended is pushed again."""
        ended = [row for row in self.model.rows.values() if row.final]
        if not ended:
            return multiple()
        before = ended[pick % len(ended)]
        new = self.make(run_at=self.now, **fields).replace(task_id=before.task_id)
        change = Change(before, settle(before, Rerun(new), self.now))
        held = self.do(self.backend.update([change]))
        assert held == self.model.update([change])
        # That push, repeated, is the same push, unless the id was found to be taken.
        assert self.do(self.backend.push([new])) == self.model.push([new])
        return multiple(change.after) if held == [True] else multiple()

    @rule(limit=st.integers(1, 5))
    def reap(self, limit: int) -> None:
        """The reaper reads, and writes at once."""
        late = self.do(self.backend.overdue(self.now, limit))
        orphans = [] if self.backend.workers is None else self.model.orphans()
        expected = orphans + self.model.overdue(self.now)
        assert len(late) == min(limit, len(expected))
        assert all(task in expected for task in late)
        assert all(task in orphans for task in late[: len(orphans)]), "those of dead workers come first"
        self._reap(late)

    @rule(task=seen)
    def reap_late(self, task: Task) -> None:
        """A reaper that paused after reading; its row may be anything now."""
        due = task.lease_until if task.status is Status.RUNNING else None
        if due is not None and due <= self.now:
            self._reap([task])

    def _reap(self, late: list[Task]) -> None:
        changes = [
            Change(
                task,
                settle(task, LeaseExpired() if task.status is Status.RUNNING else Expired(), self.now),
                lease_over=task.status is Status.RUNNING,
            )
            for task in late
        ]
        assert self.do(self.backend.update(changes)) == self.model.update(changes)

    @rule(target=seen, task=seen, mark=st.booleans())
    def mark(self, task: Task, mark: bool) -> Any:
        """A worker notes that a task runs alone, or that it no longer does."""
        if task.status is not Status.RUNNING or not task.lease_owner or task.lease_until is not None:
            return multiple()
        change = Change(task, (marked if mark else unmarked)(task))
        held = self.do(self.backend.update([change]))
        assert held == self.model.update([change])
        return multiple(change.after) if held == [True] else multiple()

    @rule(owner=st.sampled_from(WORKERS), lease=st.sampled_from([5, 60]))
    def register(self, owner: str, lease: int) -> None:
        if self.backend.workers is not None:
            until = self.now + lease
            self.do(self.backend.workers.register(worker_info(owner, lease_until=until)))
            self.model.workers[owner] = until

    @rule(owner=st.sampled_from(WORKERS), lease=st.sampled_from([5, 60]))
    def heartbeat(self, owner: str, lease: int) -> None:
        if self.backend.workers is not None:
            until, known = self.now + lease, owner in self.model.workers
            assert self.do(self.backend.workers.heartbeat(worker_info(owner, lease_until=until))) is known
            if known:
                self.model.workers[owner] = until

    @rule(owner=st.sampled_from(WORKERS), stale=st.sampled_from([0, 0, 1]))
    def remove_worker(self, owner: str, stale: int) -> None:
        if self.backend.workers is not None:
            until = self.model.workers.get(owner, 0) - stale
            removed = owner in self.model.workers and not stale
            assert self.do(self.backend.workers.remove(worker_info(owner, lease_until=until))) is removed
            if removed:
                del self.model.workers[owner]

    @rule(task=seen, done=st.integers(0, 3))
    def report(self, task: Task, done: int) -> None:
        held = self.model.held(task.task_id, task.fence)
        assert self.do(self.backend.report([(task.task_id, task.fence, {"done": done})])) == [held]
        if held:
            self.model.rows[task.task_id] = self.model.rows[task.task_id].replace(progress={"done": done})

    @rule(task=seen)
    def request_cancel(self, task: Task) -> None:
        row = self.model.rows.get(task.task_id)
        running = row is not None and row.status is Status.RUNNING
        assert self.do(self.backend.request_cancel([task.task_id])) == [running]
        if row is not None and running:
            self.model.rows[row.task_id] = row.replace(cancel_requested=True)

    @rule(queue=st.sampled_from(QUEUES), paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        self.do(self.backend.set_paused(queue, paused))
        (self.model.paused.add if paused else self.model.paused.discard)(queue)
        assert self.do(self.backend.paused()) == sorted(self.model.paused)

    @rule(task=seen)
    def delete(self, task: Task) -> None:
        assert self.do(self.backend.delete([task.task_id])) == int(task.task_id in self.model.rows)
        self.model.rows.pop(task.task_id, None)

    @rule(limit=st.integers(1, 3), status=st.sampled_from([(), (Status.FAILED,), (Status.PENDING,)]))
    def purge(self, limit: int, status: tuple[Status, ...]) -> None:
        where = TaskFilter(status=status)
        candidates = [task for task in self.model.rows.values() if task.final and matching(where)(task)]
        assert self.do(self.backend.purge(where, limit)) == min(limit, len(candidates))
        left = self.do(self.backend.get([task.task_id for task in candidates]))
        for task, row in zip(candidates, left, strict=True):
            if row is None:  # which of them go first is the store's choice
                del self.model.rows[task.task_id]

    @rule(microseconds=st.sampled_from([1, 3, 10, 45]))
    def time_passes(self, microseconds: int) -> None:
        self.now += microseconds

    @rule(
        where=st.builds(TaskFilter, status=st.sampled_from([(), (Status.RUNNING,)]), queue=st.sampled_from([None, "a"]))
    )
    def find(self, where: TaskFilter) -> None:
        assert self.do(self.backend.find(where, 3)) == self.model.find(where, 3)

    @rule(queues=queues)
    def look(self, queues: list[str] | None) -> None:
        assert self.do(self.backend.count_ready(self.now, queues)) == len(self.model.claimable(self.now, queues))
        self._next_run_at(queues)

    def _next_run_at(self, queues: list[str] | None) -> None:
        at, expected = self.do(self.backend.next_run_at(self.now, queues)), self.model.next_run_at(self.now, queues)
        assert at == expected or (at is not None and expected is not None and at <= self.now and expected <= self.now)

    @invariant()
    def rows_are_equal(self) -> None:
        everything = self.do(self.backend.find(TaskFilter(), 10_000))
        assert everything == sorted(self.model.rows.values(), key=lambda task: -task.seq)

    @invariant()
    def workers_are_equal(self) -> None:
        if self.backend.workers is None:
            return
        there = {worker.owner: worker.lease_until for worker in self.do(self.backend.workers.all())}
        assert there == self.model.workers
        for owner in WORKERS:
            rows = [row for row in self.model.rows.values() if row.status is Status.RUNNING and owner_of(row) == owner]
            held = sorted((row.task_id, row.fence, row.cancel_requested) for row in rows)
            assert sorted(self.do(self.backend.workers.held([owner]))[owner]) == held

    @invariant()
    def counts_are_equal(self) -> None:
        stats = self.do(self.backend.stats(self.now))
        ready = self.model.claimable(self.now, None)
        counts = Counter(str(task.status) for task in self.model.rows.values())
        assert {status: n for status, n in stats.counts.items() if n} == counts
        assert (stats.ready, stats.oldest) == (len(ready), min((task.run_at for task in ready), default=None))
        self._next_run_at(None)


async def _wipe(store: Store) -> None:
    while rows := await store.backend.find(TaskFilter(), 1_000):
        await store.backend.delete([task.task_id for task in rows])
    registry = store.backend.workers
    for worker in [] if registry is None else await registry.all():
        assert registry is not None and await registry.remove(worker)
    for queue in await store.backend.paused():
        await store.backend.set_paused(queue, False)


@contextlib.contextmanager
def opened_store(name: str) -> Iterator[tuple[Callable[[Coroutine[Any, Any, Any]], Any], Store]]:
    """Open a store in a loop of its own; yields what runs a coroutine in that loop, too."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        # Runner.run() sets a handler of SIGINT for each call, for which the interpreter makes the repr of every result.
        run = runner.get_loop().run_until_complete
        manager = STORES[name](Path(folder))
        store = run(manager.__aenter__())
        try:
            yield run, store
        finally:
            run(manager.__aexit__(None, None, None))


@pytest.mark.no_cover  # many examples of the same lines
@pytest.mark.timeout(120 * SOAK)
@pytest.mark.parametrize("name", [name for name, kind in STORES.items() if not kind.same_as])
def test_every_store_behaves_like_the_model(name: str) -> None:  # A5, A6, A8, A18, B1, B10, D6, D10
    with opened_store(name) as (run_in_loop, store):

        class Machine(QueueMachine):
            store_of = store
            run = staticmethod(run_in_loop)

        examples = {"memory": 60, "sqlite": 15}.get(name, 10) * SOAK
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )

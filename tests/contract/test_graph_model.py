"""Random graphs in groups, with failures, cancels, retries and deletes: each store behaves like a model in Python.

``AIOTASKQ_SOAK=20 pytest tests/contract/test_graph_model.py`` runs twenty times as many examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.groups import CANCEL, RULES, RUN, derived_id
from aiotaskq.core.ids import next_seq
from aiotaskq.core.outcome import Backoff, Cancelled, Completed, Expired, Failed, Outcome, Released, Requeued, settle
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.contract.test_state_machine import SOAK, opened_store
from tests.support.backends import STORES, Store

# After the present: the time of a delete is at least that of the last push of this process.
START = 4_000_000_000 * SECOND
COMPLETED, FAILED, CANCELLED, PENDING, RUNNING = (
    Status.COMPLETED,
    Status.FAILED,
    Status.CANCELLED,
    Status.PENDING,
    Status.RUNNING,
)
INNER, OUTER = "inner", "outer"


class Item(msgspec.Struct):
    """A task, also a deleted one."""

    group: str | None = None
    parents: dict[str, str] = {}
    """Their ids, and the rules."""
    retries: int = 0
    status: Status = PENDING
    waits: int = 0
    gone: bool = False
    source: str | None = None
    """The group whose callback it is."""

    @property
    def final(self) -> bool:
        return self.status not in (PENDING, RUNNING)


class Group(msgspec.Struct):
    parent: str | None = None
    ended: bool = False
    generation: int = 1
    cancel_requested: bool = False


class Model:
    """What tasks and groups become, with no counter: everything is counted anew each time."""

    def __init__(self, items: dict[str, Item]) -> None:
        self.items = items
        self.groups = {INNER: Group(OUTER), OUTER: Group()}
        for item in items.values():
            item.waits = len(item.parents)

    def pick(self, number: int, *statuses: Status) -> str | None:
        found = [
            name for name, item in self.items.items() if not item.gone and (item.status in statuses or not statuses)
        ]
        return found[number % len(found)] if found else None

    def ready(self) -> list[str]:
        return [i for i, item in self.items.items() if item.status is PENDING and not item.waits and not item.gone]

    def end(self, ends: Iterable[tuple[str, Status]]) -> None:
        """Let tasks end together, and their children, level by level."""
        level = dict(ends)
        while level:
            for name, status in level.items():
                self.items[name].status = status
            below: dict[str, Status] = {}
            place = {name: number for number, name in enumerate(level)}
            first = {
                n: min((place[each] for each in i.parents if each in place), default=0) for n, i in self.items.items()
            }
            for name, item in sorted(self.items.items(), key=lambda pair: (first[pair[0]], pair[0])):
                if item.gone or item.status is not PENDING or not item.waits:
                    continue
                ended = [(each, self.items[each].status) for each in level if each in item.parents]
                broken = [item.parents[each] for each, status in ended if status is not COMPLETED]
                rule = next((rule for rule in broken if rule != RUN), None)
                if rule is not None:
                    below[name] = CANCELLED if rule == CANCEL else FAILED
                    continue
                item.waits -= len(ended)
                assert item.waits == self.held_up(item)
            level = below
        self.count()

    def held_up(self, item: Item) -> int:
        """For how many of its parents a task that waits has to wait: a deleted one is none."""
        found = [(self.items[each], kind) for each, kind in item.parents.items()]
        return sum(
            not parent.gone and (not parent.final or (parent.status is not COMPLETED and kind != RUN))
            for parent, kind in found
        )

    def delete(self, name: str) -> None:
        """What has not ended is cancelled; what had not completed ends the tasks that were brought back without it."""
        item = self.items[name]
        item.gone = True
        if not item.final:
            self.end([(name, CANCELLED)])
        elif item.status is not COMPLETED:
            waiting = {
                n: i.parents[name] for n, i in self.items.items() if name in i.parents and i.waits and not i.gone
            }
            rules = {n: kind for n, kind in waiting.items() if self.items[n].status is PENDING and kind != RUN}
            self.end([(n, CANCELLED if kind == CANCEL else FAILED) for n, kind in rules.items()])

    def bring_back(self, name: str) -> None:
        """An operator's retry: it waits for its parents, and its children that still wait wait for it, too."""
        item = self.items[name]
        item.status = PENDING
        item.waits = self.held_up(item)
        for each in self.items.values():
            if name in each.parents and each.status is PENDING and each.waits and not each.gone:
                each.waits = self.held_up(each)
        self.count()

    def counts(self, group_id: str) -> Counter[Status]:
        """The members of a group by status; a group in it has that of its own members."""
        found = Counter(item.status for item in self.items.values() if item.group == group_id)
        if group_id == OUTER:
            found[self.status(INNER)] += 1
        return found

    def needed_by(self, group_id: str) -> int:
        """How many dead letters, and callbacks that have not ended, there are of a group and of the one in it."""
        tree = {group_id, INNER}
        members = [item for item in self.items.values() if not item.gone and (item.group or item.source) in tree]
        return sum(item.status is FAILED or (item.source is not None and not item.final) for item in members)

    def status(self, group_id: str) -> Status:
        group, found = self.groups[group_id], self.counts(group_id)
        if not group.ended:
            return RUNNING
        if found[FAILED]:
            return FAILED
        return COMPLETED if found[COMPLETED] == found.total() and not group.cancel_requested else CANCELLED

    def count(self) -> None:
        for group_id, group in self.groups.items():
            found = self.counts(group_id)
            ended = not found[PENDING] + found[RUNNING]
            if ended and not group.ended:
                group.ended = True
                if not group.cancel_requested:
                    kind = "then" if found[COMPLETED] == found.total() else "on_failure"
                    self.items[derived_id(group_id, kind, group.generation)] = Item(source=group_id)
            elif group.ended and not ended:
                group.ended, group.cancel_requested = False, False
                group.generation += 1


class GraphMachine(RuleBasedStateMachine):
    """One graph, in a group with a few tasks more, until all of its tasks have ended, or no steps are left."""

    store_of: ClassVar[Store]
    run: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self.now = max(START, next_seq(0))  # stamps of a process never go back, and this may not be its first graph
        self.model = Model({})

    @property
    def backend(self) -> Backend:
        return self.store_of.backend

    def row(self, task_id: str) -> Task:
        (found,) = self.run(self.backend.get([task_id]))
        assert found is not None, task_id
        return found

    def task(self, name: str, retries: int = 0) -> Task:
        self.now += 1
        return Task(task_id=name, type="t", created_at=START // SECOND, run_at=START, seq=self.now, max_retries=retries)

    @initialize(
        nodes=st.lists(
            st.tuples(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(RULES)), max_size=3), st.integers(0, 1)),
            min_size=1,
            max_size=7,
        ),
        others=st.integers(0, 2),
    )
    def push(self, nodes: list[tuple[list[tuple[int, str]], int]], others: int) -> None:
        self.run(_wipe(self.backend))
        items: dict[str, Item] = {}
        graph = []
        for number, (edges, retries) in enumerate(nodes):
            name = f"n{number}"
            parents = {f"n{parent}": kind for parent, kind in edges if parent < number}
            items[name] = Item(INNER, parents, retries)
            graph.append(Node(name, self.task(name, retries), parents))
        inner = self.group(INNER, graph, named=True)
        beside = []
        for number in range(others):
            items[f"o{number}"] = Item(OUTER)
            beside.append(Node(f"o{number}", self.task(f"o{number}")))
        outer = self.group(OUTER, [Node("inner", inner), *beside])
        assert self.run(self.backend.groups.push(plan(outer, self.now)))
        self.model = Model(items)

    def group(self, group_id: str, nodes: list[Node], **options: Any) -> Outline:
        callbacks = {kind: self.task(kind) for kind in ("then", "on_failure")}
        return Outline(group_id=group_id, nodes=tuple(nodes), **callbacks, **options)

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        self.now += SECOND
        tasks = self.run(self.backend.claim("o", self.now, limit, lease_until=self.now + 100 * SECOND))
        ready = self.model.ready()
        ids = [task.task_id for task in tasks]
        assert set(ids) <= set(ready), "a task started that waits"
        assert len(ids) == min(limit, len(ready)), "a task that is ready did not start"
        for task_id in ids:
            self.model.items[task_id].status = RUNNING

    @rule(
        picks=st.lists(st.integers(0, 20), min_size=1, max_size=3),
        kind=st.sampled_from(("done", "done", "done", "broken", "flaky", "cancelled", "released")),
    )
    def finish(self, picks: list[int], kind: str) -> None:
        """Settle running tasks in one call: the first as ``kind`` says, the others complete."""
        self.now += SECOND
        names = list(dict.fromkeys(filter(None, (self.model.pick(pick, RUNNING) for pick in picks))))
        outcomes: dict[str, Outcome] = {
            "done": Completed(),
            "broken": Failed("broken", retryable=False),
            "flaky": Failed("flaky", backoff=Backoff(base=0.0)),
            "cancelled": Cancelled(),
            "released": Released("given back"),
        }
        changes = []
        for number, name in enumerate(names):
            row = self.row(name)
            changes.append(Change(row, settle(row, outcomes["done" if number else kind], self.now)))
        self.write(changes)

    @rule(pick=st.integers(0, 20), outcome=st.sampled_from((Cancelled(), Expired())))
    def end_pending(self, pick: int, outcome: Outcome) -> None:
        self.now += SECOND
        if (name := self.model.pick(pick, PENDING)) is not None:
            row = self.row(name)
            self.write([Change(row, settle(row, outcome, self.now))])

    def write(self, changes: list[Change]) -> None:
        """Write changes, and again, as a process does that has got no answer."""
        if not changes:
            return
        assert all(self.run(self.backend.update(changes)))
        assert not any(self.run(self.backend.update(changes))), "a change was written twice"
        for change in changes:
            self.model.items[change.before.task_id].status = change.after.status
        self.model.end([(each.before.task_id, each.after.status) for each in changes if each.after.final])

    @rule(pick=st.integers(0, 20))
    def retry(self, pick: int) -> None:
        self.now += SECOND
        if (name := self.model.pick(pick, FAILED, CANCELLED, Status.EXPIRED)) is not None:
            row = self.row(name)
            assert self.run(self.backend.update([Change(row, settle(row, Requeued(), self.now))])) == [True]
            self.model.bring_back(name)

    @rule(pick=st.integers(0, 20))
    def delete(self, pick: int) -> None:
        self.now += SECOND
        if (name := self.model.pick(pick)) is not None:
            assert self.run(self.backend.delete([name])) == 1
            self.model.delete(name)

    @precondition(lambda self: self.model.items)
    @rule(group_id=st.sampled_from((INNER, OUTER, OUTER)))
    def cancel(self, group_id: str) -> None:
        self.now += SECOND
        group = self.model.groups[group_id]
        assert self.run(self.backend.groups.request_cancel(group_id)) is not group.ended
        if group.ended:
            return
        group.cancel_requested = True
        if group_id == OUTER and not self.model.groups[INNER].ended:
            self.model.groups[INNER].cancel_requested = True

    @rule()
    def mend(self) -> None:
        assert self.run(self.backend.groups.mend(self.now)) == 0, "a count was wrong"

    @invariant()
    def it_is_as_in_the_model(self) -> None:
        if not self.model.items:
            return
        rows = {row.task_id: row for row in self.run(self.backend.find(TaskFilter(), 1_000))}
        items = {name: item for name, item in self.model.items.items() if not item.gone}
        assert {name: row.status for name, row in rows.items()} == {name: item.status for name, item in items.items()}
        waits = {name: (row.waits, row.parked) for name, row in rows.items() if row.status is PENDING}
        assert waits == {n: (item.waits, item.waits > 0) for n, item in items.items() if item.status is PENDING}
        for group_id, group in self.model.groups.items():
            (found,) = self.run(self.backend.groups.get([group_id]))
            by_status = self.model.counts(group_id)
            live = by_status[PENDING] + by_status[RUNNING]
            others = by_status.total() - live - by_status[COMPLETED] - by_status[FAILED]
            assert found is not None
            assert (found.total, found.remaining, found.failed, found.cancelled, found.generation) == (
                by_status.total(),
                live,
                by_status[FAILED],
                others,
                group.generation,
            )
            assert found.needed_by == self.model.needed_by(group_id)
            assert (found.status, found.cancel_requested) == (self.model.status(group_id), group.cancel_requested)


async def _wipe(backend: Backend) -> None:
    while rows := await backend.find(TaskFilter(), 1_000):
        await backend.delete([row.task_id for row in rows])
    await backend.groups.purge(START * 2, 100)


OTHERS = [name for name, kind in STORES.items() if name != "memory" and not kind.same_as]


@pytest.mark.no_cover  # many examples of the same lines
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("name", ["memory", *(pytest.param(name, marks=pytest.mark.soak) for name in OTHERS)])
def test_any_graph_ends_as_in_the_model(name: str) -> None:
    with opened_store(name) as (run_in_loop, store):

        class Machine(GraphMachine):
            store_of = store
            run = staticmethod(run_in_loop)

        examples = {"memory": 150, "durable_fake": 10}.get(name, 5) * SOAK
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=examples, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )

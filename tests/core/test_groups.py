"""The rules of groups and graphs, against a model that has only the definitions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.backends.flow.groups import again, follow, waits_again
from aiotaskq.backends.flow.transaction import Touched
from aiotaskq.core.errors import ValidationError
from aiotaskq.core.groups import (
    MAX_MEMBERS,
    MAX_PARENTS,
    RULES,
    RUN,
    GroupState,
    after_parents,
    derived_id,
    holds_up,
    in_order,
    waiting,
)
from aiotaskq.core.outcome import Cancelled, Completed, Failed, Requeued, settle
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.status import FINAL, RUNNING, Status
from aiotaskq.core.task import Task

NOW = 1_750_000_000_000_000


def task(name: str) -> Task:
    return Task(task_id=name, type=name, run_at=NOW, seq=NOW)


class Rows:
    """Rows in dicts."""

    codec = None

    def __init__(self) -> None:
        self.all: dict[str, Task] = {}
        self.kept: dict[str, GroupState] = {}
        self.callbacks: list[Task] = []
        self.touched = Touched()

    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        return {i: self.all[i] for i in ids if i in self.all}

    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        self.all.update({after.task_id: after for _, after in changes})

    def groups(self, ids: Sequence[str]) -> dict[str, GroupState]:
        return {i: self.kept[i] for i in ids if i in self.kept}

    def write_groups(self, groups: Sequence[GroupState]) -> None:
        self.kept.update({group.group_id: group for group in groups})

    def insert(self, tasks: Sequence[Task]) -> Sequence[Task]:
        self.callbacks += tasks
        return tasks

    def messages(self, ended: Sequence[Task], now: int) -> list[Task]:
        return []

    def change(self, before: Task, after: Task) -> None:
        if waits_again(before, after):
            after = again(self, after)
        self.all[after.task_id] = after
        follow(self, [(before, after)])


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, dict[str, str]]:
    names = [f"n{n}" for n in range(draw(st.integers(1, 8)))]
    rules = st.sampled_from(RULES)
    found = {
        name: draw(st.dictionaries(st.sampled_from(names[:n]), rules, max_size=3)) if n else {}
        for n, name in enumerate(names)
    }
    return {name: found[name] for name in draw(st.permutations(names))}


@settings(max_examples=60, deadline=None)
@given(graphs(), st.data())
def test_any_order_of_ends_and_retries_ends_with_one_callback(
    edges: dict[str, dict[str, str]], data: st.DataObject
) -> None:
    nodes = tuple(Node(name, task(name), after) for name, after in edges.items())
    outer = Outline(
        group_id="outer",
        nodes=(Node("inner", Outline(group_id="inner", nodes=nodes, named=True)), Node("beside", task("beside"))),
        then=task("then"),
        on_failure=task("alert"),
    )
    made = plan(outer, NOW)
    rows = Rows()
    rows.all = {each.task_id: each for each in made.tasks}
    rows.write_groups(made.groups)
    retried, retries = 0, data.draw(st.integers(0, 3))
    while True:
        ready = sorted(i for i, row in rows.all.items() if row.status is Status.PENDING and row.run_at == NOW)
        dead = sorted(i for i, row in rows.all.items() if row.status in (Status.FAILED, Status.CANCELLED))
        if retried < retries and dead and data.draw(st.booleans()):
            retried += 1
            before = rows.all[data.draw(st.sampled_from(dead))]
            rows.change(before, settle(before, Requeued(), NOW))
            continue
        stuck = [i for i, row in rows.all.items() if row.status is Status.PENDING and not ready]
        if stuck:  # one was brought back alone, and waits for a parent whose failure had ended it
            missed = sorted({parent for each in stuck for parent in edges.get(each, {}) if parent in dead})
            before = rows.all[data.draw(st.sampled_from(missed))]
            rows.change(before, settle(before, Requeued(), NOW))
            continue
        if not ready:
            break
        before = rows.all[data.draw(st.sampled_from(ready))]
        outcome = data.draw(st.sampled_from([Completed(), Failed("no", retryable=False), Cancelled()]))
        if not isinstance(outcome, Cancelled):
            for parent, rule in edges.get(before.task_id, {}).items():
                state = rows.all[parent].status
                ended = state in FINAL or retried  # it may have been ready before its parent was brought back
                assert ended if rule == RUN else state is Status.COMPLETED, (before.task_id, parent)
            before = before.replace(status=RUNNING, fence=before.fence + 1)
        rows.change(before, settle(before, outcome, NOW))
    assert all(row.final for row in rows.all.values())
    states = [rows.all[name].status for name in edges]
    inner, whole = rows.kept["inner"], rows.kept["outer"]
    assert (inner.remaining, whole.remaining) == (0, 0)
    assert (inner.failed, inner.completed) == (states.count(Status.FAILED), states.count(Status.COMPLETED))
    assert len(rows.callbacks) == whole.generation == len({each.task_id for each in rows.callbacks})
    good = {*states, rows.all["beside"].status} == {Status.COMPLETED}
    kind = "then" if good else "on_failure"
    assert rows.callbacks[-1].task_id == derived_id("outer", kind, whole.generation)


def test_an_order_has_parents_first_and_names_a_cycle() -> None:
    assert in_order({"c": ["a", "b"], "b": ["a"], "a": []}) == ["a", "b", "c"]
    with pytest.raises(ValidationError, match="b → c → b"):
        in_order({"a": ["c"], "b": ["c"], "c": ["b"]})
    with pytest.raises(ValidationError, match="a → a"):
        in_order({"a": ["a"]})


def test_a_push_takes_as_many_members_and_parents_as_the_limits_say() -> None:
    def graph(parents: int, children: int) -> Outline:
        first = [Node(f"p{n}", task(f"p{n}")) for n in range(parents)]
        last = [Node(f"c{n}", task(f"c{n}"), {node.name: RUN for node in first}) for n in range(children)]
        return Outline(group_id="g", nodes=(*first, *last))

    assert len(plan(graph(MAX_PARENTS, 1), NOW).tasks) == MAX_PARENTS + 1
    assert len(plan(graph(1, MAX_PARENTS), NOW).tasks) == MAX_PARENTS + 1
    assert len(plan(graph(MAX_MEMBERS, 0), NOW).members) == MAX_MEMBERS
    for parents, children, error in (
        (MAX_PARENTS + 1, 1, "'c0' waits for 1,001 tasks, more than 1,000"),
        (1, MAX_PARENTS + 1, "1,001 tasks wait for 'p0', more than 1,000"),
        (MAX_MEMBERS + 1, 0, "10,001 members are more than 10,000"),
    ):
        with pytest.raises(ValidationError, match=error):
            plan(graph(parents, children), NOW)


@pytest.mark.parametrize("rule", RULES)
def test_a_child_that_waits_for_none_any_more_is_not_changed_by_a_parent(rule: str) -> None:
    parent, free = task("parent"), task("free")
    failed = settle(parent.replace(status=RUNNING), Failed("no", retryable=False), NOW)
    for change in ((failed, parent), (parent, failed)):  # brought back, or ended again
        assert after_parents(free, [(*change, rule)], NOW) is free
    child = waiting(free, 1, NOW)
    assert after_parents(child, [(parent, failed, rule)], NOW) is not child
    again = after_parents(child, [(failed, parent, rule)], NOW)
    assert again.waits == (2 if rule == RUN else 1)


def test_a_child_does_not_wait_for_a_parent_that_does_not_know_of_it() -> None:
    assert not holds_up(task("parent"), None)
    assert [holds_up(task("parent"), rule) for rule in RULES] == [True, True, True]

"""Groups, chains and workflows as an application uses them, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import (
    Limit,
    Parent,
    ResultTimeout,
    TaskFailed,
    TaskQ,
    Workflow,
    chain,
    current_task,
    group,
    injected,
)
from aiotaskq.backends.base import Change
from aiotaskq.core.status import Status
from aiotaskq.errors import NotFound, TaskConflict, UnknownHandler, ValidationError
from aiotaskq.runtime.queue import bulk
from aiotaskq.testing import inline
from aiotaskq.testing.kit import Kit, virtual
from tests.support.machine import within


@dataclass
class Total:
    cents: int


def _cents(result: Any) -> Any:
    return [_cents(each) for each in result] if isinstance(result, list) else result.cents


class App:
    """Handlers, and what they did."""

    def __init__(self) -> None:
        self.tq = tq = TaskQ("memory://")
        self.log: list[Any] = []
        self.broken: set[int] = set()

        @tq.task(max_retries=0)
        async def price(n: int) -> Total:
            self.log.append(n)
            if n in self.broken:
                raise RuntimeError(f"no {n}")
            return Total(n * 100)

        @tq.task
        async def report(title: str = "report") -> int:
            members = [*await current_task().results(limit=2), *await current_task().results(start=2)]
            self.log.append((title, [_cents(m.result) if m.completed else m.error and m.status for m in members]))
            return len(members)

        @tq.task
        async def add(cents: int, parent: Parent[Total] = injected()) -> Total:
            return Total(parent.result.cents + cents)

        @tq.task
        async def join(parent: list[Parent[Total]] = injected()) -> int:
            return sum(each.result.cents for each in parent)

        @tq.task
        async def spread(n: int) -> None:
            self.log.append(await current_task().add_to_group([price.call(each) for each in range(n)]))
            if current_task().task.retry_count == 0:
                raise RuntimeError("once")

        self.price, self.report, self.add, self.join, self.spread = price, report, add, join, spread


@pytest.fixture
async def kit() -> AsyncIterator[tuple[App, Kit]]:
    app = App()
    async with virtual(app.tq) as kit:
        yield app, kit


async def test_a_group_reports_when_all_are_done(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    handle = await app.tq.group([app.price.call(n) for n in (3, 1, 2)], then=app.report.call("all"), name="prices")
    assert await handle.results(within(60)) == [Total(300), Total(100), Total(200)]
    await kit[1].drain()
    assert app.log[-1] == ("all", [300, 100, 200])
    progress = await handle.progress()
    assert (progress.total, progress.completed, progress.remaining, progress.status) == (3, 3, 0, "completed")
    assert [await each.status() for each in await handle.tasks()] == [Status.COMPLETED] * 3
    assert [group.name for group in await app.tq.groups()] == ["prices"]
    assert await app.tq.group_handle(handle.group_id).result(within(60)) == await handle.result(within(60))


async def test_a_failure_calls_back_and_a_retry_ends_the_group_again(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    app.broken.add(2)
    calls = [app.price.call(n) for n in (1, 2)]
    handle = await app.tq.group(calls, then=app.report.call("all"), on_failure=app.report.call("some"))
    with pytest.raises(TaskFailed, match="no 2"):
        await handle.result(within(60))
    await kit[1].drain()
    assert app.log[-1] == ("some", [100, Status.FAILED])
    app.broken.clear()
    assert await handle.retry_failed() == 1
    assert await handle.results(within(60)) == [Total(100), Total(200)]
    await kit[1].drain()
    assert app.log[-1] == ("all", [100, 200])


async def test_members_are_put_back_in_one_transaction(kit: tuple[App, Kit], monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = kit
    app.broken.update((1, 2, 3))
    handle = await app.tq.group([app.price.call(n) for n in (1, 2, 3)])
    with pytest.raises(TaskFailed):
        await handle.result(within(60))
    backend, sizes = app.tq.queue.backend, []
    update = backend.update

    async def counted(changes: Sequence[Change]) -> list[bool]:
        sizes.append(len(changes))
        return await update(changes)

    with monkeypatch.context() as patch:
        patch.setattr(backend, "update", counted)
        assert await handle.retry_failed() == 3
    assert sizes == [3]


async def test_a_chain_passes_results_on(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    handle = await app.tq.start(chain(app.price.call(1), app.add.call(5), app.add.options(delay=60).call(7)))
    await kit[1].advance(60)
    assert await handle.result(within(60)) == [Total(100), Total(105), Total(112)]


async def test_a_task_that_needs_a_parent_and_has_none_fails_at_once(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    with pytest.raises(TaskFailed, match="invalid_params: add\\(\\) needs 'parent'"):
        await (await app.add.push(5)).result(within(60))


async def test_a_workflow_runs_in_order_and_is_retried_from_its_failure(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    app.broken.add(2)
    flow = (
        Workflow("order")
        .add("sum", app.join.call(), after=["a", "b"])
        .add("a", app.price.call(1))
        .add("b", app.price.call(2))
        .add("always", app.report.call("always"), after={"b": "run", "a": "cancel"})
    )
    handle = await app.tq.start(flow)
    with pytest.raises(TaskFailed, match=r"not started: task .* \(price\), for which it waits, failed"):
        await handle.result(within(60))
    assert app.log[-1] == ("always", [Status.FAILED, 100])
    assert await (await handle.task("sum")).status() is Status.CANCELLED
    app.broken.clear()
    assert await handle.retry_failed() == 2
    assert await handle.result(within(60)) == [300, Total(100), Total(200), 2]
    with pytest.raises(NotFound, match="no task 'c'"):
        await handle.task("c")


async def test_a_group_is_a_member_of_another(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    inner = [chain(app.price.call(n), app.add.call(n)) for n in (1, 2)]
    handle = await app.tq.group([*inner, app.price.call(3), group([])], then=app.report.call())
    assert await handle.results(within(60)) == [[Total(100), Total(101)], [Total(200), Total(202)], Total(300), []]
    await kit[1].drain()
    assert app.log[-1] == ("report", [[100, 101], [200, 202], 300, []])


async def test_a_result_that_was_deleted_is_an_error_and_never_none(kit: tuple[App, Kit]) -> None:
    app, made = kit
    work = Workflow("w", on_failure=app.report.call("some"))
    work.add("a", app.price.call(1)).add("b", app.price.options(delay=60).call(2))
    work.add("c", app.join.call(), after=["a", "b"])
    started = await app.tq.start(work)
    await made.advance(1)
    parent, other, child = await started.tasks()
    await app.tq.delete(parent.task_id)
    await made.advance(60)
    found = await app.tq.get(child.task_id)
    assert (found.status, found.retry_count) == (Status.FAILED, 0)
    assert found.error_message == (
        f"missing_parent: task {parent.task_id} (a), for which it waited, was deleted, and its result with it"
    )
    assert app.log[-1] == ("some", [Status.CANCELLED, 200, Status.FAILED])
    results = await app.tq.queue.groups.outcomes_for(found)
    assert [(each.task_id, each.name, each.error) for each in results] == [
        (parent.task_id, "a", f"task {parent.task_id} was deleted, and its result with it"),
        (other.task_id, "b", None),
    ]


async def test_a_purge_counts_what_it_deletes(kit: tuple[App, Kit]) -> None:
    app, made = kit
    await app.tq.group([group([app.price.call(1)]), app.price.options(delay=60).call(2)])
    await app.price.push(3)
    await made.advance(1)
    counts = {"status": "completed", "type": "price"}
    assert (await app.tq.count(**counts), await app.tq.purge(**counts, dry_run=True)) == (2, 1)  # type: ignore[arg-type]
    assert await app.tq.purge() == 1
    await made.advance(59.5)
    assert (await app.tq.purge(older_than=1, dry_run=True), await app.tq.purge(dry_run=True)) == (0, 2)
    assert (await app.tq.purge(older_than=1), await app.tq.purge()) == (0, 2)
    with pytest.raises(ValidationError, match="only ended tasks are purged"):
        await app.tq.purge(status="running", dry_run=True)
    app.broken.add(5)
    await app.tq.group([group([app.price.call(5)]), app.price.call(4)])
    await made.drain()
    for status, count in (("completed", 0), ("failed", 1), (["completed", "failed"], 2)):
        assert await app.tq.purge(status=status, dry_run=True) == count  # type: ignore[arg-type]
    assert (await app.tq.purge(status="completed"), await app.tq.purge()) == (0, 2)


async def test_children_that_are_put_back_first_wait_for_their_parent(
    kit: tuple[App, Kit], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, made = kit
    app.broken.add(1)
    work = Workflow("w", then=app.report.call()).add("p", app.price.call(1))
    for n in range(5):
        work.add(f"c{n}", app.add.call(n), after="p")
    started = await app.tq.start(work)
    await made.drain()
    app.broken.clear()
    monkeypatch.setattr(bulk, "RETRY_CHUNK", 2)
    update = app.tq.queue.backend.update

    async def slow(changes: Sequence[Change]) -> list[bool]:
        held = await update(changes)
        if changes and changes[0].before.final:
            await made.advance(1)  # what may run runs before more is put back
        return held

    monkeypatch.setattr(app.tq.queue.backend, "update", slow)
    assert await app.tq.retry_many(status=["failed", "cancelled"]) == 6
    await made.drain()
    assert await started.results(within(60)) == [Total(100), *(Total(100 + n) for n in range(5))]
    assert app.log[-1] == ("report", [100, *(100 + n for n in range(5))])


async def test_one_child_that_is_put_back_waits_for_its_parent(kit: tuple[App, Kit]) -> None:
    app, made = kit
    app.broken.add(1)
    started = await app.tq.start(chain(app.price.call(1), app.add.call(5)))
    await made.drain()
    parent, child = await started.tasks()
    await app.tq.retry(child.task_id)
    await made.advance(60)
    assert await child.status() == "pending"
    app.broken.clear()
    await app.tq.retry(parent.task_id)
    assert await started.result(within(60)) == [Total(100), Total(105)]


async def test_a_group_whose_inner_groups_are_put_back_calls_back_once(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    app.broken.update((1, 2, 3))
    inner = [group([app.price.call(n)]) for n in (1, 2, 3)]
    handle = await app.tq.group(inner, then=app.report.call("all"), on_failure=app.report.call("some"))
    with pytest.raises(TaskFailed):
        await handle.result(within(60))
    await kit[1].drain()
    app.broken.clear()
    app.log.clear()
    backend = app.tq.queue.backend
    update = backend.update

    async def slow(changes: Sequence[Change]) -> list[bool]:
        held = await update(changes)
        if changes and changes[0].before.final:
            await kit[1].advance(1)  # what is put back runs before more is
        return held

    backend.update = slow  # type: ignore[method-assign]
    assert await handle.retry_failed() == 3
    await kit[1].drain()
    assert [each for each in app.log if isinstance(each, tuple)] == [("all", [[100], [200], [300]])]


async def test_members_that_a_member_adds_are_added_once(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    handle = await app.tq.group([app.spread.call(2)], then=app.report.call())
    await kit[1].advance(10)
    assert await handle.results(within(60)) == [None, Total(0), Total(100)]
    assert [entry for entry in app.log if entry in (0, 2)].count(2) == 1
    with pytest.raises(TaskConflict, match="has ended"):
        await app.tq.queue.groups.add(handle.group_id, [], "x")


async def test_a_cancelled_group_calls_nothing_back(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    calls = [app.price.options(delay=60).call(n) for n in range(3)]
    handle = await app.tq.group([group(calls), calls[0]], then=app.report.call(), on_failure=app.report.call())
    with pytest.raises(ResultTimeout, match="2 of 2 members go on after 0 s"):
        await handle.result(timeout=0)
    assert await handle.cancel()
    assert (await handle.progress()).status is Status.CANCELLED
    assert not await handle.cancel()
    await kit[1].advance(120)
    assert app.log == []


async def test_what_runs_hands_no_slot_to_a_member_of_a_cancelled_group(tmp_path: Path) -> None:
    tq, ran = TaskQ("sqlite:///never-opened.db"), list[int]()

    @tq.task(limit=Limit(1))
    async def work(n: int) -> None:
        ran.append(n)
        await made.clock.sleep(60)

    async with virtual(tq, f"sqlite:///{tmp_path}/groups.db") as made:
        handle = await tq.group([group([work.call(1), work.call(2)]), work.call(3)])
        await made.advance(1)
        assert ran == [1]
        await handle.cancel()
        await made.advance(300)
        assert ran == [1]
        assert (await handle.progress()).status is Status.CANCELLED


async def test_a_cancel_whose_caller_was_killed_is_gone_on_with(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    handle = await app.tq.group([app.price.options(delay=7200).call(1)])
    assert await app.tq.queue.backend.groups.request_cancel(handle.group_id)
    await app.tq.queue.reaper.reap()
    assert (await handle.progress()).status is Status.CANCELLED


async def test_an_id_of_its_own_is_pushed_once(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    first = await app.tq.group([app.price.call(1)], group_id="mine")
    again = await app.tq.group([app.price.call(1), app.price.call(2)], group_id="mine")
    assert (first.created, again.created, await again.result(within(60))) == (True, False, [Total(100)])


async def test_what_cannot_be_pushed_is_refused_before_anything_is_written(kit: tuple[App, Kit]) -> None:
    app, _ = kit
    call, refused = app.price.call(1), pytest.raises(ValidationError)
    cycle = Workflow().add("a", call, after="c").add("b", call, after="a").add("c", call, after="b").add("d", call)
    with pytest.raises(ValidationError, match="these wait for each other: a → b → c → a"):
        await app.tq.start(cycle)
    with pytest.raises(ValidationError, match="'a' waits for 'x', which is no name"):
        await app.tq.start(Workflow().add("a", call, after=["x"]))
    with pytest.raises(ValidationError, match="'a' is there twice"):
        Workflow().add("a", call).add("a", call)
    wrong_rules: list[Any] = ["ignore", 3, {"a": "run"}]
    for rule in wrong_rules:
        with pytest.raises(ValidationError, match=r"on_failure: .* is unknown; use cancel, fail, run"):
            Workflow().add("a", call, on_failure=rule)
        with pytest.raises(ValidationError, match=r"after: 'b': .* is unknown; use cancel, fail, run"):
            Workflow().add("a", call, after={"b": rule})
    with pytest.raises(ValidationError, match="'g' is a group without members, which cannot wait"):
        await app.tq.start(Workflow().add("g", group([]), after="a").add("a", call))
    with pytest.raises(ValidationError, match="unique_key: a task of a group"):
        await app.tq.group([app.price.options(unique_key="k").call(1)])
    with pytest.raises(ValidationError, match=r"after: 'b' waits for 'aple', which .*; did you mean 'apple'"):
        await app.tq.start(Workflow().add("apple", call).add("b", call, after="aple"))
    itself = Workflow("w")
    itself.add("inner", group([itself]))
    tq: Any = app.tq
    any_call: Any = call
    any_names: Any = 5
    wrong: list[tuple[Callable[[], Awaitable[object]], str]] = [
        (lambda: tq.start(itself), "add: workflow 'w' cannot be a member of itself"),
        (lambda: tq.start(Workflow().add("a", call, after=any_names)), r"after: names of tasks .* \(got int\)"),
        (lambda: tq.start(Workflow().add("a", call, after=[any_call])), r"after: names of tasks .* \(got TaskCall\)"),
        (lambda: tq.group([1]), r"group: a call is needed, f.call\(…\) or tq.call\(type, params\) \(got int\)"),
        (lambda: tq.group(call), r"group: a list of calls is needed \(got TaskCall\)"),
        (lambda: tq.start(chain(*[[any_call]])), r"chain: a call is needed, .* \(got list\)"),  # type: ignore[arg-type]
        (lambda: tq.start(Workflow().add("a", tq.push)), "add: a call is needed"),
        (lambda: tq.push(Workflow()), r"\(got Workflow\); .* tq.start pushes workflows"),
        (lambda: tq.push(call), r"\(got TaskCall\); f.push\(…\) and tq.push_many push calls"),
        (lambda: tq.group([call], budget={"tokens": -1}), "budget: tokens: a number from 0"),
        (lambda: tq.groups(status="done"), "'done' is unknown; use running, completed, failed, cancelled$"),
    ]
    for push, text in wrong:
        with pytest.raises(ValidationError, match=text):
            await push()
    with pytest.raises(ValidationError, match=r"start: a Workflow.* \(got list\); for a list"):
        await app.tq.start([call])  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="group: a list of calls is needed"):
        await app.tq.group(Workflow().add("a", call))  # type: ignore[arg-type]
    with refused:
        await app.tq.start(Workflow().add("a", call).add("b", call, after={"a": "never"}))
    assert (await app.tq.stats()).counts["pending"] == 0
    assert await app.tq.groups() == []


async def test_inline_runs_a_workflow_within_its_push() -> None:
    app = App()
    async with inline(app.tq):
        handle = await app.tq.start(chain(app.price.call(1), app.add.call(5), then=app.report.call()))
        assert await handle.results(timeout=0) == [Total(100), Total(105)]
        assert app.log == [1, ("report", [100, 105])]


async def test_calls_by_name_for_handlers_of_other_processes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/named.db"
    here, there = TaskQ(url), TaskQ(url)
    here.elsewhere("price", "report")

    @there.task
    async def price(n: int) -> int:
        return n * 100

    @there.task
    async def report(parent: list[Parent[int]] = injected(), extra: int = 0) -> int:
        return sum(each.result for each in parent) + extra

    @here.task
    async def known(n: int) -> int:
        return n

    orders = Workflow("orders")
    for n in (1, 2):
        orders.add(f"price {n}", here.call("price", {"n": n}, priority=-1))
    orders.add("report", here.call("report", {"extra": 7}), after=["price 1", "price 2"])
    async with here, there.running():
        started = await here.start(orders)
        assert await started.result(timeout=within(5)) == [100, 200, 307]
        assert (await (await started.task("price 1")).task()).priority == -1
        (handle,) = await here.push_many([here.call("price", {"n": 3})])
        assert await handle.result(timeout=within(5)) == 300
        with pytest.raises(UnknownHandler, match="'prize'; did you mean 'price'"):
            await here.group([here.call("prize")])
    with pytest.raises(ValidationError, match=r"known\(\) has no parameter 'm'"):
        here.call("known", {"m": 1})

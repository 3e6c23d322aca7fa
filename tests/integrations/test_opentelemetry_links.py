"""Spans of groups and steps: links to the runs before a task, and to the run that has done a replayed step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

import aiotaskq.sync
from aiotaskq import TaskQ, Workflow, current_task, group, sleep_for, step
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.integrations import opentelemetry
from aiotaskq.integrations.opentelemetry import Tracing
from tests.support.machine import within
from tests.support.traces import Traces, ids, linked, trace_of


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.mark.parametrize("relation", ["child", "link"])
async def test_tasks_that_wait_for_others_link_to_up_to_so_many(
    relation: str, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opentelemetry, "MOST_LINKS", 3)
    tq = TaskQ("memory://")
    Tracing(tq, traces.provider, relation=relation)

    @tq.task
    async def first(number: int) -> None: ...

    @tq.task
    async def second() -> None: ...

    @tq.task
    async def third() -> None: ...

    flow = Workflow().add("a", first.call(0)).add("b", group([first.call(1)])).add("c", second.call(), after=("a", "b"))
    async with tq.running():
        await (await tq.start(flow)).result(within(20))
        push, runs = traces.one("push many"), traces.named("run first")
        assert linked(traces.one("run second")) == ids([push, *runs])
        assert (trace_of(traces.one("run second")) == trace_of(push)) is (relation == "child")
        flow = Workflow().add("c", third.call(), after=("a", "b"))
        for name in ("a", "b"):
            flow.add(name, group([first.call(number) for number in range(5)]))
        await (await tq.start(flow)).result(within(20))
    last = linked(traces.one("run third"))
    assert len(last) == 1 + 3 and len(last & ids(traces.named("run first"))) == 3


async def test_a_store_that_is_away_costs_links_and_no_run(traces: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    tq = TaskQ("memory://")
    Tracing(tq, traces.provider)

    @tq.task
    async def member() -> None: ...

    @tq.task
    async def callback() -> int:
        return 7

    async def away(*_: Any) -> Any:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(tq.queue.groups, "before", away)
    async with tq.running():
        assert await (await tq.group([member.call()], then=callback.call())).result(within(20)) == 7
    assert linked(traces.one("run callback")) == ids([traces.one("push member")])


async def test_a_step_is_a_span_of_its_run_and_links_to_the_run_that_has_done_it(
    traces: Traces,
) -> None:
    clock = VirtualClock()
    tq = TaskQ("memory://", clock=clock)
    Tracing(tq, traces.provider)

    async def charge(amount: int) -> int:
        with traces.tracer.start_as_current_span("request"):
            return amount

    async def refuse() -> None:
        raise ValueError("S3CRET")

    @tq.task(max_retries=0)
    async def order() -> int:
        paid = await step("charge", charge, 7) + await step("charge", charge, 8)
        await sleep_for("pause", minutes=2)
        await step("refuse", refuse)
        return paid

    async with tq.running():
        await order.push()
        await clock.advance(5)
        await clock.advance(130)
    first, second = traces.named("run order")
    assert first.status.status_code is StatusCode.UNSET and (first.attributes or {})["aiotaskq.suspended"] is True
    for name in ("step charge", "step charge#2"):
        done, replayed = traces.named(name)
        assert done.parent is not None and {done.parent.span_id} == ids([first]) and not done.links
        assert replayed.parent is not None and {replayed.parent.span_id} == ids([second])
        assert linked(replayed) == ids([first]) and (replayed.attributes or {})["aiotaskq.replayed"] is True
        assert dict(done.attributes or {}) == {"aiotaskq.step": name.removeprefix("step ")}
    inner = traces.named("request")
    assert len(inner) == 2 and inner[0].parent is not None
    assert {inner[0].parent.span_id} == ids(traces.named("step charge")[:1])
    refused = traces.one("step refuse")
    assert (refused.status.status_code, refused.status.description) == (StatusCode.ERROR, "ValueError")
    assert "S3CRET" not in refused.to_json() and len(traces.named("step refuse")) == 1


def test_steps_of_a_def_handler_are_spans_of_its_run_and_replays_are_bounded(
    traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opentelemetry, "MOST_REPLAYED", 2)
    tq = aiotaskq.sync.TaskQ("memory://")
    Tracing(tq, traces.provider)

    @tq.task(max_retries=1, backoff=0.001)
    def count() -> int:
        done = sum(aiotaskq.sync.step("one", int, 1) for _ in range(3))
        if current_task().task.retry_count == 0:
            raise ValueError("again")
        return done

    with tq.running():
        assert count.push().result(within(20)) == 3
    first, second = traces.named("run count")
    spans = [span for number in ("", "#2", "#3") for span in traces.named(f"step one{number}")]
    parents = [span.parent.span_id for span in spans if span.parent is not None]
    assert [parents.count(each.get_span_context().span_id) for each in (first, second)] == [3, 2]


@pytest.mark.parametrize("sampled_out", [False, True])
async def test_a_span_that_is_not_recorded_is_not_stored(tmp_path: Path, sampled_out: bool) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    # Else the global provider, which is not set: without an SDK.
    Tracing(tq, TracerProvider(ALWAYS_OFF, shutdown_on_exit=False) if sampled_out else None)

    @tq.task
    async def member() -> int:
        return await step("one", int, 1)

    @tq.task
    async def adding() -> int:
        return await current_task().add_to_group([member.call()])

    async with tq.running():
        made = await tq.group([member.call(), adding.call()], then=member.call())
        assert await made.result(within(20)) == 1
        for handle in await made.tasks():
            task = await handle.task()
            assert task.extra.keys() == ({"traceparent"} if sampled_out else set())
            assert {each.span for each in await tq.queue.step_verbs.read(task)} <= {""}

"""The spans that tasks and steps keep: a callback links to the runs before it, and a replayed step to its first run."""

from __future__ import annotations

import pytest

from aiotaskq import TaskFailed, TaskQ, current_task, injected, step
from aiotaskq.integrations.opentelemetry import Tracing
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.traces import Traces, ids, linked, trace_of


async def test_members_link_to_their_push_and_a_callback_to_its_members(store: Store) -> None:
    tq, traces = TaskQ(store.url, poll_interval=0.05), Traces()
    Tracing(tq, traces.provider)

    @tq.task(max_retries=0)
    async def member(number: int) -> int:
        if number == 2:
            raise ValueError("odd")
        if number == 1:
            await current_task().add_to_group([member.call(3)])
        return number

    @tq.task
    async def callback(results: list[int] = injected()) -> int:
        return sum(results)

    @tq.task
    async def after() -> None: ...

    async with tq.running():
        with traces.tracer.start_as_current_span("request") as request:
            made = await tq.group([member.call(0), member.call(1)], then=callback.call())
            failed = await tq.group([member.call(2)], then=callback.call(), on_failure=after.call())
        assert await made.result(within(20)) == 4
        with pytest.raises(TaskFailed):
            await failed.result(within(20))
        called = await failed.callback()
        assert called is not None
        await called.result(within(20))
    pushed, other = traces.named("push member")
    runs = traces.named("run member")
    assert len(runs) == 4 and {trace_of(span) for span in runs} == {request.get_span_context().trace_id}
    by_push = [span for span in runs if linked(span) == ids([pushed])]
    assert len(by_push) == 2
    (odd,) = (span for span in runs if linked(span) == ids([other]))
    (added,) = (span for span in runs if linked(span) <= ids(by_push))
    then, on_failure = traces.one("run callback"), traces.one("run after")
    assert linked(then) == ids([pushed, *by_push, added]) and linked(on_failure) == ids([other, odd])
    assert trace_of(then) == trace_of(on_failure) == request.get_span_context().trace_id
    assert then.parent is not None and {then.parent.span_id} == ids([pushed])


async def test_a_replayed_step_links_to_the_run_that_has_done_it(store: Store) -> None:
    tq, traces = TaskQ(store.url, poll_interval=0.05), Traces()
    Tracing(tq, traces.provider)

    @tq.task(max_retries=2, backoff=0.001)
    async def order() -> int:
        paid = await step("charge", int, 7)
        if current_task().task.retry_count == 0:
            raise ValueError("again")
        packed = await step("pack", int, 1)
        if current_task().task.retry_count == 1:
            raise ValueError("again")
        return paid + packed

    async with tq.running():
        assert await (await order.push()).result(within(20)) == 8
    first, second, third = traces.named("run order")
    done, again, once_more = traces.named("step charge")
    assert not done.links and linked(again) == linked(once_more) == ids([first])
    parents = [span.parent.span_id for span in (done, again, once_more) if span.parent is not None]
    assert [{parent} for parent in parents] == [ids([run]) for run in (first, second, third)]
    assert linked(traces.named("step pack")[1]) == ids([second])

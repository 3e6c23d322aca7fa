"""Traces: the context passes from the push to the run through the store; spans have a status, and hold no secrets."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from aiotaskq import Status, TaskFailed, TaskQ, current_task
from aiotaskq.core.task import new_task
from aiotaskq.errors import ValidationError
from aiotaskq.integrations.opentelemetry import Tracing
from aiotaskq.types import Task
from tests.support.machine import within
from tests.support.traces import Traces, trace_of

TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-9a-f]")


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/x.db"


async def ended(handle: Any) -> Task:
    return await handle._queue.wait_for_end(handle.task_id, within(20))  # type: ignore[no-any-return]


async def test_a_run_continues_the_trace_of_its_push_in_every_retry_and_thread(url: str, traces: Traces) -> None:
    tq = TaskQ(url, poll_interval=0.05)
    Tracing(tq, traces.provider)
    inside: list[int] = []

    @tq.task(max_retries=1, backoff=0.001, queue="mail")
    async def fetch(n: int) -> None:
        inside.append(get_current_span().get_span_context().span_id)
        if current_task().task.retry_count == 0:
            raise ConnectionError("S3CRET")

    @tq.task
    def blocking() -> str:
        with traces.tracer.start_as_current_span("in the thread"):
            return threading.current_thread().name

    async with tq.running():
        with traces.tracer.start_as_current_span("request") as request:
            first, second = await fetch.push(n=7), await blocking.push()
        assert first.created and second.created
        task = await ended(first)
        assert (await second.result(within(20))).startswith("aiotaskq-handler")
    assert task.status is Status.COMPLETED and TRACEPARENT.fullmatch(task.extra["traceparent"])

    push = traces.one("push fetch")
    failed, again = traces.named("run fetch")
    assert push.kind is SpanKind.PRODUCER and failed.kind is again.kind is SpanKind.CONSUMER
    assert trace_of(push) == trace_of(failed) == trace_of(again) == request.get_span_context().trace_id
    assert push.parent is not None and push.parent.span_id == request.get_span_context().span_id
    for span in (failed, again):
        assert span.parent is not None and span.parent.span_id == push.get_span_context().span_id
        assert span.parent.is_remote
    assert inside == [failed.get_span_context().span_id, again.get_span_context().span_id]
    child, run = traces.one("in the thread"), traces.one("run blocking")
    assert child.parent is not None and child.parent.span_id == run.get_span_context().span_id

    assert dict(again.attributes or {}) == {
        "messaging.system": "aiotaskq",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": first.task_id,
        "aiotaskq.type": "fetch",
        "aiotaskq.retry_count": 1,
    }
    assert dict(push.attributes or {}) == {
        "messaging.system": "aiotaskq",
        "messaging.operation.name": "push",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "messaging.message.id": first.task_id,
    }
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "ConnectionError")
    assert again.status.status_code is StatusCode.UNSET


async def test_another_process_continues_the_trace(tmp_path: Path, traces: Traces) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    here, there = TaskQ(url), TaskQ(url, poll_interval=0.05)
    Tracing(here, traces.provider)
    Tracing(there, traces.provider)
    here.elsewhere("work")

    @there.task
    async def work() -> None: ...

    async with here, there.running():
        with traces.tracer.start_as_current_span("request"):
            await ended(await here.push("work"))
    assert trace_of(traces.one("request")) == trace_of(traces.one("push work")) == trace_of(traces.one("run work"))


async def test_scheduled_tasks_begin_their_own_trace(tmp_path: Path, traces: Traces) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    Tracing(tq, traces.provider)
    done = asyncio.Event()

    @tq.schedule(at=0)
    async def scheduled() -> None:
        done.set()

    @tq.task
    async def odd() -> None: ...

    with traces.tracer.start_as_current_span("startup"):  # what is current where workers are started is no parent
        async with tq.running():
            await asyncio.wait_for(done.wait(), within(20))
            forged = new_task("odd", now=0, extra={"traceparent": "00-nonsense", "tracestate": 5})
            await tq.queue.add([forged])
            await ended(tq.handle(forged.task_id))
    startup, run, other = traces.one("startup"), traces.one("run scheduled"), traces.one("run odd")
    assert run.parent is None and other.parent is None and len({trace_of(s) for s in (startup, run, other)}) == 3
    assert (run.attributes or {})["aiotaskq.schedule_id"]


async def test_follow_ups_belong_to_the_trace(url: str, traces: Traces) -> None:
    tq, done = TaskQ(url, poll_interval=0.05), asyncio.Event()
    Tracing(tq, traces.provider)

    @tq.task
    async def first() -> None: ...

    @tq.task
    async def second(**_: Any) -> None:
        done.set()

    async with tq.running():
        await first.options(on_success="second").push()
        await asyncio.wait_for(done.wait(), within(20))
    assert trace_of(traces.one("push first")) == trace_of(traces.one("run first")) == trace_of(traces.one("run second"))


async def test_links_instead_of_children_and_one_span_for_many(traces: Traces) -> None:
    tq = TaskQ("memory://")
    Tracing(tq, traces.provider, relation="link")

    @tq.task
    async def work(n: int) -> None: ...

    async with tq.running():
        handles = await tq.push_many([work.call(n=n) for n in range(3)])
        assert all(handle.created for handle in handles)
        for handle in handles:
            await ended(handle)
    push, runs = traces.one("push work"), traces.named("run work")
    assert (push.attributes or {})["messaging.batch.message_count"] == 3
    assert len({trace_of(span) for span in [push, *runs]}) == 4
    for span in runs:
        assert span.parent is None
        assert [link.context.span_id for link in span.links] == [push.get_span_context().span_id]
    with pytest.raises(ValidationError, match="relation: 'cousin' is not one of child, link"):
        Tracing(TaskQ("memory://"), relation="cousin")


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_timeout_is_an_error_whatever_the_handler_does(kind: str, traces: Traces) -> None:  # D14
    tq, rang = TaskQ("memory://"), threading.Event()
    tracing = Tracing(tq, traces.provider)
    tq.on("timeout", lambda _: rang.set())

    if kind == "loop":

        @tq.task(timeout=0.01, max_retries=0)
        async def slow() -> None:
            await asyncio.sleep(20)
    else:

        @tq.task(timeout=0.01, max_retries=0)
        def slow() -> None:
            rang.wait(within(20))

    async with tq.running():
        with pytest.raises(TaskFailed, match="timed out"):
            await (await slow.push()).result(within(20))
    span = traces.one("run slow")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "TimeoutError")
    assert (span.attributes or {})["error.type"] == "TimeoutError" and tracing._spans == {}


async def test_a_snooze_is_no_error_and_a_refused_push_is_one(traces: Traces) -> None:
    tq = TaskQ("memory://", maxsize=1, when_full="raise")
    tracing = Tracing(tq, traces.provider)

    @tq.task
    async def patient() -> None:
        if current_task().task.fence == 1:
            current_task().snooze(0)

    async with tq.running(concurrency=1):
        await ended(await patient.push())
        with pytest.raises(Exception, match="never fit"):
            await tq.push_many([patient.call(), patient.call()])
    first, second = traces.named("run patient")
    assert first.status.status_code is second.status.status_code is StatusCode.UNSET
    assert (first.attributes or {})["aiotaskq.snoozed"] is True
    assert traces.named("push patient")[-1].status.description == "ValidationError" and tracing._spans == {}


@pytest.mark.parametrize("asked", [False, True])
async def test_no_secret_is_in_a_span_unless_error_texts_are_asked_for(asked: bool, traces: Traces) -> None:  # J8
    tq = TaskQ("memory://")
    Tracing(tq, traces.provider, record_exceptions=asked)

    @tq.task(max_retries=0)
    async def login(token: str) -> None:
        raise PermissionError(f"refused: {token}")

    @tq.task
    async def secret(token: str) -> str:
        return token

    async with tq.running():
        for handle in (await login.push(token="S3CRET"), await secret.push(token="S3CRET")):
            await ended(handle)
    told = "".join(span.to_json() for span in traces.exporter.get_finished_spans())
    assert "PermissionError" in told and ("S3CRET" in told) is asked


async def test_names_from_outside_are_escaped(traces: Traces) -> None:  # J12
    tq = TaskQ("memory://")
    Tracing(tq, traces.provider)
    tq.elsewhere("a\u2028b\x9b31m")
    async with tq:
        await tq.push("a\u2028b\x9b31m", queue="q\u202eq")
    (span,) = traces.exporter.get_finished_spans()
    assert span.name == r"push a\u2028b\x9b31m" and (span.attributes or {})["messaging.destination.name"] == r"q\u202eq"


async def test_without_an_sdk_nothing_is_stored_and_work_goes_on() -> None:
    tq = TaskQ("memory://")
    Tracing(tq)  # the global provider, which is not set

    @tq.task
    async def work() -> int:
        return 1

    async with tq.running():
        handle = await work.push()
        assert await handle.result(within(20)) == 1
        assert (await handle.task()).extra == {}
        assert await tq.push_many([]) == []

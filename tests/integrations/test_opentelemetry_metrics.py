"""Metrics of OpenTelemetry, as an SDK in memory reads them: those of Prometheus, by the conventions of messaging."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Metric
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.schemas import Schemas
from prometheus_client import CollectorRegistry, generate_latest

import aiotaskq.sync
from aiotaskq import Limit, Retry, TaskQ, current_task, sleep_for
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from aiotaskq.integrations import prometheus
from aiotaskq.integrations.measures import BUCKETS, TABLE
from aiotaskq.integrations.opentelemetry import PUSH, SCHEMA, Metrics
from tests.support.machine import within

RUN, PUSHED, TAKEN = (
    "messaging.process.duration",
    "messaging.client.sent.messages",
    "messaging.client.consumed.messages",
)
TOOK = "messaging.client.operation.duration"


class Read:
    """A meter provider, and what its metrics are now."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def metrics(self) -> dict[str, Metric]:
        data = self._reader.get_metrics_data()
        scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics] if data else []
        assert all(scope.schema_url == SCHEMA for scope in scopes)
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def values(self, name: str, *shown: str) -> dict[tuple[Any, ...], float]:
        """The values of a metric, of a histogram the counts, by these attributes."""
        metric = self.metrics().get(name)
        points: list[Any] = [] if metric is None else list(metric.data.data_points)
        found: dict[tuple[Any, ...], float] = {}
        for point in points:
            key = tuple((point.attributes or {}).get(each) for each in shown)
            found[key] = found.get(key, 0) + (point.count if hasattr(point, "count") else point.value)
        return {key: value for key, value in found.items() if value}


async def test_tasks_are_counted_and_timed_by_the_conventions_of_messaging() -> None:
    clock, read = VirtualClock(), Read()
    tq = TaskQ("memory://", clock=clock, maxsize=9, when_full="raise")
    Metrics(tq, read.provider)

    @tq.task(queue="mail", max_retries=1, backoff=0)
    async def send() -> None:
        current_task().usage(tokens=7)
        if current_task().task.retry_count == 0:
            raise Retry(after=1)
        await clock.sleep(2)

    @tq.task(timeout=1, max_retries=0)
    async def slow() -> None:
        await asyncio.Event().wait()

    @tq.task
    async def patient() -> None:
        if current_task().task.fence == 1:
            current_task().snooze(1)
        await sleep_for("days", days=1)

    async with tq.running():
        await tq.push_many([send.call(), slow.call(), patient.call()])
        with pytest.raises(ValidationError):
            await tq.push_many([send.call() for _ in range(10)])
        await clock.advance(16)
    queue, kind, error = "messaging.destination.name", "aiotaskq.type", "error.type"
    assert read.values(PUSHED, queue, kind, error) == {
        ("mail", "send", None): 1,
        ("default", "slow", None): 1,
        ("default", "patient", None): 1,
        ("mail", "send", "ValidationError"): 10,
    }
    assert read.values(TAKEN, queue, kind) == {
        ("mail", "send"): 2,
        ("default", "slow"): 1,
        ("default", "patient"): 2,
    }
    assert read.values(RUN, kind, error) == {
        ("send", "Retry"): 1,
        ("send", None): 1,
        ("slow", "TimeoutError"): 1,
        ("patient", None): 2,  # it snoozes, and sleeps: it did not fail
    }
    assert read.values(TOOK, queue, error) == {(None, None): 1, ("mail", "ValidationError"): 1}
    assert read.values("aiotaskq.tasks.completed", kind) == {("send",): 1}
    assert read.values("aiotaskq.usage", kind, "aiotaskq.name") == {("send", "tokens"): 14}

    system, name, type = "messaging.system", "messaging.operation.name", "messaging.operation.type"
    for metric, operation in ((RUN, "run"), (TAKEN, "run"), (PUSHED, "push"), (TOOK, "push")):
        words = ("aiotaskq", operation, {"run": "process", "push": "send"}[operation])
        assert read.values(metric, system, name, type).keys() == {words}
    data = read.metrics()[RUN].data
    assert isinstance(data, Histogram) and {point.explicit_bounds for point in data.data_points} == {BUCKETS}
    taken = [point.sum for point in data.data_points if (point.attributes or {}).get("aiotaskq.type") == "send"]
    assert sorted(taken) == [0, 2]


async def test_the_store_the_worker_and_the_limits_are_gauges() -> None:
    clock, read = VirtualClock(), Read()
    tq = TaskQ("memory://", clock=clock)
    metrics = Metrics(tq, read.provider, limits=1, sample_interval=5)
    go = asyncio.Event()

    @tq.task
    async def work() -> None:
        await go.wait()

    @tq.task(limit=Limit(1, key="tenant"))
    async def limited(tenant: str) -> None: ...

    def gauge(name: str, *shown: str) -> dict[tuple[Any, ...], float]:
        return read.values(f"aiotaskq.{name}", *shown)

    async with tq, metrics.sampling():
        assert gauge("worker.slots") == {} and read.values("aiotaskq.tasks.failed") == {}
        assert [point.attributes for point in read.metrics()["aiotaskq.tasks.failed"].data.data_points] != []
        await tq.push_many([limited.call("a"), limited.call("a"), limited.call("b")])
        await clock.advance(5)
        assert gauge("limit.waiting", "aiotaskq.limit") == {("tenant:a",): 1}
        assert gauge("limit.held", "aiotaskq.limit") == {("tenant:a",): 1, ("other",): 1}
    await tq.open()
    for handle in await tq.push_many([work.call(), work.call()]):
        assert handle.created
    async with tq.running(concurrency=1):
        await clock.advance(6)
        assert gauge("worker.slots") == gauge("worker.busy_slots") == {(): 1}
        assert gauge("tasks", "messaging.destination.name", "aiotaskq.status") == {
            ("default", "pending"): 1,
            ("default", "running"): 1,
        }
        assert gauge("ready_tasks") == gauge("store.up") == {(): 1} and gauge("oldest_ready")[()] >= 5
        go.set()


async def test_a_store_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, read = VirtualClock(), Read()
    tq = TaskQ("memory://", clock=clock)
    metrics = Metrics(tq, read.provider)

    async def away() -> Any:
        raise DatabaseUnavailable("away")

    async with tq, metrics.sampling():
        await clock.advance(1)
        assert read.values("aiotaskq.store.up") == {(): 1}
        monkeypatch.setattr(tq, "stats", away)
        await clock.advance(16)
        assert read.values("aiotaskq.store.up") == {}


def test_types_and_queues_are_bounded_and_a_blocking_taskq_has_metrics() -> None:
    tq, read = aiotaskq.sync.TaskQ("memory://"), Read()
    Metrics(tq, read.provider, limit=1)
    for number in range(3):
        tq.task(name=f"odd\u2028{number}")(lambda: None)
    with tq.running():
        for number in range(3):
            tq.push(f"odd\u2028{number}").result(within(20))
    counted = read.values("aiotaskq.tasks.completed", "aiotaskq.type", "messaging.destination.name")
    assert sorted(counted.items()) == [((r"odd\u20280", "default"), 1), (("other", "other"), 2)]


def test_both_have_the_same_names() -> None:
    read, registry, tq = Read(), CollectorRegistry(), TaskQ("memory://")
    made = Metrics(tq, read.provider)
    prometheus.Metrics(tq, registry)
    with pytest.raises(ValidationError, match="there is one for"):
        Metrics(tq, read.provider)
    shown = {each.name for each in registry.collect()}
    assert shown == {f"aiotaskq_{metric.plain}" for metric in TABLE}
    assert made._instruments.keys() == {metric.name for metric in (*TABLE, PUSH)}
    assert "aiotaskq_oldest_ready_seconds" in generate_latest(registry).decode()
    conventions = {value for name, value in vars(messaging_metrics).items() if name.isupper()}
    used = {metric.convention for metric in (*TABLE, PUSH) if metric.convention}
    assert used == {RUN, PUSHED, TAKEN, TOOK} and used < conventions
    assert SCHEMA in {each.value for each in Schemas}


async def test_without_an_sdk_nothing_is_recorded_and_work_goes_on() -> None:
    tq = TaskQ("memory://")
    Metrics(tq)  # the global provider, which is not set

    @tq.task
    async def work() -> int:
        return 1

    async with tq.running():
        assert await (await work.push()).result(within(20)) == 1
        assert await tq.push_many([]) == []

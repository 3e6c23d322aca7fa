"""Tags as labels of metrics: only those that are named, and no more values than are allowed."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from aiotaskq import TaskQ
from aiotaskq.errors import ValidationError
from aiotaskq.integrations import opentelemetry, prometheus


def application() -> TaskQ:
    tq = TaskQ("memory://")

    @tq.task(name="mail", tags={"team": "a"})
    async def mail() -> None: ...

    return tq


async def run(tq: TaskQ) -> None:
    async with tq.running():
        for tenant in ("one", "two", "three", "three"):
            await (await tq.push("mail", tags={"tenant": tenant, "order": "hidden"})).result()
        await (await tq.push("mail")).result()


def completed(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    text = generate_latest(registry).decode()
    assert "hidden" not in text, "no other tag is there"
    found = re.findall(
        r'tasks_completed_total{queue="default",tag_team="(\w*)",tag_tenant="(\w*)",type="mail"} (\S+)', text
    )
    return {(team, tenant): float(count) for team, tenant, count in found}


@pytest.mark.parametrize(("limit", "third"), [(200, ("a", "three")), (3, ("other", "other"))])
async def test_prometheus(limit: int, third: tuple[str, str]) -> None:
    tq, registry = application(), CollectorRegistry()
    prometheus.Metrics(tq, registry, tags=("team", "tenant"), limit=limit)
    await run(tq)
    assert completed(registry) == {("a", ""): 1.0, ("a", "one"): 1.0, ("a", "two"): 1.0, third: 2.0}


async def test_opentelemetry() -> None:
    tq, reader = application(), InMemoryMetricReader()
    opentelemetry.Metrics(tq, MeterProvider([reader]), tags=("tenant",))
    await run(tq)
    data = reader.get_metrics_data()
    assert data is not None
    metrics = [each for scope in data.resource_metrics[0].scope_metrics for each in scope.metrics]
    (counted,) = [each for each in metrics if each.name == "aiotaskq.tasks.completed"]
    values = {each.attributes["aiotaskq.tag_tenant"]: each.value for each in counted.data.data_points}  # type: ignore[index, union-attr]
    assert values == {"": 1, "one": 1, "two": 1, "three": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": ("a b",)}, "tags: 'a b' is no name of a tag"),
        ({"tags": "tenant"}, "tags: a list of names is needed"),
        ({"tags": ("a.b", "a_b")}, "tags: some of a.b, a_b would be the same label"),
        ({"buckets": (1, 1)}, "buckets: each upper bound must be larger"),
        ({"buckets": ()}, "buckets: each upper bound must be larger"),
        ({"buckets": 5}, "buckets: a list of seconds is needed"),
        ({"buckets": ("1",)}, "buckets: seconds as int, float or timedelta"),
    ],
)
def test_wrong_tags_and_buckets_are_refused(options: dict[str, Any], message: str) -> None:
    tq = TaskQ("memory://")
    with pytest.raises(ValidationError, match=f"^{message}"):
        prometheus.Metrics(tq, CollectorRegistry(), **options)
    with pytest.raises(ValidationError, match=f"^{message}"):
        opentelemetry.Metrics(tq, MeterProvider(), **options)


def test_a_last_bucket_without_end_is_the_one_that_is_always_there() -> None:
    assert prometheus.Metrics(TaskQ("memory://"), CollectorRegistry(), buckets=(1, 2, math.inf)).buckets == (1, 2)

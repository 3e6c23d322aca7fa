"""Tags as labels of metrics: only those that are named, and no more values than are allowed."""

from __future__ import annotations

import re

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


def test_a_wrong_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="tags: 'a b' is no name of a tag"):
        prometheus.Metrics(TaskQ("memory://"), CollectorRegistry(), tags=("a b",))

"""Metrics of what tasks use up, and of budgets that are used up."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from aiotaskq import TaskQ, current_task
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.notes import NewNotes
from aiotaskq.core.usage import MAX_NAMES
from aiotaskq.integrations.prometheus import Metrics
from tests.support.waiting import eventually


async def test_what_tasks_use_up_is_counted_and_budgets_are_no_limits() -> None:
    clock, registry = VirtualClock(), CollectorRegistry()
    tq = TaskQ("memory://", clock=clock)
    metrics = Metrics(tq, registry)

    @tq.task
    async def ask(number: int) -> None:
        current_task().usage(tokens=100, cost=0.25)
        current_task().usage(**{f"name{number * 10 + each}": 1 for each in range(10)})

    def used(name: str) -> float | None:
        return registry.get_sample_value("aiotaskq_usage_total", {"type": "ask", "queue": "default", "name": name})

    async with tq, metrics.sampling():
        await tq.group([ask.call(0), ask.call(1), ask.call(2)], budget={"tokens": 250})
        async with tq.running(concurrency=1):
            await clock.advance(16)
            await eventually(lambda: used("tokens") == 300)
        await tq.group([ask.call(3), ask.call(4)], budget={"tokens": 1})
        (task,) = await tq.queue.backend.claim("w", clock.now(), 1)
        await tq.queue.backend.notes.add([NewNotes(task.task_id, task.fence, (), {"tokens": 1})])
        await clock.advance(16)
    assert used("cost") == 0.75
    text = generate_latest(registry).decode()
    assert text.count("\naiotaskq_usage_total{") == MAX_NAMES + 1
    assert used("other") == 12
    assert registry.get_sample_value("aiotaskq_paused_limits") == 0
    assert registry.get_sample_value("aiotaskq_used_up_budgets") == 1
    assert "budget:" not in text  # no ids in labels

"""What many callers do at the same time with steps and events goes to each store in few calls, as pushes do."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from aiotaskq import Status, sleep_for, wait_event
from aiotaskq.testing import virtual
from tests.support.backends import Store
from tests.support.machine import within

MANY = 60


async def test_concurrent_emits_suspends_and_reads_are_grouped(
    shared_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"history": False, "retention": None, "poll_interval": 86_400.0, "lease": 10_000.0}
    calls: Counter[str] = Counter()
    url = shared_store.url
    async with virtual(url=url, scheduler=False, concurrency=MANY, **options) as kit, asyncio.timeout(within(60)):
        store = kit.tq.queue.step_verbs.store

        def spy(verb: str) -> None:
            original = getattr(store, verb)

            async def counted(*args: Any) -> Any:
                calls[verb] += 1
                return await original(*args)

            monkeypatch.setattr(store, verb, counted)

        for verb in ("add", "emit", "get_events", "read_many", "suspend"):
            spy(verb)

        @kit.tq.task(max_retries=0)
        async def work(number: int) -> Any:
            await sleep_for("night", hours=8)
            return await wait_event(f"go:{number}")

        calls_of = [work.call(number=number) for number in range(MANY)]
        handles = await kit.tq.push_many(calls_of)
        await kit.advance(1)
        assert 1 <= calls["suspend"] <= MANY // 5, calls
        await kit.advance(hours=9)
        assert 1 <= calls["read_many"] <= MANY // 5 and 1 <= calls["get_events"] <= MANY // 5, calls
        assert calls["suspend"] <= 2 * MANY // 5, calls
        calls.clear()
        pairs = [*((number, number) for number in range(MANY)), (0, "second")]
        emitted = await asyncio.gather(*(kit.tq.emit(f"go:{number}", value) for number, value in pairs))
        assert emitted == [True] * MANY + [False]
        assert 1 <= calls["emit"] <= 3, calls
        found = await asyncio.gather(*(kit.tq.get_event(f"go:{number}") for number in range(MANY + 1)))
        assert [event and event.value for event in found] == [*range(MANY), None]
        assert calls["get_events"] <= 3, calls
        await kit.advance(1)
        assert {await handle.status() for handle in handles} == {Status.COMPLETED}
        assert [await handle.result() for handle in handles] == list(range(MANY))

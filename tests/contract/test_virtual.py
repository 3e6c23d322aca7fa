"""Virtual time on each store: it stands still during a call of the backend, so nothing is late."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Backoff, current_task
from aiotaskq.testing import START, virtual
from tests.support.backends import Store


@pytest.mark.no_cover  # many times the same lines
async def test_nothing_is_late_in_virtual_time(store: Store, tmp_path: Path) -> None:
    # Few rounds, and a due time is in none of them.
    options: dict[str, Any] = {"poll_interval": 97.0, "heartbeat": 97.0, "history": False, "retention": None}
    async with virtual(url=store.url, lease=600, **options) as kit:
        ran: list[tuple[float, int]] = []

        @kit.tq.schedule(interval=3600)
        @kit.tq.task(backoff=Backoff(base=60, factor=1, limit=60, jitter=False))
        async def hourly() -> None:
            ran.append(((kit.now - START).total_seconds(), current_task().task.retry_count))
            if len(ran) % 2:
                raise ConnectionError("not yet")

        @kit.tq.task
        async def long() -> str:
            await kit.clock.sleep(2 * 3600)  # far longer than the lease, which is renewed
            return "done"

        handle = await long.push()
        await kit.tq.values.set_public("key", "value", ttl=3600)
        await kit.advance(hours=1, seconds=-0.000001)
        assert await kit.tq.values.get_public("key") == "value"
        await kit.advance_to(START + timedelta(hours=4.5))
        await kit.drain()
        assert await kit.tq.values.get_public("key") is None
        assert await handle.result() == "done" and (await handle.task()).fence == 1
        assert ran == [(hour * 3600 + late, late // 60) for hour in range(1, 5) for late in (0, 60)]
        kit.assert_pushed(hourly, count=4)

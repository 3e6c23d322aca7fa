"""How many workers are needed: the rule, what it is computed from in a store, and what asks for it in the manual."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq import TaskQ
from aiotaskq.core.task import SECOND
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.scale import Aim, ScaleView, drain_seconds, get, wanted_workers
from aiotaskq.operations.table import Access
from tests.support.command import ROOT
from tests.support.rows import worker_info

COUNTS, TIMES = st.integers(0, 10_000), st.floats(0.001, 10_000)


@given(COUNTS, COUNTS, st.none() | TIMES, TIMES, st.integers(1, 100))
def test_the_wanted_workers_are_enough_and_not_one_more(
    ready: int, running: int, mean: float | None, within: float, slots: int
) -> None:
    wanted = wanted_workers(ready, running, mean, within, slots)
    assert (wanted == 0) == (not ready and not running)
    free = wanted * slots - running
    assert free >= 0  # nothing that runs has to stop
    if ready and mean is not None and mean <= within:
        assert ready <= math.floor(free * within / mean * (1 + 1e-9))
    assert wanted <= math.ceil((ready + running) / slots)
    assert wanted <= wanted_workers(ready + 1, running, mean, within, slots)


@given(COUNTS, COUNTS, st.none() | TIMES)
def test_the_time_that_the_slots_need_is_known_or_none(ready: int, slots: int, mean: float | None) -> None:
    found = drain_seconds(ready, slots, mean)
    assert found == (0.0 if not ready else None if not slots or mean is None else ready * mean / slots)


async def test_it_counts_what_is_ready_in_the_queue_and_works_on_it(tmp_path: Path) -> None:
    async with TaskQ(f"sqlite:///{tmp_path}/tasks.db") as tq:
        clock, registry = tq.queue.clock, tq.queue.backend.workers
        assert registry is not None

        @tq.task(queue="mail")
        async def send() -> None: ...

        async def scale(**given: Any) -> ScaleView:
            return await get(Access(tq), Aim(**given))

        assert await scale() == ScaleView(0, 0.0, 0, 0, 0, None, 0.0, 0)
        await tq.push_many([send.call() for _ in range(25)])
        await send.options(delay=60).push()
        found = await scale()
        assert (found.ready, found.workers, found.run_seconds, found.drain_seconds) == (25, 0, None, None)
        assert 0 <= found.ready_age < 60 and found.wanted_workers == 3  # of ten slots each
        assert (await scale(queue="other")).wanted_workers == 0

        lives = {"started_at": clock.now(), "seen_at": clock.now(), "lease_until": clock.now() + 3600 * SECOND}
        await registry.register(worker_info("mail-1", concurrency=4, queues=("mail",), **lives))
        await registry.register(worker_info("other-1", concurrency=40, queues=("other",), **lives))
        found = await scale(queue="mail")
        assert (found.workers, found.slots, found.wanted_workers) == (1, 4, 7)
        assert (await scale(queue="mail", slots=25)).wanted_workers == 1
        (one,) = await tq.queue.backend.claim("mail-1", clock.now(), 1)
        found = await scale(queue="mail")
        assert (found.ready, found.running, one.type) == (24, 1, "send")


async def test_the_run_times_of_the_last_hour_count(tmp_path: Path) -> None:
    async with TaskQ(f"sqlite:///{tmp_path}/tasks.db") as tq:

        @tq.task
        async def work() -> None: ...

        await tq.push_many([work.call() for _ in range(5)])
        async with tq.running(2, scheduler=False):
            for task in await tq.find():
                await tq.handle(task.task_id).result()
        found = await get(Access(tq), Aim())
        assert found.run_seconds is not None and found.run_seconds < 60
        await tq.push_many([work.call() for _ in range(50)])
        assert (await get(Access(tq), Aim())).wanted_workers == 1


@pytest.mark.parametrize("language", ["", "zh/"])
def test_the_recipes_of_the_manual_read_what_is_there(language: str, tmp_path: Path) -> None:
    text = (ROOT / "aiotaskq" / "docs" / language / "deployment.md").read_text(encoding="utf-8")
    recipe = next(each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "metrics-api" in each)
    secret, scaled = yaml.safe_load_all(recipe)
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == secret["metadata"]["name"]
    path, _, query = trigger["metadata"]["url"].partition("/scale?")
    assert path == "http://app-ops:8765"
    assert {each.partition("=")[0] for each in query.split("&")} <= set(
        OPERATIONS["scale.get"].params.__struct_fields__
    )
    assert trigger["metadata"]["valueLocation"] in ScaleView.__struct_fields__

    script = next(each for each in re.findall(r"```text\n(.*?)```", text, re.DOTALL) if "systemctl" in each)
    said = json.dumps({"wanted_workers": 3})
    for name, line in (("aiotaskq", f"echo '{said}'"), ("systemctl", f'echo "$@" >> {tmp_path}/said')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    subprocess.run(["bash", "-euc", f"PATH={tmp_path}:$PATH\n{script}"], check=True)
    actions = [each.split() for each in (tmp_path / "said").read_text().splitlines()]
    assert [action for _, action, _ in actions] == ["start"] * 3 + ["stop"] * 5

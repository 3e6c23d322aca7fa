"""The verbs on a limit that nothing has declared are refused; what code declares is known before a task has passed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Fair, Limit, Rate, TaskQ, current_task
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.runtime.limits import Limits
from tests.support.machine import within
from tests.support.waiting import eventually

Verb = Callable[[Limits, str], Awaitable[Any]]
VERBS: dict[str, Verb] = {
    "pause": lambda limits, key: limits.pause(key, 60),
    "pause_for": lambda limits, key: limits.pause_for(key, 60),
    "resume": lambda limits, key: limits.resume(key),
    "reset": lambda limits, key: limits.reset(key),
    "charge": lambda limits, key: limits.charge(key, 5),
}


def app(url: str = "memory://") -> TaskQ:
    tq = TaskQ(url)

    @tq.task(rate=Rate(10, burst=10, name="openai"), limit=Limit(3, key="tenant"))
    async def call(tenant: str) -> None: ...

    return tq


@pytest.mark.parametrize("verb", VERBS)
async def test_a_key_that_nothing_declared_is_refused_with_the_nearest_one(verb: str) -> None:
    async with app() as tq:
        with pytest.raises(NotFound, match=r"limit 'opanai': no handler declares it, .*; did you mean 'openai'\?"):
            await VERBS[verb](tq.limits, "opanai")
        with pytest.raises(NotFound, match="limit 'tenant:': no handler declares it"):
            await VERBS[verb](tq.limits, "tenant:")
        with pytest.raises(NotFound, match=r"limit 'x': no handler declares it, and no task has passed it \("):
            await VERBS[verb](tq.limits, "x")
        assert await tq.limits.list() == []


@pytest.mark.parametrize("verb", ["pause", "resume", "reset"])
async def test_what_handlers_of_this_process_declare_is_known(verb: str) -> None:
    async with app() as tq:
        for key in ("openai", "tenant:42"):
            assert (await VERBS[verb](tq.limits, key)).key == key


async def test_tokens_are_charged_before_the_first_task_has_passed() -> None:
    async with app() as tq:
        assert (await tq.limits.charge("openai", 10)).rate == 10
        await tq.push("call", {"tenant": "a"})
        state = await tq.limits.get("openai")
        assert (state.held, state.waiting, state.fixed) == (0, 1, False)


async def test_what_is_set_before_the_first_task_leaves_the_other_bounds_as_they_are_declared() -> None:
    async with app() as tq:
        state = await tq.limits.set("openai", 2)
        assert (state.cap, state.rate, state.burst) == (2, 10, 10)


async def test_a_charge_is_refused_where_there_is_no_rate() -> None:
    tq = app()

    @tq.task(fair=Fair("tenant", weight="weight", name="shares"))
    async def share(tenant: str, weight: int) -> None: ...

    async with tq:
        with pytest.raises(ValidationError, match="charge: limit tenant:42 has no rate to take tokens from; declare"):
            await tq.limits.charge("tenant:42", 5)
        await tq.push("call", {"tenant": "42"})
        with pytest.raises(ValidationError, match="charge: limit tenant:42 has no rate"):
            await tq.limits.charge("tenant:42", 5)
        with pytest.raises(ValidationError, match="charge: limit shares:42 has no rate"):
            await tq.limits.charge("shares:42", 5)
        await tq.limits.set("openai", rate=None)
        with pytest.raises(ValidationError, match="charge: limit openai has no rate"):
            await tq.limits.charge("openai", 5)


async def test_what_a_worker_declares_is_known_to_other_processes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    async with TaskQ(url) as operator, app(url).running(scheduler=False):
        for key in ("openai", "tenant:42"):
            assert (await operator.limits.pause(key, 1)).key == key
        with pytest.raises(NotFound, match=r"did you mean 'openai'\?"):
            await operator.limits.pause("opanai", 1)
        with pytest.raises(ValidationError, match="charge: limit openai has no rate"):
            await operator.limits.charge("openai", 1)  # nothing has been pushed: its rate is known there alone


async def test_a_handler_that_closes_an_unknown_limit_fails_with_the_reason() -> None:
    tq = TaskQ("memory://")

    @tq.task(limit=Limit(1, name="openai"), max_retries=0)
    async def call() -> None:
        await current_task().pause_limit("opanai", 60)

    async with tq.running():
        handle = await call.push()
        with pytest.raises(Exception, match=r"limit 'opanai': no handler declares it"):
            await handle.result(within(30))


async def test_a_worker_with_new_code_takes_its_limits_to_the_backlog(tmp_path: Path) -> None:
    url, started, go = f"sqlite:///{tmp_path}/x.db", list[str](), asyncio.Event()

    def version(cap: int) -> TaskQ:
        tq = TaskQ(url, poll_interval=3600)

        @tq.task(limit=Limit(cap, name="all"))
        async def work() -> None:
            started.append("")
            await go.wait()

        return tq

    async with version(1) as before:
        await before.push_many([("work", {})] * 5)
    async with version(3).running(scheduler=False) as tq:
        await eventually(lambda: len(started) == 3)
        assert (await tq.limits.get("all")).waiting == 2
        go.set()
        await eventually(lambda: len(started) == 5)

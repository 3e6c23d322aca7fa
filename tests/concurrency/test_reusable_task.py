"""ReusableTask: whatever a coroutine may leave behind in its asyncio task is noticed, and nothing else is."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiotaskq.concurrency.reusable_task import ReusableTask
from tests.support.machine import within

Foreign = Callable[[], Awaitable[Any]]

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
kept: list[Any] = []
by_task: weakref.WeakKeyDictionary[asyncio.Task[Any], str] = weakref.WeakKeyDictionary()


@pytest.fixture(autouse=True)
def nothing_kept() -> Any:
    yield
    kept.clear()


def here() -> asyncio.Task[Any]:
    found = asyncio.current_task()
    assert found is not None
    return found


async def answers(*coroutines: Foreign, first: Foreign | None = None) -> list[bool]:
    """What ``is_as_marked`` says after each of these coroutines, in one task."""
    found: list[bool] = []

    async def run() -> None:
        if first is not None:
            await first()
        task = here()
        assert isinstance(task, ReusableTask)
        task.mark()
        for coroutine in coroutines:
            await coroutine()
            found.append(task.is_as_marked())

    task = ReusableTask(run(), loop=asyncio.get_running_loop(), context=contextvars.copy_context())
    while not task.done():  # not awaited: that would add a callback, which is seen, too
        await asyncio.sleep(0)
    assert task.cancelled() or task.exception() is None
    return found


# ---- what leaves nothing behind -----------------------------------------------------------------------------------


async def returns() -> None: ...


async def sleeps() -> None:
    await asyncio.sleep(0.001)


async def yields() -> None:
    await asyncio.sleep(0)


async def waits_for_a_task() -> None:
    await asyncio.create_task(yields())


async def has_a_timeout() -> None:
    async with asyncio.timeout(within(10)):
        await asyncio.sleep(0)


async def sets_and_resets() -> None:
    token = tenant.set("x")
    await asyncio.sleep(0)
    tenant.reset(token)


async def looks() -> None:
    assert here().get_name() and here() in asyncio.all_tasks()


CLEAN: list[Foreign] = [returns, sleeps, yields, waits_for_a_task, has_a_timeout, sets_and_resets, looks]


@pytest.mark.parametrize("first", [None, *CLEAN])
async def test_a_coroutine_that_leaves_nothing(first: Foreign | None) -> None:
    assert await answers(*CLEAN, *CLEAN, first=first) == [True] * 2 * len(CLEAN)


# ---- what leaves something ----------------------------------------------------------------------------------------


async def is_cancelled_later() -> None:
    kept.append(asyncio.get_running_loop().call_later(1_000, here().cancel))


async def is_kept() -> None:
    kept.append(here())


async def is_kept_weakly() -> None:
    kept.append(weakref.ref(here()))


async def keys_data() -> None:
    by_task[here()] = "data"


async def is_kept_by_another() -> None:
    task = here()

    async def other() -> None:
        await asyncio.sleep(1_000)
        task.cancel()

    kept.append(asyncio.ensure_future(other()))


async def leaves_a_timeout() -> None:
    kept.append(asyncio.timeout(within(1_000)))
    await kept[-1].__aenter__()


async def cancels_and_takes_it_back() -> None:
    here().cancel()
    here().uncancel()


async def swallows_a_cancel() -> None:
    here().cancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        here().uncancel()


async def wants_to_know_the_end() -> None:
    here().add_done_callback(print)


async def names_it() -> None:
    here().set_name("mine")


async def sets_an_attribute() -> None:
    here().mine = 1  # type: ignore[attr-defined]


async def takes_the_coroutine() -> None:
    here().get_coro()


async def sets_a_variable() -> None:
    tenant.set("x")


DIRTY: list[Foreign] = [
    *(is_cancelled_later, is_kept, is_kept_weakly, keys_data, is_kept_by_another, leaves_a_timeout),
    *(wants_to_know_the_end, names_it, sets_an_attribute, takes_the_coroutine, sets_a_variable, swallows_a_cancel),
]


@pytest.mark.parametrize("before", [returns, sleeps, yields, waits_for_a_task])
@pytest.mark.parametrize("dirty", DIRTY)
async def test_a_coroutine_that_leaves_something(dirty: Foreign, before: Foreign) -> None:
    async def then() -> None:
        await dirty()
        await before()  # the task may be woken in another way than in its first step

    assert await answers(before, then, returns) == [True, False, False]
    for each in kept:
        if isinstance(each, asyncio.Future | asyncio.TimerHandle):
            each.cancel()


async def test_a_cancel_that_was_taken_back() -> None:
    # Before Python 3.13, the next await raises all the same.
    assert await answers(cancels_and_takes_it_back) == [False]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.Task.get_context came with Python 3.12")
async def test_a_coroutine_that_takes_the_context() -> None:
    async def takes_the_context() -> None:
        here().get_context()  # type: ignore[attr-defined,unused-ignore]

    assert await answers(takes_the_context) == [False]


async def test_a_variable_that_has_another_object_which_is_equal() -> None:
    variable: contextvars.ContextVar[list[int]] = contextvars.ContextVar("list")
    variable.set([])

    async def sets_an_equal_one() -> None:
        variable.set([])

    async def changes_nothing() -> None:
        variable.set(variable.get())

    assert await answers(changes_nothing, sets_an_equal_one) == [True, False]


async def test_what_a_variable_holds_is_not_compared() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = object.__hash__

    variable: contextvars.ContextVar[Odd] = contextvars.ContextVar("odd")
    variable.set(Odd())

    async def sets() -> None:
        variable.set(Odd())

    assert await answers(returns, sets) == [True, False]

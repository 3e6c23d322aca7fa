"""The background loop: calls from threads, errors, and refused calls from event loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import warnings
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from aiotaskq.concurrency.loop_thread import LoopThread
from aiotaskq.errors import WrongLoop
from tests.concurrency.loops import forever, value
from tests.support.machine import watchdog
from tests.support.threads import in_thread

# ---- calls ----------------------------------------------------------------------------------------------------------


def test_run_returns_the_value_from_one_background_daemon_thread(lt: LoopThread) -> None:
    async def where() -> threading.Thread:
        return threading.current_thread()

    threads = {lt.run(where) for _ in range(3)}
    assert [(t.name, t.daemon) for t in threads] == [("test-loop", True)]


def test_nothing_starts_before_the_first_call() -> None:
    before = threading.active_count()
    assert LoopThread().close() is True
    assert threading.active_count() == before


def test_many_threads_start_one_loop(lt: LoopThread) -> None:
    barrier = threading.Barrier(32)

    async def loop_id() -> int:
        return id(asyncio.get_running_loop())

    def call() -> int:
        barrier.wait(watchdog())
        return lt.run(loop_id)

    futures = [in_thread(call) for _ in range(32)]
    assert len({future.result(watchdog()) for future in futures}) == 1


def test_errors_reach_the_caller_as_they_are(lt: LoopThread) -> None:
    async def fail() -> None:
        raise TimeoutError("the coroutine's own")

    with pytest.raises(TimeoutError, match="the coroutine's own"):
        lt.run(fail)

    def no_coroutine() -> Coroutine[Any, Any, None]:
        raise LookupError("before there was a coroutine")

    with pytest.raises(LookupError, match="before there was"):
        lt.run(no_coroutine)


def test_a_failed_call_leaves_no_garbage_for_the_collector(lt: LoopThread) -> None:
    class Payload:
        pass

    seen: list[weakref.ref[Payload]] = []

    async def fail() -> None:
        payload = Payload()
        seen.append(weakref.ref(payload))
        raise ValueError

    gc.disable()
    try:
        with pytest.raises(ValueError) as caught:
            lt.run(fail)
        del caught
        lt.run(value)  # the loop lets go of the finished task only in its next round
        assert seen[0]() is None
    finally:
        gc.enable()


def test_a_coroutine_that_cancels_itself_is_not_a_hang(lt: LoopThread) -> None:
    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(concurrent.futures.CancelledError):
        lt.run(cancels_itself)
    assert concurrent.futures.wait([lt.submit(cancels_itself)], watchdog()).not_done == set()


def test_call_soon_runs_on_the_loop(lt: LoopThread) -> None:
    got: concurrent.futures.Future[str] = concurrent.futures.Future()
    lt.call_soon(lambda word: got.set_result(word + threading.current_thread().name), "on ")
    assert got.result(watchdog()) == "on test-loop"


def test_submit_is_allowed_from_a_loop(lt: LoopThread) -> None:
    async def main() -> int:
        return await asyncio.wrap_future(lt.submit(value))

    assert asyncio.run(main()) == 42


def test_cancelling_a_submitted_future_cancels_the_coroutine(lt: LoopThread) -> None:  # E11
    ended = threading.Event()
    started = threading.Event()

    async def work() -> None:
        try:
            await forever(started)
        finally:
            ended.set()

    future = lt.submit(work)
    assert started.wait(watchdog())
    assert in_thread(future.cancel).result(watchdog())
    assert ended.wait(watchdog())
    assert concurrent.futures.wait([future], watchdog()).done == {future}


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_call_from_the_loop_itself_is_refused_and_names_the_twin(lt: LoopThread) -> None:  # E8
    async def handler() -> int:
        return lt.run(value, twin="aiotaskq.push_task")

    with pytest.raises(WrongLoop, match=r"call 'await aiotaskq\.push_task\(\.\.\.\)' instead"):
        lt.run(handler)
    assert lt.run(value) == 42


def test_a_call_from_a_notebook_cell_is_refused_helpfully_and_creates_no_coroutine(lt: LoopThread) -> None:  # E9
    async def cell() -> None:
        lt.run(value, twin="aiotaskq.get_public")

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "never awaited" would be one
        with pytest.raises(WrongLoop, match=r"await aiotaskq\.get_public\(\.\.\.\).*notebook cell"):
            asyncio.run(cell())
        gc.collect()

    async def close() -> None:
        lt.close()

    with pytest.raises(WrongLoop, match="await its asynchronous counterpart"):
        asyncio.run(close())


def test_a_notebook_cell_can_call_through_a_thread(lt: LoopThread) -> None:  # E9
    async def cell() -> int:
        return await asyncio.to_thread(lt.run, value)

    assert asyncio.run(cell()) == 42

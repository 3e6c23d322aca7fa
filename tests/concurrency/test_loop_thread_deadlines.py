"""The background loop: callers that leave by a deadline or Ctrl-C; no value is lost."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import threading
import time

import pytest

from aiotaskq.concurrency.loop_thread import LoopThread
from aiotaskq.errors import CallTimeout, ClosedError
from tests.concurrency.loops import Process, block, forever, stubborn, value
from tests.support.machine import watchdog, within


def test_a_deadline_cancels_the_coroutine_and_waits_for_its_end(lt: LoopThread) -> None:  # E10
    ended = threading.Event()

    async def slow() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)  # the end takes a moment too
            ended.set()

    seconds = within(0.05)  # long enough for it to start
    with pytest.raises(CallTimeout, match=f"within {re.escape(str(seconds))} s and was cancelled"):
        lt.run(slow, timeout=seconds)
    assert ended.is_set()


def test_a_deadline_keeps_the_error_that_the_cancellation_caused(lt: LoopThread) -> None:
    async def slow() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise ConnectionError("the statement was cut off") from None

    with pytest.raises(CallTimeout) as caught:
        lt.run(slow, timeout=within(0.05))
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_a_value_that_was_ready_in_spite_of_the_deadline_is_returned(lt: LoopThread) -> None:  # E10
    async def pop() -> int:
        try:
            return await forever()
        except asyncio.CancelledError:
            return 5

    assert lt.run(pop, timeout=within(0.05)) == 5


def test_every_item_popped_around_a_deadline_is_returned_or_given_back(lt: LoopThread) -> None:  # E10
    taken: list[int] = []
    returned: list[int] = []

    async def pop(item: int) -> int:
        await asyncio.sleep(0)
        taken.append(item)
        return item

    async def give_back(item: int) -> None:
        returned.append(item)

    for item in range(1000):
        try:
            returned.append(lt.run(lambda item=item: pop(item), timeout=0.0, unclaimed=give_back))  # type: ignore[misc]
        except CallTimeout:
            continue
    lt.run(value)
    assert sorted(returned) == sorted(taken)


def test_a_value_that_comes_after_the_caller_left_is_unclaimed(
    lt: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:  # E10
    monkeypatch.setattr("aiotaskq.concurrency.loop_thread.LEAVE_SECONDS", 0.02)
    started, release, given = threading.Event(), threading.Event(), threading.Event()
    values: list[int] = []

    async def give_back(item: int) -> None:
        await asyncio.sleep(0)
        values.append(item)
        given.set()

    with pytest.raises(CallTimeout):
        lt.run(lambda: stubborn(started, release), timeout=within(0.05), unclaimed=give_back)
    release.set()
    assert given.wait(watchdog())
    assert values == [7]


def test_a_blocked_loop_does_not_hold_a_caller_past_its_deadline(
    lt: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:  # E10
    monkeypatch.setattr("aiotaskq.concurrency.loop_thread.LEAVE_SECONDS", 0.02)
    release = threading.Event()
    began = threading.Event()
    lt.call_soon(block, began, release)
    assert began.wait(watchdog())
    ran: list[int] = []

    async def work() -> None:
        ran.append(1)

    with pytest.raises(CallTimeout):
        lt.run(work, timeout=within(0.05))
    release.set()
    assert lt.run(value) == 42
    assert ran == []  # its caller had timed out before its turn came


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_interrupts_promptly_and_cancels_the_coroutine() -> None:  # E9
    process = Process("""
        async def slow():
            say("started")
            try:
                await forever()
            finally:
                say("cancelled")
        try:
            lt.run(slow)
        except KeyboardInterrupt:
            say("interrupted", lt.run(value))
    """)
    process.wait_for("started")
    began = time.monotonic()
    process.popen.send_signal(signal.SIGINT)
    code, lines, err = process.end()
    assert (code, lines, err) == (0, ["cancelled", "interrupted 42"], "")
    assert time.monotonic() - began < within(1.0)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_gives_a_value_back_and_a_signal_handler_may_call() -> None:  # E10
    process = Process("""
        signal.signal(signal.SIGUSR1, lambda *_: say("handler", lt.run(value, timeout=15)))
        async def pop():
            say("started")
            try:
                await forever()
            except asyncio.CancelledError:
                return "item"
        async def give_back(item):
            say("back", item)
        try:
            lt.run(pop, unclaimed=give_back)
        except KeyboardInterrupt:
            lt.run(value)
    """)
    process.wait_for("started")
    process.popen.send_signal(signal.SIGUSR1)
    process.wait_for("handler 42")
    process.popen.send_signal(signal.SIGINT)
    assert process.end() == (0, ["back item"], "")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("kind", [TimeoutError, ConnectionError, RuntimeError, ClosedError])
def test_what_a_signal_handler_raises_while_a_call_is_sent_to_the_loop_is_not_lost(
    lt: LoopThread, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asyncio, too, catches at this place."""
    assert lt.run(value) == 42
    error, send = kind("alarm"), socket.socket.send
    alarms = [signal.SIGUSR1]

    def interrupted_send(own: socket.socket, data: bytes) -> int:
        sent = send(own, data)
        if alarms and threading.current_thread() is threading.main_thread():
            signal.raise_signal(alarms.pop())
        return sent

    def alarm(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, alarm)
    monkeypatch.setattr(socket.socket, "send", interrupted_send)
    try:
        with pytest.raises(kind) as raised:
            lt.run(forever, timeout=watchdog())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert raised.value is error and error.__context__ is None
    assert lt.run(value) == 42

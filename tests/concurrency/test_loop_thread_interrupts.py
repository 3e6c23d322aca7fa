"""The background loop: callers that leave by Ctrl-C or a signal handler; no value is lost."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time

import pytest

from aiotaskq.concurrency.loop_thread import LoopThread
from aiotaskq.errors import ClosedError
from tests.concurrency.loops import Process, forever, value
from tests.support.machine import within


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
        signal.signal(signal.SIGUSR1, lambda *_: say("handler", lt.run(value)))
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
def test_a_value_that_comes_after_the_caller_left_is_unclaimed() -> None:  # E10
    process = Process("""
        from aiotaskq.concurrency import loop_thread
        loop_thread.LEAVE_SECONDS = 0.02
        release, given = threading.Event(), threading.Event()
        async def pop():
            say("started")
            while not release.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass
            return "item"
        async def give_back(item):
            await asyncio.sleep(0)
            say("back", item)
            given.set()
        try:
            lt.run(pop, unclaimed=give_back)
        except KeyboardInterrupt:
            say("interrupted")
            release.set()
            given.wait()
    """)
    process.wait_for("started")
    process.popen.send_signal(signal.SIGINT)
    assert process.end() == (0, ["interrupted", "back item"], "")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_caller_that_leaves_before_its_turn_is_not_served() -> None:  # E10
    process = Process("""
        from aiotaskq.concurrency import loop_thread
        loop_thread.LEAVE_SECONDS = 0.02
        began, release = threading.Event(), threading.Event()
        lt.call_soon(lambda: (began.set(), release.wait()))
        began.wait()
        async def work():
            say("work")
        try:
            say("blocked")
            lt.run(work)
        except KeyboardInterrupt:
            release.set()
            say(lt.run(value))
    """)
    process.wait_for("blocked")
    process.popen.send_signal(signal.SIGINT)
    assert process.end() == (0, ["42"], "")


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
            lt.run(forever)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert raised.value is error and error.__context__ is None
    assert lt.run(value) == 42

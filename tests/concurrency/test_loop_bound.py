"""An object knows whether its event loop is the running one, gone, or of the process that forked this one."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from aiotaskq.concurrency.loop_bound import LoopBound, after_fork
from tests.support.machine import within

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
forked = 0


@after_fork
def count_forks() -> None:
    global forked
    forked += 1


def in_child(questions: list[bool]) -> None:
    """End a forked child: 0 if all that was asked is true, else the number of the first that is not."""
    os._exit(next((number for number, answer in enumerate(questions, 1) if not answer), 0))


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_binding_says_whether_the_loop_is_another_one() -> None:
    bound = LoopBound()
    assert (bound.loop, bound.here, bound.alive, bound.running, bound.inherited) == (None, False, False, False, False)

    async def bind() -> tuple[bool, bool, bool]:
        return bound.bind(), bound.bind(), bound.here

    assert asyncio.run(bind()) == (True, False, True)
    assert (bound.here, bound.alive, bound.running) == (False, False, False)  # that loop is closed
    assert asyncio.run(bind()) == (True, False, True)
    bound.release()
    assert bound.loop is None


def test_binding_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError):
        LoopBound().bind()


def test_a_loop_of_another_thread_is_alive_and_not_here() -> None:
    bound, called = LoopBound(), threading.Event()
    loop = asyncio.new_event_loop()

    async def bind() -> None:
        bound.bind()

    loop.run_until_complete(bind())
    assert (bound.here, bound.alive, bound.running) == (False, True, False)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert bound.call_soon(called.set) and called.wait(within(10))
    assert (bound.here, bound.alive, bound.running) == (False, True, True)
    bound.call_soon(loop.stop)
    thread.join()
    loop.close()
    assert not bound.alive and not bound.call_soon(called.clear)
    assert called.is_set()


@needs_fork
def test_a_forked_child_does_not_take_the_loop_of_its_parent_for_its_own() -> None:
    bound = LoopBound()
    loop = asyncio.new_event_loop()

    async def bind() -> bool:
        return bound.bind()

    assert loop.run_until_complete(bind())
    before = forked
    child = os.fork()
    if not child:
        asked = [bound.inherited, not bound.alive, not bound.running, not bound.call_soon(loop.stop)]
        asked += [forked == before + 1, loop.run_until_complete(bind()), not bound.inherited]
        in_child(asked)
    assert exit_code(child) == 0
    assert not bound.inherited and bound.alive and forked == before
    loop.close()

"""The background loop and its guards: threads, deadlines, Ctrl-C, close, crash, fork, the end of the interpreter."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.concurrency.loop_thread import LoopThread
from aiotaskq.errors import CallTimeout, ClosedError, WrongLoop
from tests.support.machine import watchdog, within
from tests.support.programs import kill_all_of, read_line

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def lt() -> Iterator[LoopThread]:
    loop_thread = LoopThread("test-loop")
    yield loop_thread
    loop_thread.close(1.0)


async def value(result: int = 42) -> int:
    return result


async def forever(started: threading.Event | None = None) -> int:
    if started is not None:
        started.set()
    await asyncio.Event().wait()
    return 0


async def stubborn(started: threading.Event, release: threading.Event) -> int:
    """Ignore every cancellation until ``release`` is set."""
    started.set()
    while not release.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue
    return 7


def block(began: threading.Event, release: threading.Event) -> None:
    began.set()
    release.wait(watchdog())


def in_thread(fn: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Run ``fn`` in a daemon thread of its own; the future holds how it ended."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def body() -> None:
        try:
            future.set_result(fn())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=body, daemon=True).start()
    return future


class Process:
    """A Python program of its own, told to us line by line: exits, forks and signals have to be real."""

    def __init__(self, code: str, before: str = "", after: str = "") -> None:
        prelude = """
            import asyncio, atexit, os, signal, sys, threading, time, types
            # The package root would import everything, SQLAlchemy too, into each of these processes.
            sys.modules["aiotaskq"] = types.ModuleType("aiotaskq")
            sys.modules["aiotaskq"].__path__ = ["aiotaskq"]
            from aiotaskq.errors import *
            from aiotaskq.concurrency.loop_thread import LoopThread
            lt = LoopThread()
            async def value(result=42): return result
            async def forever(): await asyncio.Event().wait()
            def say(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
        """
        program = "".join(map(textwrap.dedent, (before, prelude, code))) + "\n" + after
        # Forking a process with threads warns on 3.12+; that it works all the same is what is tested.
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def wait_for(self, line: str) -> None:
        got = read_line(self.popen).strip()
        assert got == line, (got, self.popen.communicate(timeout=watchdog()))

    def end(self) -> tuple[int, list[str], str]:
        """Return exit status, lines of stdout, stderr; a hang kills it and fails the test."""
        try:
            out, err = self.popen.communicate(timeout=watchdog())
        except subprocess.TimeoutExpired:
            kill_all_of(self.popen)
            pytest.fail(f"the process hangs: {self.popen.communicate()}")
        return self.popen.returncode, out.splitlines(), err


# --- calls -----------------------------------------------------------------------------------------------------------


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

    with pytest.raises(TimeoutError, match="the coroutine's own") as caught:
        lt.run(fail, timeout=watchdog())
    assert not isinstance(caught.value, CallTimeout)

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


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_call_from_the_loop_itself_is_refused_and_names_the_twin(lt: LoopThread) -> None:  # E8
    async def handler() -> int:
        return lt.run(value, twin="aiotaskq.push_task")

    with pytest.raises(WrongLoop, match=r"call 'await aiotaskq\.push_task\(\.\.\.\)' instead"):
        lt.run(handler, timeout=watchdog())
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


# --- callers who leave -----------------------------------------------------------------------------------------------


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
    assert ran == []  # nobody waited for it any more when its turn came


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


# --- close and crash -------------------------------------------------------------------------------------------------


def test_close_frees_64_callers(lt: LoopThread) -> None:  # E7
    started = [threading.Event() for _ in range(64)]
    calls = [in_thread(lambda event=event: lt.run(lambda: forever(event))) for event in started]  # type: ignore[misc]
    assert all(event.wait(watchdog()) for event in started)
    assert lt.close(within(5.0)) is True
    assert concurrent.futures.wait(calls, within(1.0)).not_done == set()
    assert {type(call.exception()) for call in calls} == {ClosedError}


def test_close_frees_callers_while_more_keep_coming(lt: LoopThread) -> None:  # E7
    stop = threading.Event()
    lt.run(value)

    def hammer() -> set[type]:
        ended: set[type] = set()
        while not stop.is_set():
            try:
                ended.add(type(lt.run(value)))
            except ClosedError as error:
                ended.add(type(error))
        return ended

    calls = [in_thread(hammer) for _ in range(16)]
    assert all(lt.close(5.0) for _ in range(20))
    stop.set()
    assert set().union(*(call.result(watchdog()) for call in calls)) <= {int, ClosedError}


def test_close_gives_up_on_what_ignores_cancellation(lt: LoopThread) -> None:  # E7
    started, release = threading.Event(), threading.Event()
    call = in_thread(lambda: lt.run(lambda: stubborn(started, release)))
    assert started.wait(watchdog())
    assert lt.close(0.15) is False
    assert isinstance(call.exception(watchdog()), ClosedError)
    assert lt.run(value) == 42  # on a new loop, whatever the old one does
    release.set()


def test_close_gives_up_on_a_blocked_loop(lt: LoopThread) -> None:  # E7
    began, release = threading.Event(), threading.Event()
    lt.call_soon(block, began, release)
    assert began.wait(watchdog())
    call = in_thread(lambda: lt.run(value))
    assert lt.close(0.05) is False
    assert isinstance(call.exception(watchdog()), ClosedError)
    release.set()


def test_close_from_several_threads_and_again(lt: LoopThread) -> None:
    lt.run(value)
    assert all(f.result(watchdog()) for f in [in_thread(lambda: lt.close(5.0)) for _ in range(8)])
    assert lt.close() is True


def test_a_call_after_close_starts_a_new_loop(lt: LoopThread) -> None:  # E13
    lt.run(value)
    generation = lt.generation
    lt.close()
    assert lt.generation == generation + 1
    assert lt.run(value) == 42
    assert lt.generation == generation + 1


def test_closers_run_last_first_between_the_calls_and_the_other_tasks(lt: LoopThread) -> None:
    order: list[str] = []
    started = threading.Event()

    async def traced(name: str) -> None:
        try:
            await forever(started)
        finally:
            order.append(name)

    async def service() -> None:
        held.append(asyncio.create_task(traced("task")))
        await asyncio.sleep(0)

    async def closer(name: str) -> None:
        order.append(name)
        if name == "broken":
            await forever()  # uses up its share of the time

    held: list[asyncio.Task[None]] = []
    lt.run(service)
    started.clear()
    lt.submit(lambda: traced("call"))
    assert started.wait(watchdog())
    lt.add_closer(lambda: closer("first"))
    lt.add_closer(lambda: closer("broken"))
    remove = lt.add_closer(lambda: closer("removed"))
    lt.add_closer(lambda: closer("last"))
    remove()
    remove()
    assert lt.close(0.3) is True
    assert order == ["call", "last", "broken", "first", "task"]


@pytest.mark.parametrize("crash", [SystemExit("the end"), KeyboardInterrupt("a stray one")], ids=["exit", "interrupt"])
def test_a_crashed_loop_is_told_once_with_its_cause_and_then_restarted(
    lt: LoopThread, crash: BaseException
) -> None:  # E13
    async def crashes() -> None:
        raise crash

    started = threading.Event()
    bystander = in_thread(lambda: lt.run(lambda: forever(started)))
    assert started.wait(watchdog())
    generation = lt.generation
    with pytest.raises(type(crash)):
        lt.run(crashes)
    error = bystander.exception(watchdog())
    assert isinstance(error, ClosedError)
    assert error.__cause__ is crash
    with pytest.raises(ClosedError, match="crashed") as caught:
        lt.run(value)
    assert caught.value.__cause__ is crash
    assert lt.run(value) == 42
    assert lt.generation == generation + 1


def test_a_loop_that_was_stopped_from_inside_counts_as_crashed(lt: LoopThread) -> None:  # E13
    async def stops() -> None:
        asyncio.get_running_loop().stop()
        await forever()

    for call in (lambda: lt.run(stops), lambda: lt.run(value)):
        with pytest.raises(ClosedError, match="stopped it"):
            call()
    assert lt.run(value) == 42


# --- fork ------------------------------------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
def test_a_forked_child_gets_a_loop_of_its_own_and_the_parent_keeps_its_own() -> None:  # E1
    process = Process("""
        import gc
        lt.submit(forever)
        before = lt.run(value, timeout=15), lt.generation
        pid = os.fork()
        if pid == 0:
            say("child", lt.generation, lt.run(value, timeout=15), lt.close())
            gc.collect()
            sys.exit(3)
        _, status = os.waitpid(pid, 0)
        say("parent", os.waitstatus_to_exitcode(status), lt.generation, lt.run(value, timeout=15))
    """)
    assert process.end() == (0, ["child 1 42 True", "parent 3 0 42"], "")


@needs_fork
def test_200_forks_beside_a_calling_thread_never_stall() -> None:  # E4
    process = Process("""
        stop = threading.Event()
        def hammer():
            while not stop.is_set():
                lt.run(value)
        thread = threading.Thread(target=hammer)
        thread.start()
        bad = 0
        for i in range(200):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if lt.run(value, timeout=15) == 42 else 1)
            bad += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
        stop.set()
        thread.join()
        say(bad)
    """)
    assert process.end() == (0, ["0"], "")


# --- the end of the interpreter --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "status", "stderr"),
    [
        ("pass", 0, ""),
        ("sys.exit(4)", 4, ""),
        ("raise LookupError('mine')", 1, "LookupError: mine"),
        ("say('wait')\nlt.run(forever)", -signal.SIGINT, "KeyboardInterrupt"),
    ],
    ids=["return", "exit", "error", "ctrl-c"],
)
def test_a_script_that_never_closes_ends_cleanly(ending: str, status: int, stderr: str) -> None:  # E5
    process = Process(
        """
        async def flush():
            say("flushed")
        lt.add_closer(flush)
        lt.submit(forever)
        lt.run(value)
    """,
        after=ending,
    )
    if status == -signal.SIGINT:
        process.wait_for("wait")
        process.popen.send_signal(signal.SIGINT)
    began = time.monotonic()
    code, lines, err = process.end()
    assert (code, lines) == (status, ["flushed"])
    assert err.strip().splitlines()[-1:] == ([stderr] if stderr else [])
    assert "Task was destroyed" not in err
    assert time.monotonic() - began < within(2.0)


def test_the_exit_waits_neither_for_stubborn_tasks_nor_for_a_blocked_loop() -> None:  # E5
    stubborn, blocked = (
        Process("""
            async def stubborn():
                say("started")
                while True:
                    try:
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        pass
            lt.submit(stubborn)
            lt.run(value)
        """),
        Process("""
            lt.call_soon(lambda: (say("started"), time.sleep(60)))
            LoopThread("another").run(value)
        """),
    )
    for process in (stubborn, blocked):
        process.wait_for("started")
    began = time.monotonic()
    assert [process.end() for process in (stubborn, blocked)] == [(0, [], ""), (0, [], "")]
    assert time.monotonic() - began < within(2.5)  # 1.5 s, and two interpreters ending


def test_calls_while_the_interpreter_ends_raise_closed_error() -> None:  # E6
    process = Process(
        """
        async def in_executor():
            return await asyncio.to_thread(int, "42")
        def caller(fn):
            while True:
                try:
                    outcomes.add(repr(lt.run(fn)))
                except ClosedError:
                    outcomes.add("ClosedError")
                except BaseException as error:
                    outcomes.add(repr(error))
        def late():
            try:
                lt.run(in_executor)
            except ClosedError:
                say("executor ClosedError")
            say("late", lt.run(value))
        first = threading.Event()
        async def waiting():
            first.set()
            await forever()
        # Functions registered after the import run before the loop is closed, those from before it after.
        atexit.register(late)
        for fn in (value, in_executor, waiting) * 4:
            threading.Thread(target=caller, args=(fn,), daemon=True).start()
        first.wait()
    """,
        before="""
        import atexit
        outcomes = set()
        atexit.register(lambda: say(*sorted(outcomes)))
    """,
    )
    code, lines, err = process.end()
    assert (code, err) == (0, "")
    assert lines[0] in ("executor ClosedError", "late 42")
    assert lines[-1] == "42 ClosedError"


def test_a_daemon_thread_that_waits_at_exit_ends_silently_and_one_that_calls_in_the_teardown_is_told() -> (
    None
):  # E5, E6
    waiting = Process("""
        started = threading.Event()
        async def pop():
            started.set()
            await forever()
        threading.Thread(target=lt.run, args=(pop,), daemon=True).start()
        started.wait()
    """)
    teardown = Process("""
        class Late:
            def __del__(self):
                try:
                    lt.run(value)
                except ClosedError:
                    say("ClosedError")
        _late = Late()  # names with an underscore are the first that the teardown takes
        lt.run(value)
    """)
    assert waiting.end() == (0, [], "")
    assert teardown.end() == (0, ["ClosedError"], "")


def test_a_first_call_at_exit_does_not_hang() -> None:  # E6
    process = Process("""
        def first():
            try:
                say(lt.run(value, timeout=15))
            except ClosedError:
                say("ClosedError")
        atexit.register(first)
    """)
    assert process.end() == (0, ["42"], "")


def test_non_daemon_threads_go_on_calling_after_main_has_ended() -> None:
    process = Process("""
        main = threading.main_thread()
        def work():
            main.join()
            say(lt.run(value, timeout=15), LoopThread().run(value, timeout=15))
        threading.Thread(target=work).start()
    """)
    assert process.end() == (0, ["42 42"], "")

"""The background loop: close, crash, fork, and the end of the interpreter."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
import time

import pytest

from aiotaskq.concurrency.loop_thread import LoopThread
from aiotaskq.errors import ClosedError
from tests.concurrency.loops import Process, block, forever, stubborn, value
from tests.support.machine import watchdog, within
from tests.support.threads import in_thread

# ---- close and crash ------------------------------------------------------------------------------------------------


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


# ---- fork -----------------------------------------------------------------------------------------------------------


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
def test_a_forked_child_gets_a_loop_of_its_own_and_the_parent_keeps_its_own() -> None:  # E1
    process = Process("""
        import gc
        lt.submit(forever)
        before = lt.run(value), lt.generation
        pid = os.fork()
        if pid == 0:
            say("child", lt.generation, lt.run(value), lt.close())
            gc.collect()
            sys.exit(3)
        _, status = os.waitpid(pid, 0)
        say("parent", os.waitstatus_to_exitcode(status), lt.generation, lt.run(value))
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
                os._exit(0 if lt.run(value) == 42 else 1)
            bad += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
        stop.set()
        thread.join()
        say(bad)
    """)
    assert process.end() == (0, ["0"], "")


# ---- the end of the interpreter -------------------------------------------------------------------------------------


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
                say(lt.run(value))
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
            say(lt.run(value), LoopThread().run(value))
        threading.Thread(target=work).start()
    """)
    assert process.end() == (0, ["42 42"], "")

"""``aiotaskq run`` and signals at any moment: at the start, in a drain, while a handler blocks the loop."""

from __future__ import annotations

import random
import signal
import time

from tests.cli.processes.application import Place, supervisor


def test_sigterm_while_a_process_is_started_ends_it_too(place: Place) -> None:  # D11
    patch = """
        start = asyncio.create_subprocess_exec
        async def interrupted(*args, **options):
            process = await start(*args, **options)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.05)
            return process
        asyncio.create_subprocess_exec = interrupted
    """
    run = place.run(code=supervisor("print('started')\ntime.sleep(60)", patch))
    assert run.code() == 0
    assert run.lines.count("started") <= 1


def test_a_signal_that_another_thread_gets_wakes_the_supervisor(place: Place) -> None:
    child = """
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
        ready()
        print("ready", os.getpid(), flush=True)
        time.sleep(60)
    """
    run = place.run(code=supervisor(child, "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])"))
    run.wait_for("ready", 2)
    run.signal()
    assert run.code() == 3


def test_sigterm_while_it_starts_ends_it(place: Place) -> None:  # D11
    runs = [place.run("app:tq", "--processes", processes) for processes in ("1", "2") * 3]
    for number, run in enumerate(runs):
        time.sleep(0.04 * number)
        run.signal()
    for run in runs:
        assert run.code() in (0, -signal.SIGTERM)  # the latter before any of our code runs


def test_sigterm_while_the_application_is_imported_ends_it(place: Place) -> None:  # D11
    place.app("try:\n    say('inside')\n    time.sleep(30)\nexcept BaseException:\n    say('swallowed')")
    run = place.run("app:tq")
    run.wait_for("inside")
    run.signal()
    assert run.code() == 0  # also where the application swallows what ends it
    assert run.said("swallowed")


def test_rolling_restarts_take_no_retries(place: Place) -> None:  # D7
    place.push("long")
    for processes in "121":
        run = place.run("app:tq", "--processes", processes, "--drain", "0.1")
        run.wait_for("long")
        run.signal()
        assert run.code() == 3
    assert [(t.status, t.retry_count, t.crashes, t.fence) for t in place.tasks()] == [("pending", 0, 0, 3)]


def test_sigterm_between_claim_and_dispatch(place: Place) -> None:  # A9
    place.app("""
        claim = tq.queue.backend.claim
        async def slow(*args, **options):
            tasks = await claim(*args, **options)
            if tasks:
                say("claimed")
                await asyncio.sleep(0.4)
            return tasks
        tq.queue.backend.claim = slow
    """)
    place.push("long", 12)
    run = place.run_app(2, "--concurrency", "5", "--drain", "0")
    run.wait_for("claimed", 2)
    run.signal()
    assert run.code() in (0, 3)
    assert {(task.status, task.retry_count, task.crashes) for task in place.tasks()} == {("pending", 0, 0)}


def test_killed_in_the_middle_of_a_graceful_stop(place: Place) -> None:  # A19
    chance = random.Random(19)
    for _ in range(2):
        place.push("short", 80, seconds=0.05)
        run = place.run_app(2, "--concurrency", "8", "--drain", "0.1", "--grace", "0.1")
        run.wait_for("short", 3)
        run.signal()
        time.sleep(chance.uniform(0.0, 0.25))
        run.kill()
    run = place.run_app(2)
    run.until(lambda: place.statuses() == {"completed"}, "all completed")
    run.signal()
    assert run.code() == 0


def test_sigterm_while_a_handler_blocks_the_loop(place: Place) -> None:  # D15
    place.push("blocking", seconds=0.5)
    run = place.run("app:tq")
    run.wait_for("blocking")
    run.signal()
    assert run.code() == 0
    assert run.said("unblocked") and place.statuses() == {"completed"}


def test_two_signals_while_a_handler_blocks_the_loop(place: Place) -> None:  # D15
    place.app("from aiotaskq.cli import shutdown as stopping\nstopping.ECHO = 1_000")  # the loop is quicker with both
    place.push("long")
    run = place.run("app:tq")
    run.wait_for("long")
    place.push("blocking", seconds=1.2)
    run.wait_for("blocking")
    run.signal()
    time.sleep(0.7)
    run.signal()
    assert run.code() == 3  # the second is heard as a second one, although the loop learns of both at once
    assert {task.type: task.status for task in place.tasks()} == {"blocking": "completed", "long": "pending"}


def test_a_second_signal_ends_a_loop_that_is_blocked_for_good(place: Place) -> None:  # D15
    place.app("from aiotaskq.cli import shutdown as stopping\nstopping.ECHO, stopping.MARGIN = 1_000, 0.3")
    place.push("blocking", seconds=60)
    run = place.run("app:tq", "--grace", "0.1")
    run.wait_for("blocking")
    run.signal()
    time.sleep(0.7)
    run.signal()
    assert run.code() == 4
    assert any("terminated" in line for line in run.lines)
    assert place.statuses() == {"running"}


def test_it_is_terminated_also_when_standard_error_is_not_read(place: Place) -> None:
    place.app("""
        from aiotaskq.cli import shutdown as stopping
        stopping.MARGIN = 0.3
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)  # every write fails
    """)
    place.push("blocking", seconds=60)
    run = place.run("app:tq", "--drain", "0", "--grace", "0")
    run.wait_for("blocking")
    run.signal()
    assert run.code() == 4


def test_a_thread_of_the_application_cannot_keep_a_stopped_process(place: Place) -> None:
    place.app("""
        import threading
        from aiotaskq.cli import shutdown as stopping
        detach = stopping.Signals.detach
        def detach_and_be_quick(signals, code):
            stopping.MARGIN = 0.2
            detach(signals, code)
        stopping.Signals.detach = detach_and_be_quick
        threading.Thread(target=time.sleep, args=(60,)).start()
    """)
    run = place.run("app:tq", "--drain", "0.1", "--grace", "0.1")
    run.wait_for_line("Ctrl-C")
    run.signal()
    assert run.code() == 0  # everything has drained, whatever it is that goes on
    assert "terminated" in run.lines[-1]

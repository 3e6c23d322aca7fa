"""``aiotaskq run`` with several processes: shared work, exit codes, deaths, and programs that cannot start."""

from __future__ import annotations

import os
import signal
import time

import pytest

from aiotaskq.cli.supervisor import MAX_PAUSE, TRIES, pause
from tests.cli.processes.application import SUPERVISOR, Place, supervisor
from tests.support.machine import within

# ---- several processes ----------------------------------------------------------------------------------------------


def test_processes_share_the_work_and_a_dead_one_is_replaced(place: Place) -> None:  # E14, B5
    place.app("import sys\nif 'always::DeprecationWarning' in sys.warnoptions:\n    say('flagged')")
    run = place.run_app(3)
    run.wait_for_line("concurrency", 3)
    place.push("short", 30, seconds=within(1))  # no more than the three can take at once
    run.until(lambda: len(set(run.said("short"))) == 3, "work in three processes")

    place.push("long")
    (victim,) = run.wait_for("long")
    os.kill(victim, signal.SIGKILL)
    run.wait_for_line(f"(pid {victim}) was killed by SIGKILL; it is started again at once")
    assert run.wait_for("long", 2)[1] != victim
    fourth = run.wait_for("imported", 4)[3]
    (task,) = [task for task in place.tasks() if task.type == "long"]
    assert task.crashes >= 1 and task.retry_count == 0 and task.fence == task.crashes + 1
    place.push("quitting")
    run.wait_for_line("failed quitting")  # and it ends no worker
    run.wait_for_line("concurrency", 4)
    place.push("short", 60, seconds=within(1))  # more than the others can take at once
    run.until(lambda: fourth in run.said("short"), "work in the new process")
    assert {line[:4] for line in run.lines if "concurrency" in line} == {"[1] ", "[2] ", "[3] "}
    assert not any("fork" in line for line in run.lines)  # which Python warns of beside threads
    assert sorted(run.said("flagged")) == sorted(run.said("imported"))  # options of the interpreter are passed on


def test_sigterm_lets_all_processes_drain(place: Place) -> None:  # D13
    place.push("short", int(within(8)), seconds=0.7)  # enough for the second process to find some
    run = place.run_app(2, "--concurrency", "2")
    run.until(lambda: len(set(run.said("short"))) == 2, "work in both processes")
    run.signal()
    assert run.code() in (0, 3)  # 3: a worker had just claimed one that had not begun, and has given it back
    begun = len(run.said("short"))
    assert begun == len(run.said("done"))
    assert [task.status for task in place.tasks()].count("completed") == begun
    assert place.statuses() <= {"completed", "pending"}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_change_of_a_file_starts_the_workers_again(place: Place, processes: int) -> None:
    run = place.run("app:tq", "--processes", str(processes), "--reload")
    run.wait_for_line("starts again when a Python file changes")
    run.wait_for_line("handlers: ", processes)
    place.push("short", seconds=within(1))
    (old,) = run.wait_for("short")

    place.app("say('second')")
    assert old not in run.wait_for("second", processes)
    run.wait_for_line("changed: app.py; the workers start again")
    assert run.said("done") == [old]  # what ran has ended first
    place.push("short")
    assert run.wait_for("short", 2)[1] in run.said("second")

    place.app("missing_name")  # an error waits for the next change, also where it comes again and again
    run.wait_for_line("NameError", processes)
    run.wait_for_line("it is started again when a file has changed", processes)
    place.app("say('third')")
    run.wait_for("third", processes)
    run.wait_for_line("handlers: ", 3 * processes)
    run.signal()
    assert run.code() == 0
    assert place.statuses() == {"completed"}


def test_the_site_is_served_by_the_latest_code_and_memory_is_enough(place: Place) -> None:
    (place.home / "app.py").write_text("from aiotaskq import TaskQ\ntq = TaskQ('memory://')\n")
    run = place.run("app:tq", "--reload", "--web", "--port", "0", "--read-only")
    run.wait_for_line("dashboard and operations API of memory:// on http://127.0.0.1:")
    (place.home / "app.py").write_text("from aiotaskq import TaskQ\ntq = TaskQ('memory://', poll_interval=0.5)\n")
    run.wait_for_line("dashboard and operations API of memory:// on http://127.0.0.1:", 2)
    assert not any(line.startswith("[") for line in run.lines)
    run.signal()
    assert run.code() == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_reaches_the_group_and_does_not_skip_the_drain(place: Place, processes: int) -> None:  # D12
    # A process may get both long before its supervisor passes on what that has got.
    place.app("from aiotaskq.cli import shutdown as stopping\nstopping.ECHO = 60_000_000")
    place.push("elsewhere", seconds=0.6)
    place.push("short", seconds=0.6)
    run = place.run_app(processes)
    run.wait_for("elsewhere")
    run.wait_for("short")
    os.killpg(run.popen.pid, signal.SIGINT)  # as a terminal does
    run.signal(signal.SIGTERM)  # and a wrapper passes it on
    assert run.code() == 0
    assert place.statuses() == {"completed"}


def test_a_second_signal_does_not_wait_in_any_process(place: Place) -> None:
    run = place.run_app(2, "--concurrency", "1")
    place.push("long", 2)
    run.wait_for("long", 2)
    run.signal()
    run.wait_for_line("stopping: waiting up to 25 s for running tasks (1): long ", 2)
    time.sleep(0.6)  # sooner it would be an echo of the first
    run.signal()
    assert run.code() == 3
    assert [(task.status, task.retry_count, task.crashes) for task in place.tasks()] == [("pending", 0, 0)] * 2


def test_the_worst_exit_code_wins(place: Place) -> None:
    run = place.run_app(2, "--concurrency", "1", "--drain", "0.1", "--grace", "0.2")
    place.push("deaf")
    place.push("long")
    run.wait_for("deaf")
    run.wait_for("long")
    run.signal()
    assert run.code() == 4
    assert any("stopped; some handlers did not end" in line for line in run.lines if not line.startswith("["))
    assert {task.type: task.status for task in place.tasks()} == {"deaf": "running", "long": "pending"}


def test_processes_stop_when_their_supervisor_is_killed(place: Place) -> None:
    run = place.run_app(2, "--drain", "0.1")
    place.push("long")
    run.wait_for("long")
    run.signal(signal.SIGKILL)
    assert run.code() == -signal.SIGKILL  # and nothing is left
    assert sum("stopped; " in line for line in run.lines) == 2
    assert [(task.status, task.retry_count, task.crashes) for task in place.tasks()] == [("pending", 0, 0)]


def test_processes_started_by_a_dead_worker_are_killed(place: Place) -> None:
    run = place.run_app(2, "--concurrency", "1")
    place.push("elsewhere", seconds=0.5)
    (orphan,) = run.wait_for("elsewhere")
    for pid in run.said("imported")[:2]:  # the third is the orphan
        os.kill(pid, signal.SIGKILL)
    assert run.wait_for("survived")[0] != orphan  # only the second run has ended
    assert place.statuses() <= {"completed", "running"}


# ---- what cannot start ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "error", "code"),
    [
        ("memory://", "memory:// exists only inside one process", 2),
        ("sqlite:////no/such/folder/x.db", "/no/such/folder/x.db", 1),
    ],
)
def test_an_error_at_the_start_is_printed_once(place: Place, url: str, error: str, code: int) -> None:
    (place.home / "app.py").write_text(f"from aiotaskq import TaskQ\ntq = TaskQ({url!r})")
    run = place.run("app:tq", "--processes", "3")
    assert run.code() == code
    (line,) = [line for line in run.lines if line.startswith("error: ")]
    assert error in line
    assert not any("Traceback" in line for line in run.lines)


def test_a_crash_loop_at_the_start_ends(place: Place) -> None:
    child = """
        if os.path.exists("broken"):
            raise SystemExit("cannot start")
        if number == 2:
            open("broken", "w").close()  # a bad deploy, when both have worked
        else:
            ready()
            while not os.path.exists("broken"):
                time.sleep(0.01)
    """
    run = place.run(code=supervisor(child, "processes.pause = lambda deaths: 0.01"))
    assert run.code() == 1
    assert run.lines[-1] == f"error: every process failed at its start, {TRIES} times in a row; see their output above"
    assert run.lines.count("cannot start") >= 2 * TRIES - 1  # the second has failed once more, unsaid


def test_a_program_that_cannot_be_started_is_an_error(place: Place) -> None:
    run = place.run(code=SUPERVISOR.format(command=["/no/such/program"], patch=""))
    assert run.code() == 1
    assert "process 1 cannot be started" in run.lines[-1]


@pytest.mark.parametrize("code", [70, 0])
def test_pauses_between_restarts_grow(place: Place, code: int) -> None:
    run = place.run(code=supervisor(f"ready()\nos._exit({code}) if number == 2 else time.sleep(60)"))
    run.wait_for_line("process 2", 2)
    first, second = [line for line in run.lines if "process 2" in line]
    assert f"ended with exit code {code}; it is started again at once" in first
    assert "it is started again in 0." in second
    run.signal()
    assert run.code() == 4  # the first does not end by itself at SIGTERM, as a real one would


def test_pauses_grow_to_half_a_minute() -> None:
    assert pause(0) == pause(1) == 0.0
    for deaths, most in ((2, 0.5), (3, 1.0), (4, 2.0), (5, 4.0), (20, MAX_PAUSE), (2_000, MAX_PAUSE)):
        assert most / 2 <= pause(deaths) <= most


def test_a_process_that_does_not_stop_is_killed(place: Place) -> None:
    child = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready()
        print("imported", os.getpid(), flush=True)
        time.sleep(60)
    """
    run = place.run(code=supervisor(child, "stopping.MARGIN = 0.3"))
    run.wait_for("imported", 2)
    run.signal()
    assert run.code() == 4
    assert "terminated" in run.lines[-1]

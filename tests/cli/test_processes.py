"""``aiotaskq run``: worker processes under a supervisor, and how they stop; signals, deaths and exit codes are real."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.supervisor import MAX_PAUSE, TRIES, pause
from aiotaskq.core.task import Task
from tests.support.machine import watchdog, within
from tests.support.programs import ROOT

APP = """
import asyncio, os, time
from pathlib import Path
from aiotaskq import TaskQ
from tests.support.machine import within

tq = TaskQ("sqlite:///app.db", lease=min(within(1), 5), poll_interval=0.05)

def say(word):
    print(word, os.getpid(), flush=True)

say("imported")

@tq.task
async def short(seconds=0.2):
    say("short")
    await asyncio.sleep(seconds)
    say("done")

@tq.task(max_retries=1)
async def long():
    say("long")
    await asyncio.sleep(60)

@tq.task
async def deaf():
    say("deaf")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@tq.task
async def blocking(seconds):
    say("blocking")
    time.sleep(seconds)
    say("unblocked")

@tq.task(executor="process", max_retries=0)
def quitting():
    raise SystemExit(3)

@tq.task(executor="process")
def elsewhere(seconds):
    say("elsewhere")
    time.sleep(seconds)
    say("survived")
"""


class Run:
    """``aiotaskq run`` in a process group of its own; what it and its processes say, line by line."""

    def __init__(self, home: Path, *args: str, code: str | None = None) -> None:
        what = ["-m", "aiotaskq", "run", *args] if code is None else ["-c", textwrap.dedent(code), *args]
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "always::DeprecationWarning", *what],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},  # then a line is one write
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))

    def said(self, word: str) -> list[int]:
        """Return who has said this word: process ids, in order."""
        pairs = [line.split() for line in self.lines]
        return [int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == word and pair[1].isdigit()]

    def wait_for(self, word: str, count: int = 1) -> list[int]:
        """Wait until a word was said so often; return by whom."""
        self.until(lambda: len(self.said(word)) >= count, f"{count} x {word}")
        return self.said(word)

    def wait_for_line(self, text: str, count: int = 1) -> None:
        self.until(lambda: sum(text in line for line in self.lines) >= count, text)

    def until(self, held: Any, what: str) -> None:
        end = time.monotonic() + watchdog()
        while not held():
            assert time.monotonic() < end, f"never: {what}: {self.lines}"
            time.sleep(0.01)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def code(self) -> int:
        """Wait until it *and every process that it has started* has ended; return its exit code."""
        self._reader.join(watchdog())  # the pipe ends when nobody has it open any more
        assert not self._reader.is_alive(), f"some process lives on: {self.lines}"
        return self.popen.wait(watchdog())

    def kill(self) -> None:
        """End all of it, whatever it does."""
        for pid in {self.popen.pid, *self.said("imported")}:
            if self._reader.is_alive():  # else all have ended, and the numbers may be others'
                try:
                    os.killpg(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.popen.wait()
        self._reader.join(watchdog())
        assert self.popen.stdout is not None
        self.popen.stdout.close()


class Place:
    """A folder with an application, its tasks and its runs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.runs: list[Run] = []
        self.app()

    def app(self, more: str = "") -> None:
        (self.home / "app.py").write_text(APP + textwrap.dedent(more))

    def run(self, *args: str, code: str | None = None) -> Run:
        self.runs.append(Run(self.home, *args, code=code))
        return self.runs[-1]

    def run_app(self, processes: int, *args: str) -> Run:
        """Run the application, and return when all its processes work."""
        run = self.run("app:tq", "--processes", str(processes), *args)
        run.wait_for("imported", processes)
        return run

    def push(self, type: str, times: int = 1, **params: Any) -> list[str]:
        async def main() -> list[str]:
            async with TaskQ(f"sqlite:///{self.home}/app.db") as tq:
                return [handle.task_id for handle in await tq.push_many([(type, params)] * times)]

        return asyncio.run(main())

    def tasks(self) -> list[Task]:
        async def main() -> list[Task]:
            async with TaskQ(f"sqlite:///{self.home}/app.db") as tq:
                return await tq.find(limit=1_000)

        return asyncio.run(main())

    def statuses(self) -> set[str]:
        return {str(task.status) for task in self.tasks()}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for run in place.runs:
        run.kill()


# ---- several processes ----


def test_processes_share_the_work_and_a_dead_one_is_replaced(place: Place) -> None:  # E14, B5
    place.app("import sys\nif 'always::DeprecationWarning' in sys.warnoptions:\n    say('flagged')")
    run = place.run_app(3)
    place.push("short", 30)
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
    place.push("short", 60, seconds=0.7)  # more than the others can take at once
    run.until(lambda: fourth in run.said("short"), "work in the new process")
    assert {line[:4] for line in run.lines if "at a time from" in line} == {"[1] ", "[2] ", "[3] "}
    assert not any("fork" in line for line in run.lines)  # which Python warns of beside threads
    assert sorted(run.said("flagged")) == sorted(run.said("imported"))  # options of the interpreter are passed on


def test_sigterm_lets_all_processes_drain(place: Place) -> None:  # D13
    place.push("short", int(within(8)), seconds=0.7)  # enough for the second process to find some
    run = place.run_app(2, "--concurrency", "2")
    run.until(lambda: len(set(run.said("short"))) == 2, "work in both processes")
    run.signal()
    assert run.code() == 0
    begun = len(run.said("short"))
    assert begun == len(run.said("done"))
    assert [task.status for task in place.tasks()].count("completed") == begun
    assert place.statuses() <= {"completed", "pending"}


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_reaches_the_group_and_does_not_skip_the_drain(place: Place, processes: int) -> None:  # D12
    place.push("elsewhere", seconds=0.6)
    place.push("short", seconds=0.6)
    run = place.run_app(processes)
    run.wait_for("elsewhere")
    run.wait_for("short")
    os.killpg(run.popen.pid, signal.SIGINT)  # as a terminal does
    time.sleep(0.1)
    run.signal(signal.SIGTERM)  # and a wrapper passes it on
    assert run.code() == 0
    assert place.statuses() == {"completed"}


def test_a_second_signal_does_not_wait_in_any_process(place: Place) -> None:
    run = place.run_app(2, "--concurrency", "1")
    place.push("long", 2)
    run.wait_for("long", 2)
    run.signal()
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


def test_what_a_dead_worker_had_started_dies_with_it(place: Place) -> None:
    run = place.run_app(2, "--concurrency", "1")
    place.push("elsewhere", seconds=0.5)
    (orphan,) = run.wait_for("elsewhere")
    for pid in run.said("imported")[:2]:  # the third is the orphan
        os.kill(pid, signal.SIGKILL)
    assert run.wait_for("survived")[0] != orphan  # only the second run has ended
    assert place.statuses() <= {"completed", "running"}


# ---- what cannot start ----


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("memory://", "memory:// is the memory of one process"),
        ("sqlite:////no/such/folder/x.db", "/no/such/folder/x.db"),
    ],
)
def test_what_cannot_run_is_said_once(place: Place, url: str, error: str) -> None:
    (place.home / "app.py").write_text(f"from aiotaskq import TaskQ\ntq = TaskQ({url!r})")
    run = place.run("app:tq", "--processes", "3")
    assert run.code() == 1
    (line,) = [line for line in run.lines if line.startswith("error: ")]
    assert error in line
    assert not any("Traceback" in line for line in run.lines)


# A process that says that it works, or not, as the supervisor's own know it; quicker to start than a real one.
CHILD = """
import os, signal, socket, sys, time
number, line = (int(word.partition("=")[2]) for word in sys.argv[1:3])
def ready():
    socket.socket(fileno=line).send(b"r")
"""
SUPERVISOR = """
import asyncio, os, signal
from aiotaskq.cli import shutdown as stopping
from aiotaskq.cli import supervisor as processes
from aiotaskq.cli.run import show_log

show_log("INFO")
supervisor = processes.Supervisor({command}, "app:tq", 2, 0.0, 0.0)
{patch}
raise SystemExit(supervisor.run())
"""


def supervisor(child: str, patch: str = "") -> str:
    command = [sys.executable, "-S", "-c", CHILD + textwrap.dedent(child)]
    return SUPERVISOR.format(command=repr(command), patch=textwrap.dedent(patch))


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
    run = place.run(code=supervisor(child, "processes.pause = lambda deaths, jitter: 0.01"))
    assert run.code() == 1
    assert run.lines[-1] == f"error: every process failed at its start, {TRIES} times in a row; what they said is above"
    assert run.lines.count("cannot start") >= 2 * TRIES - 1  # the second has failed once more, unsaid


def test_a_program_that_cannot_be_started_is_an_error(place: Place) -> None:
    run = place.run(code=SUPERVISOR.format(command=["/no/such/program"], patch=""))
    assert run.code() == 1
    assert "process 1 cannot be started" in run.lines[-1]


@pytest.mark.parametrize("code", [70, 0])
def test_a_process_that_keeps_ending_is_started_ever_more_slowly(place: Place, code: int) -> None:
    run = place.run(code=supervisor(f"ready()\nos._exit({code}) if number == 2 else time.sleep(60)"))
    run.wait_for_line("process 2", 2)
    first, second = [line for line in run.lines if "process 2" in line]
    assert f"ended with exit code {code}; it is started again at once" in first
    assert "it is started again in 0." in second
    run.signal()
    assert run.code() == 4  # the first does not end by itself at SIGTERM, as a real one would


def test_pauses_grow_to_half_a_minute() -> None:
    assert [pause(deaths, 1.0) for deaths in range(6)] == [0.0, 0.0, 0.5, 1.0, 2.0, 4.0]
    assert pause(20, 1.0) == pause(2_000, 1.0) == MAX_PAUSE
    assert pause(20, 0.0) == MAX_PAUSE / 2


def test_a_process_that_does_not_stop_is_killed_in_the_end(place: Place) -> None:
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
    assert "ended by force" in run.lines[-1]


# ---- signals at any moment ----


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
        claim = tq._backend.claim
        async def slow(*args, **options):
            tasks = await claim(*args, **options)
            if tasks:
                say("claimed")
                await asyncio.sleep(0.4)
            return tasks
        tq._backend.claim = slow
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
    place.app("from aiotaskq.cli import shutdown as stopping\nstopping.MARGIN = 0.3")
    place.push("blocking", seconds=60)
    run = place.run("app:tq", "--grace", "0.1")
    run.wait_for("blocking")
    run.signal()
    time.sleep(0.7)
    run.signal()
    assert run.code() == 4
    assert any("ended by force" in line for line in run.lines)
    assert place.statuses() == {"running"}


def test_it_is_ended_by_force_also_when_nobody_reads_what_it_says(place: Place) -> None:
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
    assert "ended by force" in run.lines[-1]

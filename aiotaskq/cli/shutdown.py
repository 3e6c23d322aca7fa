"""What a worker process runs, and how it is stopped: by signals, by the end of its supervisor, or by a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Annotated

from msgspec import Struct

from aiotaskq.app.running import ECHO
from aiotaskq.cli.i18n import marked
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.errors import check_seconds
from aiotaskq.core.stopping import ExitCode
from aiotaskq.core.task import SECOND
from aiotaskq.operations.fields import about

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MARGIN = 5.0  # seconds that a stop may take beyond drain and grace: to give tasks back and close connections

_CLOCK = SystemClock()
HOW_TO_STOP = marked("Ctrl-C or SIGTERM stops it; a second one does not wait for running tasks.")
STOPPED = {
    ExitCode.DRAINED: marked("stopped; all running tasks have ended"),
    ExitCode.RELEASED: marked("stopped; some tasks were released to the queue"),
    ExitCode.ABANDONED: marked(
        "stopped; some handlers did not end and were abandoned: their tasks run again when their leases expire"
    ),
}


class WorkerOptions(Struct, frozen=True):
    """What a worker process runs: the options of ``run`` that a supervisor passes on."""

    target: Annotated[str, about("The TaskQ of your application, as app:tq for 'tq' in app.py.")]
    concurrency: Annotated[int, about("Number of tasks that run concurrently.", ge=1, le=10_000)] = 10
    queues: Annotated[str, about("Process only these queues.")] | None = None
    drain: Annotated[float, about("Seconds that running tasks have to end after a signal.", ge=0)] = 25.0
    grace: Annotated[float, about("Seconds that they have after their cancellation.", ge=0)] = 5.0
    log_level: Annotated[str, about("TRACE, DEBUG, INFO, SUCCESS, WARNING, ERROR or CRITICAL.")] = "INFO"


class Deadline:
    """Terminates the process at a deadline, from its own thread: also while a handler blocks the event loop."""

    def __init__(self, force: Callable[[int], object]) -> None:
        """Create a deadline that is not set yet; ``force`` gets the exit code and does not return."""
        self._force = force
        self._changes: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()  # signal handlers may put into it
        threading.Thread(target=self._wait, name="aiotaskq-deadline", daemon=True).start()

    def set(self, seconds: float, code: int = ExitCode.ABANDONED) -> None:
        """Terminate in so many seconds with this code. Of several calls, the earliest time and the last code count."""
        self._changes.put((_CLOCK.ticks() + int(seconds * SECOND), int(code)))

    def _wait(self) -> None:
        end, code = self._changes.get()
        with contextlib.suppress(queue.Empty):
            while True:
                later, code = self._changes.get(timeout=max(0.0, (end - _CLOCK.ticks()) / SECOND))
                end = min(end, later)
        self._force(code)


class Signals:
    """SIGINT and SIGTERM of this process: the first requests a stop, the next one a stop without the drain.

    What counts is when a signal arrives, not when the event loop handles it: so a second signal that arrives while a
    handler blocks the loop is not taken for an echo of the first.
    """

    def __init__(self, deadline: Deadline, drain: float, grace: float) -> None:
        """Handle SIGTERM from now on; before ``attach`` it ends the process, also where that is process 1 of a
        container, for which the system ignores unhandled signals. Durations in seconds. Raises ValidationError."""
        self._drain = check_seconds("drain", drain)
        self._grace = check_seconds("grace", grace)
        self._deadline = deadline
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], object] = lambda: None
        self._hurry: Callable[[], object] = lambda: None
        self._first: int | None = None
        self._ours, self._wakeup = socket.socketpair()
        signal.signal(signal.SIGTERM, self._arrived)

    @property
    def asked(self) -> bool:
        """Whether a signal has requested the stop."""
        return self._first is not None

    def attach(self, stop: Callable[[], object], hurry: Callable[[], object]) -> None:
        """Call ``stop`` in the running loop at the first signal, ``hurry`` at each later one that is no echo of it."""
        self._loop = asyncio.get_running_loop()
        self._stop, self._hurry = stop, hurry
        # The system may deliver a signal to another thread: the wakeup descriptor wakes the waiting loop.
        for end in (self._ours, self._wakeup):
            end.setblocking(False)
        self._loop.add_reader(self._ours, self._ours.recv, 4096)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._arrived)
        if self.asked:  # during the start, where something swallowed the SystemExit
            stop()

    def detach(self, code: int) -> None:
        """Ignore signals from now on, because this process ends with this code; the deadline goes on."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self._deadline.set(self._drain + self._grace + MARGIN, code)
        signal.set_wakeup_fd(-1)
        if self._loop is not None:
            self._loop.remove_reader(self._ours)
        self._ours.close()
        self._wakeup.close()

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        # Runs in the main thread between two bytecode instructions, also while a handler blocks the loop.
        now = _CLOCK.ticks()
        if self._first is None:
            self._first = now
            self._deadline.set(self._drain + self._grace + MARGIN)
            self._call(self._stop)
        elif now - self._first > ECHO:
            self._deadline.set(self._grace + MARGIN)
            self._call(self._hurry)

    def _call(self, callback: Callable[[], object]) -> None:
        if self._loop is None:
            raise SystemExit(0)  # nothing has started
        self._loop.call_soon_threadsafe(callback)


class Lifeline:
    """A worker process's end of the socket to its supervisor: reports readiness, and detects the supervisor's end."""

    def __init__(self, number: int, descriptor: int) -> None:
        """Take over an inherited descriptor; ``number`` is the number of this process."""
        self.number = number
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)

    def watch(self, signals: Signals) -> None:
        """Stop as with SIGTERM when the supervisor has ended."""
        threading.Thread(target=self._watch, args=(signals,), name="aiotaskq-lifeline", daemon=True).start()

    def ready(self) -> None:
        with contextlib.suppress(ConnectionError):  # it has just ended, which the other thread detects
            self._socket.send(b"r")

    def _watch(self, signals: Signals) -> None:
        with contextlib.suppress(ConnectionError):
            self._socket.recv(1)  # nothing is ever sent: it returns when the socket is closed
        if not signals.asked:  # a drain that has begun goes on
            os.kill(os.getpid(), signal.SIGTERM)

"""What ``aiotaskq run`` prints while it stops: which tasks it waits for, and how long."""

from __future__ import annotations

import asyncio

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.output import echo_stderr
from aiotaskq.core.task import SECOND, Task
from aiotaskq.log import printable

SHOWN = 5  # tasks that are listed


class DrainReport:
    """Reports the two stages of a stop: the drain, in which handlers may end, and the grace after their cancel."""

    def __init__(self, tq: TaskQ, drain: float, grace: float, prefix: str) -> None:
        """``drain`` and ``grace`` in seconds; each line begins with ``prefix``."""
        self._tq = tq
        self._drain = drain
        self._grace = grace
        self._prefix = prefix
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Report that the drain begins. Called in the event loop."""
        if not self._running:
            self._echo(tr("stopping: no task is running"))
            return
        said = tr(
            "stopping: waiting up to {seconds} s for running tasks ({count}): {tasks}; a second signal does not wait",
            seconds=f"{self._drain:g}",
            count=len(self._running),
            tasks=self._named(),
        )
        self._echo(said)
        self._timer = asyncio.get_running_loop().call_later(self._drain, self._drained)

    def hurry(self) -> None:
        """Report that the drain is cut short by a second signal."""
        self._cancelled(tr("second signal"))

    def end(self) -> None:
        """Report nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _drained(self) -> None:
        self._cancelled(tr("after {seconds} s", seconds=f"{self._drain:g}"))

    def _cancelled(self, why: str) -> None:
        self.end()
        if self._running:
            said = tr(
                "{why}: cancelling running tasks ({count}), which have {seconds} s to end: {tasks}",
                why=why,
                count=len(self._running),
                seconds=f"{self._grace:g}",
                tasks=self._named(),
            )
            self._echo(said)

    @property
    def _running(self) -> list[Task]:
        return [] if self._tq.worker is None else self._tq.worker.tasks

    def _named(self) -> str:
        now = self._tq.queue.clock.now() // SECOND
        names = []
        for task in self._running[:SHOWN]:
            since = tr("for {seconds} s", seconds=max(0, now - (task.started_at or now)))
            names.append(f"{printable(task.type)} {task.task_id} ({since})")
        if len(self._running) > SHOWN:
            names.append("…")
        return tr(", ").join(names)

    def _echo(self, text: str) -> None:
        echo_stderr(self._prefix + printable(text, 2_000))

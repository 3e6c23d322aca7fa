"""What ``aiotaskq run`` says while it stops: which tasks it waits for, and for how long."""

from __future__ import annotations

import asyncio

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.output import note
from aiotaskq.core.task import SECOND, Task
from aiotaskq.log import printable

SHOWN = 5  # tasks that are named


class Waiting:
    """Tells of the two stages of a stop: the drain, in which handlers may end, and the grace after their cancel."""

    def __init__(self, tq: TaskQ, drain: float, grace: float, prefix: str) -> None:
        """Wire it; ``drain`` and ``grace`` in seconds, ``prefix`` stands before each line."""
        self._tq = tq
        self._drain = drain
        self._grace = grace
        self._prefix = prefix
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Say that it stops, in the loop."""
        if not self._running:
            self._say(tr("stopping: no task runs"))
            return
        said = tr(
            "stopping: waits up to {seconds} s for running tasks ({count}): {tasks}; a second signal does not wait",
            seconds=f"{self._drain:g}",
            count=len(self._running),
            tasks=self._named(),
        )
        self._say(said)
        self._timer = asyncio.get_running_loop().call_later(self._drain, self._over)

    def hurry(self) -> None:
        """Say that it waits no more."""
        self._cancelled(tr("waits no more"))

    def end(self) -> None:
        """Say nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _over(self) -> None:
        self._cancelled(tr("{seconds} s are over", seconds=f"{self._drain:g}"))

    def _cancelled(self, why: str) -> None:
        self.end()
        if self._running:
            said = tr(
                "{why}: cancels running tasks ({count}), which get {seconds} s to end: {tasks}",
                why=why,
                count=len(self._running),
                seconds=f"{self._grace:g}",
                tasks=self._named(),
            )
            self._say(said)

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

    def _say(self, text: str) -> None:
        note(self._prefix + printable(text, 2_000))

"""Adds up what the tasks of a worker did, and writes the sums to the history once a minute."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from aiotaskq.backends.history import History
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.errors import MAX_NAME
from aiotaskq.core.history import MINUTE, USED, Key, Sums, begin_of
from aiotaskq.core.outcome import Completed, Expired, LeaseExpired, Outcome, Released, due_since
from aiotaskq.core.parking import settled_at
from aiotaskq.core.status import Status
from aiotaskq.core.tags import OTHER, labels, tags_of
from aiotaskq.core.task import Task
from aiotaskq.core.usage import Usage, summed
from aiotaskq.log import log

if TYPE_CHECKING:
    from aiotaskq.runtime.queue.commit_hooks import CommitHooks

INTERVAL = 60.0  # seconds, at most, from the first of the sums to their write
IDLE = 86_400.0  # seconds between two looks: a timer that begins with the first of the sums ends the pause
MOST_LABELS = 500  # tags of which one write has sums of their own
MANY = 128  # completed tasks that are added up at once: some by some takes less time than one by one


class Tally(Poller):
    """The sums of one worker since they were last written. A process that is killed loses them."""

    def __init__(
        self, history: History, clock: Clock, commits: CommitHooks | None = None, tags: Sequence[str] = ()
    ) -> None:
        """``tags`` are the names of the tags for whose values there are sums, too."""
        super().__init__("history", self._round, clock)
        self._history, self._commits = history, commits
        self._tags, self._labels = tags, set[str]()
        self.completed: list[Task] = []
        """Tasks that have completed here and are not added up yet: ``collect`` is due when there are ``MANY``.

        Always the same list."""
        self._sums: dict[Key, Sums] = {}
        self._urgent = False
        self._unset: Callable[[], None] | None = None  # cancels the timer that wakes the poller

    async def start(self) -> None:
        """Write from time to time, and count what the commits of this process end; idempotent."""
        if self._commits is not None:
            self._commits.not_started = self.not_started
        await super().start()

    async def stop(self, timeout: float = 5.0) -> None:
        """Stop writing, and write what is left; a write that is under way may take so long to end."""
        if self._commits is not None:
            self._commits.not_started = None
        self._unset_timer()
        await super().stop(timeout)
        await self._write_or_keep()

    async def _round(self) -> float:
        await self.write()
        return IDLE

    async def write(self) -> None:
        """Write the sums, if there are any. If that fails they are kept, to be written with the next ones."""
        self._unset_timer()
        self.collect()
        if not self._sums:
            return
        sums, self._sums, self._labels = self._sums, {}, set()
        periods = [sums[key].period(key) for key in sums]
        try:
            await self._history.add(periods)
        except Exception:
            for period in periods:
                self._sums_of(period.key).add(period)
                self._labels.add(period.tag)
            raise

    async def _write_or_keep(self) -> None:
        try:
            await self.write()
        except Exception as error:
            log.warning("history: the sums of the last minute were not written: {}", error)

    # ---- adding up ----

    def settled(self, before: Task, outcome: Outcome, after: Task) -> None:
        """Count a run that has ended, whose outcome is written."""
        if type(outcome) is Completed:
            self.completed.append(after)
            if len(self.completed) >= MANY:
                self.collect()
        elif type(outcome) is LeaseExpired:  # of a child process
            self.reaped(before, outcome, after)
        elif after.status is not Status.PENDING:
            self._note(before, after, str(after.status))
        elif type(outcome) is not Released:
            self._note(before, after, "retried")

    def used(self, task: Task, more: Usage) -> None:
        """Add what a task has used up, which is written."""
        for sums in self._sums_for(self._clock.now(), task, USED):
            sums.usage = summed(sums.usage, more)

    def reaped(self, before: Task, outcome: Outcome, after: Task) -> None:
        """Count a run that was lost with its process; and a task that has ended by that, or has expired."""
        if (at := settled_at(before, after)) is not None:
            if type(outcome) is not Expired:
                self._count(at, after, "lost")
                self._urgent = True
            if after.final:
                self._count(at, after, str(after.status))

    def not_started(self, task: Task) -> None:
        """Count a task that the store has failed, since one that it waited for did not complete."""
        if task.status is Status.FAILED and task.ended_at is not None:
            self._count(task.ended_at, task, str(task.status))

    async def write_lost(self) -> None:
        """Write what was counted of lost runs, and all else: the next run of such a task may end this process, too."""
        if self._urgent:
            self._urgent = False
            await self._write_or_keep()

    def _note(self, before: Task, after: Task, kind: str) -> None:
        at = settled_at(before, after)
        if at is not None and before.began_at is not None:
            for sums in self._sums_for(at, before, kind):
                sums.add_runs([at - before.began_at], [before.began_at - due_since(before)])

    def _count(self, at: int, task: Task, kind: str) -> None:
        for sums in self._sums_for(at, task, kind):
            sums.n += 1

    def collect(self) -> None:
        """Add up what has completed."""
        if self.completed:
            tasks = self.completed[:]
            self.completed.clear()
            self._collect(tasks)

    def _collect(self, tasks: Sequence[Task]) -> None:
        # Nearly always they are of one type and of one minute. What is done with whole lists is much quicker.
        minute = _minute(tasks[0])
        alike = len({task.type for task in tasks}) == 1 == len({task.queue for task in tasks})
        if not alike or _minute(tasks[-1]) != minute:  # they are in the order of their ends
            parts: dict[tuple[str, str, int], list[Task]] = {}
            for task in tasks:
                parts.setdefault((task.type, task.queue, _minute(task)), []).append(task)
            for part in parts.values():
                self._collect(part)
            return
        self._add(tasks, minute, "")
        for task in tasks if self._tags else ():
            for label in self._labels_of(task):
                self._add([task], minute, label)

    def _add(self, tasks: Sequence[Task], minute: int, label: str) -> None:
        # Each has been claimed and has ended.
        first = tasks[0]
        runs: list[int] = [task.ended_at - task.began_at for task in tasks]  # type: ignore[operator]
        waits: list[int] = [
            task.began_at - (task.run_at if task.due_at is None else task.due_at)  # type: ignore[operator]
            for task in tasks
        ]
        self._sums_of((minute, MINUTE, first.queue, first.type, "completed", label)).add_runs(runs, waits)

    def _unset_timer(self) -> None:
        if self._unset is not None:
            self._unset()
            self._unset = None

    def _labels_of(self, task: Task) -> list[str]:
        """Return the tags of a task by which sums are kept. Beyond MOST_LABELS of them the value is OTHER."""
        tags = tags_of(task.extra) if self._tags else {}
        found = []
        for label in labels({name: tags[name] for name in self._tags if name in tags}):
            known = label in self._labels or len(self._labels) < MOST_LABELS
            found.append(label if known else f"{label.partition('=')[0]}={OTHER}")
            if known:
                self._labels.add(label)
        return found

    def _sums_for(self, at: int, task: Task, kind: str) -> Iterator[Sums]:
        """Return the sums to which a task belongs: those of all tasks, and those of its tags."""
        # A row of other software may have a longer name.
        of = begin_of(at, MINUTE), MINUTE, task.queue[:MAX_NAME], task.type[:MAX_NAME], kind
        return (self._sums_of((*of, label)) for label in ("", *self._labels_of(task)))

    def _sums_of(self, key: Key) -> Sums:
        if (found := self._sums.get(key)) is None:
            if not self._sums:
                self._unset = self._clock.call_later(INTERVAL * random.uniform(0.8, 1.0), self.wake)
            found = self._sums[key] = Sums()
        return found


def _minute(task: Task) -> int:
    assert task.ended_at is not None
    return begin_of(task.ended_at, MINUTE)

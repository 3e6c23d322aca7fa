"""What happens to tasks in every process, as the rows of the store tell it: pushes, starts, retries and ends.

No process writes anything for this. Each look reads the newest rows by the indexes that there are, at most so many of
each kind; what happened before and between is counted, and not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from aiotaskq.core.outcome import attempts_of
from aiotaskq.core.task import FINAL, SECOND, Status, Task, TaskFilter
from aiotaskq.web.dashboard.happened import Happened, first_line, key_of, newest_first, pushed_at

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

MOST = 1_000
"""Events that are kept."""
SHOWN = 20
"""Tasks of each final status, and of those that were pushed, that one look lists."""
COUNTED = 200
"""Tasks of each final status that one look counts."""
RUNNING = 50
"""Running tasks that one look lists: those that were pushed last."""
RUNNING_WINDOW = 10_000
"""Tasks, the newest first, among which running ones are looked for in a store without an index of these."""
_ENDS = {"failed": "retried", "timed_out": "retried", "lost": "lost", "released": "released"}
"""Events by outcomes of attempts after which a task goes on."""


class Life:
    """What was seen of the tasks of one task queue; pages share it."""

    def __init__(self, tq: TaskQ) -> None:
        self._tq = tq
        self._latest: dict[tuple[str, str | None, int], Happened] = {}
        self._ended: dict[Status, list[str]] = {}
        self._ran: set[str] = set()
        self._looks = self._looked_at = 0

    @property
    def latest(self) -> Iterable[Happened]:
        """What was seen, in any order."""
        return self._latest.values()

    async def look(self) -> None:
        """Read what has happened since the last look."""
        backend, looks, last = self._tq.queue.backend, self._looks, self._looked_at
        now = self._tq.queue.clock.now()
        ended = {status: await backend.last_ended(status, COUNTED) for status in sorted(FINAL)}
        new = {status: _new(ids, self._ended.get(status, ())) for status, ids in ended.items()}
        running = await backend.find(TaskFilter(status=(Status.RUNNING,), newest=RUNNING_WINDOW), RUNNING)
        pushed = await backend.find(TaskFilter(), SHOWN)
        # What ran at the last look, and does not any more, may wait for its next attempt.
        read = self._ran - {task.task_id for task in running}
        read.update(*(ids[:SHOWN] for ids in new.values()))
        rows = {task.task_id: task for task in await backend.get(sorted(read)) if task is not None}
        if looks != self._looks:
            return  # another page has looked meanwhile
        found = [each for task in (*running, *pushed, *rows.values()) for each in life_of(task)]
        for status, ids in new.items():
            if looks and len(ids) > SHOWN and _ended_after(rows.get(ids[SHOWN - 1]), last):
                more, at_least = len(ids) - SHOWN, len(ids) == COUNTED
                found.append(Happened(name=str(status), at=now, more=more, at_least=at_least))
        self._looks, self._looked_at = looks + 1, now
        self._ended, self._ran = ended, {task.task_id for task in running}
        self._latest.update((key_of(each), each) for each in found)
        if len(self._latest) > MOST:
            self._latest = {key_of(each): each for each in newest_first(self._latest.values())[:MOST]}


def life_of(task: Task) -> Iterator[Happened]:
    """Yield what has happened to a task, as its row tells."""
    ended = task.ended_at
    if ended is None and task.completed_at is not None:  # another program has ended it
        ended = task.completed_at * SECOND
    yield _event("pushed", pushed_at(task), task)
    for attempt in attempts_of(task):
        if attempt.began_at is not None:
            yield _event("started", attempt.began_at, task, attempt.number)
        name = _ENDS.get(attempt.outcome or "")
        if name and attempt.ended_at is not None and attempt.ended_at != ended:  # else it is the end of the task
            yield _event(name, attempt.ended_at, task, attempt.number, attempt.error)
    if task.final and ended is not None:
        yield _event(str(task.status), ended, task, error=task.error_message)


def _event(name: str, at: int, task: Task, attempt: int | None = None, error: str | None = None) -> Happened:
    return Happened(
        name=name,
        at=at,
        task_id=task.task_id,
        type=task.type,
        queue=task.queue,
        attempt=attempt,
        error=None if error is None else first_line(error),
    )


def _new(ids: list[str], known: Sequence[str]) -> list[str]:
    """Return the ids that were not known; where not all could be known, none of those that ended before."""
    seen = set(known)
    end = len(ids)
    if len(known) == COUNTED and seen.intersection(ids):
        end = max(place for place, each in enumerate(ids) if each in seen)
    return [each for each in ids[:end] if each not in seen]


def _ended_after(task: Task | None, instant: int) -> bool:
    """Return whether a task ended then or later, by whole seconds; not one that was deleted meanwhile."""
    return task is not None and task.completed_at is not None and task.completed_at >= instant // SECOND

"""What a fetcher needs of the worker whose slots it fills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aiotaskq.core.outcome import Outcome
from aiotaskq.core.task import Task
from aiotaskq.runtime.worker.execution import Execution


class Consumer(Protocol):
    """What a fetcher needs of the worker whose slots it fills. All of it is called on the worker's loop."""

    queues: tuple[str, ...] | None
    """The queues to claim from; None for every queue that is not paused."""
    concurrency: int
    lease: float
    poll_interval: float
    executions: dict[str, Execution]
    """What runs, by task id: each has a slot."""

    @property
    def owner(self) -> str:
        """The id under which to claim."""

    def start_run(self, task: Task) -> None:
        """Run a task in a free slot."""

    def admit(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return the claimed tasks that may be buffered; the others are given back by then."""

    def settled(self, task: Task, outcome: Outcome, after: Task | None) -> None:
        """Tell that the outcome of a task is written; ``after`` is the task now, None if it was lost."""

    def follow_ups(self, after: Task) -> tuple[Task, ...]:
        """Return the tasks to push in the transaction that writes this ended task."""

    def look_idle(self) -> None:
        """Look whether anything runs or is to be written: a round has ended."""

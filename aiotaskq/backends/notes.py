"""The contract of notes: a store of what handlers write while they run; ``core.notes`` has the bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiotaskq.core.coded import from_stored, is_coded, to_stored
from aiotaskq.core.task import Status

if TYPE_CHECKING:
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.notes import NewNotes, Note


def may_write(last: bool) -> tuple[Status, ...]:
    """Return the statuses of a task to which a run with its fence may write notes."""
    return (Status.RUNNING, Status.COMPLETED) if last else (Status.RUNNING,)


class Notes(ABC):
    """The notes of the tasks of one store. They are deleted with their task. Each method is atomic."""

    codec: Codec | None = None
    """That of the backend: it encodes the texts."""

    @abstractmethod
    async def add(self, new: Sequence[NewNotes], last: bool = False) -> list[bool | None]:
        """Append notes to running tasks; return for each task whether it runs with this fence, else it has no notes.

        None stands for a task whose row another transaction has locked, as that of its handler: nothing was written for
        it, and it may be tried again. The ``last`` notes of a run wait for the row instead, and are also appended where
        the run has completed its task in a transaction of its own. The oldest notes of a task go where it would have
        more than ``MAX_NOTES``, or texts of more than ``MAX_SIZE``. No task is named twice in one call.
        Sends the hint ``noted``.

        What a task has used up is written with its notes: ``core.usage.risen`` says what is stored. By how much that
        has risen is added, in the same transaction, to the sums of its group and of those around it. Where that uses
        up the budget of a group, its gate closes: the tasks that have passed it and have not started are parked at
        their first gates again, but for those that another transaction is about to start.
        """

    @abstractmethod
    async def read(self, task_id: str, after: int, limit: int) -> list[Note]:
        """Read the first notes of a task whose number is greater than ``after``, in the order of their numbers."""

    @abstractmethod
    async def last(self, task_id: str, limit: int) -> list[Note]:
        """Read the newest notes of a task, in the order of their numbers."""

    def _stored(self, text: str) -> str:
        return text if self.codec is None else to_stored(text.encode(), self.codec).decode()

    def _plain(self, text: str) -> str:
        """Return a text as it was given; one that cannot be decoded is returned as it is stored."""
        if not is_coded(text):
            return text
        try:
            return from_stored(text, self.codec).decode()
        except Exception:  # the codec is the application's, and may raise anything
            return text

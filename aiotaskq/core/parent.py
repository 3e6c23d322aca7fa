"""What a follow-up learns of the task that has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parent(Generic[T]):
    """The task that asked for a follow-up by ``on_success`` or ``on_failure``: the one parameter of its handler.

    ``async def mail(parent: Parent[Receipt])`` gets the result of the parent as a ``Receipt``. For ``on_failure`` the
    result is None: annotate ``Parent[None]``, or ``Parent`` alone.
    """

    id: str
    """Its task id."""
    type: str
    result: T
    error: str | None = None
    """``Type: message`` and the traceback of its failure."""

    def as_params(self) -> dict[str, Any]:
        """Return it in the JSON form in which it is stored."""
        return {"id": self.id, "type": self.type, "result": self.result, "error": self.error}

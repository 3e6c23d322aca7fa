"""What a task learns of an earlier one, for which it has waited, or which has asked for it."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from aiotaskq.core.errors import NotFound

T = TypeVar("T")
PARENT = "parent"
"""The name of a handler's parameter that gets earlier tasks, where its annotation has ``Parent``."""
RESULTS = "results"
"""That of one that gets their results, where its annotation is a list and its default ``injected()``."""


class ParentDeleted(NotFound):
    """The result of a parent is gone with its row; a retry would not bring it back."""


@dataclass(frozen=True, slots=True)
class Parent(Generic[T]):
    """An earlier task: what a handler gets as its parameter ``parent``, with the result as a value of ``T``.

    ``async def mail(parent: Parent[Receipt] = injected())`` follows one task: that of ``on_success`` or
    ``on_failure``, or the one before it in a chain or workflow. ``parent: list[Parent[Receipt]] = injected()`` gets
    all parents in a workflow, in the order of ``after``, and in the callback of a group all of its members. The result
    of a task that did not complete is None: annotate ``Parent[Receipt | None]`` where that can be.
    """

    id: str
    """Its task id."""
    type: str
    result: T
    error: str | None = None
    """``Type: message`` and the traceback of its failure, or why it was cancelled; None where it completed."""

    def as_params(self) -> dict[str, Any]:
        """Return it in the JSON form in which it is stored."""
        return {"id": self.id, "type": self.type, "result": self.result, "error": self.error}


class ParentParameter(msgspec.Struct, frozen=True):
    """How a handler declares that it gets earlier tasks."""

    needed: bool
    """Whether the parameter has no default."""
    many: bool
    """Whether it is a list."""
    name: str = PARENT
    """``RESULTS`` where it gets the results alone."""


def declared_parent(annotation: Any, needed: bool) -> ParentParameter | None:
    """Return what an annotation of the parameter ``parent`` declares; None for one without ``Parent``."""
    inner = [annotation]
    for each in inner:  # it grows
        if Parent in (each, typing.get_origin(each)):
            return ParentParameter(needed, many=any(map(is_list, inner)))
        inner += typing.get_args(each)
    return None


def is_list(annotation: Any) -> bool:
    """Whether it is that of a list, or of what is given as one."""
    return typing.get_origin(annotation) in (list, Sequence, Iterable)

"""A base for values that may hold secrets of the application: their repr, which ends up in logs, does not show them."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

HIDDEN = frozenset({"params", "result", "progress", "extra", "error_message", "error", "cause", "coded"})
"""Fields of which a repr says only that they are set."""


class _Hidden:
    def __repr__(self) -> str:
        return "…"


class Redacted(msgspec.Struct, frozen=True):
    """A struct whose repr hides params, results and error texts, and leaves out fields that have their default."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown: list[tuple[str, Any]] = []
        for field in _fields(type(self)):
            value = getattr(self, field.name)
            if field.name in HIDDEN:
                # Not compared with the default: the == of a handler's result may do anything.
                if value is not None and not (type(value) is dict and not value):
                    shown.append((field.name, _Hidden()))
            elif field.required or value != field.default:
                shown.append((field.name, value))
        return shown


@functools.cache
def _fields(kind: type[Redacted]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a class: msgspec evaluates all its annotations to name them."""
    return msgspec.structs.fields(kind)

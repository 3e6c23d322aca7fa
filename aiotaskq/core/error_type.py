"""The type of an error: what of its text is shown, and found, where its message is hidden."""

from __future__ import annotations

from aiotaskq.core.errors import ValidationError

MAX_TYPE = 100
"""Characters of a type that are shown."""


def error_type(error: str | None) -> str | None:
    """Return the type of an error text: what stands before its first colon or line break."""
    return None if error is None else error.partition(":")[0].partition("\n")[0][:MAX_TYPE]


def check_error_type(name: str, text: object) -> str:
    """Return the beginning of a type: an error text that begins so has a type that begins so.

    ``name`` begins the message. Raises ValidationError.
    """
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TYPE or any(mark in text for mark in ":\n\0"):
        raise ValidationError(
            f"{name}: the beginning of an error's type is needed, such as ValueError: 1 to {MAX_TYPE} characters "
            "without a colon and a line break"
        )
    return text

"""Fields of a form as values: JSON and numbers."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from aiotaskq.errors import ValidationError


def json_of(name: str, text: str) -> Any:
    """Return the value of a JSON text. Raises ValidationError naming the field."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ValidationError(f"{name}: is no JSON: {error}") from None
    except RecursionError:
        raise ValidationError(f"{name}: is nested too deeply") from None


def number(name: str, text: str) -> float:
    """Return the number of a text. Raises ValidationError naming the field."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValidationError(f"{name}: a number is needed (got {text!r:.60})")
    return found

"""What a request body says."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct


def body_options(body: Struct) -> dict[str, Any]:
    """Return the fields that a request body sets."""
    values = {name: getattr(body, name) for name in body.__struct_fields__}
    return {name: value for name, value in values.items() if value is not UNSET}

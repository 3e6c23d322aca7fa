"""The JSON schema of health."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Health(Struct):
    """Whether this process can do its work, and which part of it cannot."""

    status: Literal["ok", "failing"]
    parts: dict[str, Literal["ok", "failing"]]

"""The JSON schemas of steps."""

from __future__ import annotations

from msgspec import Struct

from aiotaskq.operations.fields import Show


class StepsQuery(Struct):
    """What of an event is wanted."""

    show: Show = []

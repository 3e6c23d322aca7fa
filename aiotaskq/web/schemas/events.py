"""The JSON schemas of steps."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct

from aiotaskq.operations.fields import Show, Time


class StepsQuery(Struct):
    """What of the steps is wanted."""

    show: Show = []


class StepView(Struct, omit_defaults=True):
    """What a handler has done, slept or waited for."""

    kind: str
    name: str
    number: int
    at: Time
    until: Time | None = None
    timed_out: bool = False
    version: int = 1
    undecodable: Annotated[str | None, Meta(description="The error of the codec, where it cannot be decoded")] = None
    value: Any = UNSET


class StepList(Struct):
    """The steps of a task, in their order."""

    steps: list[StepView]

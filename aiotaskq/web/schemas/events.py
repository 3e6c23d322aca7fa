"""The JSON schemas of events and steps."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.core.validation import MAX_KEY
from aiotaskq.operations.fields import Cursor, Limit, Show, Time

Expires = Annotated[float, Meta(gt=0, description="Seconds; null: for ever, left out: 30 days")]


class EventBody(Struct, forbid_unknown_fields=True):
    """An event to be stored."""

    value: Any = None
    expires: Expires | UnsetType | None = UNSET


class EventQuery(Struct):
    """Which events are wanted."""

    limit: Limit = 100
    prefix: Annotated[str, Meta(max_length=MAX_KEY, description="How the keys begin")] = ""
    cursor: Cursor | None = None
    show: Show = []


class EventView(Struct, omit_defaults=True):
    """An event."""

    key: str
    at: Time
    expires_at: Time | None
    value: Any = UNSET
    undecodable: Annotated[str | None, Meta(description="The error of the codec, where it cannot be decoded")] = None


class EventPage(Struct):
    """One page of the events, by their keys."""

    events: list[EventView]
    next: str | None


class Emitted(Struct):
    """What came of an event."""

    key: str
    emitted: Annotated[bool, Meta(description="False: there was one of this key already, which stays")]


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

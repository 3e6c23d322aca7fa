"""Durable events: the keys for which handlers wait, and the events that were emitted; more can be emitted."""

from __future__ import annotations

import msgspec

from aiotaskq.core.instants import to_iso
from aiotaskq.core.steps import EventValue
from aiotaskq.core.validation import check_json
from aiotaskq.web.dashboard.fields import json_of
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, View, actions, done, link, pages
from aiotaskq.web.dashboard.words import marked

ROWS = 100
KEEP = 5.0
"""Seconds for which an open page does not look anew."""


class Awaited(msgspec.Struct):
    """An event that has not come."""

    key: str
    tasks: int
    """How many wait for it."""


class Emitted(msgspec.Struct):
    """An event that was emitted. Instants are RFC 3339."""

    key: str
    at: str | None
    expires_at: str | None
    value: str | None
    """As JSON; None where it is not shown."""


class EventKeys(msgspec.Struct, kw_only=True):
    """The data of the page."""

    awaited: list[Awaited]
    more_awaited: bool
    emitted: list[Emitted]
    key: str
    """The filter: only keys that begin so."""
    more: str | None
    """The last key where there are more behind it."""


@pages("waits", marked("Durable events"), "key", "after")
async def waits(view: View) -> EventKeys:
    """Read the keys that are waited for, and one page of the events that are there."""
    store, key = view.tq.queue.backend.steps, view.text("key") or ""
    awaited = await view.keep(f"awaited {key}", KEEP, lambda: store.awaited(ROWS + 1, prefix=key))
    found = await store.events(view.now, ROWS + 1, prefix=key, after=view.text("after"))
    return EventKeys(
        awaited=[Awaited(name, count) for name, count in list(awaited.items())[:ROWS]],
        more_awaited=len(awaited) > ROWS,
        emitted=[_emitted(each, view.show_args) for each in found[:ROWS]],
        key=key,
        more=found[ROWS - 1].key if len(found) > ROWS else None,
    )


def _emitted(event: EventValue, show: bool) -> Emitted:
    return Emitted(event.key, to_iso(event.at), to_iso(event.expires_at), event.text if show else None)


@actions("emit-event")
async def emit(change: Change) -> Question | Done:
    """Emit an event: the tasks that wait for it go on, and the first value of a key stays."""
    key, text = change.needed("key"), change.text("value")
    value = None if text is None else json_of("value", text)
    check_json("value", value)
    task_id = change.text("task")
    back = "waits" if task_id is None else link("task", id=task_id)
    if not change.sure:
        store = change.tq.queue.step_verbs.store
        count = (await store.waiting([key]))[key]
        text = marked("Emit the event {key}? Tasks that wait for it and go on: {count}. Its value stays as it is then.")
        return Question(text, {"key": key, "count": count}, marked("Emit the event"), back)
    if await change.tq.emit(key, value):
        return done(marked("The event {key} is emitted."), back, key=key)
    there = Message(marked("The event {key} was emitted before; that value stays."), {"key": key}, problem=True)
    return Done(there, back, (key,))

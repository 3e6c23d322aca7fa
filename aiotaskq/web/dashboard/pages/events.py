"""Events: the keys for which handlers wait, and the events that were emitted; more can be emitted."""

from __future__ import annotations

from typing import Any

from aiotaskq.core.instants import to_iso
from aiotaskq.operations.events import events as operations
from aiotaskq.web.dashboard.view import View, action, page, page_of
from aiotaskq.web.dashboard.words import marked

ROWS = 100


@page("event-form", marked("Emit an event"), "key", "task", section="events")
async def event_form(view: View) -> dict[str, Any]:
    """Return the event that is to be emitted, and the task from whose page it is."""
    return {"key": view.text("key") or "", "task": view.text("task") or ""}


@page("events", marked("Events"), "key", "after")
async def events(view: View) -> dict[str, Any]:
    """Read the keys that are waited for, and one page of the events that are there."""
    store, key = view.tq.queue.backend.steps, view.text("key") or ""
    awaited = await view.keep(f"awaited {key}", lambda: store.awaited(ROWS + 1, prefix=key))
    found = await store.events(view.now, ROWS + 1, prefix=key, after=view.text("after"))
    emitted = [
        {
            "key": each.key,
            "at": to_iso(each.at),
            "expires_at": to_iso(each.expires_at),
            "value": each.text if view.show_args else None,
        }
        for each in found[:ROWS]
    ]
    return {
        "awaited": [{"key": name, "tasks": count} for name, count in list(awaited.items())[:ROWS]],
        "more_awaited": len(awaited) > ROWS,
        "emitted": emitted,
        "key": key,
        "more": found[ROWS - 1].key if len(found) > ROWS else None,
    }


def _page(view: View, _: str) -> str:
    task_id = view.text("task")
    return "events" if task_id is None else page_of("tasks", task_id)


action(
    operations["emit"],
    lambda found: (
        marked("The event {key} is emitted.")
        if found.emitted
        else marked("The event {key} was emitted before; that value stays.")
    ),
    page=_page,
    form="event-form",
)

"""Actions on public values: set and delete."""

from __future__ import annotations

from aiotaskq.core.validation import check_json
from aiotaskq.errors import NotFound
from aiotaskq.web.dashboard.actions.fields import json_of, number
from aiotaskq.web.dashboard.view import Change, Done, Question, actions, done, link
from aiotaskq.web.dashboard.words import marked


@actions("set-value", form="value")
async def set_value(change: Change) -> Done:
    """Store a value, for ever or for some seconds."""
    key, text = change.needed("key"), change.text("ttl")
    found = json_of("value", change.needed("value"))
    ttl = None if text is None else number("ttl", text)
    check_json("value", found)
    await change.tq.store.set_public(key, found, ttl)
    return done(marked("The value of {key} is stored."), link("value", key=key), key=key)


@actions("delete-value")
async def delete_value(change: Change) -> Question | Done:
    """Delete a value."""
    key = change.needed("key")
    if not change.sure:
        text = marked("Delete the value of {key}? This cannot be undone.")
        return Question(text, {"key": key}, marked("Delete the value"), link("value", key=key))
    if not await change.tq.store.delete_public(key):
        raise NotFound(f"there is no value under {key}")
    return done(marked("The value of {key} is deleted."), "values", key=key)

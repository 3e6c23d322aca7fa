"""Actions on public values: set and delete."""

from __future__ import annotations

from aiotaskq.core.task import SECOND
from aiotaskq.core.validation import check_json
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.web.dashboard.actions.fields import json_of, number
from aiotaskq.web.dashboard.view import Change, Done, Question, actions, done, link
from aiotaskq.web.dashboard.words import marked


@actions("set-value", form="value")
async def set_value(change: Change) -> Done:
    """Store a value, for ever or for some seconds; where the seconds were not edited it expires when it would have."""
    key, text, until = change.needed("key"), change.text("ttl"), change.text("until")
    found = json_of("value", change.needed("value"))
    ttl = None if text is None else number("ttl", text)
    if until is not None and text is not None and text == change.text("shown"):
        ttl = (number("until", until) - change.now) / SECOND
        if ttl <= 0:
            raise ValidationError("ttl: the value has expired meanwhile; give another time to live, or none")
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

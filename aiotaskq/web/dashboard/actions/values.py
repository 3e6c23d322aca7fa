"""Actions on public values: set and delete."""

from __future__ import annotations

from urllib.parse import urlencode

from aiotaskq.core.validation import check_json
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.web.dashboard.actions.fields import json_of
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, actions
from aiotaskq.web.dashboard.words import marked


def value_page(key: str) -> str:
    """Return the address of a value's page."""
    return "value?" + urlencode({"key": key})


@actions("set-value", form="value")
async def set_value(change: Change) -> Done:
    """Store a value, for ever or for some seconds."""
    key, text = change.needed("key"), change.text("ttl")
    found = json_of("value", change.needed("value"))
    try:
        ttl = None if text is None else float(text)
    except ValueError:
        raise ValidationError(f"ttl: a number is needed (got {text!r:.60})") from None
    check_json("value", found)
    await change.tq.store.set_public(key, found, ttl)
    return Done(Message(marked("The value of {key} is stored."), {"key": key}), value_page(key), (key,))


@actions("delete-value")
async def delete_value(change: Change) -> Question | Done:
    """Delete a value."""
    key = change.needed("key")
    if not change.sure:
        text = marked("Delete the value of {key}? This cannot be undone.")
        return Question(text, {"key": key}, marked("Delete the value"), value_page(key))
    if not await change.tq.store.delete_public(key):
        raise NotFound(f"there is no value under {key}")
    return Done(Message(marked("The value of {key} is deleted."), {"key": key}), "values", (key,))

"""Actions on events, for which handlers wait: emit."""

from __future__ import annotations

from aiotaskq.core.validation import check_json
from aiotaskq.web.dashboard.actions.fields import json_of
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, actions, done, link
from aiotaskq.web.dashboard.words import marked


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

"""Actions on groups: cancel, and retry what has failed."""

from __future__ import annotations

import msgspec

from aiotaskq.errors import ValidationError
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, actions, link
from aiotaskq.web.dashboard.words import marked


@actions("cancel-group")
async def cancel(change: Change) -> Question | Done:
    """Cancel the members that have not ended."""
    group_id = change.needed("id")
    if not change.sure:
        left = (await change.tq.queue.groups.get(group_id)).remaining
        text = marked("Cancel the group {id}? {count} of its members have not ended; its callback is not pushed.")
        return Question(text, {"id": group_id, "count": left}, marked("Cancel the group"), link("group", id=group_id))
    if await change.tq.group_handle(group_id).cancel():
        said = Message(marked("The group {id} is cancelled."), {"id": group_id})
    else:
        said = Message(marked("The group {id} has ended already."), {"id": group_id}, problem=True)
    return Done(said, link("group", id=group_id), (group_id,))


@actions("set-budget")
async def set_budget(change: Change) -> Done:
    """Give a group another budget."""
    group_id = change.needed("id")
    try:
        budget = msgspec.json.decode(change.needed("budget"))
    except msgspec.DecodeError:
        raise ValidationError("budget: a JSON object of names and numbers is needed") from None
    group = await change.tq.queue.groups.set_budget(group_id, budget)
    text = marked("The budget of the group {id} is set, and is used up already.")
    if not group.used_up:
        text = marked("The budget of the group {id} is set; its members go on.")
    return Done(Message(text, {"id": group_id}), link("group", id=group_id), (group_id,))


@actions("retry-group")
async def retry(change: Change) -> Done:
    """Put back the members that did not complete."""
    group_id = change.needed("id")
    count = await change.tq.group_handle(group_id).retry_failed()
    said = Message(marked("{count} members of the group {id} are pending again."), {"id": group_id, "count": count})
    return Done(said, link("group", id=group_id), (group_id,))

"""From a call (task type, params, options) to a task: the handler's defaults, delays, expiry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from aiotaskq.app.handle import PushOptions, TaskCall
from aiotaskq.app.registrations import Registrations
from aiotaskq.core.ids import new_id, next_seq
from aiotaskq.core.instants import instant
from aiotaskq.core.task import SECOND, Task, new_task
from aiotaskq.core.validation import check_params, check_seconds
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.handler import Handler, check_follow_up, fitted, unknown

_DEFAULTS = {"queue": "default", "priority": 0, "max_retries": 3}


def new_task_of(call: TaskCall[Any], registered: Registrations, now: int) -> Task:
    """Make the task of a call. Raises ValidationError, UnknownHandler; nothing is written then."""
    handlers = registered.handlers
    handler = handlers.get(call.type)
    if handler is None and handlers and isinstance(call.type, str) and call.type not in registered.elsewhere:
        raise unknown(call.type, handlers)
    if handler is not None and not call.options:
        # The usual call: all but the params was checked when the handler was registered. The checks below would take
        # longer than the rest of a push into memory.
        return Task(
            task_id=new_id(),
            type=handler.name,
            params=check_params(call.params),
            priority=handler.priority,
            max_retries=handler.max_retries,
            created_at=now // SECOND,
            queue=handler.queue,
            run_at=now,
            seq=next_seq(now),
            expires_at=None if handler.expires is None else now + int(handler.expires * SECOND),
        )
    options: dict[str, Any] = dict(call.options)
    if wrong := options.keys() - PushOptions.__annotations__.keys():
        known = ", ".join(PushOptions.__annotations__)
        raise ValidationError(f"push: unknown option {', '.join(sorted(wrong))}; use {known}")
    options.pop("session", None)  # the transaction of the push, no field of the task
    rerun = options.pop("rerun", False)
    if type(rerun) is not bool:
        raise ValidationError(f"rerun: True or False is needed (got {type(rerun).__name__})")
    if rerun and options.get("task_id") is None:
        raise ValidationError("rerun: it is about an id that has ended; give its task_id, too")
    for name, default in _DEFAULTS.items():
        if options.get(name) is None:
            options[name] = default if handler is None else getattr(handler, name)
    for name in ("on_success", "on_failure"):
        follow_up = options[name] = getattr(options.get(name), "name", options.get(name))
        if handlers and isinstance(follow_up, str) and not registered.knows(follow_up):
            raise unknown(follow_up, handlers, name)
        if isinstance(follow_up, str):
            check_follow_up(name, handlers.get(follow_up))
    delay, at, expires = options.pop("delay", None), options.pop("at", None), options.pop("expires", None)
    if expires is None and handler is not None:
        expires = handler.expires
    if delay is not None and at is not None:
        raise ValidationError("delay, at: give one of the two")
    run_at = None
    if delay is not None:
        run_at = now + _microseconds("delay", delay)
    elif at is not None:
        run_at = max(instant("at", at), now)
    expires_at = None
    if isinstance(expires, datetime):
        expires_at = instant("expires", expires)
    elif expires is not None:
        expires_at = (run_at or now) + _microseconds("expires", expires)
    return new_task(call.type, call.params, now=now, run_at=run_at, expires_at=expires_at, **options)


def named_call(type: str, params: Any, options: PushOptions, handlers: Mapping[str, Handler]) -> TaskCall[Any]:
    """Return a call by the name of a type; params are checked and converted if the handler is registered.

    Raises ValidationError.
    """
    handler = handlers.get(type) if isinstance(type, str) else None
    return TaskCall(type, fitted(handler, {} if params is None else params), options)


def as_call(
    call: TaskCall[Any] | tuple[str, dict[str, Any]] | Mapping[str, Any], handlers: Mapping[str, Handler]
) -> TaskCall[Any]:
    """Return the call for an item of ``push_many``. Raises ValidationError."""
    if isinstance(call, TaskCall):
        return call
    if isinstance(call, tuple) and len(call) == 2:
        return named_call(call[0], call[1], {}, handlers)
    if isinstance(call, Mapping) and "type" in call:
        options: Any = {key: value for key, value in call.items() if key not in ("type", "params")}
        return named_call(call["type"], call.get("params"), options, handlers)
    raise ValidationError("push_many: each item is f.call(…), (type, params), or a dict with 'type' and 'params'")


def session_of(calls: Sequence[TaskCall[Any]]) -> Any:
    """Return the session in which all of these calls are pushed, or None. Raises ValidationError if they differ."""
    sessions = [call.options.get("session") for call in calls]
    if any(session is not sessions[0] for session in sessions):
        raise ValidationError("session: push_many writes in one transaction, so all of its calls need the same session")
    return sessions[0] if sessions else None


def reruns_of(calls: Sequence[TaskCall[Any]]) -> dict[str, bool]:
    """Return the task ids given by these calls, and whether each may run again if it has ended."""
    named = ((call.options.get("task_id"), call.options.get("rerun", False)) for call in calls if call.options)
    return {task_id: rerun for task_id, rerun in named if task_id is not None}


def _microseconds(field: str, value: Any) -> int:
    return int(check_seconds(field, value.total_seconds() if isinstance(value, timedelta) else value) * SECOND)

"""From a call (task type, params, options) to a task: the handler's defaults, delays, expiry."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from aiotaskq.app.handle import MakesCalls, PushOptions, TaskCall, with_defaults
from aiotaskq.core.edit import MERGES, Debounce, call_key, check_joinable, is_declared_unique, throttle_key, unique_text
from aiotaskq.core.errors import (
    MAX_ID,
    MAX_NAME,
    check_key,
    check_params,
    check_seconds,
    guess,
    instant,
    kind_name,
    shown,
)
from aiotaskq.core.foreign_names import unknown_options
from aiotaskq.core.gate import Flow
from aiotaskq.core.groups import CANCEL, MAX_PARENTS, check_rule, derived_id, waiting
from aiotaskq.core.ids import new_id, next_seq, second_of
from aiotaskq.core.limits import KINDS, Gating, specs_of
from aiotaskq.core.tags import TAGS, check_tags
from aiotaskq.core.task import RUN_OPTIONS, SECOND, Task, new_task, run_options
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.current import child_id, inside
from aiotaskq.runtime.handler import Handler, gating_of
from aiotaskq.runtime.params import KEY, check_follow_up, fitted, unknown

if TYPE_CHECKING:
    from aiotaskq.app.registrations import Registrations
    from aiotaskq.core.steps import EventValue

DAY = 86_400.0


def new_task_of(
    call: TaskCall[Any], registered: Registrations, now: int, rules: dict[str, Debounce] | None = None
) -> Task:
    """Make the task of a call, and note in ``rules`` how it is debounced, by its id.

    Raises ValidationError, UnknownHandler; nothing is written then.
    """
    handlers = registered.handlers
    handler = handlers.get(call.type)
    if handler is None and handlers and isinstance(call.type, str) and call.type not in registered.elsewhere:
        raise unknown(call.type, [*handlers, *registered.elsewhere])
    plain = not call.options and type(call.params) is dict
    if plain and handler is not None and type(handler.template) is registered.kind:
        # The usual call: all but the params was checked when the handler was registered. The checks below would take
        # longer than the rest of a push into memory.
        task = replace(
            handler.template,
            task_id=new_id() if inside.get() is None else child_id(handler.name) or new_id(),
            params=call.params,
            created_at=second_of(now),
            run_at=now,
            seq=next_seq(now),
            expires_at=None if handler.expires is None else now + int(handler.expires * SECOND),
        )
        return task if handler.gating is None else handler.gating.gated(task)
    options: dict[str, Any] = dict(call.options)
    if options and (wrong := options.keys() - PushOptions.__annotations__.keys()):
        raise unknown_options("push", "push option", wrong, PushOptions.__annotations__)
    options.pop("session", None)  # the transaction of the push, no field of the task
    gating = _gating(call, options, handler)
    tags = check_tags(options.pop("tags", None))
    if_ended = options.pop("if_ended", None)
    if if_ended not in (None, "retry"):
        raise ValidationError(f"if_ended: {if_ended!r:.40} is unknown; use 'retry', or leave it out to refuse the push")
    if if_ended and options.get("task_id") is None:
        raise ValidationError("if_ended: it is about an id that has ended; give its task_id, too")
    if callable(key := options.get("unique_key")):
        options["unique_key"] = call_key(call.type, key, call.params)
    debounced = _take_debounce(call.type, call.params, options, if_ended, now)
    options = {name: value for name, value in options.items() if value is not None or name not in RUN_OPTIONS}
    if handler is not None:
        options = run_options(handler.template) | options
    for name in ("on_success", "on_failure"):
        follow_up = options[name] = getattr(options.get(name), "name", options.get(name))
        if not (follow_up is None or isinstance(follow_up, str) or callable(follow_up)):
            kind = kind_name(follow_up)
            raise ValidationError(f"{name}: a task function, or the name of a type, is needed (got {kind})")
        if handlers and isinstance(follow_up, str) and not registered.knows(follow_up):
            raise unknown(follow_up, handlers, name)
        if isinstance(follow_up, str):
            check_follow_up(name, handlers.get(follow_up))
    earlier = _take_after(options)
    if earlier and if_ended:
        raise ValidationError("after, if_ended: give one of the two")
    if earlier and debounced is not None and debounced.merge != "first":
        raise ValidationError("after, debounce: give one of the two")
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
    elif debounced is not None:
        run_at = now + debounced.delay
    expires_at = None
    if isinstance(expires, datetime):
        expires_at = instant("expires", expires)
    elif expires is not None:
        expires_at = (run_at or now) + _microseconds("expires", expires)
    if options.get("task_id") is None:
        options["task_id"] = child_id(call.type)
    options |= {"run_at": run_at, "expires_at": expires_at}
    if handler is not None and handler.template.extra:
        tags = check_tags(handler.template.tags | tags)
    if tags:
        options["extra"] = {TAGS: tags}
    task = new_task(call.type, call.params, now=now, kind=registered.kind, **options)
    if debounced is not None and rules is not None:
        flow = None if gating is None or debounced.merge != "list" else gating.flow
        rules[task.task_id] = replace(debounced, flow=flow)
    task = task if gating is None else gating.gated(task)
    if not earlier:
        return task
    parents = tuple((key, "") for key in earlier)
    after = replace(task.flow or Flow(), parents=parents, rules=tuple(earlier.values()))
    return waiting(replace(task, flow=after), len(earlier), task.due_us)


def _take_after(options: dict[str, Any]) -> dict[str, str]:
    """Take what a call waits for out of the options: the ids of tasks and groups, with their rules."""
    given, rule = options.pop("after", None), options.pop("after_rule", None)
    if rule is not None:
        check_rule("after_rule", rule)
        if not given:
            raise ValidationError("after_rule: it is about after; give that, too")
    each = given if isinstance(given, Iterable) and not isinstance(given, str) else () if given is None else (given,)
    found: dict[str, str] = {}
    for one in each:
        key = getattr(one, "task_id", getattr(one, "group_id", one))
        if not isinstance(key, str):
            raise ValidationError(f"after: handles or ids of tasks and groups are needed (got {kind_name(one)})")
        own = given[one] if isinstance(given, Mapping) else rule or CANCEL
        check_rule(f"after: {shown(key)}", own)
        found[check_key("after", key, MAX_ID)] = own
    if len(found) > MAX_PARENTS:
        raise ValidationError(f"after: {len(found):,} tasks are more than {MAX_PARENTS:,}; make a group of them")
    return found


def _gating(call: TaskCall[Any], options: dict[str, Any], handler: Handler | None) -> Gating | None:
    """Return the gates of a call, whose options replace those of the handler, kind by kind."""
    own = {kind: options.pop(kind) for kind in KINDS.values() if kind in options}
    if not own:
        return None if handler is None else handler.gating
    specs = list(specs_of(**own))
    if handler is not None and handler.gating is not None:
        specs += [spec for spec in handler.gating.specs if KINDS[type(spec)] not in own]
    if handler is not None:
        return gating_of(handler, specs)
    return Gating(check_key("type", call.type, MAX_NAME), specs) if specs else None


def _take_debounce(type: str, params: Any, options: dict[str, Any], if_ended: str | None, now: int) -> Debounce | None:
    """Take what a call says of its debounce or throttle out of the options; set the key instead."""
    rule = debounce_of(options)
    period, key, *_ = [options.pop(name, None) for name in ("throttle", "key", "debounce", "max_wait", "merge")]
    if rule is None and period is None:
        return None
    name = "throttle" if rule is None else "debounce"
    forbidden: tuple[str, ...] = ("idempotency_key",) if rule is None else ("delay", "at", "task_id", "idempotency_key")
    if rule is not None and not rule.delay and is_declared_unique({"key": key}):
        name, forbidden = "unique", ("task_id", "idempotency_key")
    for other in forbidden:
        if options.get(other) is not None:
            raise ValidationError(f"{name}, {other}: give one of the two")
    if rule is None:
        if if_ended:
            raise ValidationError("throttle, if_ended: give one of the two")
        found = call_key(type, key, params)
        options["idempotency_key"] = throttle_key(found, max(1, _microseconds("throttle", period)), now)
        return None
    if rule.merge == "list":
        check_joinable(params)
    if options.get("unique_key") is None:
        options["unique_key"] = call_key(type, key, params, whole=rule.merge == "list")
    elif key is not None:
        raise ValidationError("key, unique_key: give one of the two")
    return rule


def debounce_of(options: Mapping[str, Any]) -> Debounce | None:
    """Return how a call is debounced, None if it is not.

    Raises ValidationError, also for a throttle beside it, and for a key without either.
    """
    delay, max_wait, merge = options.get("debounce"), options.get("max_wait"), options.get("merge", "last")
    if delay is None:
        for name in ("max_wait", "merge"):
            if options.get(name) is not None:
                raise ValidationError(f"{name}: it is about debounce; give that, too")
        if options.get("throttle") is None and options.get("key") is not None:
            raise ValidationError("key: it is that of debounce or throttle; give one of the two, too")
        return None
    if options.get("throttle") is not None:
        raise ValidationError("debounce, throttle: give one of the two")
    if merge not in MERGES:
        raise ValidationError(f"merge: {merge!r:.40} is not one of {', '.join(MERGES)}")
    rule = Debounce(
        _microseconds("debounce", delay), None if max_wait is None else _microseconds("max_wait", max_wait), merge
    )
    if rule.max_wait is not None and rule.max_wait < rule.delay:
        raise ValidationError("max_wait: it is shorter than debounce; make it at least as long")
    return rule


def unique_defaults(
    function: Callable[..., Any], unique: Any, unique_while: Any, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of pushes by which the tasks of a handler are unique, and ``options``. Raises ValidationError.

    They are those of a unique key, of a debounced task that waits for no time, or of a throttle.
    """
    if unique is None:
        if unique_while is not None:
            raise ValidationError("unique_while: it is about unique; give that, too")
        return dict(options)
    for name, value in options.items():
        if value is not None:
            raise ValidationError(f"unique, {name}: give one of the two")
    names = [unique] if isinstance(unique, str) else unique
    if names is not True and not (isinstance(names, Sequence) and names):
        raise ValidationError(f"unique: True, or names of parameters, are needed (got {unique!r:.40})")
    parameters = list(inspect.signature(function).parameters)
    if names is not True and (wrong := [name for name in names if name not in parameters]):
        meant = guess(str(wrong[0]), parameters)
        raise ValidationError(f"unique: the handler has no parameter {wrong[0]!r:.40}{meant}")
    key = functools.partial(unique_text, None if names is True else tuple(names))
    found: dict[str, dict[str, Any]] = {
        "running": {"unique_key": key},
        "pending": {"debounce": 0, "merge": "first", "key": key},
        "day": {"throttle": DAY, "key": key},
    }
    period = "running" if unique_while is None else unique_while
    if not isinstance(period, str) or period not in found:
        raise ValidationError(f"unique_while: {period!r:.40} is not one of {', '.join(found)}")
    return found[period]


def push_defaults(function: Callable[..., Any], options: Mapping[str, Any]) -> PushOptions:
    """Return those of the options that are given, as of the pushes of a handler. Raises ValidationError."""
    found = {name: value for name, value in options.items() if value is not None}
    if isinstance(name := found.get("key"), str):
        if name not in inspect.signature(function).parameters:
            known = ", ".join(accepted := list(inspect.signature(function).parameters)) or "none"
            meant = guess(name, accepted)
            raise ValidationError(f"key: the handler has no parameter {name!r:.40}; there is: {known}{meant}")
        found["key"] = operator.methodcaller("get", name)
    debounce_of(found)
    if "throttle" in found:
        _microseconds("throttle", found["throttle"])
    return cast(PushOptions, found)


def named_call(
    type: str | MakesCalls, params: Any, options: PushOptions, handlers: Mapping[str, Handler]
) -> TaskCall[Any]:
    """Return a call by the name of a type; params are checked and converted if the handler is registered.

    Raises ValidationError.
    """
    if not isinstance(type, str):
        if (to_call := getattr(type, "to_call", None)) is not None:
            made: TaskCall[Any] = to_call(params, options)
            return made
        raise ValidationError(
            f"type: the name of a task type is needed (got {type.__class__.__name__}); "
            "f.push(…) and tq.push_many push calls, tq.start pushes workflows"
        )
    handler = handlers.get(type)
    if options and (wrong := options.keys() - PushOptions.__annotations__.keys()):
        if handler is not None and (taken := wrong & (handler.accepted or frozenset())):
            raise ValidationError(f"push: params are one dict: tq.push({type!r}, {{{min(taken)!r}: …}})")
        raise unknown_options("push", "push option", wrong, PushOptions.__annotations__)
    if handler is not None and handler.pushed:
        options = with_defaults(cast(PushOptions, handler.pushed), options)
    return TaskCall(type, fitted(handler, params if isinstance(params, dict) else check_params(params)), options)


def tasks_of(registered: Registrations, event: EventValue, value: Any) -> list[Task]:
    """Return the tasks that an event pushes: one for each handler that has subscribed to it.

    Their ids follow from the event and the handler. Raises ValidationError for a value that a handler does not take.
    """
    tasks = []
    for handler in list(registered.handlers.values()):
        subscription = handler.subscription
        if subscription is not None and subscription.takes(event.key):
            params = {} if subscription.value is None else {subscription.value: value}
            if subscription.takes_key:
                params[KEY] = event.key
            task_id = derived_id("event", event.at, handler.name, event.key)
            call = named_call(handler.name, params, {"task_id": task_id}, registered.handlers)
            tasks.append(new_task_of(call, registered, event.at))
    return tasks


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


def session_of(calls: Sequence[TaskCall[Any]], session: Any = None) -> Any:
    """Return the session in which all of these calls are pushed, or None. Raises ValidationError if they differ."""
    sessions = [call.options.get("session") for call in calls]
    if session is not None:
        sessions = [session, *(session if each is None else each for each in sessions)]
    if any(session is not sessions[0] for session in sessions):
        raise ValidationError("session: push_many writes in one transaction, so all of its calls need the same session")
    return sessions[0] if sessions else None


def own_ids_of(calls: Sequence[TaskCall[Any]]) -> dict[str, bool]:
    """Return the task ids given by these calls, and whether each may run again if it has ended."""
    named = ((call.options.get("task_id"), call.options.get("if_ended")) for call in calls if call.options)
    return {task_id: if_ended == "retry" for task_id, if_ended in named if task_id is not None}


def _microseconds(field: str, value: Any) -> int:
    return int(check_seconds(field, value) * SECOND)

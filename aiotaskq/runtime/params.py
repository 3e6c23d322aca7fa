"""Params beside the handler that they are for: whether it can be called with them, and what is said where it cannot."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from aiotaskq.core.edit import is_declared_unique
from aiotaskq.core.errors import check_key, guess
from aiotaskq.core.parent import PARENT
from aiotaskq.errors import UnknownHandler, ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.handler import Handler, Subscription

KEY = "key"
"""The parameter of a handler that gets the key of an event."""


def unknown(name: str, known: Collection[str], field: str = "type") -> UnknownHandler:
    """Return the error for a type without a handler, with the most similar known name."""
    return UnknownHandler(f"{field}: no handler is registered for {printable(name)!r}{guess(name, known)}")


class ParamsMisfit(TypeError):
    """The handler cannot be called with the params of the task; a retry would not change that.

    ``told`` is the reason as the log has it: names of parameters, and no values.
    """

    def __init__(self, why: str, told: str | None = None) -> None:
        super().__init__(why)
        self.told = why if told is None else told


def unfitting(error: ValidationError, handler: Handler) -> ParamsMisfit:
    """Return the error of stored params that do not fit the annotations; its text may have values."""
    field = re.match(r"params\.\w+", str(error))
    where = "its params do" if field is None else f"{field[0]} does"
    return ParamsMisfit(str(error), f"{where} not fit the annotation of {handler.name}()")


def fitted(handler: Handler | None, params: Any) -> Any:
    """Return params as they are stored, if the handler can be called with them; raises ValidationError if not.

    Without a handler, and for what is no dict, they are returned as they are.
    """
    if handler is None or not isinstance(params, dict):
        return params
    try:
        msgspec.convert(params, handler.shape)
    except msgspec.ValidationError:
        check_names(handler, params)
        if lacking := sorted(handler.required - params.keys()):
            names, given = ", ".join(map(repr, lacking)), ", ".join(f"{name!r}: …" for name in lacking)
            raise ValidationError(f"params: {handler.name}() needs {names}; give params={{{given}}}") from None
        return handler.stored(params)
    return handler.stored(params) if handler.typed else params


def check_names(handler: Handler, params: Mapping[str, Any]) -> None:
    """Raise ValidationError for a param that the handler has no parameter for."""
    accepted = handler.accepted
    if accepted is not None and (unknown := [name for name in params if name not in accepted]):
        free = accepted - params.keys() - handler.injected.keys()
        meant = guess(str(unknown[0]), free)
        raise ValidationError(f"params: {handler.name}() has no parameter {printable(unknown[0])!r}{meant}")


def check_follow_up(field: str, handler: Handler | None) -> None:
    """Raise ValidationError if the handler cannot be called with the one parameter of a follow-up, ``parent``."""
    if handler is None:
        return
    takes = handler.accepted is None or PARENT in handler.accepted
    if not takes or handler.required - {PARENT} or (handler.parent is not None and handler.parent.many):
        raise ValidationError(f"{field}: {handler.name}() must take one parameter, 'parent: aiotaskq.Parent'")


def check_callback(field: str, handler: Handler, members: int) -> None:
    """Raise ValidationError if the handler cannot be called with the parents of a callback, which are the members."""
    if handler.parent is None or handler.parent.many or members == 1:
        return
    if members == 0 and handler.parent.needed:
        raise ValidationError(
            f"{field}: {handler.name}() needs one 'parent', and a group without members has none; annotate it as "
            "list[Parent[…]]"
        )
    if members > 1:
        raise ValidationError(
            f"{field}: {handler.name}() takes one 'parent', and a callback has all members; annotate it as "
            "list[Parent[…]]"
        )


def subscription_of(handler: Handler, on: str | Sequence[str]) -> Subscription:
    """Return the subscription of a handler to the events of these names.

    Raises ValidationError for a wrong name, and for a handler that cannot be called with what an event has.
    """
    if not isinstance(on, Iterable):
        raise ValidationError(f"on: the name of an event, or a list of names, is needed (got {type(on).__name__})")
    names = tuple(check_key("on", name) for name in ([on] if isinstance(on, str) else on))
    if wrong := [name for name in names if name.endswith((":", "*"))]:
        raise ValidationError(
            f"on: {wrong[0]!r:.40} is no name; {wrong[0].rstrip(':.*')!r:.40} is for all that begin so"
        )
    if not names:
        raise ValidationError("on: the name of an event, or a list of names, is needed (got none)")
    if "debounce" in handler.pushed:
        other = "unique_while='pending'" if is_declared_unique(handler.pushed) else "debounce"
        raise ValidationError(f"on, {other}: give one of the two")
    if handler.parent is not None and handler.parent.needed and handler.parent.name != handler.items:
        raise ValidationError(f"on: {handler.name}() needs {handler.parent.name!r}, and an event has no task before it")
    taken = [each.name for each in inspect.signature(handler.function).parameters.values() if _is_param(each, handler)]
    value = handler.items or next((name for name in taken if name != KEY), None)
    if more := sorted(handler.required - {value, KEY}):
        raise ValidationError(
            f"on: {handler.name}() needs {more[0]!r}, too, and an event has a value and a key; give it a default"
        )
    return Subscription(names, value, KEY in taken)


def _is_param(parameter: inspect.Parameter, handler: Handler) -> bool:
    own = handler.parent is not None and parameter.name == handler.parent.name
    return parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in handler.injected and not own


def misfit(error: TypeError, handler: Handler, params: Mapping[str, Any]) -> ParamsMisfit | None:
    """Return why the handler could not be called, or None if the handler itself has raised this error."""
    if isinstance(error, ParamsMisfit):
        return error
    function = inspect.unwrap(handler.function)
    code = getattr(function if inspect.isroutine(function) else type(function).__call__, "__code__", None)
    if any(frame.f_code is code for frame, _ in traceback.walk_tb(error.__traceback__)):
        return None
    try:
        inspect.signature(handler.function).bind(**params)
    except TypeError as wrong:
        why = f"{handler.name}() {wrong}"
        return ParamsMisfit(why, re.sub(r"(unexpected keyword argument) .*", r"\1", why))
    return None

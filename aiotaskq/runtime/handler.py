"""The registered functions that run tasks: how a registration is checked, and what params and results become."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from aiotaskq.core.coded import readable_result
from aiotaskq.core.conversion import (
    Conversion,
    PlainCheck,
    Unsupported,
    check_of_all,
    conversion_of,
    resolved,
    struct_of,
)
from aiotaskq.core.errors import MAX_NAME, check_int, check_key, check_seconds
from aiotaskq.core.limits import Gating, Spec
from aiotaskq.core.outcome import Backoff
from aiotaskq.core.parent import PARENT, RESULTS, ParentParameter, declared_parent, is_list
from aiotaskq.core.task import RUN_OPTIONS, Task, TaskOfObjects
from aiotaskq.errors import ValidationError

Executor: TypeAlias = Literal["thread", "process", "interpreter"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
MAX_BATCH = 10_000


class Injected:
    """The default of a handler's parameter that gets a resource."""

    def __repr__(self) -> str:
        return "injected()"


INJECTED = Injected()


class Subscription(msgspec.Struct, frozen=True):
    """Which events push a task of a handler, and what of them it takes."""

    names: tuple[str, ...]
    value: str | None
    """The parameter that gets the value; None where there is none."""
    takes_key: bool
    """Whether there is a parameter ``key``, which gets the key."""

    def takes(self, key: str) -> bool:
        """Return whether an event of this key is one of these: it has the name, perhaps with more behind a colon."""
        return any(key == name or key.startswith(f"{name}:") for name in self.names)


class Handler(msgspec.Struct, frozen=True):
    """A registered function and the defaults of its tasks; ``timeout``, ``expires`` and ``age`` in seconds.

    ``executor`` is ``loop``, ``thread``, ``process`` or ``interpreter``.
    """

    name: str
    function: Callable[..., Any]
    executor: str
    template: Task
    """What its tasks have in common where a push does not say otherwise: type, queue, priority, retries, tags."""
    backoff: Backoff = Backoff()
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    max_snoozes: int | None = None
    """How often a task may snooze without a failure in between; None for any number."""
    timeout: float | None = None
    expires: float | None = None
    age: float | None = None
    injected: Mapping[str, Any] = {}
    """Names of parameters, and the types of the resources that they get."""
    parent: ParentParameter | None = None
    """How its parameter ``parent``, or ``results``, gets earlier tasks; None where it does not declare that."""
    accepted: frozenset[str] | None = None
    """The names of its parameters; None if it takes any (``**kwargs``)."""
    required: frozenset[str] = frozenset()
    """The names of the parameters without a default, less those that a decorator around the function fills."""
    shape: type[msgspec.Struct] = msgspec.Struct
    """What msgspec converts params to that have these names, and values of these plain JSON types."""
    conversions: Mapping[str, Conversion | None] = {}
    """By name of a parameter; plain JSON types have none, or None where ``others`` is set."""
    others: Conversion | None = None
    """The conversion of what ``**kwargs`` takes."""
    checked: PlainCheck | None = None
    """What checks the params of plain JSON types, which are stored as they are; None where there is none."""
    returns: Conversion | None = None
    """The conversion of the result, by the return annotation."""
    batch: int | None = None
    """The most tasks whose items one call gets; None where each call is of one task."""
    within: float = 0.0
    """Seconds for which a batch is gathered."""
    items: str = ""
    """The parameter that gets the items of a batch."""
    pushed: Mapping[str, Any] = {}
    """Options of its pushes beside the defaults above; most handlers have none."""
    typed: bool = False
    """Whether some params are converted: there are ``conversions`` or ``others``."""
    plain: bool = False
    """Whether a run is ``await function(**params)`` and nothing more."""
    gating: Gating | None = None
    """The gates that its tasks pass; None where there is no limit, rate or fair share."""
    subscription: Subscription | None = None
    """The events that push a task of it; None where there are none."""
    version: int = 1
    older: Mapping[int, Handler] = {}
    """Those of the same name with lower versions, by these."""
    versioned: bool = False
    """Whether a task that has begun may need another version than this one."""

    def stored(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return params as they are stored, in JSON form. Raises ValidationError with the path to what does not fit."""
        try:
            if self.checked is not None:
                try:
                    msgspec.convert(params, self.checked.annotation)  # as `load` begins: one call less for each push
                except msgspec.ValidationError:
                    self.checked.load("params", params)
            if not self.typed:
                return params
            return {
                name: value if (known := self._conversion(name)) is None else known.store(f"params.{name}", value)
                for name, value in params.items()
            }
        except ValidationError as error:
            raise ValidationError(f"{error}; the call is of {self.name}()") from None

    def loaded(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return stored params as the function takes them. Raises ValidationError as ``stored``."""
        return {
            name: value if (conversion := self._conversion(name)) is None else conversion.load(f"params.{name}", value)
            for name, value in params.items()
        }

    def timeout_of(self, task: Task) -> float | None:
        """Return the seconds that a run of one of its tasks may take; None for any time."""
        return self.timeout if task.timeout is None else task.timeout

    def check(self, params: Mapping[str, Any]) -> None:
        """Raise ValidationError for a param of a plain JSON type that does not fit its annotation."""
        if self.checked is not None:
            self.checked.load("params", params)

    def _conversion(self, name: str) -> Conversion | None:
        return self.conversions.get(name, self.others)


def gating_of(handler: Handler, specs: Sequence[Spec]) -> Gating | None:
    """Return the gates that tasks of the handler pass by these limits, rates and fair shares; None for none.

    Raises ValidationError naming a parameter that the handler does not have.
    """
    if not specs:
        return None
    defaults: dict[str, Any] = {}
    for name, parameter in inspect.signature(handler.function).parameters.items():
        if parameter.default is not parameter.empty and parameter.default is not INJECTED:
            try:
                defaults.update(handler.stored({name: parameter.default}))
            except ValidationError:  # a default that does not fit its own annotation, as None for an int
                defaults[name] = parameter.default
    accepted = None if handler.accepted is None else handler.accepted - handler.injected.keys()
    return Gating(handler.name, specs, accepted=accepted, defaults=defaults)


def make_handler(
    name: str | None,
    function: Callable[..., Any],
    *,
    executor: str | None = None,
    backoff: Backoff,
    retry_on: Collection[type[BaseException]] | type[BaseException] = Exception,
    max_snoozes: int | None = None,
    timeout: float | timedelta | None = None,
    expires: float | timedelta | None = None,
    age: float | timedelta | None = None,
    batch: int | None = None,
    within: float | timedelta = 0.1,
    pushed: Mapping[str, Any] = {},
    specs: Sequence[Spec] = (),
    objects: bool = False,
    version: int = 1,
    **defaults: object,
) -> Handler:
    """Return the handler of a function; with ``objects`` its params and results are passed as they are.

    ``defaults`` are fields of its tasks, of ``RUN_OPTIONS``.

    Raises ValidationError naming the argument, or the parameter whose type has no JSON form, and MissingExtra.
    """
    if not callable(function):
        raise ValidationError(f"handler: a function is needed (got {type(function).__name__})")
    if inspect.isclass(function):
        raise ValidationError(f"handler {_default_name(function)}: this is a class; give a function or a method")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ValidationError(f"handler {_default_name(function)}: a generator's body would never run; use return")
    is_async = _is_async(function)
    if is_async and executor is not None:
        raise ValidationError(f"executor: an 'async def' handler runs in the loop, not in a {executor}")
    if executor is not None and executor not in EXECUTORS:
        raise ValidationError(f"executor: {executor!r} is not one of {', '.join(EXECUTORS)}")
    parameters = inspect.signature(function).parameters
    for parameter in parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ValidationError(
                f"handler {name or _default_name(function)}: parameter {parameter.name!r} has no name to pass it by; "
                "a handler is called as f(**params)"
            )
    if executor in ("process", "interpreter"):
        _check_found_elsewhere(function, executor)
    try:
        kinds = (retry_on,) if isinstance(retry_on, type) else tuple(retry_on)
    except TypeError:
        raise ValidationError(f"retry_on: exception classes are needed (got {type(retry_on).__name__})") from None
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise ValidationError("retry_on: exception classes are needed")
    if check_int("version", version, 1) > 1 and (batch is not None or executor == "process"):
        raise ValidationError("version: it is about handlers with steps; batches and processes have none")
    parent = _parent(function) or (_results(function) if batch is None else None)
    declared = "" if parent is None else parent.name
    items = "" if batch is None else _items(function, declared)
    conversions, others, check = ({}, None, None) if objects else _conversions(function, items, declared)
    injected, typed = _injected(function, declared), bool(conversions) or others is not None
    accepted = None if any(each.kind is each.VAR_KEYWORD for each in parameters.values()) else frozenset(parameters)
    required = _required(function, declared)
    checked = {field: RUN_OPTIONS[field](value) for field, value in defaults.items()}
    known = check_key("name", _default_name(function) if name is None else name, MAX_NAME)
    if known == "<lambda>":
        raise ValidationError("name: a lambda has no name; write the handler as a def, or give it a name=")
    handler = Handler(
        name=known,
        function=function,
        executor="loop" if is_async else executor or "thread",
        template=(TaskOfObjects if objects else Task)(task_id="", type=known, **checked),
        backoff=backoff,
        retry_on=kinds,
        max_snoozes=None if max_snoozes is None else check_int("max_snoozes", max_snoozes, 0),
        timeout=None if timeout is None else check_seconds("timeout", timeout, zero=False),
        expires=None if expires is None else check_seconds("expires", expires, zero=False),
        age=None if age is None else check_seconds("age", age, zero=False),
        injected=injected,
        accepted=accepted,
        required=required,
        shape=_shape(accepted, required, check),
        conversions=conversions,
        others=others,
        checked=check,
        returns=None if objects else result_conversion(function, of_items=bool(items)),
        typed=typed,
        parent=parent if parent is None or items != PARENT else msgspec.structs.replace(parent, many=False),
        plain=is_async and not injected and not declared and not typed and batch is None,
        batch=None if batch is None else check_int("batch", batch, 1, MAX_BATCH),
        within=check_seconds("within", within),
        items=items,
        pushed=pushed,
        version=version,
        versioned=version > 1,
    )
    return msgspec.structs.replace(handler, gating=gating_of(handler, specs)) if specs else handler


def no_resource(handler: Handler, name: str) -> ValidationError:
    """Return the error for a parameter of a handler that no resource gives."""
    kind = handler.injected[name]
    return ValidationError(
        f"{handler.name}() needs {name!r}, and no resource gives {getattr(kind, '__name__', kind)}; "
        "register one with @tq.resource"
    )


def with_versions(known: Handler, new: Handler) -> Handler:
    """Return the handler of the higher version, with all others of both as its older ones; ``new`` replaces its own."""
    every = {**known.older, known.version: known, **new.older, new.version: new}
    newest = every.pop(max(every))
    older = {each: msgspec.structs.replace(every[each], older={}) for each in sorted(every)}
    return msgspec.structs.replace(newest, older=older, versioned=newest.version > 1)


def told(handlers: Mapping[str, Handler]) -> list[str]:
    """Return the types that a worker with these handlers can run, and the versions of those that have any."""
    versions = [
        f"{name}@{version}"
        for name, handler in list(handlers.items())
        if handler.versioned
        for version in (handler.version, *handler.older)
    ]
    return [*handlers, *versions]


def _check_found_elsewhere(function: Callable[..., Any], executor: str) -> None:
    """Raise ValidationError if another process or interpreter could not find the function by its name."""
    if "<locals>" in function.__qualname__ or "<lambda>" in function.__qualname__:
        raise ValidationError(
            f"executor: {function.__qualname__} cannot be found by another {executor}; define it at a module's top"
        )
    if executor == "process":
        return
    if sys.version_info < (3, 14):
        raise ValidationError(
            f"executor: 'interpreter' needs Python 3.14 (this is {sys.version_info[0]}.{sys.version_info[1]}); "
            "use 'process'"
        )
    for name, value in getattr(inspect.unwrap(function), "__globals__", {}).items():
        module = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        if any(str(each).partition(".")[0] == "aiotaskq" for each in (module, type(value).__module__)):
            raise ValidationError(
                f"executor: {function.__qualname__} cannot be loaded by another interpreter, since {name!r} in its "
                "module is of aiotaskq, which uses C code for one interpreter; define it in a module without that, and "
                "register it by tq.task(executor='interpreter')(module.function)"
            )


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    # For `inspect`, an object whose `__call__` is `async def` is no coroutine function.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _default_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _required(function: Callable[..., Any], declared: str) -> frozenset[str]:
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    without = [each for each in parameters if each.default is each.empty]
    named = (each.name for each in without if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
    return frozenset(named) - {declared}


def _parent(function: Callable[..., Any]) -> ParentParameter | None:
    parameter = inspect.signature(function).parameters.get(PARENT)
    if parameter is None or parameter.annotation is parameter.empty:
        return None
    try:
        found = _resolved(parameter.annotation, function)
    except Unsupported:  # told where its conversion is made
        return None
    return declared_parent(found, needed=parameter.default in (INJECTED, parameter.empty))


def _results(function: Callable[..., Any]) -> ParentParameter | None:
    parameter = inspect.signature(function).parameters.get(RESULTS)
    if parameter is None or parameter.default is not INJECTED or parameter.annotation is parameter.empty:
        return None
    try:
        found = _resolved(parameter.annotation, function)
    except Unsupported:  # told where its conversion is made
        return None
    return ParentParameter(needed=True, many=True, name=RESULTS) if found is list or is_list(found) else None


def _injected(function: Callable[..., Any], declared: str) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    names = [each.name for each in parameters if each.default is INJECTED and each.name != declared]
    if not names:
        return {}
    hints = typing.get_type_hints(function)
    for name in names:
        if name not in hints:
            raise ValidationError(
                f"handler {function.__name__}: parameter {name!r} = injected() needs a type annotation"
            )
    return {name: hints[name] for name in names}


NO_LISTS = frozenset({"bool", "bytes", "dict", "float", "int", "str"})
"""Types that the parameter of a batch surely does not have."""


def _items(function: Callable[..., Any], declared: str) -> str:
    """Return the name of the parameter of a batch. Raises ValidationError unless it is the only one."""
    every = inspect.signature(function).parameters.values()
    parameters = [each for each in every if each.default is not INJECTED or each.name == declared]
    if len(parameters) > 1 and declared:
        raise ValidationError(
            f"handler {_default_name(function)}: with batch it takes one parameter, a list of items; name that one "
            f"{PARENT!r} where each item is the task before"
        )
    if len(parameters) != 1 or parameters[0].kind is parameters[0].VAR_KEYWORD:
        raise ValidationError(f"handler {_default_name(function)}: with batch it takes one parameter, a list of items")
    annotation = getattr(parameters[0].annotation, "__name__", parameters[0].annotation)  # or its text
    if annotation in NO_LISTS:
        raise ValidationError(
            f"handler {_default_name(function)}: with batch its parameter {parameters[0].name!r} is a list of items; "
            f"annotate it as list[{annotation}], not {annotation}"
        )
    return parameters[0].name


def _conversions(
    function: Callable[..., Any], items: str, declared: str
) -> tuple[dict[str, Conversion | None], Conversion | None, PlainCheck | None]:
    """Return the conversions of the parameters and of ``**kwargs``, and the check of the others.

    The check is of all params of plain JSON types in one call; a default of None is let pass. The parameter of
    ``items`` is converted one by one. Raises ValidationError.
    """
    signature = inspect.signature(function)
    named: dict[str, Conversion | None] = {}
    plain: dict[str, Any] = {}
    others = None
    for parameter in signature.parameters.values():
        name, default, is_named = parameter.name, parameter.default, parameter.kind is not parameter.VAR_KEYWORD
        resource = default is INJECTED and name != declared
        conversion = None
        if not resource and parameter.annotation is not parameter.empty:
            try:
                kind = _resolved(parameter.annotation, function, name == items)
                conversion = conversion_of(kind)
                if isinstance(conversion, PlainCheck):
                    conversion = None
                    if is_named and default is not INJECTED:
                        plain[name] = kind if default is not None else kind | None
            except Unsupported as error:
                if default is parameter.empty and is_named:
                    raise ValidationError(
                        f"handler {_default_name(function)}: parameter {name!r}: {error}; use a dataclass or "
                        "another type that can be stored as JSON, or injected() for a resource"
                    ) from None
                # Left to its default; a value would be refused by the push.
        if is_named:
            named[name] = conversion
        else:
            others = conversion
    if others is None:
        named = {name: conversion for name, conversion in named.items() if conversion is not None}
    return named, others, check_of_all(plain)


def _shape(accepted: frozenset[str] | None, required: frozenset[str], check: PlainCheck | None) -> type[msgspec.Struct]:
    fields = () if check is None else msgspec.structs.fields(check.annotation)
    plain = {each.encode_name: each.type for each in fields}
    names = plain.keys() | required | (accepted or frozenset())
    return struct_of({name: plain.get(name, Any) for name in names}, required, closed=accepted is not None)


def result_conversion(
    function: Callable[..., Any], checked: bool = False, *, of_items: bool = False
) -> Conversion | None:
    """Return the conversion of what a function returns, by its return annotation; None for what JSON gives back.

    Where that is to be ``checked``, None only where every value fits. ``of_items``: of one item of the list.
    """
    with contextlib.suppress(Unsupported):  # the result is stored as what it is, if that is possible
        annotations = getattr(_defined(function), "__annotations__", {})  # a built-in function has none
        if "return" in annotations:
            conversion = conversion_of(_resolved(annotations["return"], function, of_items))
            return conversion if checked or not isinstance(conversion, PlainCheck) else None
    return None


def result_as(task: Task, handler: Handler | None) -> Any:
    """Return the result of a task, in the type of the return annotation where its handler is registered here.

    Raises ValidationError for one that cannot be decoded, or does not fit the annotation.
    """
    result = readable_result(task)
    if handler is None or handler.returns is None:
        return result
    return handler.returns.load("result", result)


def _defined(function: Callable[..., Any]) -> Any:
    """Return the function that was written, inside of decorators and partials; of an object its ``__call__``."""
    inner = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    return inner if hasattr(inner, "__globals__") else type(inner).__call__


def _resolved(annotation: Any, function: Callable[..., Any], of_items: bool = False) -> Any:
    """Return an annotation with its names looked up; ``of_items`` that of one of a list, of anything else none."""
    names = getattr(_defined(function), "__globals__", {})
    try:
        found = resolved(annotation, names, _local_names())
    except NameError as error:
        raise Unsupported(f"{error}, as its annotation says; import it also at run time") from None
    if of_items:
        return typing.get_args(found)[0] if is_list(found) else Any
    return found


def _local_names() -> Mapping[str, Any]:
    """Return the local names where the handler is registered: its types may be defined beside it in a function."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "aiotaskq":
        frame = frame.f_back
    return {} if frame is None else frame.f_locals

"""An operation: its name, its parameters, its answer, and the function that is the only place where it is decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import msgspec

from aiotaskq.core.audit import Door
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.runtime.audit import audit, with_error

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

P = TypeVar("P", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)


class NotShown(AiotaskqError):
    """Params or values were asked for where they are not shown."""


@dataclass(frozen=True)
class Access:
    """What an operation works on, and what its caller may see."""

    tq: TaskQ
    show_args: bool = False
    """Whether params, results and messages of errors may be shown."""
    changed: list[str] = field(default_factory=list)
    """Ids and names of what was changed so far, where that is not the thing that the parameters name."""

    def may_show(self, asked: bool) -> bool:
        """Return whether params are shown: only if asked for. Raises NotShown where that is not allowed."""
        if asked and not self.show_args:
            raise NotShown("params and values are not shown here: that takes show_args=True")
        return asked


Run = Callable[[Access, Any], Awaitable[Any]]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation."""

    name: str
    """As ``limits.set``: the word of the audit log and the name of the tool; its parts are those of a command."""
    run: Run
    params: type[msgspec.Struct]
    """Its parameters: types, bounds, defaults, and a description of each."""
    answer: type[msgspec.Struct]
    changes: bool = False
    """Whether it changes something. Then it is told of, and refused where only reads are allowed."""
    thing: str | None = None
    """The parameter that names the one thing that it is about."""
    raises: tuple[type[AiotaskqError], ...] = ()
    """Its refusals, beside those of wrong parameters and of a thing that is not there."""
    example: tuple[Any, Any] = (None, None)
    """Parameters and an answer, for the documentation."""

    @property
    def noun(self) -> str:
        """What it is about, in the plural."""
        return self.name.partition(".")[0]

    @property
    def verb(self) -> str:
        """What it does."""
        return self.name.partition(".")[2]

    @property
    def summary(self) -> str:
        """Its first sentence."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]

    @property
    def description(self) -> str:
        """What is to be known beyond the summary."""
        return " ".join((self.run.__doc__ or "").strip().partition("\n")[2].split())


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter, as every door needs to know it."""

    name: str
    kind: Any
    """int, float, str or bool; ``list`` of texts; ``datetime``, also epoch seconds; ``dict`` or ``Any`` of JSON."""
    words: tuple[str, ...]
    """The only texts that it may be, or have in its list; empty where others may be."""
    description: str
    least: float | None
    most: float | None
    required: bool
    default: Any
    """None where it may be left out."""


def parameters(operation: Operation) -> list[Parameter]:
    """Return the parameters of an operation, in their order."""
    found = []
    for each in msgspec.structs.fields(operation.params):
        schema = msgspec.json.schema(each.type)
        kinds = [_named(kind, schema) for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
        known = kinds[0]
        kind = datetime if any("format" in each for each in kinds) else KINDS[known.get("type", "")]
        found.append(
            Parameter(
                name=each.name,
                kind=kind,
                words=tuple(known.get("enum") or _named(known.get("items", {}), schema).get("enum", ())),
                description=known.get("description") or schema.get("description", ""),
                least=known.get("minimum"),
                most=known.get("maximum"),
                required=each.required,
                default=None if each.default in (msgspec.UNSET, msgspec.NODEFAULT) else each.default,
            )
        )
    return found


def _named(kind: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema to which one refers."""
    if "$ref" not in kind:
        return kind
    named: dict[str, Any] = schema["$defs"][kind["$ref"].rpartition("/")[2]]
    return named | {name: each for name, each in kind.items() if name != "$ref"}


KINDS: dict[str, Any] = {
    "integer": int,
    "number": float,
    "string": str,
    "boolean": bool,
    "array": list,
    "object": dict,
    "": Any,
}


class Operations:
    """The operations on one kind of thing, in their order; a decorator fills it."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.all: dict[str, Operation] = {}

    def __call__(
        self,
        *,
        changes: bool = False,
        thing: str | None = None,
        raises: tuple[type[AiotaskqError], ...] = (),
        example: tuple[Any, Any] = (None, None),
    ) -> Callable[[Callable[[Access, P], Awaitable[A]]], Callable[[Access, P], Awaitable[A]]]:
        """Register a function: its name is the verb, its annotations are the parameters and the answer."""

        def register(run: Callable[[Access, P], Awaitable[A]]) -> Callable[[Access, P], Awaitable[A]]:
            hints = get_type_hints(run, include_extras=True)
            answer = hints.pop("return")
            (_, params) = hints.values()
            verb = run.__name__.rstrip("_")
            self.all[verb] = Operation(
                name=f"{self.noun}.{verb}",
                run=run,
                params=params,
                answer=answer,
                changes=changes,
                thing=thing,
                raises=raises,
                example=example,
            )
            return run

        return register

    def __getitem__(self, verb: str) -> Operation:
        return self.all[verb]


async def perform(operation: Operation, access: Access, params: msgspec.Struct, door: Door, actor: str) -> Any:
    """Run an operation, and tell of a change; also of what was done before an error. Raises what it raises."""
    if not operation.changes:
        return await operation.run(access, params)
    try:
        answer = await operation.run(access, params)
    except BaseException as error:  # one that is cancelled, too, has done what it has done
        if access.changed:
            await audit(access.tq.queue, door, operation.name, actor, with_error(access.changed, error))
        raise
    named = [] if operation.thing is None else [str(getattr(params, operation.thing))]
    if targets := access.changed or named:  # none of a dry run
        await audit(access.tq.queue, door, operation.name, actor, targets)
    return answer


def read(operation: Operation, values: Mapping[str, Any], *, strict: bool = True) -> Any:
    """Return the parameters that these values are; texts become numbers where it is not ``strict``.

    Raises ValidationError, which names the parameter.
    """
    try:
        return msgspec.convert(values, operation.params, strict=strict)
    except msgspec.ValidationError as error:
        for each in parameters(operation):
            given = values.get(each.name)
            for word in given if isinstance(given, list) else [given]:
                if each.words and isinstance(word, str) and word not in each.words:
                    raise ValidationError(f"{each.name}: {word!r} is unknown; use {', '.join(each.words)}") from None
        raise ValidationError(told(error)) from None


def told(error: msgspec.ValidationError) -> str:
    """Return what is wrong with the parameters, the parameter first."""
    what, _, where = str(error).partition(" - at `$.")
    return f"{where.rstrip('`')}: {what}" if where else what

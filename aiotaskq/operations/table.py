"""An operation: its name, its parameters, its answer, and the function that is the only place where it is decided."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_type_hints

import msgspec

from aiotaskq.core.audit import Door
from aiotaskq.errors import AiotaskqError, NotFound, TaskConflict, ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.audit import audit, with_error

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=Callable[..., Awaitable[Any]])
OF_ONE = (NotFound, TaskConflict, ValidationError)
"""Errors that are about one thing: others can be done nevertheless."""
LISTED = 5
"""Ids that are listed where several begin with a text."""


class NotShown(AiotaskqError):
    """Params or values were asked for where they are not shown."""


class Enough(Exception):
    """Raised by ``Access.progress`` to end an operation on many things before all are done."""


@dataclass(frozen=True)
class Access:
    """What an operation works on, and what its caller may see."""

    tq: TaskQ
    show_args: bool = False
    """Whether params, results and messages of errors may be shown."""
    changed: list[str] = field(default_factory=list)
    """Ids and names of what was changed so far; the thing that the parameters name is added after the operation."""
    progress: Callable[[int], None] = lambda _count: None
    """Told how many things were changed so far."""

    def may_show(self, asked: bool) -> bool:
        """Return whether params are shown: only if asked for. Raises NotShown where that is not allowed."""
        if asked and not self.show_args:
            raise NotShown(
                "params and values are not shown here: that takes show_args=True, or --show-args on the command line"
            )
        return asked


class Counted(msgspec.Struct):
    """How many things were changed, or, in a dry run, match."""

    count: int
    dry_run: bool


Run = Callable[[Access, Any], Awaitable[Any]]
Find = Callable[["TaskQ", str], Awaitable[str]]
"""Returns the id that a text names, also by its beginning. Raises NotFound where several begin so."""


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
    may_change_nothing: bool = False
    """Whether it can succeed without a change. Then ``Access.changed`` is all that it changed."""
    find: Find | None = None
    """What resolves a shortened name of that, for doors that take one."""
    many: Operation | None = None
    """The same, done to all things that match."""
    raises: tuple[type[AiotaskqError], ...] = ()
    """Its refusals, beside those of wrong parameters and of a thing that is not there."""

    @property
    def noun(self) -> str:
        """What it is about, in the plural."""
        return self.name.partition(".")[0]

    @property
    def verb(self) -> str:
        """What it does."""
        return self.name.partition(".")[2]

    @property
    def word(self) -> str:
        """What the audit log calls it: the same for one thing and for many."""
        return self.name.removesuffix(MANY)

    @property
    def adds(self) -> bool:
        """Whether it makes a thing; the first field of the answer is its id."""
        return self.verb in ("add", "push")

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
    """int, float, str, bool; ``list`` of texts; ``datetime`` or epoch seconds; ``dict`` of numbers; ``Any`` of JSON."""
    words: tuple[str, ...]
    """The only texts that it may be, or have in its list; empty where others may be."""
    description: str
    least: float | None
    most: float | None
    required: bool
    nullable: bool
    """Whether null says something else than leaving it out."""
    default: Any
    """None where it may be left out."""


def parameters_of(params: type[msgspec.Struct]) -> list[Parameter]:
    """Return the fields of a Struct as parameters, in their order."""
    found = []
    for each in msgspec.structs.fields(params):
        schema = msgspec.json.schema(each.type)
        kinds = [kind for kind in _kinds(schema) if kind.get("type") != "null"]
        known = kinds[0]
        kind = datetime if any("format" in each for each in kinds) else KINDS[known.get("type", "")]
        if "enum" in known:
            kind = str
        elif kind is dict and not known.get("additionalProperties"):
            kind = Any
        found.append(
            Parameter(
                name=each.name,
                kind=kind,
                words=tuple(known.get("enum") or known.get("items", {}).get("enum", ())),
                description=known.get("description") or schema.get("description", ""),
                least=known.get("minimum"),
                most=known.get("maximum"),
                required=each.required,
                nullable=each.default is msgspec.UNSET and {"type": "null"} in schema.get("anyOf", ()),
                default=None if each.default in (msgspec.UNSET, msgspec.NODEFAULT) else each.default,
            )
        )
    return found


def _kinds(kind: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schemas of which any fits, each with the description of the whole if it has none."""
    for each in kind.get("anyOf", [kind]):
        if "anyOf" in each:
            yield from ({"description": each.get("description", "")} | inner for inner in _kinds(each))
        else:
            yield each


KINDS: dict[str, Any] = {
    "integer": int,
    "number": float,
    "string": str,
    "boolean": bool,
    "array": list,
    "object": dict,
    "": Any,
}


MANY = "_many"
NONE: Final = "none"
"""What stands for null where that would be the same as leaving a parameter out."""


DryRun = Annotated[bool, msgspec.Meta(description="Only count what matches")]
"""The last parameter of each operation on many things."""


def struct_of(name: str, fields: Sequence[msgspec.structs.FieldInfo], doc: str | None) -> type[msgspec.Struct]:
    """Return a struct with these fields."""
    rest: list[Any] = []
    for each in fields:
        default = (
            msgspec.field(default_factory=each.default_factory) if each.default is msgspec.NODEFAULT else each.default
        )
        rest.append((each.name, each.type) if each.required else (each.name, each.type, default))
    return msgspec.defstruct(name, rest, forbid_unknown_fields=True, kw_only=True, namespace={"__doc__": doc})


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _declared(function: Callable[..., Awaitable[Any]]) -> tuple[Run, type[msgspec.Struct], type[msgspec.Struct]]:
    """Return a function as the table has it, with its parameters in a Struct, and the types of these and its answer."""
    hints = get_type_hints(function, include_extras=True)
    answer, (_, *given) = hints.pop("return"), inspect.signature(function).parameters.values()
    if len(given) == 1 and isinstance(kind := hints[given[0].name], type) and issubclass(kind, msgspec.Struct):
        return function, kind, answer
    known: list[Any] = []
    for each in given:
        default = () if each.default is inspect.Parameter.empty else (each.default,)
        known.append((each.name, hints[each.name], *default))
    doc = {"__doc__": (function.__doc__ or "").partition("\n")[0]}
    params = msgspec.defstruct("Parameters", known, forbid_unknown_fields=True, kw_only=True, namespace=doc)

    @functools.wraps(function)
    async def run(access: Access, given: msgspec.Struct) -> Any:
        return await function(access, **msgspec.structs.asdict(given))

    return run, params, answer


class Operations(dict[str, Operation]):
    """The operations on one kind of thing by their verbs, in their order; a decorator fills it."""

    def __init__(
        self,
        noun: str,
        find: Find | None = None,
        *,
        raises: tuple[type[AiotaskqError], ...] = (),
        raises_for_name: tuple[type[AiotaskqError], ...] = (),
    ) -> None:
        """Make an empty table.

        Args:
            noun: what they are about, in the plural.
            find: resolves a shortened name of such a thing.
            raises: refusals of each of them.
            raises_for_name: refusals of each that is about one named thing, beside NotFound.
        """
        self.noun = noun
        self.find = find
        self._raises = raises
        self._raises_for_name = raises_for_name

    def __call__(
        self,
        *,
        changes: bool = False,
        thing: str | None = None,
        may_change_nothing: bool = False,
        raises: tuple[type[AiotaskqError], ...] = (),
    ) -> Callable[[R], R]:
        """Register a function: its name is the verb, its annotations are the parameters and the answer.

        Behind the access it has the parameters themselves, or one Struct that has them.
        """

        def register(function: R) -> R:
            run, params, answer = _declared(function)
            verb = run.__name__.rstrip("_")
            hides = not changes and "params" in params.__struct_fields__
            for_name = self._raises_for_name if thing is not None else ()
            refusals = dict.fromkeys((*raises, *self._raises, *for_name, *((NotShown,) if hides else ())))
            self[verb] = Operation(
                name=f"{self.noun}.{verb}",
                run=run,
                params=params,
                answer=answer,
                changes=changes,
                thing=thing,
                may_change_nothing=may_change_nothing,
                find=None if thing is None else self.find,
                raises=tuple(refusals),
            )
            return function

        return register

    def many(self, verb: str) -> Callable[[R], R]:
        """Register a function that does an operation to all things that match, and returns how many were changed.

        The parameters of the function are filters, of which at least one has to be set where there are any, and
        ``dry_run``, with which it only returns how many match. Else it calls ``access.progress`` meanwhile.
        """

        def register(function: R) -> R:
            do, params, _ = _declared(function)
            name = f"{self.noun}.{verb}"
            filters = [each for each in params.__struct_fields__ if each != "dry_run"]

            async def run(access: Access, given: Any) -> Counted:
                where = {each: value for each in filters if (value := getattr(given, each)) not in (None, [])}
                if filters and not where:
                    names = ", ".join(filters)
                    raise ValidationError(f"{name}: at least one of {names} is needed, or everything would match")
                if given.dry_run:
                    return Counted(await do(access, given), True)
                words, count = " ".join(f"{each}={_word(value)}" for each, value in where.items()) or "all", 0

                def progress(now: int) -> None:
                    nonlocal count
                    if now != count:
                        access.changed[:] = [f"filter: {words}", f"count: {now}"]
                    count = now
                    access.progress(count)

                with contextlib.suppress(Enough):
                    if (total := await do(replace(access, progress=progress), given)) != count:
                        progress(total)
                return Counted(count, False)

            run.__doc__ = params.__doc__
            many = Operation(name=f"{name}{MANY}", run=run, params=params, answer=Counted, changes=True)
            self[verb] = msgspec.structs.replace(self[verb], many=many)
            self[f"{verb}{MANY}"] = many
            return function

        return register


async def perform(
    operation: Operation, access: Access, params: msgspec.Struct, door: Door, actor: str, *, shortened: bool = False
) -> Any:
    """Run an operation, and tell of a change; also of what was done before an error. Raises what it raises.

    The name of the thing may be ``shortened``.
    """
    if shortened:
        params = await _found(operation, access, params)
    if not operation.changes or getattr(params, "dry_run", False):
        return await operation.run(access, params)
    async with _told(operation, access, door, actor):
        return await _run(operation, access, params)


@contextlib.asynccontextmanager
async def _told(operation: Operation, access: Access, door: Door, actor: str) -> AsyncIterator[None]:
    """Tell at the end of a block of what was changed in it, also before an error."""
    changed = access.changed
    try:
        yield
    except BaseException as error:  # one that is cancelled, too, has done what it has done
        changed = with_error(access.changed, error) if access.changed else []
        raise
    finally:
        if changed:
            await audit(access.tq.queue, door, operation.word, actor, changed)


async def _run(operation: Operation, access: Access, params: msgspec.Struct) -> Any:
    """Run an operation; add the thing that it names to what was changed, if it has not added anything itself."""
    answer = await operation.run(access, params)
    if not (operation.thing is None or operation.may_change_nothing or access.changed):
        access.changed.append(str(getattr(params, operation.thing)))
    return answer


async def perform_each(
    operation: Operation, access: Access, names: Sequence[str], door: Door, actor: str, *, shortened: bool = False
) -> list[tuple[str, Any]]:
    """Run an operation on several things; return the name of each, and its answer, or the error that is about it.

    Tells of all changes at once. Raises an error that is about more than one thing.
    """
    assert operation.thing is not None
    found: list[tuple[str, Any]] = []
    async with _told(operation, access, door, actor):
        with contextlib.suppress(Enough):
            for text in names:
                name, own = text, replace(access, changed=[])
                try:
                    params = read(operation, {operation.thing: text})
                    if shortened:
                        params = await _found(operation, access, params)
                        name = getattr(params, operation.thing)
                    answer = await _run(operation, own, params)
                except OF_ONE as error:
                    answer = error
                finally:
                    access.changed.extend(own.changed)
                found.append((name, answer))
                access.progress(len(access.changed))
    return found


async def _found(operation: Operation, access: Access, params: msgspec.Struct) -> msgspec.Struct:
    """Return the parameters with the whole name of the thing."""
    if operation.find is None or operation.thing is None:
        return params
    whole = await operation.find(access.tq, getattr(params, operation.thing))
    return msgspec.structs.replace(params, **{operation.thing: whole})


def only(text: str, found: Sequence[str]) -> str:
    """Return the only one of the ids that a text names, the text where there is none. Raises NotFound for several."""
    if len(found) > 1:
        more = " …" if len(found) > LISTED else ""
        listed = ", ".join(map(printable, found[:LISTED]))
        raise NotFound(f"{printable(text)}: several ids begin with it: {listed}{more}; give more of one")
    return found[0] if found else text


def read(operation: Operation, values: Mapping[str, Any], *, strict: bool = True) -> Any:
    """Return the parameters that these values are; texts become numbers where it is not ``strict``.

    Raises ValidationError, which names the parameter.
    """
    return read_as(operation.params, values, strict=strict)


def read_as(params: type[P], values: Any, *, strict: bool = True) -> P:
    """Return these values as ``read`` does, of parameters that are those of no operation, or not all of one."""
    try:
        return msgspec.convert(values, params, strict=strict)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        where = where.rstrip("`")
        for each in parameters_of(params) if isinstance(values, Mapping) else ():
            given = values.get(each.name)
            for word in given if isinstance(given, list) else [given]:
                if each.words and isinstance(word, str) and word not in each.words:
                    raise ValidationError(f"{each.name}: {word!r} is unknown; use {', '.join(each.words)}") from None
            if each.kind is datetime and each.name == where:
                raise ValidationError(
                    f"{where}: {given!r:.60} is not a time; write it as 2026-03-28T12:00:00Z or "
                    "2026-03-28T12:00:00+01:00"
                ) from None
        raise ValidationError(f"{where}: {what}" if where else what) from None

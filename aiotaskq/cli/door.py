"""The commands of the operations in the table: arguments and options are made from the parameters."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.options import DEFAULT_DB, App, Db, Json, SchedulesUrl, Yes, confirm, option, store_of
from aiotaskq.cli.output import Column, ProgressBar, echo, echo_error, echo_json, echo_table, json_text, say
from aiotaskq.cli.parameters import Complete, keyword, parameter_for, register
from aiotaskq.cli.store_access import actor, load_quietly, read_json, with_tq
from aiotaskq.cli.times import Utc, in_utc, read_time, shown
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.masking import without_passwords
from aiotaskq.core.tags import read_labels
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.log import printable
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.table import (
    MANY,
    NONE,
    Access,
    Counted,
    Operation,
    Parameter,
    parameters_of,
    perform,
    perform_each,
    read,
)

PATIENCE = 2.0  # seconds that a store has to answer
NEWEST = 1_000  # tasks whose types are completed


def _completed(find: Callable[[TaskQ], Awaitable[Iterable[str]]]) -> Complete:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        async def work(tq: TaskQ) -> Iterable[str]:
            async with asyncio.timeout(PATIENCE):
                return await find(tq)

        try:
            found = with_tq(ctx.params["db"], work, ctx.params.get("schedules"))
        except (AiotaskqError, OSError):  # TimeoutError is one: a prompt is no place for an error; the command tells it
            return []
        # Shells split the answer at blanks.
        return sorted(name for name in {*found} if name.startswith(incomplete) and re.fullmatch(r"[!-~\w]+", name))

    return complete


async def _types(tq: TaskQ) -> Iterable[str]:
    known = [worker.types or () for worker in await tq.workers.list()]
    newest = await tq.find(limit=NEWEST, blobs=False)
    return {each.partition("@")[0] for types in known for each in types} | {task.type for task in newest}


def _listed(noun: str, field: str) -> Complete:
    """Return what completes the names of the things that the operation ``list`` answers."""
    operation = OPERATIONS[f"{noun}.list"]

    async def find(tq: TaskQ) -> Iterable[str]:
        answer = await operation.run(Access(tq), read(operation, {}))
        return [getattr(each, field) for each in getattr(answer, noun)]

    return _completed(find)


COMPLETIONS = {
    "limits": _listed("limits", "key"),
    "queue": _listed("queues", "queue"),
    "queues": _listed("queues", "queue"),
    "schedules": _listed("schedules", "name"),
    "type": _completed(_types),
}
"""What completes a parameter, or the name of a thing."""


_MATCHING = {
    "tasks": marked("tasks that match: {count}"),
    "workers": marked("workers that match: {count}"),
}


def command_of(
    of: str,
    show: Callable[..., None] | None = None,
    *,
    name: str | None = None,
    arguments: Sequence[str] = (),
    utc: bool = False,
    beside: Callable[[TaskQ, Any], Awaitable[Any]] | None = None,
    with_app: bool = False,
    pure: Callable[[Mapping[str, Any]], bool] = lambda _values: False,
    code: Callable[[Any], int] = lambda _answer: 0,
) -> None:
    """Register the command of an operation.

    Args:
        of: the name of the operation.
        show: prints the answer; with ``--json`` it is printed as the HTTP API sends it. Default ``show_plainly``.
        name: default that of the operation.
        arguments: parameters that are given by their places; the others are options.
        utc: there are times to be shown.
        beside: reads what is printed beside the answer; ``show`` gets that as its second argument.
        with_app: the command has the option ``--app``: the operation is run with the application's handlers and codec.
        pure: returns whether the operation needs no store for these parameters.
        code: returns the exit code from the answer.
    """
    operation = OPERATIONS[of]
    places = [*([] if operation.thing is None else [operation.thing]), *arguments]
    taken = options_of(operation, places)
    taken += [keyword("utc", Utc, False)] if utc else []
    taken += with_target() if with_app else [keyword("db", Db, DEFAULT_DB)]
    taken += [*_of_schedules(operation), keyword("json", Json, False)]

    def run(db: str, json: bool, **given: Any) -> None:
        in_utc.set(given.pop("utc", False))
        place = given.pop("schedules", None)
        context: Any = given.pop("context") if with_app else None
        target = given.pop("target") if with_app else None  # without it, a parameter may have this name
        values = values_of(operation, given)

        params = read(operation, values)  # before the store is opened

        async def work(tq: TaskQ) -> Any:
            answer = await perform(operation, Access(tq, True), params, "cli", actor(), shortened=True)
            return answer, () if beside is None else (await beside(tq, answer),)

        if pure(values):
            answer, more = asyncio.run(work(TaskQ("memory://")))
        else:
            url = store_of(context, db, target) if with_app else db
            app = None if target is None else load_quietly(target)
            # The first use by the application begins a store, too.
            answer, more = with_tq(url, work, place, app, adds=operation.adds)
        if json:
            echo_json(msgspec.to_builtins(answer))
        else:
            (show or show_plainly)(answer, *more)
            if (cursor := getattr(answer, "next", None)) is not None:
                say("for more: --cursor {cursor}", cursor=cursor)
        if code(answer):
            raise typer.Exit(code(answer))

    register(name or _words(operation), run, taken, tr(operation.summary))


def _words(operation: Operation) -> str:
    return operation.name.replace(".", " ").replace("_", "-")


def _of_schedules(operation: Operation) -> list[inspect.Parameter]:
    """Return the parameter of commands about schedules, which may be in a store of their own."""
    return [keyword("schedules", SchedulesUrl, None)] if operation.noun == "schedules" else []


def options_of(operation: Operation, places: Sequence[str]) -> list[inspect.Parameter]:
    """Return the arguments and options of an operation; ``places`` are the arguments, in their order."""
    known = {each.name: each for each in parameters_of(operation.params)}
    ordered = [known[each] for each in dict.fromkeys((*places, *known))]
    return [_parameter(operation, each, each.name in places) for each in ordered]


def _parameter(operation: Operation, parameter: Parameter, by_place: bool) -> inspect.Parameter:
    complete = COMPLETIONS.get(operation.noun if parameter.name == operation.thing else parameter.name)
    return parameter_for(parameter, by_place, complete=complete, clears=operation.thing is not None)


def with_target() -> list[inspect.Parameter]:
    """Return the parameters of a command that can be run with the application's handlers."""
    return [keyword("context", typer.Context), keyword("db", Db, DEFAULT_DB), keyword("target", App, None)]


def values_of(operation: Operation, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given of the parameters of an operation, as it takes them."""
    known = [each for each in parameters_of(operation.params) if given[each.name] not in (None, [])]
    return {each.name: _value(each, given[each.name]) for each in known if given[each.name] is not each.default}


def command_of_several(of: str, tell: Callable[[Any], str], *, ask: str = "", done: str = "") -> None:
    """Register the command of an operation on several things, or with options on all that match, where it is possible.

    Args:
        of: the name of the operation.
        tell: returns what is printed of one thing, from the answer; with ``--json`` that is printed as the HTTP API
            sends it.
        ask: asked before it is done to all that match, with ``{count}``; nothing if it is empty. Where it can be done
            to no such, asked before it is done to those that are named.
        done: said after that, with ``{count}``.
    """
    operation = OPERATIONS[of]
    thing, of_many = str(operation.thing), operation.many
    (parameter,) = parameters_of(operation.params)
    filters = [] if of_many is None else parameters_of(of_many.params)
    complete = COMPLETIONS.get(operation.noun)
    given = typer.Argument(metavar=thing.upper(), help=tr(parameter.description), autocompletion=complete)
    kind: Any = list[str] if of_many is None else list[str] | None
    taken = [keyword("things", Annotated[kind, given], inspect.Parameter.empty if of_many is None else None)]
    taken += [_parameter(operation, each, False) for each in filters]
    if len(filters) == 1:
        taken.append(keyword("all", Annotated[bool, option("All that are there now.", "--all")], False))
    taken += [keyword("yes", Yes, False)] if ask else []
    taken += [keyword("utc", Utc, False)] if any(each.kind is datetime for each in filters) else []
    taken += [keyword("db", Db, DEFAULT_DB), *_of_schedules(operation), keyword("json", Json, False)]

    def run(db: str, json: bool, things: list[str] | None, schedules: str | None = None, **given: Any) -> None:
        in_utc.set(given.get("utc", False))
        values = {} if of_many is None else values_of(of_many, given)
        chosen, yes = values or given.get("all", False), given.get("yes", False)
        if things and chosen:
            if values == {"dry_run": True}:
                raise typer.BadParameter(tr("--dry-run counts what options choose; leave out the names"))
            raise typer.BadParameter(tr("name things, or choose them by options, not both"))
        if of_many is not None and not things:
            if not chosen:
                raise typer.BadParameter(tr("which ones? name them, or choose them by options"))
            counted = _many(of_many, values, db, ask=ask, yes=yes, as_json=json)
            if json:
                echo_json(msgspec.to_builtins(counted))
            else:
                say(_MATCHING[operation.noun] if counted.dry_run else done, count=counted.count)
            return
        if of_many is None and ask:
            confirm(tr(ask, count=len(things or ())), yes, json)

        async def work(tq: TaskQ) -> list[tuple[str, Any]]:
            return await perform_each(operation, Access(tq, True), things or (), "cli", actor(), shortened=True)

        found, code = [], 0
        for name, answer in with_tq(db, work, schedules):
            if isinstance(answer, AiotaskqError):
                echo_error(answer)
                answer, code = {"error": str(answer)}, 1
            elif not json:
                echo(f"{printable(name)}  {tell(answer)}")
            found.append({thing: name} | msgspec.to_builtins(answer))
        if json:
            echo_json(found)
        raise typer.Exit(code)

    help = "\n\n".join(tr(each.summary) for each in (operation, of_many) if each is not None)
    register(_words(operation), run, taken, help, tr(operation.summary))


def _many(operation: Operation, values: dict[str, Any], db: str, *, ask: str, yes: bool, as_json: bool) -> Counted:
    """Do it to all that match; with ``ask`` count them before, and ask."""
    params = read(operation, values)

    def run(params: msgspec.Struct, **options: Any) -> Counted:
        async def work(tq: TaskQ) -> Counted:
            counted: Counted = await perform(operation, Access(tq, True, **options), params, "cli", actor())
            return counted

        return with_tq(db, work)

    if params.dry_run:
        return run(params)
    total = run(msgspec.structs.replace(params, dry_run=True)).count if ask else None
    if total:
        confirm(tr(ask, count=total), yes, as_json)  # in no loop, which would take a Ctrl-C
    with ProgressBar(operation.word, total, quiet=as_json) as bar:
        return run(params, progress=bar.update)


def add_others(app: typer.Typer, noun: str) -> None:
    """Register the operations on these things that have no command yet, each with a plain layout."""
    there = {each.name for each in app.registered_commands}
    for name, operation in OPERATIONS.items():
        own = operation.noun == noun and not name.endswith(MANY)
        if own and operation.verb.replace("_", "-") not in there:
            command_of(name)


def listed(none: str, *columns: Column, more: str = "") -> Callable[..., None]:
    """Return what prints the things that are listed first in an answer, as a table, or says that there are none.

    It may also get the shortened ids, which the first column shows. ``more`` is said where there are more things
    than these, with the fields of the answer and their ``{count}``.
    """

    def show(answer: msgspec.Struct, ids: Mapping[object, str] = {}) -> None:
        rows = next(value for value in msgspec.structs.astuple(answer) if isinstance(value, list))
        if not rows:
            say(none)
            return
        first, *rest = columns
        echo_table(rows, (replace(first, cell=lambda row: ids.get(name := first.of(row), name)), *rest))
        if more and getattr(answer, "more", False):
            say(more, count=len(rows), **msgspec.structs.asdict(answer))

    return show


def params_of(row: Any) -> str | None:
    """Return the params of a row as JSON, None where they are not shown."""
    return None if row.params is msgspec.UNSET else json_text(row.params)


def time_of(name: str) -> Callable[[Any], str]:
    return lambda row: shown(getattr(row, name))


def show_fields(values: Mapping[str, Any]) -> None:
    """Print the name and the value of each field that says something; a value may have several lines."""
    width = max(map(len, values))
    for name, value in values.items():
        if value is None or value is False or value == {}:
            continue
        for number, line in enumerate(without_passwords(value).splitlines() or [""]):
            echo(f"{'' if number else name:<{width}}  {printable(line, 20_000)}".rstrip())


def show_plainly(answer: msgspec.Struct) -> None:
    """Print an answer that has no layout of its own: each field in a line, a list of things as a table."""
    for name, value in msgspec.to_builtins(answer).items():  # without fields that are not set
        things = getattr(answer, name)
        if value and isinstance(things, list) and all(isinstance(each, msgspec.Struct) for each in things):
            names = things[0].__struct_encode_fields__
            rows = [[_cell(row.get(each)) for each in names] for row in value]
            echo_table(rows, [Column(each.upper(), place) for place, each in enumerate(names)])
        else:
            echo(f"{name}: {'-' if value in (None, '') else printable(_cell(value))}")


def _cell(value: Any) -> Any:
    return value if value is None or type(value) in (str, int) else json_text(value)


def _value(parameter: Parameter, value: Any) -> Any:
    """Return a parameter as the operation takes it."""
    if parameter.kind is datetime:
        return read_time(parameter.name, value, SystemClock().now(), in_utc.get())
    if parameter.name == "tags":
        return read_labels(value)
    if parameter.kind is dict:
        pairs = [_pair(each) for each in value]
        for name, _ in pairs:
            if sum(name == each for each, _ in pairs) > 1:
                raise typer.BadParameter(tr("{name} is named twice; give each name one number", name=name))
        return dict(pairs)
    if parameter.nullable:
        return None if value == NONE else _number(parameter, value) if parameter.kind in (int, float) else value
    return read_json(parameter.name, value) if parameter.kind is Any else value


def _number(parameter: Parameter, text: str) -> float:
    try:
        number: float = parameter.kind(text)
    except ValueError:
        wanted = (
            tr("{name}: a whole number is needed, or none (got {text})", name=parameter.name, text=text)
            if parameter.kind is int
            else tr("{name}: a number is needed, or none (got {text})", name=parameter.name, text=text)
        )
        raise ValidationError(wanted) from None
    return number


def _pair(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        if name:
            return name, json.loads(value)
    except json.JSONDecodeError:
        pass
    raise typer.BadParameter(tr("{text}: NAME=NUMBER is needed, as tokens=2000000", text=text))

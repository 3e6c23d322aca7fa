"""The commands of the operations in the table: arguments and options are made from the parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli import names
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, option
from aiotaskq.cli.output import echo_json
from aiotaskq.cli.store_access import actor, with_tq
from aiotaskq.core.validation import INT32
from aiotaskq.operations.table import Access, Operation, Parameter, parameters, perform, read

COMPLETIONS = {"limits": names.limits, "queues": names.queues}
"""What completes the name of a thing."""


def command(
    app: typer.Typer, operation: Operation, show: Callable[[Any], None], *, arguments: Sequence[str] = ()
) -> None:
    """Register the command of an operation.

    Args:
        show: prints the answer; with ``--json`` it is printed as the HTTP API sends it.
        arguments: parameters that are given by their places; the others are options.
    """
    places = [*([] if operation.thing is None else [operation.thing]), *arguments]
    known = {each.name: each for each in parameters(operation)}
    taken = [_parameter(operation, known[name], name in places) for name in dict.fromkeys((*places, *known))]
    taken += [_keyword("db", Db, DEFAULT_DB), _keyword("json", Json, False)]

    def run(db: str, json: bool, **given: Any) -> None:
        params = read(operation, {name: value for name, value in given.items() if value is not None})

        async def work(tq: TaskQ) -> Any:
            return await perform(operation, Access(tq), params, "cli", actor())

        answer = with_tq(db, work)
        if json:
            echo_json(msgspec.to_builtins(answer))
        else:
            show(answer)

    # typer reads the signature and the annotations.
    run.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in taken}
    app.command(operation.verb, cls=Command, help=tr(operation.summary))(run)


def _keyword(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _parameter(operation: Operation, told: Parameter, by_place: bool) -> inspect.Parameter:
    most = None if told.most == INT32 else told.most  # that is no bound that a user would meet
    bounds: dict[str, Any] = {"min": told.least, "max": most}
    if by_place:
        complete = COMPLETIONS.get(operation.noun) if told.name == operation.thing else None
        metavar = "N" if told.kind is int else told.name.upper()
        given: Any = typer.Argument(metavar=metavar, help=tr(told.description), autocompletion=complete, **bounds)
    else:
        given = option(f"--{told.name.replace('_', '-')}", help=tr(told.description), **bounds)
    kind = told.kind if told.required or told.default is not None else told.kind | None
    return _keyword(told.name, Annotated[kind, given], inspect.Parameter.empty if told.required else told.default)

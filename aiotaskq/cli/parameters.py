"""Arguments and options of commands, made from the fields of a Struct: those of an operation, or of a command's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.options import command, option
from aiotaskq.core.errors import INT32
from aiotaskq.core.instants import PAST
from aiotaskq.operations.table import Parameter, parameters_of

Complete = Callable[[typer.Context, str], list[str]]
_BACK = marked("; 2h or 1d12h before now, or 2026-03-28T12:00")
_ON = marked("; 2h or 1d12h from now on, or 2026-03-28T12:00")
_ITS = marked("; as 2h, 1d12h, or 2026-03-28T12:00")
METAVARS: dict[Any, str] = {int: "N", float: "NUMBER", dict: "NAME=NUMBER…", datetime: "TIME", Any: "JSON"}
"""What stands for a value, by the kind of the parameter."""
NAMED = {"db": "URL", "drain": "SECONDS", "grace": "SECONDS", "queues": "A,B", "target": "MODULE:TQ"}
NAMED |= {"token_env": "NAME", "token_file": "PATH"}
"""The same by the name of a field, where a command has its own Struct."""
_KINDS: dict[Any, Any] = {list: list[str], dict: list[str], datetime: str, Any: str}


def keyword(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """Return a parameter of a command, by default a required one."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def register(name: str, run: Any, taken: Sequence[inspect.Parameter], help: str, short: str | None = None) -> None:
    # typer reads the signature and the annotations.
    run.__signature__ = inspect.Signature(taken)
    run.__annotations__ = {each.name: each.annotation for each in taken}
    command(name, help, short)(run)


def options_from(
    kind: type[msgspec.Struct], places: Sequence[str] = (), environment: Collection[str] = ()
) -> list[inspect.Parameter]:
    """Return a parameter for each field; ``places`` are arguments, ``environment`` can be set by a variable."""
    found = []
    for each in parameters_of(kind):
        variable = f"AIOTASKQ_{'APP' if each.name == 'target' else each.name.upper()}"
        envvar = variable if each.name in environment else None
        found.append(parameter_for(each, each.name in places, NAMED.get(each.name), envvar=envvar))
    return found


def given_to(kind: type[msgspec.Struct], given: Mapping[str, Any]) -> Any:
    """Return the Struct with what was given for its fields, which is taken as it is."""
    return kind(**{name: given[name] for name in kind.__struct_fields__})


def parameter_for(
    parameter: Parameter,
    by_place: bool,
    metavar: str | None = None,
    *,
    complete: Complete | None = None,
    clears: bool = False,
    **more: Any,
) -> inspect.Parameter:
    """Return the argument or option for a parameter.

    Args:
        parameter: a nullable one takes ``none``.
        by_place: it is an argument.
        metavar: what stands for its value, where its kind does not say it.
        complete: what completes it, where it has no words of its own.
        clears: ``none`` takes away what is there; else nothing is there yet.
        more: further settings of typer.
    """
    most = None if parameter.most == INT32 else parameter.most  # that is no bound that a user would meet
    bounds: dict[str, Any] = {"min": parameter.least, "max": most}
    if parameter.words:
        complete = lambda ctx, incomplete: [each for each in parameter.words if each.startswith(incomplete)]  # noqa: E731
    help = tr(parameter.description)
    if parameter.kind is datetime:
        help += tr(_BACK if parameter.name in PAST else _ITS if parameter.name == "expires" else _ON)
    if parameter.nullable:
        bounds = {}
        help += tr("; none takes it away") if clears else ""
    metavar = metavar or METAVARS.get(parameter.kind)
    if parameter.words and parameter.kind is str:
        metavar = "|".join(parameter.words)
    elif parameter.words:
        help += ": " + ", ".join(parameter.words)
    flag = f"--{parameter.name.replace('_', '-')}"
    if parameter.name in ("tag", "tags"):
        flag, metavar = "--tag", "NAME=VALUE"
    if by_place:
        metavar = metavar or parameter.name.upper()
        given: Any = typer.Argument(metavar=metavar, help=help, autocompletion=complete, **bounds, **more)
    elif parameter.kind is bool:
        given = option(help, f"{flag}/--no-{flag[2:]}" if parameter.default else flag, **more)
    else:
        given = option(help, flag, metavar=metavar or "TEXT", autocompletion=complete, **bounds, **more)
    kind = str if parameter.nullable else _KINDS.get(parameter.kind, parameter.kind)
    if not parameter.required and parameter.default is None:
        kind |= None
    default = inspect.Parameter.empty if parameter.required else parameter.default
    return keyword(parameter.name, Annotated[kind, given], default)

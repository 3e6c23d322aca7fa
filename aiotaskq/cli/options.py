"""What several commands share: groups, common options, and the confirmation before something is deleted."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from aiotaskq.cli.i18n import UNWRAPPED, chinese, marked, tr, translated_help

F = TypeVar("F", bound=Callable[..., Any])
CODES = marked(
    "Exit codes: 0 success, 1 error, 2 wrong usage, 5 timeout of push --wait, 130 Ctrl-C. Of run: 0 "
    "all running tasks have ended, 3 some were released, 4 some were abandoned."
)


class Command(TyperCommand):
    """A command whose help page is in the user's language."""

    def get_help(self, ctx: Any) -> str:
        return translated_help(super().get_help(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and options: arguments without the Python types that typer adds to their names."""
        found: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                if param.param_type_name == "argument":
                    found["Arguments"].append((param.metavar or "", record[1]))
                else:
                    found["Options"].append(record)
        for title, records in found.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(TyperGroup):
    """A group of commands whose help page is in the user's language."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that these words begin with. Ends the program where there is none, with a guess."""
        from aiotaskq.core.foreign_names import word

        meant = word("command" if ctx.parent is None else "command of a group", args[0])
        if meant is not None and args[0] not in self.commands:
            known = [name for name in meant.here.split(" or ") if name.partition(" ")[0] in self.commands]
            try:
                if known:
                    ctx.fail(f"No such command {args[0]!r}. Did you mean {known[0]!r}?")
            except Exception as error:  # a class of typer's, which has moved it between releases
                error.add_note(f"aiotaskq docs {meant.page}")
                raise
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with their whole first sentence, which would be cut at the width of the terminal."""
        for each in self.commands.values():
            each.short_help = each.get_short_help_str(UNWRAPPED)
        super().format_commands(ctx, formatter)

    def get_help(self, ctx: Any) -> str:
        return translated_help(super().get_help(ctx))


def group(help: str | None = None) -> typer.Typer:
    # Plain help texts: rich would double the time that they take.
    return typer.Typer(
        cls=Group,
        help=help,
        epilog=tr(CODES),
        context_settings={"terminal_width": UNWRAPPED} if chinese() else {},
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


apps: dict[str, typer.Typer] = {}
"""The commands and groups of the files that were imported, by their names."""


def command(name: str, help: str, short: str | None = None, **settings: Any) -> Callable[[F], F]:
    """Return a decorator that makes a function a command, or one of a group: ``db copy``."""
    place, _, own = name.rpartition(" ")
    app = apps.setdefault(place, group()) if place else apps.setdefault(name, typer.Typer())
    return app.command(own, cls=Command, help=tr(help), short_help=None if short is None else tr(short), **settings)


def option(help: str, *names: str, metavar: str = "TEXT", **settings: Any) -> Any:
    return typer.Option(*names, help=tr(help), metavar=metavar, **settings)


def argument(help: str, metavar: str, **settings: Any) -> Any:
    """Return an argument of typer, without its default in the help."""
    return typer.Argument(metavar=metavar, help=tr(help), show_default=False, **settings)


def program() -> str:
    """Return how the user calls this command line, for commands that are printed to be copied."""
    if sys.argv[0].endswith("__main__.py"):
        return "python -m aiotaskq"
    # A printed command must work as it is: where the environment is not active, with the path as typed.
    return "aiotaskq" if shutil.which("aiotaskq") == os.path.abspath(sys.argv[0]) else sys.argv[0]


COMPLETE = "_AIOTASKQ_COMPLETE"  # environment variable; set by the shell for completion
DEFAULT_DB = "sqlite:///aiotaskq.db"
Db = Annotated[
    str,
    option("The URL of the store, as sqlite:///app.db.", "--db", metavar="URL", envvar="AIOTASKQ_DATABASE_URL"),
]
SchedulesUrl = Annotated[
    str | None,
    option(
        "The URL of the schedules' store, if it is another one.",
        "--schedules",
        metavar="URL",
        envvar="AIOTASKQ_SCHEDULES_URL",
    ),
]
App = Annotated[
    str | None,
    option(
        "The TaskQ of your application, as app:tq for 'tq' in app.py.",
        "--app",
        metavar="MODULE:TQ",
        envvar="AIOTASKQ_APP",
        show_default=False,
    ),
]
Target = Annotated[
    str,
    argument("The TaskQ of your application, as app:tq for 'tq' in app.py.", "MODULE:TQ", envvar="AIOTASKQ_APP"),
]
Json = Annotated[bool, option("Print only JSON on standard output.", "--json")]
Yes = Annotated[bool, option("Do not ask.", "--yes", "-y")]


def confirm(question: str, yes: bool, as_json: bool) -> None:
    """Ask for confirmation, unless --yes gave it. Raises Abort for a no, BadParameter where no terminal can answer."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise typer.BadParameter(tr("cannot ask for confirmation here; use --yes"))
    typer.confirm(question, abort=True, err=True)


def check_target(target: str) -> None:
    """Raise BadParameter for what is not of the form MODULE:TQ."""
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        wrong = tr("{target} is not MODULE:TQ; write app:tq for 'tq' in app.py", target=repr(target))
        raise typer.BadParameter(wrong, param_hint="MODULE:TQ")
    if "/" in module or module.endswith(".py"):
        meant = f"{module.removesuffix('.py').strip('./').replace('/', '.')}:{name}"
        wrong = tr("{target} names a file; write its module, {meant}", target=repr(target), meant=meant)
        raise typer.BadParameter(wrong, param_hint="MODULE:TQ")


def store_of(context: typer.Context, db: str, target: str | None) -> str | None:
    """Return the URL of the store, or None for that of the application's own TaskQ.

    The more explicit one has precedence: a flag, then the environment, then pyproject.toml.
    """
    if target is None:
        return db
    check_target(target)
    sources = ("DEFAULT", "DEFAULT_MAP", "ENVIRONMENT", "COMMANDLINE")
    ranks = [sources.index(getattr(context.get_parameter_source(name), "name", "DEFAULT")) for name in ("target", "db")]
    return None if ranks[0] > ranks[1] else db

"""What several commands share: groups, common options, and the question before something is done for good."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aiotaskq.cli.i18n import UNWRAPPED, chinese, marked, tr, translated_help

CODES = marked(
    "Exit codes: 0 ok, 1 error, 2 wrong usage, 5 the task has not ended in time; of run: 0 drained, 3 some tasks given "
    "back, 4 some abandoned; 130 stopped by Ctrl-C."
)


GROUPS = {
    "tasks": tr("Look at tasks, and operate on them."),
    "schedules": tr("Look at schedules, and operate on them."),
    "store": tr("Public values: list their keys, read, set and delete."),
    "queues": tr("Queues: list, pause and resume them."),
    "db": tr("Make, check, print or copy the tables."),
}
"""Groups of commands, each in the file of its name, with what they are for."""


class Command(TyperCommand):
    """A command whose help page is in the user's language."""

    def get_help(self, ctx: Any) -> str:
        """Return the help page."""
        return translated_help(super().get_help(ctx))


class Group(TyperGroup):
    """A group of commands whose help page is in the user's language."""

    def get_help(self, ctx: Any) -> str:
        """Return the help page."""
        return translated_help(super().get_help(ctx))


def group(help: str) -> typer.Typer:
    """Return a group of commands, itself without any."""
    # Help in plain text: drawing it with rich would double the time it takes.
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


def option(*names: str, help: str, **settings: Any) -> Any:
    """Return an option of typer; its help text comes in the user's language."""
    return typer.Option(*names, help=help, **settings)


DEFAULT_DB = "sqlite:///aiotaskq.db"
Db = Annotated[
    str,
    option("--db", metavar="URL", envvar="AIOTASKQ_DATABASE_URL", help=tr("The store of tasks, as sqlite:///app.db.")),
]
SchedulesUrl = Annotated[
    str | None,
    option(
        "--schedules",
        metavar="URL",
        envvar="AIOTASKQ_SCHEDULES_URL",
        help=tr("Where schedules live, if not with the tasks."),
    ),
]
App = Annotated[
    str | None,
    option(
        "--app",
        metavar="MODULE:TQ",
        envvar="AIOTASKQ_APP",
        help=tr("Where your TaskQ is, as app:tq for 'tq' in app.py."),
        show_default=False,
    ),
]
Json = Annotated[bool, option("--json", help=tr("Print JSON, and nothing else, on standard output."))]
Ids = Annotated[list[str], typer.Argument(metavar="TASK_ID...", help=tr("One or more task ids."), show_default=False)]
StatusNames = Annotated[
    list[str] | None,
    option(
        "--status",
        metavar="STATUS",
        help=tr("pending, running, completed, failed, cancelled or expired; may be repeated."),
    ),
]
TypeName = Annotated[str | None, option("--type", metavar="TYPE", help=tr("Only tasks of this type."))]
QueueName = Annotated[str | None, option("--queue", metavar="QUEUE", help=tr("Only tasks of this queue."))]
Yes = Annotated[bool, option("--yes", "-y", help=tr("Do not ask."))]
Params = Annotated[bool, option("--params", help=tr("Show params and results, which may hold secrets."))]
Host = Annotated[str, option("--host", envvar="AIOTASKQ_HOST", help=tr("The address that it listens on."))]
Port = Annotated[int, option("--port", min=0, max=65_535, envvar="AIOTASKQ_PORT", help=tr("Its port."))]
TokenEnv = Annotated[
    str | None,
    option(
        "--token-env",
        metavar="NAME",
        help=tr("The environment variable with the token that it asks for."),
    ),
]
TokenFile = Annotated[
    str | None, option("--token-file", metavar="PATH", help=tr("The file with that token, in its first line."))
]
ReadOnly = Annotated[bool, option("--read-only", help=tr("The operations API shows, and changes nothing."))]


def ask(question: str, yes: bool, as_json: bool) -> None:
    """Go on if the user says so, here or by --yes; raises typer's Abort, and BadParameter where nobody can be asked."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise typer.BadParameter(tr("nobody can be asked here; say --yes"))
    typer.confirm(question, abort=True, err=True)


def check_target(target: str) -> None:
    """Raise BadParameter for what is not of the form MODULE:TQ."""
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        wrong = tr("{target} names no object; write app:tq for 'tq' in app.py", target=repr(target))
        raise typer.BadParameter(wrong, param_hint="MODULE:TQ")


def store_of(context: typer.Context, db: str, target: str | None) -> str | None:
    """Return the URL of the store, or None for that of the application's own TaskQ.

    What is given more explicitly counts: a flag before the environment, and that before pyproject.toml.
    """
    if target is None:
        return db
    check_target(target)
    sources = ("DEFAULT", "DEFAULT_MAP", "ENVIRONMENT", "COMMANDLINE")
    ranks = [sources.index(getattr(context.get_parameter_source(name), "name", "DEFAULT")) for name in ("target", "db")]
    return None if ranks[0] > ranks[1] else db

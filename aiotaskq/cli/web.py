"""``aiotaskq web``, and the operations API of ``run --web``: address, token, server; ``aiotaskq mcp``."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct, structs

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import tr, translated
from aiotaskq.cli.options import DEFAULT_DB, Db, SchedulesUrl
from aiotaskq.cli.output import say_stderr
from aiotaskq.cli.parameters import given_to, keyword, options_from, register
from aiotaskq.cli.store_access import refuse_unready, with_tq
from aiotaskq.core.masking import mask
from aiotaskq.errors import ValidationError
from aiotaskq.operations.fields import about

Port = Annotated[int, about("Port of the dashboard and the operations API.", ge=0, le=65_535)]
ShowArgs = Annotated[
    bool, about("Show params, results, logs, public values and messages of errors, which may contain secrets.")
]


class Site(Struct, frozen=True):
    """Address and access rules of the operations API: the options of ``web`` and of ``run --web``."""

    host: Annotated[str, about("Address of the dashboard and the operations API.")] = "127.0.0.1"
    port: Port = 8765
    token_env: Annotated[
        str | None, about("Environment variable that holds the token of the dashboard and the operations API.")
    ] = None
    token_file: Annotated[str, about("File with this token in its first line.")] | None = None
    read_only: Annotated[bool, about("Let the dashboard and the operations API change nothing.")] = False
    show_args: ShowArgs = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``serve``, the token read. Raises ValidationError."""
        found = structs.asdict(self)
        return found | {"token": token_of(found.pop("token_env"), found.pop("token_file"))}


SITE = options_from(Site, environment=["host", "port"])
STORES = [keyword("db", Db, DEFAULT_DB), keyword("schedules", SchedulesUrl, None)]


def _web(db: str, schedules: str | None, **given: Any) -> None:
    from aiotaskq.web.server import serve

    served = given_to(Site, given).arguments()
    for url in (db, schedules):
        if url is not None:
            refuse_unready(url)
    serve(TaskQ(db, schedules=schedules), **served, started=functools.partial(_started, mask(db)))


register("web", _web, [*STORES, *SITE], "Serve the dashboard and the operations API of a store until Ctrl-C.")


def token_of(token_env: str | None, token_file: str | None) -> str | None:
    """Read the token from the environment or a file; on the command line every user of the machine could see it.

    Raises ValidationError if the variable or file that an option names has no token.
    """
    token = None
    if token_env is not None and token_file is not None:
        raise ValidationError(tr("--token-env, --token-file: give one of the two"))
    if token_env is not None:
        token = os.environ.get(token_env, "").strip()
        if not token:
            said = tr("--token-env: the environment variable {name} is not set, or empty", name=repr(token_env))
            raise ValidationError(said)
    if token_file is not None:
        try:
            lines = Path(token_file).read_text().splitlines()
        except (OSError, UnicodeError) as error:
            why = translated(error.strerror) if isinstance(error, OSError) else tr("it is not text")
            said = tr("--token-file: {path} cannot be read: {why}", path=repr(token_file), why=why)
            raise ValidationError(said) from None
        token = lines[0].strip() if lines else ""
        if not token:
            raise ValidationError(tr("--token-file: the first line of {path} is empty", path=repr(token_file)))
    return token


def _started(store: str, url: str) -> None:
    say_stderr("dashboard and operations API of {store} on {url}", store=store, url=url)


@contextlib.asynccontextmanager
async def serving(tq: TaskQ, served: dict[str, Any] | None, stop: asyncio.Event) -> AsyncIterator[None]:
    """Serve the operations API with these arguments of ``serve_until``, until ``stop`` is set.

    If the server fails, ``stop`` is set and its error is raised.
    """
    if served is None:
        yield
        return
    from aiotaskq.web.server import serve_until

    arguments = {"started": functools.partial(_started, mask(tq.url))} | served
    task = asyncio.create_task(serve_until(stop, tq, **arguments))
    task.add_done_callback(lambda _task: stop.set())
    try:
        yield
    finally:
        stop.set()
        await task  # it limits how long open requests may take


class Assisted(Struct):
    """What an assistant may do: the options of ``mcp``."""

    write: Annotated[
        bool,
        about(
            "Also let it change what it shows: push, edit and delete tasks, schedules and values, emit events, "
            "steer groups, queues, limits and workers."
        ),
    ] = False
    show_args: ShowArgs = False


def _mcp(db: str, schedules: str | None, **given: Any) -> None:
    from aiotaskq.integrations.mcp import mcp_server

    async def main(tq: TaskQ) -> None:
        await mcp_server(tq, **given).run_stdio_async()

    with_tq(db, main, schedules)


register(
    "mcp",
    _mcp,
    [*STORES, *options_from(Assisted)],
    "Serve a store to an AI assistant, by the Model Context Protocol on stdin and stdout: list and show tasks, why "
    "they wait, workers, schedules and limits. Needs the extra mcp.",
)

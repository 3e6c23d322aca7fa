"""``aiotaskq web``, and the operations API of ``run --web``: address, token, server; ``aiotaskq mcp``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import tr, translated
from aiotaskq.cli.options import (
    DEFAULT_DB,
    Db,
    Host,
    Port,
    ReadOnly,
    SchedulesUrl,
    ShowArgs,
    TokenEnv,
    TokenFile,
    command,
    option,
)
from aiotaskq.cli.output import echo_stderr
from aiotaskq.cli.store_access import with_tq
from aiotaskq.core.masking import mask
from aiotaskq.errors import ValidationError


@command("web", tr("Serve the dashboard and the operations API of a store until Ctrl-C."))
def web(
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    token_env: TokenEnv = None,
    token_file: TokenFile = None,
    read_only: ReadOnly = False,
    show_args: ShowArgs = False,
) -> None:
    site = Site(host, port, token_of(token_env, token_file), read_only, show_args)

    async def main(tq: TaskQ) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await _serve(tq, site, stop)

    with_tq(db, main, schedules)


@dataclass(frozen=True)
class Site:
    """Address and access rules of the operations API."""

    host: str
    port: int
    token: str | None = field(repr=False)
    read_only: bool
    show_args: bool


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


async def _serve(tq: TaskQ, site: Site, stop: asyncio.Event) -> None:
    from aiotaskq.web.server import serve_until

    def started(url: str) -> None:
        echo_stderr(tr("dashboard and operations API of {store} on {url}", store=mask(tq.url), url=url))

    await serve_until(stop, tq, started=started, **vars(site))


@contextlib.asynccontextmanager
async def serving(tq: TaskQ, site: Site | None, stop: asyncio.Event) -> AsyncIterator[None]:
    """Serve the operations API until ``stop`` is set. If the server fails, ``stop`` is set and its error is raised."""
    if site is None:
        yield
        return
    task = asyncio.ensure_future(_serve(tq, site, stop))
    task.add_done_callback(lambda _task: stop.set())
    try:
        yield
    finally:
        stop.set()
        await task  # it limits how long open requests may take


@command(
    "mcp",
    tr(
        "Serve a store to an AI assistant, by the Model Context Protocol on stdin and stdout: list and show tasks, why "
        "they wait, workers, schedules and limits. Needs the extra mcp."
    ),
)
def mcp(
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    write: Annotated[
        bool,
        option(
            tr(
                "Also let it change what it shows: push, edit and delete tasks, schedules and values, emit events, "
                "steer groups, queues, limits and workers."
            ),
            "--write",
        ),
    ] = False,
    show_args: ShowArgs = False,
) -> None:
    from aiotaskq.integrations.mcp import mcp_server

    async def main(tq: TaskQ) -> None:
        await mcp_server(tq, write=write, show_args=show_args).run_stdio_async()

    with_tq(db, main, schedules)

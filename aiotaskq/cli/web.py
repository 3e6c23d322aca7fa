"""``aiotaskq web`` and ``run --web``: where the operations API listens, its token, and who serves it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import tr, translated
from aiotaskq.cli.output import note
from aiotaskq.cli.store_access import with_tq
from aiotaskq.core.masking import mask
from aiotaskq.errors import ValidationError


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the operations API listens, and what it asks of who comes; the token is not for printing."""

    host: str
    port: int
    token: str | None
    read_only: bool

    @staticmethod
    def of(host: str, port: int, token_env: str | None, token_file: str | None, read_only: bool) -> Site:
        """Read the token from where the options say: never from the command line, which every user can see.

        Raises ValidationError when there is none.
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
                why = translated(error.strerror) if isinstance(error, OSError) else tr("it is no text")
                said = tr("--token-file: {path} cannot be read: {why}", path=repr(token_file), why=why)
                raise ValidationError(said) from None
            token = lines[0].strip() if lines else ""
            if not token:
                raise ValidationError(tr("--token-file: the first line of {path} is empty", path=repr(token_file)))
        return Site(host=host, port=port, token=token, read_only=read_only)

    def __repr__(self) -> str:
        return f"Site({self.host}:{self.port})"


async def _serve(tq: TaskQ, site: Site, stop: asyncio.Event) -> None:
    from aiotaskq.web.server import serve_until

    await serve_until(
        stop,
        tq,
        host=site.host,
        port=site.port,
        token=site.token,
        read_only=site.read_only,
        started=lambda url: note(tr("operations API of {store} on {url}", store=mask(tq.url), url=url)),
    )


def serve(url: str, schedules: str | None, site: Site) -> None:
    """Serve the operations API of a store until Ctrl-C or SIGTERM."""

    async def main(tq: TaskQ) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await _serve(tq, site, stop)

    with_tq(url, main, schedules)


@contextlib.asynccontextmanager
async def beside(tq: TaskQ, site: Site | None, stop: asyncio.Event) -> AsyncIterator[None]:
    """Serve the operations API until the workers are asked to stop; if it cannot be, that stops them and is raised."""
    if site is None:
        yield
        return
    task = asyncio.ensure_future(_serve(tq, site, stop))
    task.add_done_callback(lambda _task: stop.set())
    try:
        yield
    finally:
        stop.set()
        await task  # it gives open requests some seconds only

"""``aiotaskq web`` and ``run --web``: where the dashboard listens, its token, and who serves it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiotaskq.backends import mask
from aiotaskq.cli.language import tr
from aiotaskq.cli.opened import with_tq
from aiotaskq.cli.screen import note
from aiotaskq.errors import ValidationError
from aiotaskq.taskq import TaskQ


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the dashboard listens, and what it asks of who comes; the token is not for printing."""

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
                why = getattr(error, "strerror", None) or tr("it is no text")
                said = tr("--token-file: {path} cannot be read: {why}", path=repr(token_file), why=why)
                raise ValidationError(said) from None
            token = lines[0].strip() if lines else ""
            if not token:
                raise ValidationError(tr("--token-file: the first line of {path} is empty", path=repr(token_file)))
        return Site(host=host, port=port, token=token, read_only=read_only)

    def __repr__(self) -> str:
        return f"Site({self.host}:{self.port})"


async def _serve(tq: TaskQ, site: Site) -> None:
    from aiotaskq.web.server import serve as serve_site  # type: ignore[import-not-found, unused-ignore]

    await serve_site(tq, host=site.host, port=site.port, token=site.token, read_only=site.read_only)


def serve(url: str, schedules: str | None, site: Site) -> None:
    """Serve the dashboard of a store until Ctrl-C or SIGTERM."""
    note(
        tr("dashboard of {url} on http://{host}:{port}; Ctrl-C stops it", url=mask(url), host=site.host, port=site.port)
    )
    with_tq(url, lambda tq: _until_signal(_serve(tq, site)), schedules)


async def _until_signal(serving: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(serving)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@contextlib.asynccontextmanager
async def beside(tq: TaskQ, site: Site | None, stop: asyncio.Event) -> AsyncIterator[None]:
    """Serve the dashboard while the workers run; if it cannot be served, everything stops and that is raised."""
    if site is None:
        yield
        return
    note(tr("dashboard on http://{host}:{port}", host=site.host, port=site.port))
    task = asyncio.ensure_future(_serve(tq, site))
    task.add_done_callback(lambda _task: stop.set())
    try:
        yield
    finally:
        failed = task.done() and not task.cancelled()
        task.cancel()
        if failed:
            await task
        else:
            await asyncio.wait([task], timeout=5.0)

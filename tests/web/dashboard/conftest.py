"""The dashboard in applications of Starlette, FastAPI and aiohttp, and on the standalone server."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from aiotaskq import TaskQ
from aiotaskq.integrations import aiohttp as aiohttp_door
from aiotaskq.integrations import fastapi as fastapi_door
from aiotaskq.integrations import starlette as starlette_door
from aiotaskq.web.dashboard import site
from aiotaskq.web.server import asgi
from tests.support.backends import sqlite
from tests.support.machine import within


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page may take as long as this machine needs; a test of the limits sets its own."""
    monkeypatch.setattr(site, "READ_LIMIT", within(20))
    monkeypatch.setattr(site, "PAGE_TIMEOUT", within(30))


Browse = httpx.AsyncClient
"""A client that keeps cookies, as a browser does."""


def anybody(_request: Any, _action: str) -> bool:
    return True


@contextlib.asynccontextmanager
async def in_starlette(tq: TaskQ, **options: Any) -> AsyncIterator[Browse]:
    app = Starlette(routes=[Mount("/any/where", routes=starlette_door.dashboard(tq, **{"allow": anybody} | options))])
    async with Browse(transport=httpx.ASGITransport(app), base_url="http://test/any/where/") as browse:
        yield browse


@contextlib.asynccontextmanager
async def in_fastapi(tq: TaskQ, **options: Any) -> AsyncIterator[Browse]:
    app = FastAPI()
    app.include_router(fastapi_door.dashboard(tq, **{"allow": anybody} | options), prefix="/any/where")
    async with Browse(transport=httpx.ASGITransport(app), base_url="http://test/any/where/") as browse:
        yield browse


@contextlib.asynccontextmanager
async def in_aiohttp(tq: TaskQ, **options: Any) -> AsyncIterator[Browse]:
    app = web.Application()
    app.add_subapp("/any/where", aiohttp_door.dashboard(tq, **{"allow": anybody} | options))
    async with TestServer(app) as server, Browse(base_url=f"http://127.0.0.1:{server.port}/any/where/") as browse:
        yield browse


@contextlib.asynccontextmanager
async def standalone(tq: TaskQ, **options: Any) -> AsyncIterator[Browse]:
    transport = httpx.ASGITransport(asgi(tq, **options))
    async with Browse(transport=transport, base_url="http://localhost/dashboard/") as browse:
        yield browse


DOORS: dict[str, Callable[..., AbstractAsyncContextManager[Browse]]] = {
    "starlette": in_starlette,
    "fastapi": in_fastapi,
    "aiohttp": in_aiohttp,
    "standalone": standalone,
}


@contextlib.asynccontextmanager
async def greeting(folder: Path) -> AsyncIterator[TaskQ]:
    """A task queue on SQLite with one handler."""
    async with sqlite(folder) as store:
        url = store.url
    async with TaskQ(url, timezone="UTC") as tq:

        @tq.task(max_retries=0)
        async def greet(name: str) -> str:
            if name == "nobody":
                raise RuntimeError("there is no such person")
            return f"Hello, {name}!"

        yield tq


@pytest.fixture
async def tq(tmp_path: Path) -> AsyncIterator[TaskQ]:
    async with greeting(tmp_path) as tq:
        yield tq


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Callable[..., AbstractAsyncContextManager[Browse]]:
    return DOORS[request.param]


@pytest.fixture
async def browse(tq: TaskQ) -> AsyncIterator[Browse]:
    """One door is enough for what a page shows."""
    async with in_starlette(tq) as browse:
        yield browse


def form_token(page: httpx.Response) -> str:
    found = re.search(r'name="form_token" value="(\w+)"', page.text)
    assert found is not None, page.text
    return found[1]


async def send(browse: Browse, action: str, page: str = "", **fields: str) -> httpx.Response:
    """Send a form of a page, as its button does."""
    token = form_token(await browse.get(page))
    return await browse.post(action, data={"form_token": token, **fields}, headers={"Sec-Fetch-Site": "same-origin"})

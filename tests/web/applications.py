"""Applications of Starlette, FastAPI and aiohttp with the operations API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from aiotaskq import TaskQ
from aiotaskq.integrations import aiohttp as aiohttp_door
from aiotaskq.integrations import fastapi as fastapi_door
from aiotaskq.integrations import starlette as starlette_door
from aiotaskq.web.problem_details import MEDIA_TYPE, Problem

SECRET = "sesame-4711"


Ask = httpx.AsyncClient


@contextlib.asynccontextmanager
async def in_starlette(tq: TaskQ, **options: Any) -> AsyncIterator[Ask]:
    app = Starlette(routes=[Mount("/any/where", routes=starlette_door.routes(tq, **options))])
    async with Ask(transport=httpx.ASGITransport(app), base_url="http://test/any/where/") as ask:
        yield ask


@contextlib.asynccontextmanager
async def in_fastapi(tq: TaskQ, **options: Any) -> AsyncIterator[Ask]:
    outer, inner = FastAPI(), FastAPI()
    inner.include_router(fastapi_door.router(tq, **options), prefix="/where")
    outer.mount("/any", inner)  # its lifespan is not run, and need not be
    async with Ask(transport=httpx.ASGITransport(outer), base_url="http://test/any/where/") as ask:
        yield ask


@contextlib.asynccontextmanager
async def in_aiohttp(tq: TaskQ, **options: Any) -> AsyncIterator[Ask]:
    app = web.Application()
    app.add_subapp("/any/where", aiohttp_door.operations(tq, **options))
    async with TestServer(app) as server, Ask(base_url=f"http://127.0.0.1:{server.port}/any/where/") as ask:
        yield ask


DOORS: dict[str, Callable[..., AbstractAsyncContextManager[Ask]]] = {
    "starlette": in_starlette,
    "fastapi": in_fastapi,
    "aiohttp": in_aiohttp,
}


def refused(answer: httpx.Response, status: int, code: str, says: str = "") -> None:
    """It is a problem (RFC 9457) of this kind."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE), answer.text
    found = msgspec.json.decode(answer.content, type=Problem, strict=True)
    assert (found.status, found.code) == (status, code)
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert says in found.detail, found.detail

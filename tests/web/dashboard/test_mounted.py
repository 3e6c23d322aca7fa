"""The dashboard behind a login of the host, behind a proxy that rewrites the path, and in two processes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urljoin

import httpx
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from fastapi import Depends, FastAPI, HTTPException, Request

from aiotaskq import TaskQ
from aiotaskq.integrations import aiohttp as aiohttp_door
from aiotaskq.integrations import fastapi as fastapi_door
from aiotaskq.web.dashboard.site import pages
from tests.web.dashboard.browser import served
from tests.web.dashboard.conftest import Browse, form_token, in_starlette, send

HOP = {"connection", "transfer-encoding", "host", "keep-alive", "content-length"}


async def behind_fastapi(tq: TaskQ) -> AsyncIterator[Browse]:
    async def signed_in(request: Request) -> None:
        if request.cookies.get("login") != "mara":
            raise HTTPException(401)

    app = FastAPI()
    app.include_router(fastapi_door.dashboard(tq, dependencies=[Depends(signed_in)]), prefix="/ops/tasks")
    async with Browse(transport=httpx.ASGITransport(app), base_url="http://test/ops/tasks/") as browse:
        yield browse


async def behind_aiohttp(tq: TaskQ) -> AsyncIterator[Browse]:
    @web.middleware
    async def signed_in(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.cookies.get("login") != "mara":
            raise web.HTTPUnauthorized
        return await handler(request)

    app = web.Application()
    app.add_subapp("/ops/tasks", aiohttp_door.dashboard(tq, middlewares=[signed_in]))
    async with TestServer(app) as server, Browse(base_url=f"http://127.0.0.1:{server.port}/ops/tasks/") as browse:
        yield browse


@pytest.mark.parametrize("host", [behind_fastapi, behind_aiohttp])
async def test_the_login_of_the_host_guards_every_path(
    host: Callable[[TaskQ], AsyncIterator[Browse]], tq: TaskQ
) -> None:
    async with contextlib.asynccontextmanager(host)(tq) as browse:
        for path in [*pages, "live?page=tasks", "tasks?format=json", "static/dashboard.js", "nowhere"]:
            assert (await browse.get(path)).status_code == 401, path
        for path in ("queues.pause", "preferences", "login"):
            assert (await browse.post(path, data={"queue": "q"})).status_code == 401, path
        browse.cookies.set("login", "mara")
        assert (await browse.get("tasks")).status_code == 200
        assert (await send(browse, "queues.pause", "queues", queue="q")).status_code == 303
        assert await tq.paused() == ["q"]
        assert browse.cookies["login"] == "mara"


# ---- two processes --------------------------------------------------------------------------------------------------


async def test_a_form_of_one_process_is_accepted_by_another(tq: TaskQ) -> None:
    async with TaskQ(tq.url) as other, in_starlette(tq) as first, in_starlette(other) as second:
        token = form_token(await first.get("queues"))
        second.cookies = first.cookies  # a balancer sends the next request of the same visitor elsewhere
        headers = {"Sec-Fetch-Site": "same-origin"}
        done = await second.post("queues.pause", data={"form_token": token, "queue": "q"}, headers=headers)
        assert done.status_code == 303
        first.cookies = second.cookies
        shown = await first.get(done.headers["location"])
        assert "The queue q is paused." in shown.text and "queues.resume" in shown.text


# ---- a proxy that rewrites the path ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def proxied(home: str, scheme: str = "http") -> AsyncIterator[str]:
    """Serve an address under another prefix, as a proxy does; it says that its clients come by this scheme."""
    async with ClientSession(auto_decompress=False) as client:

        async def forward(request: web.Request) -> web.StreamResponse:
            headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP]
            headers += [("X-Forwarded-Proto", scheme), ("Host", "127.0.0.1")]
            tail = request.rel_url.raw_path.removeprefix("/deep/prefix/")
            url = f"{home}{tail}" + (f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else "")
            sent = client.request(
                request.method, url, headers=headers, data=await request.read(), allow_redirects=False
            )
            async with sent as answer:
                kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP]
                reply = web.StreamResponse(status=answer.status)
                for name, value in kept:
                    reply.headers.add(name, value)
                await reply.prepare(request)
                async for part in answer.content.iter_any():
                    await reply.write(part)
                return reply

        app = web.Application()
        app.router.add_route("*", "/deep/prefix/{tail:.*}", forward)
        server = TestServer(app)
        await server.start_server()  # it ends a stream with its client
        try:
            yield f"http://127.0.0.1:{server.port}/deep/prefix/"
        finally:
            await server.close()


async def test_behind_a_proxy_with_a_certificate_every_link_stays_and_cookies_are_secure(tq: TaskQ) -> None:
    token = "correct-horse-battery-staple"
    async with (
        served(tq, token=token) as home,
        proxied(home, "https") as public,
        Browse(base_url=public) as browse,
    ):
        login = await browse.get("tasks")
        assert login.status_code == 401 and "Secure" in login.headers["set-cookie"]
        session = login.headers["set-cookie"].partition(";")[0]
        fields = {"form_token": form_token(login), "token": token, "back": "tasks"}
        headers = {"Cookie": session, "Sec-Fetch-Site": "same-origin"}
        done = await browse.post("login", data=fields, headers=headers)
        assert (done.status_code, done.headers["location"]) == (303, "tasks")
        assert "Secure" in done.headers["set-cookie"]
        headers["Cookie"] = done.headers["set-cookie"].partition(";")[0]
        for name in pages:
            text = (await browse.get(name, headers=headers)).text
            for address in re.findall(r'(?:href|src|action)="([^"#]+)', text):
                assert urljoin(f"{public}{name}", address).startswith(public), address

"""An aiohttp application as users write it: workers in it, and an admin's API. Settings as in ``fastapi_shop``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from aiotaskq import TaskQ
from aiotaskq.integrations.aiohttp import TASKQ, operations, setup

LONGEST = float(os.environ.get("SHOP_LONGEST", "60"))
LEDGER = os.environ.get("SHOP_LEDGER", "ledger.txt")

tq = TaskQ(os.environ.get("SHOP_URL", "sqlite:///shop.db"), poll_interval=0.05)


def note(line: str) -> None:
    with open(LEDGER, "a") as ledger:
        ledger.write(f"{os.getpid()} {line}\n")


@tq.task
async def book(order: int, seconds: float = 0.0) -> int:
    note(f"began {order}")
    await asyncio.sleep(min(seconds, LONGEST))
    note(f"booked {order}")
    return order


@web.middleware
async def admin(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if request.headers.get("x-admin") != "yes":
        raise web.HTTPUnauthorized(text="who are you?")
    return await handler(request)


async def order(request: web.Request) -> web.Response:
    seconds = float(request.query.get("seconds", "0"))
    handle = await book.push(order=int(request.match_info["order"]), seconds=seconds)
    return web.json_response({"task_id": handle.task_id})


async def result(request: web.Request) -> web.Response:
    return web.json_response(await request.app[TASKQ].handle(request.match_info["task_id"]).result(timeout=10))


async def resources(_app: web.Application) -> AsyncIterator[None]:
    note("up")
    yield
    note("down")


def make_app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(resources)
    setup(app, tq, concurrency=4, drain=float(os.environ.get("SHOP_DRAIN", "5")), grace=1)
    app.router.add_post("/orders/{order}", order)
    app.router.add_get("/result/{task_id}", result)
    app.add_subapp("/ops", operations(tq, middlewares=[admin], show_args=True))
    app.add_subapp("/probes", operations(tq, operations=["healthz", "readyz"]))
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ["SHOP_PORT"]), shutdown_timeout=1)

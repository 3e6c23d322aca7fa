"""Thumbnails with aiohttp: an endpoint pushes, workers run in the application, a page shows the progress.

Run it with `python app.py`, then `curl -X POST localhost:8080/pictures/cat`; its tests with `pytest`. It needs
the extra `aiohttp` of aiotaskq, and for the tests pytest.
"""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from aiotaskq import TaskQ, current_task
from aiotaskq.errors import NotFound
from aiotaskq.integrations.aiohttp import TASKQ, setup

SIZES = (64, 128, 256)
tq = TaskQ(os.environ.get("PICTURES_URL", "sqlite:///pictures.db"))


@tq.task(queue="pictures", max_retries=2, timeout=60)
async def thumbnails(name: str) -> list[str]:
    """Make a picture in each size, and say how far it is."""
    made = []
    for number, size in enumerate(SIZES, 1):
        await asyncio.sleep(0)  # here the work is done; work that uses the CPU belongs in a def handler
        made.append(f"{name}-{size}.png")
        await current_task().progress(number, len(SIZES), made[-1])
    return made


async def push(request: web.Request) -> web.Response:
    """Push one task for a picture, also if it is asked for twice."""
    name = request.match_info["name"]
    handle = await thumbnails.options(unique_key=f"thumbnails-{name}").push(name=name)
    return web.json_response({"task_id": handle.task_id, "created": handle.created}, status=202)


async def status(request: web.Request) -> web.Response:
    """Return the status and the progress of a task."""
    try:
        task = await request.app[TASKQ].get(request.match_info["task_id"])
    except NotFound:
        raise web.HTTPNotFound from None
    return web.json_response({"status": task.status, "progress": task.progress, "result": task.result})


def make_app() -> web.Application:
    """Return the application; its workers start and stop with it."""
    app = web.Application()
    setup(app, tq, concurrency=10)
    app.router.add_post("/pictures/{name}", push)
    app.router.add_get("/tasks/{task_id}", status)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), shutdown_timeout=5)

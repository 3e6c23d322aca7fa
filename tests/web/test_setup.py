"""The operations API in an application: lifespan, dependencies, health, missing extras."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI

from aiotaskq import TaskQ
from aiotaskq.core.errors import missing
from aiotaskq.errors import ValidationError
from aiotaskq.integrations import aiohttp as aiohttp_door
from aiotaskq.integrations import fastapi as fastapi_door
from tests.support.machine import within
from tests.web.applications import SECRET, Ask


async def test_setup_keeps_the_lifespan_that_was_there() -> None:
    events: list[str] = []
    tq = TaskQ("memory://")
    begun = asyncio.Event()

    @tq.task
    async def work() -> None:
        begun.set()
        await asyncio.sleep(0)
        events.append("worked")

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, int]]:
        events.append("resources")
        yield {"answer": 42}
        events.append("no resources")

    app = FastAPI(lifespan=lifespan)
    fastapi_door.setup(app, tq, concurrency=1)
    with pytest.raises(ValidationError, match="one setup"):
        fastapi_door.setup(app, tq)
    async with app.router.lifespan_context(app) as state:
        assert state == {"answer": 42} and app.state.aiotaskq is tq
        await (await work.push()).result(within(30))
        begun.clear()
        await work.push()
        await begun.wait()
    assert events == ["resources", "worked", "worked", "no resources"]  # drained before they go


async def test_a_dependency_finds_the_queue_or_says_what_to_do() -> None:
    tq = TaskQ("memory://")
    with_one, without = FastAPI(lifespan=tq.lifespan), FastAPI()

    async def endpoint(tq: fastapi_door.TaskQDep) -> str:
        return tq.url

    for app in (with_one, without):
        app.get("/url")(endpoint)
    with_one.mount("/sub", without)
    transport = httpx.ASGITransport(with_one)
    async with with_one.router.lifespan_context(with_one), Ask(transport=transport, base_url="http://test") as ask:
        assert (await ask.get("/url")).json() == "memory://"
        with pytest.raises(ValidationError, match=r"app\.state\.aiotaskq = tq"):
            await ask.get("/sub/url")
        without.state.aiotaskq = tq
        assert (await ask.get("/sub/url")).json() == "memory://"


async def test_the_aiohttp_application_in_its_test_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from tests.apps import aiohttp_shop

    app = aiohttp_shop.make_app()
    async with TestClient(TestServer(app)) as client:
        assert app[aiohttp_door.TASKQ] is aiohttp_shop.tq
        task_id = (await (await client.post("/orders/5")).json())["task_id"]
        assert await (await client.get(f"/result/{task_id}")).json() == 5
        assert (await client.get("/ops/tasks")).status == 401
        answer = await client.get("/ops/tasks?params=true", headers={"x-admin": "yes"})
        (task,) = (await answer.json())["tasks"]
        assert (task["params"], task["result"]) == ({"order": 5, "seconds": 0.0}, 5)
        assert (await (await client.get("/probes/readyz")).json())["parts"]["workers"] == "ok"
        assert (await client.get("/probes/tasks")).status == 404
    with pytest.raises(ValidationError, match="one setup"):
        aiohttp_door.setup(app, aiohttp_shop.tq)


async def test_health_tells_what_is_wrong() -> None:
    tq = TaskQ(f"postgresql://someone:{SECRET}@127.0.0.1:1/db")
    problem = (await tq.health())["store"]
    assert problem is not None and "127.0.0.1:1" in problem and SECRET not in problem
    await tq.close()
    tq = TaskQ("memory://")
    await tq.push("x")
    assert await tq.health() == {"store": None}, "it was not opened, and pushes succeed"
    async with tq.running():
        assert await tq.health() == {"store": None, "workers": None, "scheduler": None}

        async def never() -> None:
            await asyncio.Event().wait()

        tq.queue.backend.ping = never  # type: ignore[method-assign, assignment]
        told = {"store": "it did not answer within 0.01 s", "workers": None, "scheduler": None}
        assert await tq.health(timeout=0.01) == told


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("integrations.fastapi", "fastapi", "fastapi"),
        ("integrations.starlette", "starlette", "web"),
        ("integrations.aiohttp", "aiohttp", "aiohttp"),
        ("integrations.aiohttp", "starlette", "aiohttp"),
        ("web.server", "uvicorn", "web"),
    ],
)
def test_a_missing_extra_is_named(module: str, library: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        f"from aiotaskq.errors import MissingExtra\ntry:\n    import aiotaskq.{module}\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"{missing(library, extra)}\n"

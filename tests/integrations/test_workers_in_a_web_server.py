"""Workers embedded in a web server: no signal handler is installed, and the server's stop is bounded."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.machine import within
from tests.support.programs import Program, programs_in

SERVER = """
    import asyncio, contextlib, signal, sys
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from aiotaskq import TaskQ

    tq = TaskQ("sqlite:///web.db", poll_interval=0.05)

    @tq.task
    async def work(seconds: float):
        print("working", flush=True)
        await asyncio.sleep(seconds)

    async def push(request):
        handle = await work.push(seconds=float(request.query_params["seconds"]))
        return PlainTextResponse(handle.task_id)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        async with tq.running(concurrency=2, drain=1.0, grace=1.0):
            assert before == {n: signal.getsignal(n) for n in before}, "a signal handler was installed"
            await work.push(seconds=3600)
            yield
        print("stopped", flush=True)

    app = Starlette(routes=[Route("/push", push)], lifespan=lifespan)
    uvicorn.run(app, port=0, log_level="warning")
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    with programs_in(tmp_path) as start:
        yield start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_web_server_stops_in_bounds_and_its_task_is_given_back(  # D3, D7
    program: Callable[..., Program], tmp_path: Path, number: signal.Signals
) -> None:
    server = program(SERVER)
    server.wait_for("working")
    begin = time.monotonic()
    server.signal(number)
    server.wait_for("stopped")
    server.popen.wait(within(30))
    assert time.monotonic() - begin < within(10)
    rows = program(
        """
        import asyncio
        from aiotaskq import TaskQ

        async def main():
            async with TaskQ("sqlite:///web.db") as tq:
                for task in await tq.find():
                    print(task.status, task.retry_count, task.crashes)

        asyncio.run(main())
        """
    ).end()
    assert rows == ["pending 0 0"]

"""``GET /tasks/{id}/stream`` in each framework: a browser that connects again misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing

import httpx
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiotaskq import TaskQ, current_task
from aiotaskq.integrations import aiohttp as aiohttp_door
from aiotaskq.web import endpoints as events
from tests.support.machine import within
from tests.web.applications import Ask, refused


def parsed(text: str) -> list[tuple[str, str, object]]:
    """Return the id, the event and the data of each event, as a browser reads them."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            data = msgspec.json.decode(fields["data"])
            if fields.get("event") == "log":
                assert data.pop("at").endswith("Z")
            found.append((fields["id"], fields.get("event", "message"), data))
    return found


@pytest.fixture
def streams(tq: TaskQ) -> TaskQ:
    @tq.task
    async def streams() -> None:
        current_task().log("begun\nhere")
        current_task().stream("Hé")
        current_task().stream({"a": 1})

    return tq


ALL = [
    ("1", "log", {"text": "begun\nhere"}),
    ("2", "message", "Hé"),
    ("3", "message", {"a": 1}),
    ("3.end", "end", {"status": "completed"}),
]


async def test_events_of_a_task(door: Callable[..., AbstractAsyncContextManager[Ask]], streams: TaskQ) -> None:
    async with door(streams, show_args=True) as ask, streams.running():
        handle = await streams.push("streams")
        await handle.result(within(20))
        path = f"tasks/{handle.task_id}/stream"
        answer = await ask.get(path)
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert parsed(answer.text) == ALL
        assert parsed((await ask.get(f"{path}?after=2")).text) == ALL[2:]
        for last in range(1, 4):
            assert parsed((await ask.get(path, headers={"Last-Event-ID": str(last)})).text) == ALL[last:]
        for other in ("", "of another server", ".end", "-1", "٣".encode(), "1" * 30):
            assert parsed((await ask.get(path, headers={"Last-Event-ID": other})).text) == ALL, other
        assert (await ask.get(path, headers={"Last-Event-ID": "3.end"})).status_code == 204
        refused(await ask.get("tasks/missing/stream"), 404, "NotFound")
        refused(await ask.get(f"{path}?after=-1"), 422, "ValidationError")
        later = await streams.push("streams", delay=60)
        async with asyncio.timeout(within(5)):  # the answer to HEAD has no stream, which would not end
            assert (await ask.head(f"tasks/{later.task_id}/stream")).status_code in (200, 405)


async def test_texts_are_not_shown_where_params_are_not(ask: Ask, streams: TaskQ) -> None:
    handle = await streams.push("streams")
    refused(await ask.get(f"tasks/{handle.task_id}/stream"), 403, "NotShown", "show_args")


async def test_events_come_while_the_task_runs(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BEAT", 0.05)
    go_on = asyncio.Event()

    @tq.task
    async def waits() -> None:
        current_task().stream(1)
        await go_on.wait()

    async with tq.running(), asyncio.timeout(within(20)):
        handle = await waits.push()
        async with aclosing(events.event_stream(handle, 0, lambda: False)) as stream:
            assert await anext(stream) == events.RETRY
            while (part := await anext(stream)) == b": \n\n":
                pass
            assert part == b"id: 1\ndata: 1\n\n"
            assert await anext(stream) == b": \n\n"
            go_on.set()
            rest = [part async for part in stream if part != b": \n\n"]
            assert rest == [b'id: 1.end\nevent: end\ndata: {"status":"completed"}\n\n']
        deleted = [part async for part in events.event_stream(tq.handle("gone"), 7, lambda: False)]
        assert deleted[-1] == b'id: 7.end\nevent: end\ndata: {"status":null}\n\n'


async def test_a_stream_ends_when_aiohttp_stops(streams: TaskQ) -> None:
    """With uvicorn: ``test_open_pages_hold_no_connection_of_the_application_and_delay_no_stop``."""
    app = web.Application()
    app.add_subapp("/ops", aiohttp_door.operations(streams, show_args=True))
    server = TestServer(app)
    await server.start_server(shutdown_timeout=3600)
    later = await streams.push("streams", delay=3600)
    async with (
        httpx.AsyncClient(base_url=str(server.make_url("/ops/"))) as ask,
        ask.stream("GET", f"tasks/{later.task_id}/stream") as answer,
        asyncio.timeout(within(20)),
    ):
        parts = answer.aiter_bytes()
        assert await anext(parts) == events.RETRY
        closing = asyncio.create_task(server.close())
        assert b"".join([part async for part in parts]).strip(b": \n") == b""  # it ends, and is not cut off
        await closing

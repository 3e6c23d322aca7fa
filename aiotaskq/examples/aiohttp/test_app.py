"""The tests of the thumbnails: `pytest` in this folder."""

from __future__ import annotations

import asyncio

from aiohttp.test_utils import TestClient, TestServer
from app import make_app, thumbnails, tq

from aiotaskq.testing import override, virtual


def test_a_picture_is_pushed_once() -> None:
    async def scenario() -> None:
        with override(tq) as pushes:
            async with TestClient(TestServer(make_app())) as client:
                answers = [await (await client.post("/pictures/cat")).json() for _ in range(2)]
        assert [answer["created"] for answer in answers] == [True, False]
        pushes.assert_pushed(thumbnails, {"name": "cat"}, count=1)

    asyncio.run(scenario())


def test_the_progress_is_shown() -> None:
    async def scenario() -> None:
        async with virtual(tq) as kit:
            handle = await thumbnails.push(name="dog")
            await kit.drain()
            assert await handle.result() == ["dog-64.png", "dog-128.png", "dog-256.png"]
            assert await handle.progress() == {"done": 3, "total": 3, "message": "dog-256.png"}

    asyncio.run(scenario())

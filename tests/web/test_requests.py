"""The operations API refuses requests of other origins, unknown names, and wrong, long or slow bodies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web
from yarl import URL

import aiotaskq.web.endpoint as dispatch_module
from aiotaskq import TaskQ
from aiotaskq.web.endpoints import ENDPOINTS
from tests.support.machine import within
from tests.web.applications import Ask, in_aiohttp, refused


async def rows(tq: TaskQ) -> str:
    found = [await tq.find(), await tq.schedules.list(), await tq.values.list_keys(), (await tq.stats()).paused]
    return repr(found)


FILLED = {"task_id": "t", "schedule": "s", "queue": "q", "key": "k", "group_id": "g", "worker_id": "w"}


async def filled(tq: TaskQ) -> None:
    await tq.push("greet", {"name": "x"}, task_id="t", delay=3600)
    await tq.schedules.add("s", "greet", params={"name": "x"}, interval=3600, schedule_id="s")
    await tq.values.set_public("k", 1)


async def test_get_changes_nothing(ask: Ask, tq: TaskQ) -> None:  # J4
    await filled(tq)
    before = await rows(tq)
    for operation in ENDPOINTS:
        for method in ("GET", "HEAD"):
            answer = await ask.request(method, operation.path.format(**FILLED)[1:])
            assert answer.status_code < 500
    assert await rows(tq) == before
    assert {each.method for each in ENDPOINTS if each.name.endswith((".list", ".get"))} == {"GET"}


CROSS = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://test.evil.example"},
    {"origin": "http://[oops"},
]


async def changes(ask: Ask, headers: dict[str, str]) -> dict[str, httpx.Response]:
    """Ask for every change that there is, rightly."""
    answers = {}
    for operation in ENDPOINTS:
        if operation.changes:
            path = operation.path.format(**FILLED)[1:]
            body = None if operation.example is None else json.dumps(operation.example)
            sent = headers | ({} if body is None else {"content-type": "application/json"})
            answers[operation.name] = await ask.request(operation.method, path, content=body, headers=sent)
    return answers


@pytest.mark.parametrize(("sent", "found"), [("queue=é", 1), ("queue=%C3%A9", 1), ("queue=\udcff", 0)])
async def test_aiohttp_reads_a_query_that_is_not_escaped(tq: TaskQ, sent: str, found: int) -> None:
    @web.middleware
    async def unescaped(request: web.Request, handler: Any) -> web.StreamResponse:
        url = URL.build(path=request.path, query_string=sent, encoded=True)  # as of aiohttp's parser in Python
        response: web.StreamResponse = await handler(request.clone(rel_url=url))
        return response

    await tq.push("greet", {"name": "x"}, queue="é", delay=3600)
    async with in_aiohttp(tq, middlewares=[unescaped]) as ask:
        answer = await ask.get("tasks")
    assert answer.status_code == 200 and len(answer.json()["tasks"]) == found


async def test_pages_of_other_origins_change_nothing(ask: Ask, tq: TaskQ) -> None:  # J4
    await filled(tq)
    before = await rows(tq)
    for headers in CROSS:
        answers = await changes(ask, headers)
        assert len(answers) >= 13
        for answer in answers.values():
            refused(answer, 403, "CrossOrigin")
    assert await rows(tq) == before


async def test_same_origin_pages_and_programs_may_change(door: Any, tq: TaskQ) -> None:  # J4
    async with door(tq, origins=["https://ops.example"]) as ask:
        host = f"{ask.base_url.host}:{ask.base_url.port}" if ask.base_url.port else ask.base_url.host
        for headers in [
            {},
            {"sec-fetch-site": "same-origin"},
            {"sec-fetch-site": "none"},
            {"origin": f"http://{host}"},
            {"origin": "https://ops.example", "sec-fetch-site": "cross-site"},
        ]:
            assert (await ask.post("queues/q/pause", headers=headers)).status_code == 200, headers


async def test_a_read_only_api_changes_nothing(door: Any, tq: TaskQ) -> None:  # J15
    await filled(tq)
    before = await rows(tq)
    async with door(tq, read_only=True) as ask:
        for answer in (await changes(ask, {})).values():
            refused(answer, 403, "ReadOnly")
        assert (await ask.get("tasks")).status_code == 200
    assert await rows(tq) == before


async def test_only_registered_names_are_pushed(ask: Ask, tq: TaskQ) -> None:  # J3
    for name in ("os.system", "builtins.exec", "tests.web.conftest.greet", "__import__"):
        refused(await ask.post("tasks", json={"type": name}), 422, "UnknownHandler", "no handler is registered")
    assert await tq.find() == []


async def test_stored_errors_are_data(door: Any, tq: TaskQ) -> None:  # J2
    forged = '{"exc_type": "system", "exc_module": "os", "exc_message": ["touch /tmp/x"]}'
    await tq.push("greet", {"name": "x"}, task_id="t")
    with contextlib.closing(sqlite3.connect(tq.url.removeprefix("sqlite:///"))) as other, other:
        other.execute("UPDATE task_queue SET status = 'failed', error_message = ?", (forged,))
    async with door(tq, show_args=True) as ask:
        assert (await ask.get("tasks/t")).json()["error"] == forged


async def test_metacharacters_are_text(ask: Ask, tq: TaskQ) -> None:  # J7
    await filled(tq)
    tq.elsewhere("any")
    for odd in ("'; DROP TABLE task_queue; --", '" OR 1=1 --', "a%' ESCAPE '", "{0}", "../../etc", "]]"):
        before = await rows(tq)
        for name in ("type", "queue", "schedule"):
            assert (await ask.get("tasks", params={name: odd})).json()["tasks"] == [], name
        for path in ("tasks", "schedules"):
            refused(await ask.get(path, params={"cursor": odd}), 404, "NotFound")
        assert (await ask.get("values", params={"cursor": odd})).status_code == 200
        assert await rows(tq) == before
        pushed = await ask.post("tasks", json={"type": "any", "params": {odd: odd}, "queue": odd, "task_id": odd})
        assert pushed.status_code == 201 and (await tq.get(odd)).queue == odd


WRONG_BODIES = [
    (b'{"type": "greet"', "application/json", 400, "NotJson"),
    (b"", "application/json", 400, "NotJson"),
    (b"\xff\xfe", "application/json", 400, "NotJson"),
    (b'{"type": "gr\xff"}', "application/json", 400, "NotJson"),
    (b'{"type": "greet", "params": {"\xc3": 1}}', "application/json", 400, "NotJson"),
    (b'{"type": "greet", "params": ' + b'{"a":' * 100_000, "application/json", 400, "NotJson"),
    (
        b'{"type": "greet", "params": {"a": ' + b"[" * 70 + b"]" * 70 + b"}}",
        "application/json",
        422,
        "ValidationError",
    ),
    (
        b'{"type": "greet", "params": {"n": 123456789012345678901234567890}}',
        "application/json",
        422,
        "ValidationError",
    ),
    (b"[]", "application/json", 422, "ValidationError"),
    (b'{"type": 7}', "application/json", 422, "ValidationError"),
    (b'{"type": ""}', "application/json", 422, "ValidationError"),
    (b'{"type": "greet", "task_id": "a\\u0000b"}', "application/json", 422, "ValidationError"),
    (b'{"type": "greet", "queue": "a\\nb"}', "application/json", 422, "ValidationError"),
    (b'{"type": "greet", "wait": 1}', "application/json", 422, "ValidationError"),
    (b'{"type": "greet", "at": "2026-01-01T00:00:00"}', "application/json", 422, "ValidationError"),
    (b'{"type": "greet", "delay": 1e300}', "application/json", 422, "ValidationError"),
    (b'{"type": "greet", "delay": 1, "at": 1}', "application/json", 422, "ValidationError"),
    (b'{"type": "greet"}', "text/plain", 415, "UnsupportedMediaType"),
    (b"type=greet", "application/x-www-form-urlencoded", 415, "UnsupportedMediaType"),
]


async def test_wrong_bodies_are_refused(ask: Ask, tq: TaskQ) -> None:  # J14
    for content, media_type, status, code in WRONG_BODIES:
        refused(await ask.post("tasks", content=content, headers={"content-type": media_type}), status, code)
    assert await tq.find() == []


async def test_long_bodies_are_refused_without_buffering(door: Any, tq: TaskQ) -> None:  # J14
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1024):
            sent += 64 * 1024
            yield b" " * 64 * 1024

    json_type = {"content-type": "application/json"}
    async with door(tq, max_body=100_000) as ask:
        big = json.dumps({"type": "greet", "params": {"name": "x" * 100_000}}).encode()
        refused(await ask.post("tasks", content=big, headers=json_type), 413, "BodyTooLarge")
        tracemalloc.start()
        try:
            refused(await ask.post("tasks", content=endless(), headers=json_type), 413, "BodyTooLarge")
            assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
        finally:
            tracemalloc.stop()
        # aiohttp's server reads on for a while (its lingering_time), and throws away what comes.
        assert door is in_aiohttp or sent < 1024 * 1024
        fits = json.dumps({"type": "greet", "params": {"name": "x" * 90_000}}).encode()
        assert (await ask.post("tasks", content=fits, headers=json_type)).status_code == 201
    assert len(await tq.find()) == 1


async def test_slow_bodies_are_cut_off(  # J14
    door: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_module, "BODY_TIMEOUT", 0.05)
    if door is in_aiohttp:  # over a real connection httpx sends all of it before it reads
        reader, writer = await asyncio.open_connection(ask.base_url.host, ask.base_url.port)
        head = "POST /any/where/tasks HTTP/1.1", "host: x", "content-type: application/json", "content-length: 99"
        writer.write("\r\n".join([*head, "", '{"type":']).encode())
        async with asyncio.timeout(within(10)):
            assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
        writer.close()
        return
    gone = asyncio.Event()

    async def drip() -> AsyncIterator[bytes]:
        yield b'{"type":'
        await gone.wait()
        yield b' "greet"}'

    try:
        answer = await ask.post("tasks", content=drip(), headers={"content-type": "application/json"})
        refused(answer, 408, "BodyTooSlow")
    finally:
        gone.set()

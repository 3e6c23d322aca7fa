"""The operations API: the same requests to Starlette, FastAPI and aiohttp have the same answers, and do no harm."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from starlette.applications import Starlette
from starlette.routing import Mount

import aiotaskq.web.operation as operation_module
from aiotaskq import TaskQ, ValidationError
from aiotaskq.core.extras import missing
from aiotaskq.core.task import SECOND
from aiotaskq.integrations import aiohttp as aiohttp_door
from aiotaskq.integrations import fastapi as fastapi_door
from aiotaskq.integrations import starlette as starlette_door
from aiotaskq.log import logger
from aiotaskq.web.access import (
    GUESSES,
    MAX_ADDRESSES,
    MINUTE,
    Connections,
    Doorkeeper,
    check_access,
    is_same_origin,
    names_loopback,
)
from aiotaskq.web.endpoints import OPERATIONS
from aiotaskq.web.openapi import document, schema_of
from aiotaskq.web.problem_details import MEDIA_TYPE, Problem
from aiotaskq.web.server import asgi
from tests.support.backends import sqlite
from tests.support.machine import within

SECRET = "sesame-4711"
TOKEN = "a token of thirty-one letters.."
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


@pytest.fixture
async def tq(tmp_path: Path) -> AsyncIterator[TaskQ]:
    async with sqlite(tmp_path) as store:
        url = store.url
    async with TaskQ(url) as tq:

        @tq.task(max_retries=0)
        async def greet(name: str) -> str:
            if name == "nobody":
                raise RuntimeError(f"no {SECRET}\nsecond line")
            return f"Hello, {name}!"

        yield tq


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Callable[..., AbstractAsyncContextManager[Ask]]:
    return DOORS[request.param]


@pytest.fixture
async def ask(door: Callable[..., AbstractAsyncContextManager[Ask]], tq: TaskQ) -> AsyncIterator[Ask]:
    async with door(tq) as ask:
        yield ask


def refused(answer: httpx.Response, status: int, code: str, says: str = "") -> None:
    """It is a problem (RFC 9457) of this kind."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE), answer.text
    found = msgspec.json.decode(answer.content, type=Problem, strict=True)
    assert (found.status, found.code) == (status, code)
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert says in found.detail


# ---- what it does ---------------------------------------------------------------------------------------------------


async def test_a_task_is_pushed_shown_cancelled_and_retried(ask: Ask, tq: TaskQ) -> None:
    body = {"type": "greet", "params": {"name": "you"}, "delay": 3600, "idempotency_key": "one", "priority": 3}
    first = await ask.post("tasks", json=body)
    assert (first.status_code, first.json()["created"]) == (201, True)
    task_id = first.json()["task_id"]
    assert first.headers["location"] == f"tasks/{task_id}"
    again = await ask.post("tasks", json=body)
    assert (again.status_code, again.json()) == (200, {"task_id": task_id, "created": False})
    assert first.headers["x-content-type-options"] == "nosniff"
    shown = (await ask.get(f"tasks/{task_id}")).json()
    assert (shown["status"], shown["priority"], shown["idempotency_key"]) == ("pending", 3, "one")
    assert shown["run_at"].endswith("Z") and not {"params", "result", "extra"} & shown.keys()

    refused(await ask.post(f"tasks/{task_id}/retry"), 409, "TaskConflict", "is pending")
    cancelled = await ask.post(f"tasks/{task_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    refused(await ask.post(f"tasks/{task_id}/cancel"), 409, "TaskConflict", "has ended already: cancelled")
    assert (await ask.post(f"tasks/{task_id}/retry")).json()["status"] == "pending"
    assert (await tq.get(task_id)).params == {"name": "you"}
    for verb in ("cancel", "retry"):
        refused(await ask.post(f"tasks/none/{verb}"), 404, "NotFound", "there is no task none")
    refused(await ask.get("tasks/none"), 404, "NotFound")


async def test_ids_and_keys_may_hold_anything_that_is_text(ask: Ask, tq: TaskQ) -> None:
    for odd in ("a/b c", "x/cancel", "你好?&#%"):
        pushed = await ask.post("tasks", json={"type": "greet", "params": {"name": odd}, "task_id": odd, "delay": 60})
        assert pushed.status_code == 201, pushed.text
        found = await ask.get(pushed.headers["location"])
        assert (found.status_code, found.json()["task_id"]) == (200, odd)
        quoted = pushed.headers["location"].removeprefix("tasks/")
        assert (await ask.put(f"store/{quoted}", json={"value": odd})).status_code == 204
        assert await tq.store.get_public(odd) == odd
        assert (await ask.post(f"tasks/{quoted}/cancel")).json()["status"] == "cancelled"


async def test_tasks_are_paged_and_filtered(ask: Ask, tq: TaskQ) -> None:
    await tq.push_many([{"type": "greet", "params": {"name": str(n)}, "queue": f"q{n % 2}"} for n in range(5)])
    seen, cursor = [], None
    while True:
        page = (await ask.get("tasks", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        assert len(page["tasks"]) <= 2
        seen += [task["task_id"] for task in page["tasks"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == [task.task_id for task in await tq.find()] and len(seen) == 5
    some = (await ask.get("tasks?status=pending&status=failed&queue=q1&type=greet")).json()["tasks"]
    assert [task["queue"] for task in some] == ["q1", "q1"]
    assert (await ask.get("tasks", params={"status": "failed"})).json() == {"tasks": [], "next": None}
    assert (await ask.get("tasks", params={"schedule": "none"})).json()["tasks"] == []
    refused(await ask.get("tasks", params={"cursor": "gone"}), 404, "NotFound")


async def test_query_parameters_are_bounded(ask: Ask, tq: TaskQ) -> None:  # J6
    await tq.push_many([{"type": "greet", "params": {"name": "x"}} for _ in range(3)])
    assert len((await ask.get("tasks", params={"limit": 10**9})).json()["tasks"]) == 3
    for name, value in [
        ("limit", "0"),
        ("limit", "-1"),
        ("limit", "1e99"),
        ("limit", "9" * 5000),
        ("status", "asleep"),
        ("type", "x" * 101),
        ("cursor", "x" * 256),
        ("show", "everything"),
    ]:
        refused(await ask.get("tasks", params={name: value}), 422, "ValidationError")
    refused(await ask.get("tasks?limit=1&limit=2"), 422, "ValidationError", "limit: given more than once")
    for count in ("0", "101", "9" * 30):
        refused(await ask.get("preview", params={"interval": 60, "count": count}), 422, "ValidationError")
    assert (await ask.get("tasks?" + "&".join(["status=failed"] * 500))).json()["tasks"] == []


async def test_schedules_are_made_changed_fired_and_deleted(ask: Ask, tq: TaskQ) -> None:
    body = {
        "name": "Nightly",
        "task_type": "greet",
        "schedule_type": "cron",
        "cron_expression": "0 2 * * *",
        "timezone": "Asia/Shanghai",
        "params": {"name": "night"},
        "task_id": "nightly",
    }
    made = await ask.post("schedules", json=body)
    assert (made.status_code, made.headers["location"]) == (201, "schedules/nightly")
    assert made.json()["enabled"] and "params" not in made.json()
    refused(await ask.post("schedules", json=body), 409, "TaskConflict", "there is a schedule nightly")
    wrong = body | {"task_id": "wrong", "cron_expression": "0 61 * * *"}
    refused(await ask.post("schedules", json=wrong), 422, "CronError", "61")
    two = body | {"task_id": "two", "interval_seconds": 60}
    refused(await ask.post("schedules", json=two), 422, "ValidationError", "interval_seconds: belongs to")
    every = {"name": "e", "task_type": "greet", "schedule_type": "interval", "interval_seconds": 60}
    every_id = (await ask.post("schedules", json=every)).json()["task_id"]

    listed = [(await ask.get("schedules?limit=1")).json()]
    listed.append((await ask.get("schedules", params={"limit": 1, "cursor": listed[0]["next"]})).json())
    assert {page["schedules"][0]["task_id"] for page in listed} == {"nightly", every_id}
    assert listed[1]["next"] is None
    refused(await ask.get("schedules?cursor=gone"), 404, "NotFound")

    assert (await ask.post("schedules/nightly/pause")).json()["enabled"] is False
    enabled = (await ask.get("schedules?enabled=true")).json()["schedules"]
    assert [each["task_id"] for each in enabled] == [every_id]
    assert (await ask.post("schedules/nightly/resume")).json()["enabled"] is True
    times = (await ask.get("schedules/nightly/preview?count=2")).json()["times"]
    assert [time[10:] for time in times] == ["T02:00:00+08:00"] * 2

    changes = {"cron_expression": "30 3 * * *", "max_runs": 3, "timeout": 5}
    changed = (await ask.patch("schedules/nightly", json=changes)).json()
    assert {name: changed[name] for name in changes} == changes
    assert (await ask.patch("schedules/nightly", json={"timeout": None})).json()["timeout"] is None
    refused(await ask.patch("schedules/nightly", json={"enabled": False}), 422, "ValidationError", "unknown field")

    fired = await ask.post("schedules/nightly/run")
    assert fired.status_code == 201
    task = await tq.get(fired.json()["task_id"])
    assert (task.type, task.params, task.scheduler_task_id) == ("greet", {"name": "night"}, "nightly")
    times = (await ask.get("schedules/nightly/preview?count=9")).json()["times"]
    assert [time[10:] for time in times] == ["T03:30:00+08:00"] * 2  # one of its three runs is made

    assert (await ask.delete("schedules/nightly")).status_code == 204
    for method, path in [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/preview"),
        ("POST", "/run"),
        ("POST", "/pause"),
        ("POST", "/resume"),
    ]:
        refused(await ask.request(method, f"schedules/nightly{path}"), 404, "NotFound", "there is no schedule nightly")
    refused(await ask.patch("schedules/nightly", json={"priority": 1}), 404, "NotFound")


async def test_the_preview_of_a_stored_schedule_begins_with_its_next_run(ask: Ask, tq: TaskQ) -> None:
    at = 4_000_000_000
    add = tq.scheduler.add_scheduler_task
    await add("i", "greet", "interval", interval_seconds=90, start_at=at, timezone="UTC", task_id="i")
    await add("o", "greet", "once", execute_at=at, timezone="UTC", task_id="o")
    first = "2096-10-02T07:06:40+00:00"
    assert (await ask.get("schedules/i/preview?count=2")).json()["times"] == [first, "2096-10-02T07:08:10+00:00"]
    assert (await ask.get("schedules/o/preview")).json()["times"] == [first]
    assert (await ask.get("schedules/o")).json()["next_run_at"] == "2096-10-02T07:06:40Z"
    assert (await ask.get("preview", params={"at": at, "timezone": "UTC"})).json()["times"] == [first]
    same = {"at": "2096-10-02T09:06:40+02:00", "timezone": "UTC"}
    assert (await ask.get("preview", params=same)).json()["times"] == [first]
    refused(await ask.get("preview"), 422, "ValidationError", "exactly one of cron, interval and at")
    refused(await ask.get("preview?at=2096-10-02T09:06:40"), 422, "ValidationError")  # naive


async def test_public_values_are_listed_by_key_only(door: Any, tq: TaskQ) -> None:  # J8
    async with door(tq) as ask:
        for number in range(3):
            assert (await ask.put(f"store/k{number}", json={"value": SECRET, "ttl": 60})).status_code == 204
        page = (await ask.get("store?limit=2")).json()
        assert page == {"keys": ["k0", "k1"], "next": "k1"}
        assert (await ask.get("store", params={"cursor": page["next"]})).json() == {"keys": ["k2"], "next": None}
        refused(await ask.get("store/k0"), 403, "NotShown", "show_args=True")
        assert (await ask.delete("store/k0")).status_code == 204
        refused(await ask.delete("store/k0"), 404, "NotFound")
        refused(await ask.put("store/k0", json={"value": 1, "ttl": 0}), 422, "ValidationError")
    async with door(tq, show_args=True) as ask:
        assert (await ask.get("store/k1")).json() == {"key": "k1", "value": SECRET}
        refused(await ask.get("store/k0"), 404, "NotFound")


async def test_stats_queues_and_health(ask: Ask, tq: TaskQ) -> None:
    await tq.push("greet", {"name": "x"}, queue="mail")
    assert (await ask.post("queues/mail/pause")).json() == {"queue": "mail", "paused": True}
    stats = (await ask.get("stats")).json()
    assert (stats["counts"]["pending"], stats["ready"], stats["paused"]) == (1, 0, ["mail"])
    assert (await ask.post("queues/mail/resume")).json() == {"queue": "mail", "paused": False}
    assert (await ask.get("stats")).json()["ready"] == 1
    assert (await ask.get("healthz")).json() == {"status": "ok", "parts": {}}
    assert (await ask.get("readyz")).json() == {"status": "ok", "parts": {"store": "ok"}}
    async with tq.running():
        ready = (await ask.get("readyz")).json()
    assert ready == {"status": "ok", "parts": {"store": "ok", "workers": "ok", "scheduler": "ok"}}


# ---- what it does not do --------------------------------------------------------------------------------------------


async def test_params_results_and_error_texts_are_not_listed(door: Any, tq: TaskQ) -> None:  # J8
    async with tq.running():
        good = await tq.push("greet", {"name": SECRET})
        bad = await tq.push("greet", {"name": "nobody"}, unique_key="u")
        assert await good.result(within(30)) == f"Hello, {SECRET}!"
        with pytest.raises(RuntimeError):
            await bad.result(within(30))
    await tq.scheduler.add_scheduler_task("s", "greet", "interval", {"name": SECRET}, 60)
    async with door(tq) as ask:
        for path in ("tasks", "schedules", "stats", "store", f"tasks/{good.task_id}"):
            answer = await ask.get(path)
            assert answer.status_code == 200 and SECRET not in answer.text, path
        errors = [task["error"] for task in (await ask.get("tasks?status=failed")).json()["tasks"]]
        assert errors == ["RuntimeError"]
        for path in ("tasks", "schedules"):
            refused(await ask.get(f"{path}?show=params"), 403, "NotShown", "show_args=True")
        whole = (await ask.get(f"tasks/{bad.task_id}")).json()["error"]
        assert whole.startswith(f"RuntimeError: no {SECRET}")  # of one task all of it, for who asks for just that
    async with door(tq, show_args=True) as ask:
        assert SECRET not in (await ask.get("tasks")).text + (await ask.get("schedules")).text
        (task,) = (await ask.get("tasks?show=params&status=completed")).json()["tasks"]
        assert (task["params"], task["result"]) == ({"name": SECRET}, f"Hello, {SECRET}!")
        assert (await ask.get("schedules?show=params")).json()["schedules"][0]["params"] == {"name": SECRET}
        assert (await ask.get(f"tasks/{good.task_id}")).json()["params"] == {"name": SECRET}


async def test_an_application_that_logs_everything_logs_no_params(  # J8
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # as `python -m aiohttp.web` and some debug modes have it
    async with TaskQ(f"sqlite:///{tmp_path / 'log.db'}") as tq, in_starlette(tq, show_args=True) as ask:
        await ask.post("tasks", json={"type": "x", "params": {"name": SECRET}, "task_id": "t"})
        await ask.put("store/k", json={"value": SECRET})
        assert SECRET in (await ask.get("tasks/t")).text + (await ask.get("store/k")).text
    assert caplog.records and SECRET not in caplog.text


async def test_whatever_a_queue_in_memory_holds_is_shown_as_json(door: Any) -> None:
    async with TaskQ("memory://") as tq:
        await tq.push("odd", {"where": object(), "n": 1})
        await tq.push("nan", {"x": {1, 2}})
        async with door(tq, show_args=True) as ask:
            shown = (await ask.get("tasks?show=params")).json()["tasks"]
    assert [task["params"] for task in shown] == [{"x": [1, 2]}, "<dict>"]


async def rows(tq: TaskQ) -> str:
    found = [await tq.find(), await tq.scheduler.list_tasks(), await tq.store.list_keys(), (await tq.stats()).paused]
    return repr(found)


FILLED = {"task_id": "t", "schedule_id": "s", "queue": "q", "key": "k"}


async def filled(tq: TaskQ) -> None:
    await tq.push("greet", {"name": "x"}, task_id="t", delay=3600)
    await tq.scheduler.add_scheduler_task("s", "greet", "interval", {"name": "x"}, 3600, task_id="s")
    await tq.store.set_public("k", 1)


async def test_what_changes_state_never_answers_to_get(ask: Ask, tq: TaskQ) -> None:  # J4
    await filled(tq)
    before = await rows(tq)
    for operation in OPERATIONS:
        for method in ("GET", "HEAD"):
            answer = await ask.request(method, operation.path.format(**FILLED)[1:])
            assert answer.status_code < 500
    assert await rows(tq) == before
    assert {each.method for each in OPERATIONS if each.name.partition("_")[0] in ("list", "show", "get", "stats")} == {
        "GET"
    }


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
    for operation in OPERATIONS:
        if operation.changes:
            path = operation.path.format(**FILLED)[1:]
            body = None if operation.example is None else json.dumps(operation.example)
            sent = headers | ({} if body is None else {"content-type": "application/json"})
            answers[operation.name] = await ask.request(operation.method, path, content=body, headers=sent)
    return answers


async def test_pages_of_other_origins_change_nothing(ask: Ask, tq: TaskQ) -> None:  # J4
    await filled(tq)
    before = await rows(tq)
    for headers in CROSS:
        answers = await changes(ask, headers)
        assert len(answers) >= 13
        for answer in answers.values():
            refused(answer, 403, "CrossOrigin")
    assert await rows(tq) == before


async def test_our_own_pages_and_programs_may_change(door: Any, tq: TaskQ) -> None:  # J4
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
    for name in ("os.system", "builtins.exec", "tests.web.test_web.greet", "__import__"):
        refused(await ask.post("tasks", json={"type": name}), 422, "UnknownHandler", "no handler is registered")
    assert await tq.find() == []


async def test_stored_errors_are_data(ask: Ask, tq: TaskQ) -> None:  # J2
    forged = '{"exc_type": "system", "exc_module": "os", "exc_message": ["touch /tmp/x"]}'
    await tq.push("greet", {"name": "x"}, task_id="t")
    with contextlib.closing(sqlite3.connect(tq.url.removeprefix("sqlite:///"))) as other, other:
        other.execute("UPDATE task_queue SET status = 'failed', error_message = ?", (forged,))
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
        assert (await ask.get("store", params={"cursor": odd})).status_code == 200
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


async def test_long_bodies_are_not_kept(door: Any, tq: TaskQ) -> None:  # J14
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
    monkeypatch.setattr(operation_module, "PATIENCE", 0.05)
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


async def test_a_store_that_is_away_is_a_503_that_names_no_host(door: Any, tmp_path: Path) -> None:  # J9
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    try:
        tq = TaskQ(f"postgresql://someone:{SECRET}@127.0.0.1:1/db")
        async with door(tq) as ask:
            for method, path in (("GET", "tasks"), ("POST", "queues/q/pause"), ("GET", "schedules"), ("GET", "stats")):
                answer = await ask.request(method, path)
                refused(answer, 503, "DatabaseUnavailable", "try again later")
                assert "127.0.0.1" not in answer.text and SECRET not in answer.text
            ready = await ask.get("readyz")
            assert (ready.status_code, ready.json()) == (503, {"status": "failing", "parts": {"store": "failing"}})
            assert (await ask.get("healthz")).status_code == 200
        await tq.close()
    finally:
        logger.remove(sink)
    assert lines and not any(SECRET in line for line in lines)


# ---- guards, alone --------------------------------------------------------------------------------------------------


def test_who_is_of_the_same_origin() -> None:  # J4
    assert is_same_origin(None, None, "a:1") and is_same_origin(None, "http://A:1", "a:1")
    assert not is_same_origin(None, "http://a:2", "a:1") and not is_same_origin(None, "http://a", None)
    assert not is_same_origin("cross-site", "http://a:1", "a:1")  # pages cannot forge the first
    assert is_same_origin("cross-site", "http://b", "a", {"http://b"})


def test_where_it_may_listen() -> None:  # J4
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"):
        check_access(host, None)
    for host in ("0.0.0.0", "::", "", "192.168.0.1", "localhost.evil.example", "::ffff:10.0.0.1"):
        with pytest.raises(ValidationError, match="token"):
            check_access(host, None)
        check_access(host, TOKEN)
    for weak in ("", "short", "x" * 15, "ü" * 20, "a\nb" * 9):
        with pytest.raises(ValidationError, match="token: at least 16"):
            check_access("127.0.0.1", weak)
    with pytest.raises(ValidationError, match="token: at least 8 different characters"):
        check_access("127.0.0.1", "ab" * 20)
    assert names_loopback("localhost:80") and names_loopback("[::1]:80") and names_loopback("127.0.0.1")
    for host in (None, "", "evil.example", "127.0.0.1.evil.example", "[oops"):
        assert not names_loopback(host)


def test_guessing_takes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:  # J15
    keeper = Doorkeeper(TOKEN)
    compared: list[tuple[int, int]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return original(a, b)

    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for number in range(GUESSES):
        assert keeper.wait("a", number) == 0
        assert not keeper.admits(f"Bearer {'x' * number}", "a", number)
    assert set(compared) == {(32, 32)}  # not even the length tells
    assert 0 < keeper.wait("a", GUESSES) <= 60 and keeper.wait("b", GUESSES) == 0
    assert keeper.wait("a", MINUTE - 1) == 1 and keeper.wait("a", MINUTE) == 0
    assert keeper.admits(f"bearer {TOKEN}", "a", MINUTE) and not keeper.admits(f"Basic {TOKEN}", "a", MINUTE)
    assert not keeper.admits(None, "c", 0) and "c" not in keeper._wrong
    for number in range(GUESSES):
        keeper.admits("Bearer wrong", "d", number)
    wait = keeper.wait("d", GUESSES)
    assert keeper.admits(f"Bearer {TOKEN}", "d", GUESSES)
    assert not keeper.admits("Bearer wrong", "d", 30 * SECOND) and keeper.wait("d", GUESSES) == wait
    for number in range(3 * MAX_ADDRESSES):
        keeper.admits("Bearer wrong", f"address {number}", 0)
    assert len(keeper._wrong) == MAX_ADDRESSES  # H3


async def test_the_gate_of_a_server_of_its_own(tq: TaskQ) -> None:  # J4, J15
    with pytest.raises(ValidationError, match=r"host: '0\.0\.0\.0' can be reached from other machines"):
        asgi(tq, "0.0.0.0")
    async with Ask(transport=httpx.ASGITransport(asgi(tq, "0.0.0.0", TOKEN)), base_url="http://ops.example") as ask:
        for path in ("/healthz", "/readyz"):
            assert (await ask.get(path)).status_code == 200
        for path in ("/tasks", "/stats", "/openapi.json", "/nothing"):
            answer = await ask.get(path)
            refused(answer, 401, "NoToken")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        right = {"authorization": f"Bearer {TOKEN}"}
        assert (await ask.get("/tasks", headers=right)).status_code == 200
        refused(await ask.get("/nothing", headers=right), 404, "HTTPException")
        refused(await ask.delete("/stats", headers=right), 405, "HTTPException")
        whole = (await ask.get("/openapi.json", headers=right)).json()
        assert whole["paths"]["/tasks"]["get"]["security"] == [{"token": []}]
        cross = right | {"origin": "https://evil.example"}
        refused(await ask.post("/queues/q/pause", headers=cross), 403, "CrossOrigin")
        assert (await ask.post("/queues/q/pause", headers=right)).status_code == 200
        wrong = {"authorization": "Bearer nonsense"}
        for _ in range(GUESSES):
            refused(await ask.get("/tasks", headers=wrong), 401, "NoToken")
        late = await ask.get("/tasks", headers=wrong)
        refused(late, 429, "TooManyGuesses")
        assert 0 < int(late.headers["retry-after"]) <= 60
        assert (await ask.get("/tasks", headers=right)).status_code == 200  # behind a proxy all have one address
        refused(await ask.get("/tasks", headers=wrong), 429, "TooManyGuesses")
        refused(await ask.get("/tasks"), 401, "NoToken")


async def test_without_a_token_only_this_machines_names_are_served(tq: TaskQ) -> None:  # J4
    app = asgi(tq, "127.0.0.1")
    for name, status in (("localhost:8765", 200), ("127.0.0.1", 200), ("rebound.evil.example:8765", 403)):
        async with Ask(transport=httpx.ASGITransport(app), base_url=f"http://{name}") as ask:
            assert (await ask.get("/tasks")).status_code == status, name


class Connecting(RuleBasedStateMachine):
    """Connections that come, ask and go: the bounds hold, and only one without a request ever makes room."""

    TOTAL, EACH = 5, 3

    def __init__(self) -> None:
        super().__init__()
        self.connections: Connections[int] = Connections(self.TOTAL, self.EACH)
        self.open: dict[int, str] = {}
        self.waiting: list[int] = []  # without a request, the longest waiting first
        self.made = 0

    @rule(address=st.sampled_from("abc"))
    def enter(self, address: str) -> None:
        self.made += 1
        of_address = [each for each in self.waiting if self.open[each] == address]
        full = len(self.open) >= self.TOTAL
        closed: int | None = None
        if list(self.open.values()).count(address) >= self.EACH:
            closed = of_address[0] if of_address else self.made
        elif full:
            closed = self.waiting[0] if self.waiting else self.made
        assert self.connections.enter(self.made, address) == closed
        if closed != self.made:
            if closed is not None:
                self.forget(closed)
            self.open[self.made] = address
            self.waiting.append(self.made)

    def forget(self, connection: int) -> None:
        del self.open[connection]
        if connection in self.waiting:
            self.waiting.remove(connection)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), verb=st.sampled_from(("busy", "idle", "leave")))
    def change(self, data: st.DataObject, verb: str) -> None:
        connection = data.draw(st.sampled_from(sorted(self.open)))
        getattr(self.connections, verb)(connection)
        if verb == "leave":
            self.forget(connection)
        elif verb == "busy" and connection in self.waiting:
            self.waiting.remove(connection)
        elif verb == "idle" and connection not in self.waiting:
            self.waiting.append(connection)

    @invariant()
    def bounded(self) -> None:
        assert len(self.connections) == len(self.open) <= self.TOTAL
        assert all(list(self.open.values()).count(address) <= self.EACH for address in "abc")

    def teardown(self) -> None:
        for connection in [*self.open, -1]:
            self.connections.leave(connection)
        kept = [value for value in vars(self.connections).values() if not isinstance(value, int)]
        assert kept and not any(kept)  # H3


TestConnecting = Connecting.TestCase
TestConnecting.settings = settings(max_examples=50, stateful_step_count=40)


# ---- the document ---------------------------------------------------------------------------------------------------


def test_every_example_is_what_its_schema_says() -> None:
    for operation in OPERATIONS:
        assert operation.summary and operation.tag and operation.answers, operation.name
        if operation.body is not None:
            assert operation.example, operation.name
            msgspec.convert(operation.example, operation.body)
        for good in operation.answers:
            if good.type is not None:
                made = msgspec.convert(good.example, good.type)
                assert msgspec.to_builtins(made) == good.example, operation.name
    assert "$ref" not in json.dumps(document(OPERATIONS, "1"))
    assert schema_of(Problem)["type"] == "object"


def bare(value: Any) -> Any:
    """Without what is null: FastAPI leaves that out, also in examples."""
    if isinstance(value, dict):
        return {key: bare(each) for key, each in value.items() if each is not None}
    return [bare(each) for each in value] if isinstance(value, list) else value


async def test_the_documents_are_the_same(tq: TaskQ) -> None:
    app = FastAPI()
    app.include_router(fastapi_door.router(tq), prefix="/ops")
    app.include_router(fastapi_door.router(tq, operations=["healthz"]))
    theirs, ours = app.openapi(), document(OPERATIONS, "1")
    assert set(theirs["paths"]) == {f"/ops{path}" for path in ours["paths"]} | {"/healthz"}
    for path, methods in ours["paths"].items():
        assert set(theirs["paths"][f"/ops{path}"]) == set(methods)
        for method, entry in methods.items():
            other = theirs["paths"][f"/ops{path}"][method]
            for part in ("summary", "tags", "parameters", "requestBody", "responses"):
                assert bare(other.get(part)) == bare(entry.get(part)), (path, method, part)
    async with in_aiohttp(tq) as ask:
        served = (await ask.get("openapi.json")).json()
        refused(await ask.get("nothing"), 404, "HTTPException")
        refused(await ask.delete("stats"), 405, "HTTPException")
    assert served["paths"] == json.loads(json.dumps(ours["paths"]))


@pytest.mark.parametrize("name", DOORS)
def test_wrong_settings_are_refused(name: str) -> None:
    tq = TaskQ("memory://")
    make = {
        "starlette": starlette_door.routes,
        "fastapi": fastapi_door.router,
        "aiohttp": aiohttp_door.operations,
    }[name]
    for options, says in [
        ({"operations": ["push"]}, "operations: a list of"),
        ({"operations": "healthz"}, "operations: a list of"),
        ({"origins": "https://x"}, "origins: a list"),
        ({"max_body": 0}, "max_body"),
    ]:
        with pytest.raises(ValidationError, match=says):
            make(tq, **options)


# ---- in the application ---------------------------------------------------------------------------------------------


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
        answer = await client.get("/ops/tasks?show=params", headers={"x-admin": "yes"})
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
    assert await tq.health() == {"store": None}, "nobody opened it, and pushes succeed"
    async with tq.running():
        assert await tq.health() == {"store": None, "workers": None}

        async def never() -> None:
            await asyncio.Event().wait()

        tq._backend.ping = never  # type: ignore[method-assign, assignment]
        assert await tq.health(timeout=0.01) == {"store": "it did not answer within 0.01 s", "workers": None}


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("integrations.fastapi", "fastapi", "fastapi"),
        ("integrations.starlette", "starlette", "web"),
        ("integrations.aiohttp", "aiohttp", "aiohttp"),
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

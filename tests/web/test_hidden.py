"""What is hidden cannot be found out, either: by no filter, sort or count of any door.

Each text parameter of each door is given a text that hidden things hold, and another one. The answers must not differ.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from aiotaskq import TaskQ, current_task, step
from aiotaskq.runtime.audit import audit
from aiotaskq.types import GroupHandle
from aiotaskq.web.dashboard.site import actions, pages
from aiotaskq.web.endpoints import ENDPOINTS
from tests.support.late import import_late
from tests.support.machine import within
from tests.support.waiting import eventually
from tests.web.applications import in_starlette as in_api
from tests.web.dashboard.conftest import form_token
from tests.web.dashboard.conftest import in_starlette as in_dashboard

if typing.TYPE_CHECKING:
    from mcp import Client

    from aiotaskq.integrations.mcp import mcp_server

SECRET = "sesame-4711"
TRUE, FALSE = "sesame-47", "sesame-48"
ENTRY = "filter: status=failed error="

Ask = Callable[[str], Awaitable[str]]
"""Asks something about a text, and returns the whole answer."""


@pytest.fixture
async def tq(tq: TaskQ) -> TaskQ:
    """A queue in which everything that is hidden holds the secret."""

    @tq.task(max_retries=0)
    async def tells(text: str) -> str:
        await current_task().progress(1, 2, f"reads {text}")
        current_task().log(text)
        return await step("look", len, text) and text

    @tq.task(max_retries=0)
    async def fails(text: str) -> None:
        raise RuntimeError(f"no {text}")

    async with tq.running():
        good, bad = await tells.options(task_id="good").push(SECRET), await fails.options(task_id="bad").push(SECRET)
        assert await good.result(within(30)) == SECRET
        with pytest.raises(RuntimeError):
            await bad.result(within(30))
        group = await tq.group([tells.call(SECRET), fails.call(SECRET)], group_id="both")
        await eventually(lambda: is_over(group))
    await tq.push("tells", {"text": SECRET}, delay=3_600, task_id="waits")
    await tq.schedules.add("s", "tells", params={"text": SECRET}, interval=3_600, schedule_id="schedule")
    await tq.values.set_public("key", {"text": SECRET}, 3_600)
    await tq.emit("event", {"text": SECRET})
    await audit(tq.queue, "cli", "tasks.retry_many", "me", [f"{ENTRY}{SECRET}", "count: 1"])
    return tq


async def is_over(group: GroupHandle[Any]) -> bool:
    return (await group.progress()).remaining == 0


THINGS = {"task": "good", "group": "both", "schedule": "schedule", "value": "key", "queue": "default", "type": "tells"}


def takes_text(kind: Any) -> bool:
    if typing.get_origin(kind) is typing.Annotated:
        return takes_text(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(map(takes_text, typing.get_args(kind)))
    return kind is str


def operations(ask: httpx.AsyncClient) -> Iterator[tuple[str, Ask]]:
    """Every text parameter of every operation that reads, or only counts."""
    for each in ENDPOINTS:
        kind = each.body if each.changes else each.query
        known = {} if kind is None else typing.get_type_hints(kind, include_extras=True)
        if each.changes and "dry_run" not in known:
            continue
        for field in [name for name, kind in known.items() if takes_text(kind)]:
            for before in ("", ENTRY) if field == "target" else ("",):

                async def asks(text: str, each: Any = each, field: str = field, before: str = before) -> str:
                    path = re.sub(r"{\w+}", "good", each.path).lstrip("/")
                    given = {field: before + text}
                    if each.changes:
                        return (await ask.request(each.method, path, json=given | {"dry_run": True})).text
                    return (await ask.request(each.method, path, params=given)).text

                yield f"{each.name} {field} {before}", asks


def views(browse: httpx.AsyncClient) -> Iterator[tuple[str, Ask]]:
    """Every parameter of every page, and every field of the filter of every bulk action."""
    for name, page in pages.items():
        for field in page.parameters:

            async def asks(text: str, page: Any = page, field: str = field) -> str:
                thing = THINGS.get(page.name, "")
                known = {each: thing for each in ("id", "key", "name") if thing and each in page.parameters}
                return (await browse.get(page.name, params=known | {field: text, "format": "json"})).text

            yield f"{name} {field}", asks
    for name in ("tasks.retry_many", "tasks.cancel_many", "tasks.delete_many"):
        assert name in actions
        for field in pages["tasks"].parameters:

            async def acts(text: str, name: str = name, field: str = field) -> str:
                token = form_token(await browse.get("tasks"))
                data = {"form_token": token, "which": "all", field: text}
                answer = await browse.post(name, data=data, headers={"Sec-Fetch-Site": "same-origin"})
                return answer.text + str(answer.headers)

            yield f"{name} {field}", acts


async def tools(client: Client) -> AsyncIterator[tuple[str, Ask]]:
    """Every text parameter of every tool."""
    for tool in (await client.list_tools()).tools:
        for field, schema in tool.input_schema["properties"].items():
            if "string" not in [each.get("type") for each in (schema, *schema.get("anyOf", ()))]:
                continue

            async def asks(text: str, tool: str = tool.name, field: str = field) -> str:
                return str(await client.call_tool(tool, {field: text}))

            yield f"{tool.name} {field}", asks


def plain(answer: str, text: str) -> str:
    """An answer without the text itself, and what changes with the time."""
    answer = re.sub(r"oldest_age\W+[\d.]+|form_token\W+value=\W\w+|\d+\.\d+ ?s|set-cookie[^)]*", "", answer)
    answer = re.sub(r"""["'](at|now|approximate|aiotaskq_message)["']:[^,}]*""", "", answer)
    return answer.replace(text, "")


async def tells_apart(ask: Ask) -> bool:
    for _ in range(3):  # a chart may begin to show another minute between two answers
        if plain(await ask(TRUE), TRUE) == plain(await ask(FALSE), FALSE):
            return False
    return True


@asynccontextmanager
async def questions(door: str, tq: TaskQ, show: bool) -> AsyncIterator[dict[str, Ask]]:
    """All that can be asked at a door, by names."""
    if door == "api":
        async with in_api(tq, show_args=show) as ask:
            yield dict(operations(ask))
    elif door == "dashboard":
        async with in_dashboard(tq, show_args=show) as browse:
            yield dict(views(browse))
    else:
        import_late(globals(), {"mcp": ["Client"], "aiotaskq.integrations.mcp": ["mcp_server"]})
        async with Client(mcp_server(tq, write=True, show_args=show)) as client:
            yield {name: ask async for name, ask in tools(client)}


@pytest.mark.parametrize("door", ["api", "dashboard", "mcp"])
async def test_nothing_hidden_is_shown_or_found(tq: TaskQ, door: str) -> None:
    async with questions(door, tq, show=False) as hidden:
        assert [name for name, ask in hidden.items() if await tells_apart(ask)] == []
        for name, ask in hidden.items():
            assert SECRET not in (await ask("RuntimeError")) + await ask(""), name
    async with questions(door, tq, show=True) as shown:
        found = [name for name, ask in shown.items() if await tells_apart(ask)]
    assert any("error" in name for name in found), found  # it would be seen


async def test_the_type_of_an_error_is_found(tq: TaskQ) -> None:
    async with in_api(tq) as ask:
        for text, count in (("RuntimeError", 2), ("Runtime", 2), ("untime", 0), ("ValueError", 0)):
            assert len((await ask.get("tasks", params={"error": text})).json()["tasks"]) == count, text
            body = {"error": text, "dry_run": True}
            assert (await ask.post("tasks/retry", json=body)).json()["count"] == count, text
        refused = await ask.get("tasks", params={"error": f"RuntimeError: no {TRUE}"})
        assert (refused.status_code, refused.json()["code"]) == (422, "ValidationError")
    async with in_api(tq, show_args=True) as ask:
        assert len((await ask.get("tasks", params={"error": f"RuntimeError: no {TRUE}"})).json()["tasks"]) == 2


async def test_progress_has_its_message_only_where_params_are_shown(tq: TaskQ) -> None:
    async with in_api(tq) as ask:
        assert (await ask.get("tasks/good")).json()["progress"] == {"done": 1, "total": 2}
    async with in_api(tq, show_args=True) as ask:
        whole = {"done": 1, "total": 2, "message": f"reads {SECRET}"}
        assert (await ask.get("tasks/good")).json()["progress"] == whole


async def test_the_audit_log_has_the_text_that_was_searched_only_where_errors_are_shown(tq: TaskQ) -> None:
    async with in_api(tq) as ask:
        (entry,) = (await ask.get("audit")).json()["entries"]
        assert entry["targets"] == [f"{ENTRY}…", "count: 1"]
        assert (await ask.get("audit", params={"target": f"{ENTRY}{SECRET}"})).json()["entries"] == []
    async with in_api(tq, show_args=True) as ask:
        (entry,) = (await ask.get("audit", params={"target": f"{ENTRY}{SECRET}"})).json()["entries"]
        assert msgspec.json.encode(entry).count(SECRET.encode()) == 1

"""The server for assistants: its tools over the protocol, in this process and in one of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiotaskq import Limit, Status, TaskQ
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.testing import Kit, virtual
from aiotaskq.types import HookCall
from tests.support.late import import_late
from tests.support.machine import within

if TYPE_CHECKING:
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters

    from aiotaskq.integrations.mcp import mcp_server

LATE = {
    "mcp": ["Client"],
    "mcp.client.stdio": ["StdioServerParameters"],
    "aiotaskq.integrations.mcp": ["mcp_server"],
}

READS = {
    *(name.replace(".", "_") for name, each in OPERATIONS.items() if not each.changes),
}
WRITES = {
    *(name.replace(".", "_") for name, each in OPERATIONS.items() if each.changes),
}


@pytest.fixture(scope="module", autouse=True)
def _late() -> None:
    import_late(globals(), LATE)


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    """A store with a failed task, one that runs, one that waits at a full limit, and one of a paused queue."""
    async with virtual() as kit:
        going = asyncio.Event()

        @kit.tq.task(max_retries=0)
        async def charge(card: str) -> None:
            raise ValueError(f"card {card} is refused")

        @kit.tq.task(limit=Limit(1, key="tenant"))
        async def report(tenant: str) -> None:
            await going.wait()

        await charge.options(task_id="failed-1").push("4711")
        await report.options(task_id="running-1").push("acme")
        await report.options(task_id="waiting-1").push("acme")
        await kit.tq.pause("shelf")
        await charge.options(task_id="shelved-1", queue="shelf").push("4712")
        await kit.advance(1)
        yield kit
        going.set()


class Asked:
    """Calls tools, and takes the answers apart."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, tool: str, **arguments: Any) -> dict[str, Any]:
        answer = await self.client.call_tool(tool, arguments)
        assert not answer.is_error, answer.content
        assert answer.structured_content is not None
        return answer.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        answer = await self.client.call_tool(tool, arguments)
        assert answer.is_error
        return str(answer.content[0].text)  # type: ignore[union-attr]


@asynccontextmanager
async def asked(kit: Kit, **options: bool) -> AsyncIterator[Asked]:
    async with Client(mcp_server(kit.tq, **options)) as client:
        yield Asked(client)


async def test_tools_that_change_exist_only_where_asked_for(kit: Kit) -> None:
    async with asked(kit) as ask:
        listed = (await ask.client.list_tools()).tools
        assert {tool.name for tool in listed} == READS
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in listed)
        assert "tasks_retry" in await ask.refused("tasks_retry", task_id="failed-1")
    assert (await kit.tq.get("failed-1")).status is Status.FAILED
    async with asked(kit, write=True) as ask:
        listed = (await ask.client.list_tools()).tools
        assert {tool.name for tool in listed} == READS | WRITES
        changing = {tool.name for tool in listed if not (tool.annotations and tool.annotations.read_only_hint)}
        assert changing == WRITES
        assert all(tool.description for tool in listed)
        marked = {each.name for each in listed if each.annotations and each.annotations.destructive_hint}
        assert WRITES - marked == {
            *("tasks_push", "tasks_retry", "tasks_retry_many", "tasks_rerun", "tasks_run_now", "events_emit"),
            *("groups_retry", "schedules_add", "schedules_run_now", "schedules_backfill"),
        }


async def test_null_is_a_value(kit: Kit) -> None:
    async with asked(kit, write=True, show_args=True) as ask:
        assert await ask("values_set", key="rate", value=None) == {"key": "rate"}
        assert (await ask("values_get", key="rate"))["value"] is None


async def test_it_tells_what_runs_what_failed_and_what_waits(kit: Kit) -> None:
    async with asked(kit) as ask:
        overview = await ask("stats_get")
        assert overview["paused"] == ["shelf"]
        assert {name: n for name, n in overview["counts"].items() if n} == {"failed": 1, "pending": 2, "running": 1}
        page = await ask("tasks_list", limit=3)
        rest = await ask("tasks_list", limit=3, cursor=page["next"])
        ids = [task["task_id"] for task in page["tasks"] + rest["tasks"]]
        assert sorted(ids) == ["failed-1", "running-1", "shelved-1", "waiting-1"] and rest["next"] is None
        assert [t["task_id"] for t in (await ask("tasks_list", status=["failed"], type="charge"))["tasks"]] == [
            "failed-1"
        ]
        assert (await ask("tasks_get", task_id="shelved-1"))["waiting"]["reason"] == "paused"
        full = await ask("tasks_get", task_id="waiting")  # the beginning of an id
        assert (full["task_id"], full["waiting"]["reason"]) == ("waiting-1", "full")
        assert full["waiting"]["limit"]["held"] == 1
        assert (await ask("tasks_get", task_id="running-1"))["waiting"] is None
        (limit,) = (await ask("limits_list"))["limits"]
        assert (limit["held"], limit["waiting"]) == (1, 1)
        await kit.tq.schedules.add("nightly", "charge", cron="0 3 * * *", params={"card": "1"})
        schedules = await ask("schedules_list", limit=1)
        assert [each["name"] for each in schedules["schedules"]] == ["nightly"] and schedules["next"] is None
        assert len((await ask("workers_list"))["workers"]) == 1


async def test_params_and_messages_are_shown_only_where_asked_for(kit: Kit) -> None:
    async with asked(kit) as ask:
        for answer in (await ask("tasks_get", task_id="failed-1"), await ask("tasks_list")):
            assert "4711" not in str(answer)
        said = await ask.refused("tasks_get", task_id="failed-1", params=True)
        assert "not shown here" in said and "--show-args on the command line" in said
        assert "--show-args" in str(ask.client.instructions)
    async with asked(kit, show_args=True) as ask:
        shown = await ask("tasks_get", task_id="failed-1", params=True)
        assert shown["params"] == {"card": "4711"} and "card 4711 is refused" in shown["error"]


async def test_a_change_is_counted_first_and_leaves_an_event(kit: Kit) -> None:
    events: list[HookCall] = []
    kit.tq.on("operated", events.append)
    async with asked(kit, write=True) as ask:
        assert await ask("tasks_retry_many", error="ValueError") == {"count": 1, "dry_run": True}
        assert await ask("tasks_cancel_many", type="report", status=["pending"]) == {"count": 1, "dry_run": True}
        assert events == [] and (await kit.tq.get("failed-1")).status is Status.FAILED
        assert await ask("tasks_retry_many", error="ValueError", dry_run=False) == {"count": 1, "dry_run": False}
        assert (await ask("tasks_cancel", task_id="waiting"))["status"] == "cancelled"
        assert "has ended already" in await ask.refused("tasks_cancel", task_id="waiting-1")
        await ask("queues_resume", queue="shelf")
        await ask("queues_pause", queue="default")
    assert await kit.tq.paused() == ["default"]
    assert [(event.detail["action"], event.detail["actor"]) for event in events] == [
        ("tasks.retry", "mcp"),
        ("tasks.cancel", "mcp"),
        ("queues.resume", "mcp"),
        ("queues.pause", "mcp"),
    ]


async def test_unknown_arguments_are_refused(kit: Kit) -> None:
    async with asked(kit, write=True) as ask:
        listed = (await ask.client.list_tools()).tools
        assert all(tool.input_schema["additionalProperties"] is False for tool in listed)
        said = await ask.refused("tasks_delete_many", status=["failed"], typ="mail", dry_run=False)
        assert "unknown argument 'typ'; there are status, type, queue, " in said
        assert "unknown argument 'name'; there are queue" in await ask.refused("queues_pause", name="shelf")
        assert "queue" in await ask.refused("queues_pause")
        assert "unknown argument 'a'; there are none here" in await ask.refused("queues_list", a=1)
    assert (await kit.tq.get("failed-1")).status is Status.FAILED
    assert await kit.tq.paused() == ["shelf"]


async def test_errors_say_what_was_wrong(kit: Kit) -> None:
    async with asked(kit, write=True) as ask:
        assert "there is no task nowhere" in await ask.refused("tasks_get", task_id="nowhere")
        assert "at least one of" in await ask.refused("tasks_retry_many", dry_run=False)
        await kit.tq.push("charge", {"card": "1"}, task_id="failed-2")
        assert "failed-: several ids begin with it" in await ask.refused("tasks_get", task_id="failed-")
        assert "greater than or equal to 1" in await ask.refused("tasks_list", limit=0)


async def test_the_command_serves_a_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    async with TaskQ(url) as tq:
        await tq.push("greet", {"name": "you"}, task_id="greet-1")
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "aiotaskq", "mcp", "--db", url, "--write"], env=dict(os.environ)
    )
    async with Client(command, read_timeout_seconds=within(30)) as client:
        ask = Asked(client)
        assert (await ask("stats_get"))["counts"]["pending"] == 1
        assert (await ask("tasks_cancel", task_id="greet"))["status"] == "cancelled"

"""What one entry in the table is enough for: an operation that is added here is there at every door."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.support import nursery
from tests.support.command import ROOT, prepared
from tests.support.machine import within

ADDED = '''
from msgspec import Struct

from aiotaskq.core.catalogue import SENTENCES, entries
from aiotaskq.operations.limits import LimitKey, limits
from aiotaskq.operations.table import Access


class Called(Struct):
    """What a limit is called."""

    key: str


@limits(thing="key")
async def rename_nothing(access: Access, key: LimitKey) -> Called:
    """Say what a limit is called."""
    return Called(key)


entries()[SENTENCES, "Say what a limit is called."] = "说出限制的名称。"
'''
DOORS = """
import asyncio, json, sys

import httpx
from mcp import Client
from starlette.applications import Starlette

import added
from aiotaskq import TaskQ
from aiotaskq.integrations.mcp import mcp_server
from aiotaskq.integrations.starlette import routes
from aiotaskq.web.endpoints import ENDPOINTS
from aiotaskq.web.openapi import document


async def main():
    async with TaskQ(sys.argv[1]) as tq:
        web = httpx.AsyncClient(transport=httpx.ASGITransport(Starlette(routes=routes(tq))), base_url="http://test")
        async with web, Client(mcp_server(tq)) as client:
            (tool,) = [each for each in (await client.list_tools()).tools if each.name == "limits_rename_nothing"]
            said = {
                "http": (await web.get("/limits/openai/rename_nothing")).json(),
                "tool": (await client.call_tool(tool.name, {"key": "openai"})).structured_content,
                "described": tool.description,
                "wanted": tool.input_schema["required"],
                "document": document(ENDPOINTS, "1")["paths"]["/limits/{key}/rename_nothing"]["get"],
            }
            print(json.dumps(said))


asyncio.run(main())
"""
PROGRAM = """
import asyncio, sys

import added
import aiotaskq.sync
from aiotaskq import TaskQ
from aiotaskq.operations import operate


async def main():
    async with TaskQ(sys.argv[1]) as tq:
        return await operate(tq, "limits.rename_nothing", key="openai")


with aiotaskq.sync.TaskQ(sys.argv[1]) as tq:
    print(asyncio.run(main()).key, tq.operate("limits.rename_nothing", key="openai").key)
"""
COMMAND = "import added; from aiotaskq.cli import main; main()"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "added.py").write_text(ADDED, encoding="utf-8")
    prepared(tmp_path / "aiotaskq.db")
    return tmp_path


def run(place: Path, *words: str, **env: str) -> str:
    """Run a program that knows the operation; return its output."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("AIOTASKQ_", "LC_", "LANG"))}
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{place}"}
    done = nursery.run(
        [sys.executable, "-c", *words],
        cwd=place,
        env=known | paths | env,
        capture_output=True,
        encoding="utf-8",
        timeout=within(60),
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_programs_run_it_awaited_and_blocking(place: Path) -> None:
    assert run(place, PROGRAM, "sqlite:///aiotaskq.db") == "openai openai\n"


def test_it_is_on_the_command_line_with_help_in_two_languages(place: Path) -> None:
    assert run(place, COMMAND, "limits", "rename-nothing", "openai") == "key: openai\n"
    assert json.loads(run(place, COMMAND, "limits", "rename-nothing", "openai", "--json")) == {"key": "openai"}
    english = run(place, COMMAND, "limits", "rename-nothing", "--help")
    assert "Say what a limit is called." in english and "KEY" in english
    assert "rename-nothing" in run(place, COMMAND, "limits", "--help")
    chinese = run(place, COMMAND, "limits", "rename-nothing", "--help", LC_ALL="zh_CN.UTF-8", PYTHONUTF8="1")
    assert "说出限制的名称。" in chinese


def test_it_is_in_the_api_with_its_document_and_a_tool_of_the_server_for_assistants(place: Path) -> None:
    said = json.loads(run(place, DOORS, "sqlite:///aiotaskq.db"))
    assert said["http"] == said["tool"] == {"key": "openai"}
    assert said["described"].startswith("Say what a limit is called.") and said["wanted"] == ["key"]
    document = said["document"]
    assert (document["summary"], document["operationId"]) == (
        "Say what a limit is called",
        "aiotaskq_limits.rename_nothing",
    )
    answer = document["responses"]["200"]
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/AiotaskqCalled"}
    assert {"404", "422"} <= document["responses"].keys()

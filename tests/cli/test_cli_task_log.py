"""``aiotaskq tasks log``: what a task has written, and what it writes until its end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from aiotaskq import TaskQ, current_task
from tests.support.command import Cli, prepared
from tests.support.machine import within


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = Cli(tmp_path, monkeypatch, capsys)
    prepared(tmp_path / "app.db")
    monkeypatch.setenv("AIOTASKQ_DATABASE_URL", made.url)
    return made


def ended(url: str) -> str:
    tq = TaskQ(url)

    @tq.task
    async def writes() -> None:
        current_task().log("begun\nhere \x1b[31m", rows=3)
        current_task().stream({"token": "Hé"})

    async def main() -> str:
        async with tq.running():
            handle = await writes.push()
            await handle.result(within(20))
            return handle.task_id

    return asyncio.run(main())


def test_the_log_of_a_task(cli: Cli) -> None:
    task_id = ended(cli.url)
    lines = cli.out("tasks", "log", task_id[:12], "--utc").splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["begun", "here \\x1b[31m rows=3", '{"token":"Hé"}']
    assert "Z  begun" in lines[0]
    followed = cli.out("tasks", "log", task_id, "--follow", "--after", "1").splitlines()
    assert [line.split("  ", 1)[1] for line in followed] == ['{"token":"Hé"}', "ended: completed"]
    found = [json.loads(line) for line in cli.out("tasks", "log", task_id, "--json", "-f").splitlines()]
    assert [(each["n"], each["kind"], each["data"]) for each in found] == [
        (1, "log", "begun\nhere \x1b[31m rows=3"),
        (2, "data", {"token": "Hé"}),
        (2, "end", "completed"),
    ]
    assert "no task" in cli.fails("tasks", "log", "nothing")

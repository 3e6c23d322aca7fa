"""``aiotaskq audit``: the changes that commands, and others, have made."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.audit import KIND
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.cli import store_access
from aiotaskq.runtime.audit import audit
from tests.support.command import Cli, prepared


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = Cli(tmp_path, monkeypatch, capsys)
    prepared(tmp_path / "app.db")
    monkeypatch.setenv("AIOTASKQ_DATABASE_URL", made.url)
    return made


def test_each_command_that_changes_something_is_in_the_audit_log(cli: Cli) -> None:
    assert cli.out("audit") == "no changes\n"
    task_id = cli.out("push", "send", "{}").strip()  # the work of programs
    cli.out("tasks", "cancel", task_id)
    cli.fails("tasks", "cancel", task_id)  # it has ended already
    cli.out("tasks", "retry", "--status", "cancelled", "--yes")
    cli.out("tasks", "retry", "--status", "cancelled", "--yes")  # none is left
    cli.out("queues", "pause", "mail")
    cli.out("queues", "resume", "mail")
    cli.out("limits", "set", "tenant:1", "3")
    add = ("schedules", "add", "ping", "send", "--interval", "60", "--schedule-id", "ping")
    cli.out(*add)
    assert "there is a schedule ping already" in cli.fails(*add)
    for verb in ("pause", "resume", "run-now", "delete"):
        cli.out("schedules", verb, "ping", *(["--yes"] if verb == "delete" else []))
    found = cli.json("audit")["entries"]
    assert [each["action"] for each in reversed(found)] == [
        *("tasks.cancel", "tasks.retry", "queues.pause", "queues.resume", "limits.set", "schedules.add"),
        *("schedules.pause", "schedules.resume", "schedules.run_now", "schedules.delete"),
    ]
    assert {each["door"] for each in found} == {"cli"}
    assert found[-1]["targets"] == [task_id] and found[-2]["targets"] == ["filter: status=cancelled", "count: 1"]
    assert all(each["actor"].startswith(f"{getpass.getuser()}@") for each in found)
    assert [each["action"] for each in cli.json("audit", "mail")["entries"]] == ["queues.resume", "queues.pause"]
    assert [each["action"] for each in cli.json("audit", task_id[:-1])["entries"]] == ["tasks.cancel"]
    assert len(cli.json("audit", "--limit", "3")["entries"]) == 3


def test_a_table_names_some_targets_and_escapes_them(cli: Cli) -> None:
    async def change() -> None:
        async with TaskQ(cli.url) as tq:
            await audit(tq.queue, "dashboard", "tasks.delete", "mara\x1b[31m", [f"t{number}" for number in range(60)])

    asyncio.run(change())
    head, line = cli.out("audit", "--utc").splitlines()
    assert head.split() == ["AT", "CHANGE", "TARGETS", "ACTOR", "BY"]
    assert "t0, t1, t2 and 57 more" in line and "mara\\x1b[31m" in line and line.endswith("dashboard")


def test_an_entry_that_cannot_be_read_is_listed_as_such(cli: Cli) -> None:
    async def damage() -> None:
        async with TaskQ(cli.url) as tq:
            await tq.queue.backend.side.put(KIND, [SideRow("00000000000000000001 1", "{")])

    asyncio.run(damage())
    cli.out("queues", "pause", "mail")
    lines = cli.out("audit").splitlines()
    assert len(lines) == 3 and "queues.pause" in lines[1] and "an entry that cannot be read" in lines[2]
    good, bad = cli.json("audit")["entries"]
    assert good["undecodable"] is None and bad["undecodable"]
    assert len(cli.json("audit", "mail")["entries"]) == 1


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert store_access.actor().partition("@")[0].isdecimal()

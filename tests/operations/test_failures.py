"""Which errors count as one, and how the command line shows failed tasks by their errors."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.audit import AuditEntry
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.operations.hidden import visible_entry
from aiotaskq.operations.task_views import MAX_LINE, error_line
from tests.support.command import Cli, prepared
from tests.support.rows import new


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("ValueError: row 17 of 3,200 is bad\n\nTraceback", "ValueError: row # of # is bad"),
        ("KeyError: 'order-17'", "KeyError: 'order-#'"),
        ("NotFound: user 0195c3a4-6f00-7c3a-9d2e-3f6f3f8a2b11 is gone", "NotFound: user # is gone"),
        ("StripeError: cus_9s6XKzkX12 has no card", "StripeError: cus_# has no card"),
        ("OSError: 10.0.0.17:5432 after 1.5 s", "OSError: # after # s"),
        ("ConnectionError: postgresql://me:secret5@db7/app", "ConnectionError: postgresql://me:***@db#/app"),
        ("Http2Error: 503", "Http2Error: #"),
        ("Base64Error", "Base64Error"),
        ("exit code 3", "exit code #"),
        ("用户12345678不存在", "用户#不存在"),
        ("\n  \n", ""),
        (None, ""),
        (f"ValueError: {'x' * 900}", f"ValueError: {'x' * 900}"[:MAX_LINE]),
    ],
)
def test_errors_of_one_cause_have_one_line(error: str | None, line: str) -> None:
    assert error_line(error, True) == line


def test_of_a_hidden_error_only_the_type_is_told() -> None:
    assert error_line("KeyError: 'order-17'\n\nTraceback", False) == "KeyError"
    assert error_line(None, False) == ""


@pytest.mark.parametrize("name", ["error", "same_error"])
def test_the_audit_log_tells_no_hidden_error(name: str) -> None:
    entry = AuditEntry(id="", at=0, door="cli", action="tasks.retry", actor="", targets=(), count=1)
    entry = replace(entry, targets=(f"filter: type=mail {name}=KeyError: 'order-17'", "count: 1"))
    assert visible_entry(entry, False).targets == (f"filter: type=mail {name}=…", "count: 1")
    assert visible_entry(entry, True) == entry


@pytest.mark.parametrize("text", ["a" * 100_000, "a1" * 50_000, "1." * 50_000, "a-" * 50_000, "0a-" * 50_000])
def test_no_error_takes_long(text: str) -> None:
    began = time.process_time()
    error_line(f"E: {text}", True)
    assert time.process_time() - began < 1


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def fill(url: str) -> None:
    """Store three tasks that have failed, two of them with the same error."""

    async def main() -> None:
        async with TaskQ(url) as tq:
            at = tq.queue.clock.now() // SECOND - 600
            for number, error in enumerate(("KeyError: 'a-1'", "KeyError: 'a-2'", "OSError: disk\n\nTraceback")):
                fields = {"task_id": f"t{number}", "type": "mail", "status": Status.FAILED, "error_message": error}
                await tq.queue.backend.push([new(**fields, created_at=at, completed_at=at)])

    asyncio.run(main())


def test_the_command_lists_each_error_once_and_retries_its_tasks(cli: Cli, tmp_path: Path) -> None:
    url = prepared(tmp_path / "some.db")
    assert cli.out("failures", "--db", url) == "no task has failed\n"
    fill(url)
    head, most, other = cli.out("failures", "--db", url).splitlines()
    assert head.split() == ["COUNT", "TYPE", "ERROR", "FIRST", "LAST", "OVER", "TIME", "TASK_ID"]
    assert most.split()[:4] == ["2", "mail", "KeyError:", "'a-#'"] and "10m" in most and "OSError: disk" in other
    *_, last = cli.out("failures", "--limit", "2", "--db", url).splitlines()
    assert last == "of the newest 2 failed tasks; for more: --limit"
    said = cli.out("tasks", "retry", "--same-error", "KeyError: 'a-#'", "--yes", "--db", url)
    assert "tasks retried: 2" in said
    assert len(cli.json("failures", "--db", url)["failures"]) == 1

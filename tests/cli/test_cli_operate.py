"""The operator's commands: push and wait, retry and purge many, schedules, public values, queues, health probes."""

from __future__ import annotations

import asyncio
import io
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.app.groups import chain
from aiotaskq.app.handle import TaskCall
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.instants import from_iso
from aiotaskq.core.notes import NewNotes
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Attempt, Task
from tests.support.command import Cli, prepared, wait_for, waits_for
from tests.support.machine import within
from tests.support.rows import worker_info


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = Cli(tmp_path, monkeypatch, capsys)
    prepared(tmp_path / "app.db")
    monkeypatch.setenv("AIOTASKQ_DATABASE_URL", made.url)
    made.env["AIOTASKQ_DATABASE_URL"] = made.url
    return made


APP = """
from aiotaskq import TaskQ
tq = TaskQ("sqlite:///app.db")

@tq.task
async def add(a: int, b: int) -> int:
    return a + b

@tq.task(max_retries=0)
async def broken() -> None:
    raise ValueError("no way")
"""


# ---- push ----


def test_push_with_its_options(cli: Cli) -> None:
    options = "--delay 60 --priority -3 --queue slow --unique-key u --idempotency-key i --max-retries 9 --timeout 4"
    task_id = cli.out("push", "mail", '{"to": "me"}', *options.split()).strip()
    row = cli.json("tasks", "get", task_id, "--params")
    assert row["params"] == {"to": "me"} and row["run_at"] > row["created_at"]
    wanted = {"type": "mail", "priority": -3, "queue": "slow", "unique_key": "u", "idempotency_key": "i"}
    assert {**row, **wanted, "max_retries": 9, "timeout": 4.0} == row
    assert cli.json("push", "mail", "{}", "--unique-key", "u") == {"task_id": task_id, "created": False}
    code, out, err = cli.run("push", "mail", "--idempotency-key", "i")
    assert (code, out) == (0, f"{task_id}\n") and "a task with this key exists" in err


def test_a_debounced_push_changes_the_task_that_waits(cli: Cli) -> None:
    options = ["--debounce", "60", "--max-wait", "300", "--merge", "list", "--key", "all"]
    task_id = cli.out("push", "mail", '{"to": ["me"]}', *options).strip()
    code, out, err = cli.run("push", "mail", '{"to": ["you"]}', *options)
    assert (code, out) == (0, f"{task_id}\n") and "the task that waits was changed" in err
    assert cli.json("tasks", "get", task_id, "--params")["params"] == {"to": ["me", "you"]}
    assert cli.json("push", "mail", '{"to": ["you"]}', "--debounce", "60")["created"] is True
    assert "give one of the two" in cli.fails("push", "mail", "--debounce", "1", "--throttle", "1", code=2)


def test_a_throttled_push(cli: Cli) -> None:
    options = ["--throttle", "100000000", "--key", "all"]  # no test runs at the end of such a period
    first = cli.json("push", "mail", '{"n": 1}', *options)
    assert cli.json("push", "mail", '{"n": 2}', *options) == {**first, "created": False}
    assert cli.json("push", "mail", '{"n": 2}', "--throttle", "100000000")["created"] is True


def test_params_may_come_from_standard_input(cli: Cli) -> None:
    cli.monkeypatch.setattr("sys.stdin", io.StringIO('{"token": "x"}'))
    task_id = cli.json("push", "mail", "-")["task_id"]
    assert cli.json("tasks", "get", task_id, "--params")["params"] == {"token": "x"}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ("{bad secret", "params: not valid JSON (line 1, column 2)"),
        ("[1]", "params: Expected `object`, got `array`"),
        ('{"a": 99999999999999999999}', "64 bits"),
        ("[" * 100_000, "params: not valid JSON (nested too deeply)"),
    ],
)
def test_errors_about_params_do_not_show_their_values(cli: Cli, params: str, said: str) -> None:
    error = cli.fails("push", "mail", params, code=2)
    assert said in error and "secret" not in error
    assert cli.json("stats")["counts"].get("pending", 0) == 0


def test_push_waits_for_the_result(cli: Cli) -> None:
    Path("app.py").write_text(APP)
    with cli.running("app:tq") as (process, lines):
        wait_for(lines, "Ctrl-C")
        code, out, err = cli.run("push", "add", '{"a": 1, "b": 2}', "--wait", "20")
        assert (code, out) == (0, "3\n") and len(err.strip()) == 36  # the id, out of the result's way
        answer = cli.json("push", "add", '{"a": 1, "b": 2}', "--wait", "20")
        assert (answer["status"], answer["result"]) == ("completed", 3)
        code, out, err = cli.run("push", "broken", "--wait", "20")
        assert (code, out) == (1, "") and "no way" in err.splitlines()[-1]
        process.terminate()
        assert process.wait(within(40)) == 0
    code, out, err = cli.run("push", "add", "--wait", "0.05")
    assert (code, out) == (5, "") and "is pending after 0.05 s" in err


# ---- many tasks ----


def dead(count: int, **fields: Any) -> list[Task]:
    given = {"type": "mail", "status": Status.FAILED, "completed_at": 9, **fields}
    return [Task(task_id=f"{given['type']}-{number}", seq=number, **given) for number in range(count)]


def test_retry_by_filter(cli: Cli) -> None:
    cli.store(*dead(3), *dead(2, type="audio"))
    assert "use --yes" in cli.fails("tasks", "retry", "--status", "failed", code=2)
    assert cli.out("tasks", "retry", "--status", "failed", "--type", "mail", "--yes") == "tasks retried: 3\n"
    assert cli.json("tasks", "retry", "--status", "failed", "--yes") == {"count": 2, "dry_run": False}
    assert cli.out("tasks", "retry", "--type", "mail") == "tasks retried: 0\n"  # nothing to ask about
    assert "not both" in cli.fails("tasks", "retry", "mail-1", "--type", "mail", code=2)
    assert "which ones?" in cli.fails("tasks", "retry", code=2)
    assert "'pending' is unknown; use cancelled" in cli.fails("tasks", "retry", "--status", "pending", "--yes", code=2)


def test_the_attempts_of_a_task_are_shown(cli: Cli) -> None:
    error = "OSError: redis://me:secret@host refused\nand more"
    past = Attempt(
        number=2,
        began_at=5_000_000,
        ended_at=5_250_000,
        outcome="failed",
        error=error,
        worker="worker-db1-42-0-0123456789ab",
        version="2.4.1",
    )
    cli.store(*dead(1, began_at=5_000_000, ended_at=5_250_000, attempts=(past,)))
    lines = cli.out("tasks", "get", "mail-0", "--utc").splitlines()
    (line,) = [line.split(maxsplit=1)[1] for line in lines if line.startswith("attempts")]
    assert line == "2  1970-01-01 00:00:05Z  0.250 s  failed  db1  2.4.1  OSError: redis://me:***@host refused"
    shown = cli.json("tasks", "get", "mail-0")
    assert shown["run_time"] == shown["attempts"][0]["run_time"] == 0.25 and "secret" not in str(shown)
    (row,) = cli.json("tasks", "list")["tasks"]
    assert row["run_time"] == 0.25 and "attempts" not in row


def test_db_check_reports_attempts_that_cannot_be_read(cli: Cli) -> None:
    cli.store(*dead(2, attempts=(Attempt(number=1),)))
    with sqlite3.connect(cli.home / "app.db") as connection:
        connection.execute("UPDATE task_queue SET attempts = '[{}]' WHERE task_id = 'mail-1'")
    connection.close()
    (row,) = cli.json("db", "check")["invalid_rows"]
    assert (row["id"], row["column"]) == ("mail-1", "attempts") and "attempts cannot be read" in row["action"]


def test_purge_asks_with_a_count(cli: Cli) -> None:
    cli.store(*dead(3), *dead(2, type="audio", completed_at=SystemClock().now() // SECOND))
    assert "use --yes" in cli.fails("tasks", "delete", "--older-than", "0", code=2)
    assert cli.json("tasks", "delete", "--older-than", "3600", "--yes") == {"count": 3, "dry_run": False}
    assert cli.out("tasks", "delete", "--type", "audio", "--yes") == "tasks deleted: 2\n"
    assert cli.out("tasks", "delete", "--type", "audio") == "tasks deleted: 0\n"
    assert "'pending' is unknown" in cli.fails("tasks", "delete", "--status", "pending", "--yes", code=2)


def test_a_purge_leaves_the_members_of_a_group_that_goes_on(cli: Cli) -> None:
    async def push() -> str:
        async with TaskQ(cli.url) as tq:
            made = await tq.group([TaskCall("a", {}, {}), TaskCall("b", {}, {})])
            return (await made.tasks())[0].task_id

    cli.out("tasks", "cancel", asyncio.run(push()))
    assert cli.json("tasks", "delete", "--status", "cancelled", "--dry-run") == {"count": 0, "dry_run": True}
    assert cli.json("tasks", "delete", "--type", "a", "--yes") == {"count": 0, "dry_run": False}


async def test_count_is_the_number_that_find_finds(tmp_path: Path) -> None:
    async with TaskQ(prepared(tmp_path / "x.db")) as tq:
        await tq.queue.backend.push([*dead(1_050), *dead(7, type="audio", queue="slow", status=Status.CANCELLED)])
        await tq.push("mail", {})
        assert await tq.queue.count() == 1_058
        assert await tq.queue.count(status=["failed", "cancelled", "failed"]) == 1_057
        assert await tq.queue.count(queue="slow") == 7 and await tq.queue.count(queue="nobody") == 0
        assert await tq.queue.count(type="mail") == 1_051
        assert await tq.queue.count(type="mail", status="failed", older_than=60) == 1_050
        heard: list[int] = []
        assert await tq.queue.retry_many(type="mail", progress=heard.append) == 1_050
        assert heard == [500, 1_000, 1_050]
        heard.clear()
        assert await tq.queue.purge(progress=heard.append) == 7 and heard == [7]


# ---- schedules, values, queues ----


def test_the_life_of_a_schedule(cli: Cli) -> None:
    add = ("schedules", "add", "nightly", "report", '{"a": 1}', "--schedule-id", "s")
    assert cli.out(*add, "--cron", "0 2 * * *", "--timezone", "Asia/Shanghai", "--queue", "q") == "s\n"
    (row,) = cli.json("schedules", "list", "--params")["schedules"]
    assert (row["cron_expression"], row["timezone"], row["params"], row["queue"]) == (
        "0 2 * * *",
        "Asia/Shanghai",
        {"a": 1},
        "q",
    )
    assert cli.out("schedules", "pause", "s") == "s  paused\n"
    assert cli.json("schedules", "list", "--enabled")["schedules"] == []
    assert cli.out("schedules", "resume", "s").startswith("s  next 2")
    (fired,) = cli.json("schedules", "run-now", "s")
    assert cli.json("tasks", "get", fired["task_id"])["scheduler_task_id"] == "s"
    assert "use --yes" in cli.fails("schedules", "delete", "s", code=2)
    assert cli.json("schedules", "delete", "s", "--yes") == [{"schedule": "s", "schedule_id": "s"}]
    assert "there is no schedule s" in cli.fails("schedules", "delete", "s", "--yes")
    assert cli.out("schedules", "list") == "no schedules\n"


def test_intervals_and_single_times(cli: Cli) -> None:
    cli.out("schedules", "add", "often", "t", "--interval", "90", "--schedule-id", "a")
    at = ("--at", "2100-01-01T08:00", "--timezone", "Asia/Shanghai")
    assert cli.json("schedules", "add", "once", "t", *at, "--schedule-id", "b")["execute_at"] == "2100-01-01T00:00:00Z"
    lines = cli.out("schedules", "list", "--utc").splitlines()
    assert "every 1m 30s" in lines[1] and re.search("once +2100-01-01 00:00:00Z", lines[2])
    assert "exactly one of" in cli.fails("schedules", "add", "x", "t", code=2)
    assert "exactly one of" in cli.fails("schedules", "add", "x", "t", "--interval", "1", *at, code=2)
    assert "is not a time" in cli.fails("schedules", "add", "x", "t", "--at", "soon", code=2)
    assert "cron_expression" in cli.fails("schedules", "add", "x", "t", "--cron", "61 * * * *", code=2)


def test_the_history_and_the_backfill_of_a_schedule(cli: Cli) -> None:
    timing = ("--cron", "0 * * * *", "--timezone", "UTC", "--jitter", "60")
    cli.out("schedules", "add", "hourly", "t", *timing, "--schedule-id", "h")
    assert cli.out("schedules", "history", "hourly") == "nothing was due yet\n"
    assert "update: give one of cron, interval" in cli.fails("schedules", "update", "hourly", code=2)
    assert "edit: give one of params, priority" in cli.fails("tasks", "edit", *cli.push("a"), code=2)
    span = ("--since", "2026-01-05T00:00", "--until", "2026-01-05T03:00", "--utc")
    assert (
        cli.out("schedules", "backfill", "hourly", *span, "--dry-run").splitlines()[-1]
        == "tasks that would be pushed: 3"
    )
    found = cli.json("schedules", "backfill", "hourly", *span)
    assert found == {"times": [f"2026-01-05T0{n}:00:00+00:00" for n in range(3)], "pushed": True}
    assert cli.out("schedules", "backfill", "hourly", *span) == "tasks pushed: 0\n"
    now = SystemClock().now() // SECOND
    found = cli.json("schedules", "backfill", "hourly", "--since", "1d12h", "--until", "1h", "--dry-run")["times"]
    ages = [now - from_iso(each) // SECOND for each in found]
    assert len(ages) == 35 and min(ages) > 3_500 and max(ages) < 129_700
    assert "limit: 24 due times" in cli.fails(
        *("schedules", "backfill", "hourly", "--limit", "5"),
        *("--since", "2026-01-06", "--until", "2026-01-07"),
        code=2,
    )
    assert "is in the future" in cli.fails(
        "schedules", "backfill", "h", "--since", "2026-01-06", "--until", "2100-01-01", code=2
    )
    cli.out("schedules", "pause", "h")
    assert [each["outcome"] for each in cli.json("schedules", "history", "h")["history"]] == ["paused", "backfilled"]
    assert "backfilled  2026-01-05 00:00:00Z – 2026-01-05 02:00:00Z  3" in cli.out("schedules", "history", "h", "--utc")


def test_a_preview_says_what_is_skipped_and_when_tasks_start(cli: Cli) -> None:
    blackout = ("--blackout", "00:00-06:00", "--blackout", "2026-03-29")
    after = ("--after", "2026-03-28T05:00", "--timezone", "UTC", "--count", "2")
    assert cli.out("schedules", "preview", "--cron", "0 */6 * * *", *after, *blackout).splitlines() == [
        "Sat 2026-03-28 06:00:00+00:00",
        "Sat 2026-03-28 12:00:00+00:00",
    ]
    assert "is not a window" in cli.fails("schedules", "preview", "--cron", "0 * * * *", "--blackout", "night", code=2)
    assert "exactly one of" in cli.fails("schedules", "preview", code=2)
    cli.out(
        "schedules", "add", "s", "t", "--cron", "0 0,12 * * *", "--timezone", "UTC", "--jitter", "600", *blackout[:2]
    )
    lines = cli.out("schedules", "preview", "s", "--count", "2").splitlines()
    assert sorted(line.split("  ")[1].split()[0] for line in lines) == ["skipped:", "starts"]


def test_schedules_in_another_store(cli: Cli) -> None:
    apart = prepared(cli.home / "apart.db")
    cli.out("schedules", "add", "n", "t", "--interval", "90", "--schedule-id", "a", "--schedules", apart)
    assert cli.json("schedules", "list")["schedules"] == []
    cli.out("schedules", "run-now", "a", "--schedules", apart)
    assert len(cli.json("tasks", "list")["tasks"]) == 1 and cli.json("tasks", "list", "--db", apart)["tasks"] == []
    cli.monkeypatch.setenv("AIOTASKQ_SCHEDULES_URL", apart)
    assert len(cli.json("schedules", "list")["schedules"]) == 1


def test_public_values(cli: Cli) -> None:
    assert cli.out("values", "set", "k", '{"a": [1]}', "--ttl", "3600") == "stored k\n"
    assert cli.out("values", "get", "k") == '{\n  "a": [\n    1\n  ]\n}\n'
    assert cli.json("values", "list") == {"keys": ["k"], "next": None}
    cli.out("values", "set", "k", "2")  # it keeps its time to live
    found = cli.json("values", "get", "k")
    assert found["value"] == 2 and 0 < found["ttl"] <= 3600
    assert "ttl: " in cli.fails("values", "set", "k", "3", "--ttl", "0", code=2)
    cli.out("values", "set", "k", "3", "--ttl", "none")
    assert cli.json("values", "get", "k") == {"key": "k", "value": 3, "ttl": None}
    said = "ttl: a number is needed, or none (got x)"
    assert said in cli.fails("values", "set", "k", "3", "--ttl", "x", code=2)
    assert cli.out("values", "delete", "k") == "deleted k\n"
    assert "there is no value k" in cli.fails("values", "delete", "k")
    assert cli.out("values", "list") == "no values\n"
    assert "there is no value k" in cli.fails("values", "get", "k")
    assert "value: not valid JSON" in cli.fails("values", "set", "k", "plain text", code=2)


def test_queues(cli: Cli) -> None:
    assert cli.out("queues", "list") == "no queues\n"
    assert cli.out("queues", "pause", "slow") == "queue slow is paused\n"
    assert cli.json("queues", "list")["queues"] == [{"queue": "slow", "paused": True, "pending": 0, "running": 0}]
    assert "paused, and empty: slow" in cli.out("stats")
    assert cli.json("queues", "resume", "slow") == {"queue": "slow", "paused": False}
    assert "QUEUE" in cli.fails("queues", "pause", code=2)


def test_groups(cli: Cli) -> None:
    assert cli.out("groups", "list") == "no groups\n"
    assert "there is no group x" in cli.fails("groups", "get", "x")

    async def push() -> None:
        async with TaskQ(cli.url) as tq:
            members = [TaskCall(type, {}, {}) for type in ("a", "b")]
            await tq.group(members, then=TaskCall("report", {}, {}), name="night", group_id="g")

    asyncio.run(push())
    assert [(each["name"], each["remaining"]) for each in cli.json("groups", "list")["groups"]] == [("night", 2)]
    assert [each["type"] for each in cli.json("groups", "get", "g")["members"]] == ["a", "b"]
    assert cli.out("groups", "get", "g").splitlines()[-1].split() == ["then", "report", "not", "pushed"]
    assert cli.out("groups", "cancel", "g") == "group g is cancelled\n"
    assert "group g has ended already: cancelled" in cli.fails("groups", "cancel", "g")
    assert "group g is cancelled: 0 of 2 completed, 0 failed, 2 cancelled" in cli.out("groups", "get", "g")
    assert cli.json("groups", "retry", "g") == {"group_id": "g", "retried": 2}
    assert cli.out("groups", "mend") == "counts mended: 0\n"


def test_the_budget_of_a_group(cli: Cli) -> None:
    async def push() -> None:
        async with TaskQ(cli.url) as tq:
            await tq.group([TaskCall("a", {}, {}), TaskCall("a", {}, {})], group_id="g", budget={"tokens": 10})
            (task,) = await tq.queue.backend.claim("w", tq.queue.clock.now(), 1)
            used = NewNotes(task.task_id, task.fence, (), {"tokens": 12, "cost": 0.5})
            assert await tq.queue.backend.notes.add([used]) == [True]
            await tq.group([TaskCall("a", {}, {})], group_id="free")

    async def end(task_id: str) -> None:
        async with TaskQ(cli.url) as tq:
            task = await tq.get(task_id)
            assert await tq.queue.backend.update([Change(task, settle(task, Completed(None), tq.queue.clock.now()))])

    asyncio.run(push())
    listed = [line.split() for line in cli.out("groups", "list").splitlines()]
    assert [line[-2:] for line in listed if line[0] == "g"] == [["used", "up"]]
    assert listed[0][-1] == "BUDGET"
    shown = cli.out("groups", "get", "g").splitlines()
    assert shown[1] == "used up: cost 0.5, tokens 12 / 10"
    assert shown[2].startswith("its budget is used up")
    members = cli.json("groups", "get", "g")["members"]
    (running,) = [each["task_id"] for each in members if each["status"] == "running"]
    (waits,) = [each["task_id"] for each in members if each["status"] == "pending"]
    assert cli.json("tasks", "get", running)["usage"] == {"tokens": 12, "cost": 0.5}
    assert '{"tokens": 12, "cost": 0.5}' in cli.out("tasks", "get", running)
    assert waits_for(cli, waits) == "the budget of group g is used up"
    assert cli.fails("tasks", "run-now", waits).endswith("is due already; it waits at the limit budget:g\n")
    assert "is running; only a pending one can be made due" in cli.fails("tasks", "run-now", running)
    row = " ".join(cli.out("limits", "list").splitlines()[1].split())
    assert row == "budget:g budget of group g 1 1 used up"
    assert cli.json("limits", "list")["limits"][0]["budget_of"] == "g"
    assert "give the group another budget instead" in cli.fails("limits", "resume", "budget:g", code=2)
    assert cli.out("groups", "budget", "g", "tokens=12") == "the new budget of group g is used up already\n"
    assert cli.json("groups", "budget", "g", "tokens=20", "cost=2.5")["budget"] == {"tokens": 20, "cost": 2.5}
    assert cli.out("groups", "budget", "g", "tokens=30") == "the tasks of group g go on\n"
    assert "tokens 12 / 30" in cli.out("groups", "list")
    assert [each["action"] for each in cli.json("audit", "g")["entries"]] == ["groups.budget"] * 3
    assert waits_for(cli, waits) != "the budget of group g is used up"
    for wrong in ("tokens", "=3", "tokens=many"):
        assert "NAME=NUMBER is needed" in cli.fails("groups", "budget", "g", wrong, code=2)
    assert "tokens is named twice" in cli.fails("groups", "budget", "g", "tokens=1", "tokens=2", code=2)
    assert "was pushed without a budget" in cli.fails("groups", "budget", "free", "tokens=1")
    cli.out("groups", "cancel", "g")
    asyncio.run(end(running))
    cli.out("groups", "budget", "g", "tokens=1")
    assert "its budget is used up" not in cli.out("groups", "get", "g")
    assert "its tasks have ended already" in cli.out("groups", "budget", "g", "tokens=40")
    assert "only the budget of group g" in cli.fails("limits", "set", "budget:g", "3", code=2)


def test_groups_are_named_by_the_beginning_of_their_ids(cli: Cli) -> None:
    async def push() -> None:
        async with TaskQ(cli.url) as tq:
            for group_id in ("night-1", "night-2", "day"):
                chained = chain(TaskCall("a", {}, {}), TaskCall("b", {}, {}))
                await tq.start(chained, group_id=group_id)

    asyncio.run(push())
    listed = cli.out("groups", "list", "--limit", "2")
    assert listed.endswith("for more: --cursor night-2\n") and "night-1" not in listed
    assert [each["group_id"] for each in cli.json("groups", "list", "--cursor", "night-2")["groups"]] == ["night-1"]
    assert cli.json("groups", "cancel", "da")["group_id"] == "day"
    assert [each["group_id"] for each in cli.json("groups", "list", "--status", "cancelled")["groups"]] == ["day"]
    assert "use cancelled, completed, failed, running" in cli.fails("groups", "list", "--status", "pending", code=2)
    said = cli.fails("groups", "retry", "nig")
    assert "nig: several ids begin with it: night-1, night-2; give more of one" in said
    assert cli.json("groups", "retry", "d") == {"group_id": "day", "retried": 2}
    shown = cli.out("groups", "get", "d")
    assert shown.startswith("group day is running: 0 of 2 completed")
    assert [line.split()[1:] for line in shown.splitlines()[1:]] == [
        ["NAME", "TYPE", "STATUS", "AFTER"],
        ["a", "pending"],
        ["b", "pending", "0"],
    ]


# ---- health ----


def test_check_reports_a_dead_worker(cli: Cli) -> None:
    now = SystemClock().now()
    running: dict[str, Any] = {"status": Status.RUNNING, "lease_owner": "w", "type": "t"}
    cli.store(Task(task_id="late", lease_until=now - 100 * SECOND, **running))
    assert cli.out("check") == "ok: 0 ready, 1 running\n"  # its lease has ended, and others have time yet
    assert "running tasks without a living worker for over 60 s, which no other worker takes up: 1" in cli.fails(
        "check", "--late", "60"
    )
    code, out, _ = cli.run("check", "--late", "60", "--json")
    assert code == 1 and '"ok": false' in out


def test_check_reports_waiting_tasks_and_overdue_schedules(cli: Cli) -> None:
    now = SystemClock().now()
    cli.store(Task(task_id="new", type="t", run_at=now))
    assert cli.out("check", "--late", "86400") == "ok: 1 ready, 0 running\n"
    cli.store(Task(task_id="ready", type="t", run_at=now - 500 * SECOND))
    said = r"ok: 2 ready, 0 running; no worker works on them, the oldest has waited for 8m \d\ds: start .*\n"
    assert re.fullmatch(said, cli.out("check", "--late", "86400"))
    said = r"tasks that are ready: 2, the oldest for 5\d\d s, and none runs: no worker is at work"
    assert re.search(said, cli.fails("check"))
    assert re.search(said, cli.out("doctor"))
    cli.store(Task(task_id="running", type="t", status=Status.RUNNING, lease_owner="w", lease_until=now + 900 * SECOND))
    assert cli.out("check") == "ok: 2 ready, 1 running\n"
    assert "2 ready, 1 running\n" in cli.out("doctor")
    assert re.search(r"the oldest for 5\d\d s", cli.fails("check", "--max-age", "60"))
    cli.out("schedules", "add", "x", "t", "--at", "2001-01-01T00:00+00:00")
    assert "no scheduler runs" in cli.fails("check")


def test_check_and_doctor_tell_types_that_no_worker_has(cli: Cli) -> None:
    now = SystemClock().now()
    # As a worker leaves it that has no handler of the type.
    cli.store(
        Task(task_id="a", type="gret", run_at=now + 30 * SECOND, due_at=now - 100 * SECOND),
        Task(task_id="b", type="later", run_at=now + 900 * SECOND),
        workers=[worker_info(lease_until=now + 600 * SECOND, types=("greet",))],
    )
    assert cli.out("check") == "ok: 0 ready, 0 running; no worker has these types: gret (1)\n"
    assert "✗ 0 ready, 0 running; no worker has these types: gret (1)\n" in cli.out("doctor")
    said = "error: tasks of types that no worker has, due for over 60 s: gret (1)\n"
    assert cli.fails("check", "--late", "60") == said
    cli.store(workers=[worker_info(lease_until=now + 600 * SECOND, types=("greet", "gret"))])
    assert cli.out("check", "--late", "60") == "ok: 0 ready, 0 running\n"


def test_check_of_a_store_that_does_not_answer(cli: Cli) -> None:
    assert "there is no file" in cli.fails("check", "--db", "sqlite:///nowhere.db")
    code, out, err = cli.run("check", "--db", "postgresql://me:sw0rdfish@127.0.0.1:1/x", "--json")
    assert (code, err) == (1, "") and '"ok": false' in out and "sw0rdfish" not in out  # J9


def test_db_check_mends_counts_and_limits_after_sql(cli: Cli) -> None:
    async def push() -> None:
        async with TaskQ(cli.url) as tq:
            await tq.group([TaskCall("a", {}, {}), TaskCall("b", {}, {})], group_id="g")
            for name in ("holds", "waits"):
                made = Task(task_id=name, type="t", flow=Flow(gates=(("tenant", Bounds(cap=1)),)))
                await tq.queue.backend.push([parked(made, 0)])

    asyncio.run(push())
    assert cli.json("db", "check")["mended"] == {"counts": 0, "limits": []}
    with sqlite3.connect(cli.url.removeprefix("sqlite:///")) as connection:
        connection.execute("DELETE FROM task_queue WHERE task_type = 'a' OR task_id = 'holds'")
    connection.close()
    said = cli.out("db", "check")
    assert "counts mended: 1\n" in said
    assert "limits at which tasks waited though there was room: 1 (tenant)\n" in said
    assert cli.json("db", "check")["mended"] == {"counts": 0, "limits": []}
    assert cli.json("groups", "get", "g")["cancelled"] == 1

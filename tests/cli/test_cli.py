"""The command line in processes: exit codes, standard output and standard error."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.commands import app_for
from aiotaskq.cli.demo.report import APP
from aiotaskq.core.task import Task
from tests.support.command import ROOT, Cli, prepared, wait_for
from tests.support.machine import within

STUBBORN = """
import asyncio, time
from aiotaskq import TaskQ

tq = TaskQ("sqlite:///app.db", lease=2)

@tq.task
async def polite() -> None:
    print("began", flush=True)
    await asyncio.sleep(60)

@tq.task
async def deaf() -> None:
    print("began", flush=True)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@tq.task
def thread() -> None:
    print("began", flush=True)
    time.sleep(60)

@tq.task(executor="process")
def process() -> None:
    print("began", flush=True)
    time.sleep(60)

@tq.task(max_retries=0)
async def broken() -> None:
    raise ValueError("no\\nway")
"""


# ---- the command itself ----


def test_help_and_version(cli: Cli) -> None:
    text = cli.out("--help")
    for word in ("demo", "run", "db", "tasks", "schedules", "stats", "Exit codes"):
        assert word in text
    for group in ("db", "tasks", "schedules"):
        assert "Exit codes" in cli.out(group, "--help")
    assert re.fullmatch(r"aiotaskq \d+\.\d+\.\d+\n", cli.out("--version"))


VERBS = {
    "demo": (), "init": (), "run": (), "push": (), "stats": (), "web": (), "mcp": (), "check": (), "doctor": (),
    "audit": (), "docs": (), "bench": (), "completion": (), "history": (), "failures": (), "top": (), "scale": (),
    "tasks": ("push", "list", "get", "steps", "edit", "retry", "rerun", "run-now", "cancel", "delete", "log"),
    "workers": ("list", "get", "stack", "quiet", "wake", "resize"),
    "schedules": (
        *("list", "get", "add", "update", "pause", "resume", "run-now", "delete", "history", "backfill", "preview"),
    ),
    "values": ("list", "get", "set", "delete"),
    "events": ("list", "get", "emit"), "queues": ("list", "pause", "resume"),
    "limits": ("list", "get", "set", "pause", "resume", "reset"),
    "groups": ("list", "get", "cancel", "budget", "retry", "mend"), "db": ("upgrade", "check", "sql", "copy", "recode"),
}  # fmt: skip
WITHOUT_JSON = {f"{name} {name}" for name in ("init", "run", "web", "mcp", "docs", "bench", "completion", "top")}
WITHOUT_JSON.add("db sql")


def test_the_commands_and_that_each_has_help() -> None:
    whole: Any = typer.main.get_command(app_for(None))
    assert {name: tuple(getattr(each, "commands", ())) for name, each in whole.commands.items()} == VERBS
    for name, each in whole.commands.items():
        for verb, command in getattr(each, "commands", {name: each}).items():
            assert command.help and command.get_short_help_str(), verb
            options = {word for parameter in command.params for word in parameter.opts}
            assert ("--json" in options) is (f"{name} {verb}" not in WITHOUT_JSON), (name, verb)
            for parameter in command.params:
                described = getattr(parameter, "help", None) or parameter.param_type_name == "argument"
                assert described, (name, verb, parameter.name)


def test_the_options_between_a_supervisor_and_its_processes_are_hidden(cli: Cli) -> None:
    text = cli.out("run", "--help")
    assert "--processes" in text
    assert "--lifeline" not in text and "--number" not in text


def test_help_imports_neither_databases_nor_commands() -> None:
    code = (
        "import sys; from aiotaskq.cli import main; sys.argv = ['aiotaskq', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'asyncio', 'msgspec', 'sqlalchemy', 'alembic', 'rich', 'pydantic', 'aiotaskq.cli.tasks'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("words", "here", "page"),
    [
        (("run", "app:tq", "-c", "20"), "here: --concurrency 20", "command-line"),
        (("run", "app:tq", "-Q", "mail"), "here: --queues", "command-line"),
        (("schedules", "fire", "x"), "Did you mean 'run-now'?", "command-line"),
        (("tasks", "purge"), "Did you mean 'delete'?", "command-line"),
        (("worker",), "Did you mean 'run'?", "command-line"),
        (("beat",), "Did you mean 'run'?", "command-line"),
        (("flower",), "Did you mean 'web'?", "dashboard"),
        (("requeue", "x"), "Did you mean 'tasks retry'?", "command-line"),
        (("dashboard",), "Did you mean 'web'?", "dashboard"),
        (("gates", "list"), "Did you mean 'limits'?", "command-line"),
        (("tasks", "ls"), "Did you mean 'list'?", "command-line"),
        (("list",), "Did you mean 'tasks list'?", "command-line"),
        (("-h",), "here: --help", "command-line"),
        (("-V",), "here: --version", "command-line"),
    ],
)
def test_a_habit_at_the_command_line_is_told_the_command(
    cli: Cli, words: tuple[str, ...], here: str, page: str
) -> None:
    said = cli.fails(*words, code=2)
    assert here in said
    assert f"see 'aiotaskq docs {page}'" in said
    assert "stands behind its name" not in said


def test_wrong_usage_is_2(cli: Cli) -> None:
    cli.fails("nonsense", code=2)
    cli.fails("demo", "nowhere", code=2)
    cli.fails("run", "app", code=2)
    cli.fails("run", "app:tq", "--log-level", "LOUD", code=2)
    cli.fails("run", "app:tq", "--processes", "0", code=2)
    assert "use --yes" in cli.fails("schedules", "delete", "x", code=2)


# ---- databases ----


def test_reading_commands_create_no_database(cli: Cli) -> None:
    for command in (["stats"], ["tasks", "list"], ["db", "check"]):
        assert "there is no file" in cli.fails(*command, "--db", cli.url)
        assert not list(cli.home.iterdir())
    assert "memory://" in cli.fails("stats", "--db", "memory://")
    assert "unknown scheme" in cli.fails("stats", "--db", "app.db", code=2)
    (cli.home / "empty.db").touch()
    assert "db upgrade" in cli.fails("stats", "--db", "sqlite:///empty.db")
    (cli.home / "text.db").write_text("this is no database, and long enough to be seen as none" * 30)
    assert "not a database; it belongs to another program" in cli.fails("db", "check", "--db", "sqlite:///text.db")


def test_db_upgrade_check_and_sql(cli: Cli) -> None:
    assert "the tables were created, version 0" in cli.out("db", "upgrade", "--db", cli.url)
    assert "the tables are up to date, version 0" in cli.out("db", "upgrade", "--db", cli.url)
    checked = cli.json("db", "check", "--db", cli.url)
    assert checked["version"] == checked["newest"] and checked["invalid_rows"] == []
    assert "no invalid rows" in cli.out("db", "check", "--db", cli.url)
    assert "CREATE TABLE task_queue" in cli.out("db", "sql")
    assert "BIGINT" in cli.out("db", "sql", "--db", "postgresql://host/x")


def test_the_database_may_come_from_the_environment(cli: Cli) -> None:
    cli.push("a")
    code, out, _ = cli.process("stats", "--json", AIOTASKQ_DATABASE_URL=cli.url)
    assert code == 0 and json.loads(out)["counts"]["pending"] == 1


# ---- tasks ----


def test_tasks_list_show_cancel_retry_purge(cli: Cli) -> None:
    first, second = cli.push("mail", "audio", name="x\x1b[31m")
    at = ("--db", cli.url)

    assert [task["task_id"] for task in cli.json("tasks", "list", *at)["tasks"]] == [second, first]
    assert [task["task_id"] for task in cli.json("tasks", "list", *at, "--type", "mail")["tasks"]] == [first]
    assert cli.json("tasks", "list", *at, "--status", "failed")["tasks"] == []
    listed = cli.out("tasks", "list", *at, "--limit", "1")
    assert second in listed and first not in listed and f"--cursor {second}" in listed
    assert [task["task_id"] for task in cli.json("tasks", "list", *at, "--cursor", second)["tasks"]] == [first]
    assert "status: 'done' is unknown; use cancelled" in cli.fails("tasks", "list", *at, "--status", "done", code=2)

    shown = cli.json("tasks", "get", first, "--params", *at)
    assert shown["params"] == {"name": "x\x1b[31m"} and shown["status"] == "pending"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown["created_at"])
    assert "\x1b" not in cli.out("tasks", "get", first, *at)
    assert "there is no task" in cli.fails("tasks", "get", "nobody", *at)

    (answer,) = cli.json("tasks", "cancel", first, *at)
    assert answer == {"task_id": first, "status": "cancelled", "cancel_requested": False}
    assert "has ended already: cancelled" in cli.fails("tasks", "cancel", first, *at)
    code, out, err = cli.run("tasks", "retry", first, second, "nobody", *at)
    assert code == 1 and out == f"{first}  pending again\n" and err.count("error: ") == 2

    cli.out("tasks", "cancel", first, second, *at)
    assert cli.json("tasks", "delete", *at, "--type", "mail", "--yes") == {"count": 1, "dry_run": False}
    assert cli.out("tasks", "delete", *at, "--older-than", "3600", "--yes") == "tasks deleted: 0\n"
    assert cli.out("tasks", "delete", *at, "--status", "cancelled", "--yes") == "tasks deleted: 1\n"


def test_stats(cli: Cli) -> None:
    cli.push("a", "b")
    assert cli.json("stats", "--db", cli.url)["ready"] == 2
    text = cli.out("stats", "--db", cli.url)
    assert re.search(r"^default +2 ", text, re.MULTILINE) and "2 ready to run" in text


def test_control_characters_in_stored_texts_are_escaped(cli: Cli) -> None:  # J12
    async def main() -> None:
        async with TaskQ(cli.url) as tq:
            row = Task(task_id="x\n[red]\x1b]0;gotcha\x07", type="[bold]t\x1b[2J", queue="q\x1b[2J", created_at=10**18)
            await tq.queue.backend.push([row])

    asyncio.run(main())
    for command in (["tasks", "list"], ["stats"], ["tasks", "get", "x\n[red]\x1b]0;gotcha\x07"]):
        text = cli.out(*command, "--db", cli.url)
        assert "\x1b" not in text and "\x07" not in text
        assert "\\x1b[2J" in text
    assert "\x1b" not in cli.fails("tasks", "get", "\x1b[2J\nnobody", "--db", cli.url)
    assert "\x1b" not in cli.fails("tasks", "list", "--lim\x1b[2J", code=2)


def test_a_delayed_task_is_made_due_now(cli: Cli) -> None:
    at = ("--db", cli.url)
    cli.push("mail")
    later = cli.json("push", "mail", "--delay", "3600", *at)["task_id"]
    before = cli.json("tasks", "get", later, *at)["run_at"]
    assert cli.out("tasks", "run-now", later, *at) == f"{later}  due now\n"
    assert cli.json("tasks", "get", later, *at)["run_at"] < before
    code, out, err = cli.run("tasks", "run-now", later, "nobody", *at)
    assert code == 1 and out == "" and "is due already" in err and "there is no task nobody" in err


def test_control_characters_in_json_are_escaped(cli: Cli) -> None:  # J12
    value = {"text": "a\x9b2J\x85b\u202ec \U000e0001 é你好"}
    prepared(cli.home / "app.db")
    cli.out("values", "set", "k", json.dumps(value), "--db", cli.url)
    out = cli.out("values", "get", "k", "--db", cli.url)
    assert out.replace("\n", "").isprintable() and "é你好" in out and json.loads(out) == value


# ---- schedules ----


def test_schedules_preview(cli: Cli) -> None:
    spring = (
        "schedules",
        "preview",
        "--cron",
        "30 2 * * *",
        "--timezone",
        "Europe/Berlin",
        "--after",
        "2026-03-27T12:00",
    )
    assert cli.json(*spring, "--count", "3")["times"] == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert cli.out(*spring, "--count", "1") == "Sat 2026-03-28 02:30:00+01:00\n"
    assert "fields" in cli.fails("schedules", "preview", "--cron", "0 2 * *", code=2)
    assert "after" in cli.fails("schedules", "preview", "--cron", "0 2 * * *", "--after", "soon", code=2)
    assert "timezone" in cli.fails("schedules", "preview", "--cron", "0 2 * * *", "--timezone", "Mars/Base", code=2)


# ---- run ----


def test_the_program_that_the_demo_shows_runs(cli: Cli) -> None:
    (cli.home / "app.py").write_text(APP)
    with cli.running("app:tq") as (process, lines):
        wait_for(lines, "hello\n", whole=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(within(40)) == 0
    assert any("app:tq on sqlite:///app.db: concurrency 10" in line for line in lines)
    assert cli.json("stats", "--db", cli.url)["counts"]["completed"] >= 1


@pytest.mark.parametrize(("kind", "code"), [("polite", 3), ("deaf", 4), ("thread", 4), ("process", 4)])
def test_run_stopped_with_a_handler_that_does_not_end(cli: Cli, kind: str, code: int) -> None:
    (cli.home / "app.py").write_text(STUBBORN)
    cli.push(kind)
    with cli.running("app:tq", "--drain", "0.2", "--grace", "0.3") as (process, lines):
        wait_for(lines, "began")
        process.send_signal(signal.SIGTERM)
        assert process.wait(within(40)) == code
    told = "".join(lines)
    assert f"stopping: waiting up to 0.2 s for running tasks (1): {kind} " in told and "a second signal" in told
    assert f"after 0.2 s: cancelling running tasks (1), which have 0.3 s to end: {kind} " in told
    assert "stopped" in told
    status = "pending" if code == 3 else "running"
    assert cli.json("stats", "--db", cli.url)["counts"][status] == 1


def test_run_takes_a_blocking_taskq(cli: Cli) -> None:
    program = f"""
        from aiotaskq.sync import TaskQ
        tq = TaskQ({cli.url!r})
        @tq.task
        def polite() -> None:
            print("began", flush=True)
    """
    (cli.home / "app.py").write_text(textwrap.dedent(program))
    cli.push("polite")
    with cli.running("app:tq") as (process, lines):
        wait_for(lines, "began")
        process.send_signal(signal.SIGTERM)
        assert process.wait(within(40)) == 0


def test_a_second_signal_does_not_wait(cli: Cli) -> None:
    (cli.home / "app.py").write_text(STUBBORN)
    cli.push("polite")
    with cli.running("app:tq") as (process, lines):
        wait_for(lines, "began")
        process.send_signal(signal.SIGINT)
        wait_for(lines, "stopping: waiting up to 25 s for running tasks (1): polite ")
        time.sleep(0.6)  # sooner it would be an echo of the first
        process.send_signal(signal.SIGINT)
        assert process.wait(within(40)) == 3
    assert "second signal: cancelling running tasks (1), which have 5 s to end: polite " in "".join(lines)


EXITS = """
import asyncio, sys
from aiotaskq import TaskQ

tq = TaskQ("sqlite:///app.db", poll_interval=0.05)

async def leave():
    sys.exit(0)

@tq.task(max_retries=0)
async def group():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(leave())

@tq.task
async def orphan():
    orphan.left = asyncio.create_task(leave())

@tq.task
async def timer():
    asyncio.get_running_loop().call_soon(sys.exit, 0)
    await asyncio.sleep(0.01)

@tq.task(priority=1)
async def good():
    print("good", flush=True)
"""


def test_a_sys_exit_in_a_task_or_timer_of_a_handler_does_not_end_the_worker(cli: Cli) -> None:
    (cli.home / "app.py").write_text(EXITS)
    ids = cli.push("group", "orphan", "timer", "good")
    with cli.running("app:tq", "--concurrency", "1") as (process, lines):
        wait_for(lines, f"completed good {ids[3]}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(within(40)) == 0
    told = "".join(lines)
    assert told.count("called sys.exit(); the worker goes on") == 3
    assert f"failed group {ids[0]}: SystemExit: 0" in told
    assert cli.json("stats", "--db", cli.url)["counts"] == {
        "pending": 0,
        "running": 0,
        "completed": 3,
        "failed": 1,
        "cancelled": 0,
        "expired": 0,
    }


ENDS = """
from aiotaskq import TaskQ

tq = TaskQ("sqlite:///app.db", poll_interval=0.05)

@tq.task
async def good() -> None: ...

@tq.task(backoff=0.01)
async def broken() -> None:
    raise ValueError("no")
"""


@pytest.mark.parametrize("level", ["INFO", "DEBUG", "WARNING"])
def test_run_logs_one_line_for_each_completed_retried_and_failed_task(cli: Cli, level: str) -> None:
    (cli.home / "app.py").write_text(ENDS)
    good, broken = cli.push("good", "broken", max_retries=1)
    with cli.running("app:tq", "--queues", "default, other", "--log-level", level) as (process, lines):
        wait_for(lines, "failed broken")
        process.send_signal(signal.SIGTERM)
        assert process.wait(within(40)) == 0
    assert any("; queues default, other;" in line for line in lines)

    def told(words: str) -> list[str]:
        return [line.partition(" - ")[2].rstrip() for line in lines if f"- {words}" in line]

    assert told("completed good") == ([] if level == "WARNING" else [f"completed good {good}"])
    (retried,) = told("retried broken")
    assert re.fullmatch(rf"retried broken {broken}: ValueError: no; attempt 1 of 2, next in [\d.e-]+ s", retried)
    assert told("failed broken") == [f"failed broken {broken}: ValueError: no"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("stats", "--json")])
def test_a_full_disk_under_the_output_is_an_error_of_one_line(cli: Cli, arguments: tuple[str, ...]) -> None:
    prepared(cli.home / "app.db")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "aiotaskq", *arguments]
        env = {**cli.env, "AIOTASKQ_DATABASE_URL": cli.url}
        done = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=within(30))
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")


@pytest.mark.parametrize("arguments", [("--version",), ("stats", "--json")])
def test_a_closed_standard_output_is_no_traceback(cli: Cli, arguments: tuple[str, ...]) -> None:
    prepared(cli.home / "app.db")
    env = {**cli.env, "AIOTASKQ_DATABASE_URL": cli.url, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "aiotaskq", *arguments]
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], env=env, capture_output=True, timeout=within(30)
    )
    assert (closed.returncode, closed.stderr) == (0, b"")
    reader, writer = os.pipe()
    os.close(reader)
    broken = subprocess.run(command, env=env, stdout=writer, stderr=subprocess.PIPE, timeout=within(30))
    os.close(writer)
    assert (broken.returncode, broken.stderr) == (1, b"")


def test_an_os_error_of_the_application_has_its_traceback(cli: Cli) -> None:
    (cli.home / "broken.py").write_text(
        textwrap.dedent(
            f"""
            from aiotaskq import TaskQ

            tq = TaskQ({cli.url!r})

            @tq.resource
            async def model() -> int:
                raise OSError(5, "Input/output error", "model.bin")
            """
        )
    )
    code, _, err = cli.process("run", "broken:tq")
    assert code == 1
    assert "model.bin" in err and "standard output" not in err


def test_wrong_targets_of_run(cli: Cli) -> None:
    def fails(*args: str) -> str:
        code, out, err = cli.process(*args)  # which imports, and sets up the log
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    (cli.home / "app.py").write_text("from aiotaskq import TaskQ\nqueue = TaskQ('memory://')\nnumber = 1\n")
    (cli.home / "faulty.py").write_text("1 / 0\n")
    (cli.home / "needy.py").write_text("import nobody_has_this\n")
    assert "there is no module 'ap'" in fails("run", "ap:tq")
    assert "'app' has no 'tq'; there is app:queue" in fails("run", "app:tq")
    assert "app:number is not a TaskQ (int)" in fails("run", "app:number")
    code, _, err = cli.process("run", "faulty:tq")
    assert code == 1 and "faulty.py" in err and "importlib" not in err
    assert err.splitlines()[-1].startswith("error: importing 'faulty' failed")
    assert cli.process("run", "needy:tq")[2].splitlines()[-1].endswith("No module named 'nobody_has_this'")

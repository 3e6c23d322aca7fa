"""Screens at 80 and 120 columns in both languages: no line is wider than the terminal."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator

import pytest

from aiotaskq.cli.i18n import width
from aiotaskq.concurrency.clock import SystemClock
from tests.cli.screen_rows import ERRORS, TYPES, make, tasks
from tests.support import nursery
from tests.support.command import Cli, Terminal, prepared

SCREENS = [
    ("tasks", "list"),
    ("tasks", "list", "--params"),
    ("tasks", "list", "--status", "running"),
    ("tasks", "list", "--status", "failed", "--limit", "100"),
    ("tasks", "list", "--type", "mail", "--queue", "default"),
    ("schedules", "list"),
    ("schedules", "list", "--params", "--utc"),
    ("workers", "list"),
    ("queues", "list"),
    ("stats",),
    ("docs",),
]


@pytest.fixture
def now(cli: Cli) -> int:
    at = SystemClock().now()
    prepared(cli.home / "app.db")
    make(cli.url, at)
    cli.monkeypatch.setenv("AIOTASKQ_DATABASE_URL", cli.url)
    return at


@pytest.fixture
def shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("language", ["C", "zh_CN.UTF-8"])
@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_wider_than_the_terminal(cli: Cli, now: int, columns: int, language: str) -> None:
    cli.monkeypatch.setenv("COLUMNS", str(columns))
    cli.monkeypatch.setenv("LANG", language)
    for command in SCREENS:
        lines = cli.out(*command).splitlines()
        assert max(map(width, lines)) <= columns, command
        if command[:2] == ("tasks", "list") and "--type" not in command:
            assert max(map(width, lines)) > columns - 25, "there is room for another column, or for more of one"


def test_what_fits_at_each_width(cli: Cli, now: int) -> None:
    def headers(columns: int, *filters: str) -> list[str]:
        cli.monkeypatch.setenv("COLUMNS", str(columns))
        return cli.out("tasks", "list", *filters).splitlines()[0].split()

    assert headers(80) == ["TASK_ID", "TYPE", "STATUS", "DUE", "ERROR"]
    assert headers(120) == ["TASK_ID", "TYPE", "STATUS", "DUE", "QUEUE", "ERROR"]
    assert headers(80, "--status", "pending") == ["TASK_ID", "TYPE", "STATUS", "AGE", "DUE"]
    every = ["TASK_ID", "TYPE", "STATUS", "ATTEMPT", "AGE", "DUE", "RUN", "PROGRESS", "QUEUE", "WORKER", "ERROR"]
    assert headers(400) == every
    assert headers(120, "--status", "running") == [name for name in every if name not in ("DUE", "WORKER", "ERROR")]
    cli.monkeypatch.delenv("COLUMNS")
    whole = cli.out("tasks", "list", "--limit", "40")  # a pipe: everything is there, to be searched
    for task in tasks(now):
        assert task.task_id in whole
    assert TYPES[1] in whole and ERRORS[0].splitlines()[0] in whole


def test_every_id_on_the_screen_names_its_task(cli: Cli, now: int) -> None:
    cli.monkeypatch.setenv("COLUMNS", "80")
    listed = [line.split()[0] for line in cli.out("tasks", "list", "--limit", "40").splitlines()[1:]]
    assert len(listed) == 40 and min(map(len, listed)) == 8
    given = {task.task_id for task in tasks(now)}
    for shown in listed[:12]:
        assert cli.json("tasks", "get", shown)["task_id"].startswith(shown)
    assert all(sum(task_id.startswith(shown) for task_id in given) == 1 for shown in listed)
    # Tasks that the filter leaves out count as well.
    for shown in [line.split()[0] for line in cli.out("tasks", "list", "--type", "mail").splitlines()[1:]]:
        assert sum(task_id.startswith(shown) for task_id in given) == 1


def test_times_are_local_or_utc(cli: Cli, now: int, shanghai: None) -> None:
    local = cli.out("tasks", "list", "--limit", "1").splitlines()[1].split()[0]
    shown = cli.out("tasks", "get", local)
    assert re.search(r"created_at +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+08:00\n", shown)
    assert re.search(r"created_at +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\n", cli.out("tasks", "get", local, "--utc"))
    shown = cli.out("schedules", "get", "cleanup")
    assert re.search(r"next_run_at +\S+ \S+\+08:00\n", shown)
    (here,) = re.findall(r"once +once +(\S+ \S+) ", cli.out("schedules", "list").replace("ocr ", "once "))
    (there,) = re.findall(r"once +once +(\S+ \S+)Z ", cli.out("schedules", "list", "--utc").replace("ocr ", "once "))
    assert here != there and here[14:] == there[14:]


def test_colours_by_status_on_a_terminal(cli: Cli, now: int) -> None:
    def drawn(**env: str) -> str:
        screen = Terminal(cli, "tasks", "list", "--db", cli.url, "--limit", "6", COLUMNS="80", **env)
        try:
            assert screen.end() == 0
        finally:
            screen.close()
        return screen.drawn

    colours = drawn()
    for word in ("\x1b[36mrunning\x1b[0m", "\x1b[32mcompleted\x1b[0m", "\x1b[1;31mfailed\x1b[0m"):
        assert word in colours
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in colours.splitlines()]
    assert max(map(width, lines)) <= 80 and len(lines) == 8
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", drawn(NO_COLOR="1"))
    assert "\x1b" not in cli.process("tasks", "list", "--db", cli.url)[1]


HELP_PAGES = """
import json
from typer.main import get_command
from aiotaskq.cli.commands import app_for

def pages(command, name, parent=None):
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield context.command_path, command.get_help(context)
    for name, each in getattr(command, "commands", {}).items():
        yield from pages(each, name, context)

print(json.dumps(dict(pages(get_command(app_for(None)), "aiotaskq"))))
"""


@pytest.mark.parametrize("language", ["C.UTF-8", "zh_CN.UTF-8"])
def test_no_text_of_a_help_page_is_cut(cli: Cli, language: str) -> None:
    env = {**cli.env, "COLUMNS": "80", "LANG": language}  # texts are in the language of the process that imports them
    pages = json.loads(nursery.run([sys.executable, "-c", HELP_PAGES], env=env, capture_output=True, check=True).stdout)
    assert len(pages) > 60
    for name, page in pages.items():
        usage, *texts = page.splitlines()
        assert name in usage
        assert [line for line in texts if line.endswith(("...", "…")) or width(line) > 80] == [], name

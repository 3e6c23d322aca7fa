"""The command line on a terminal: progress, questions, Ctrl-C, NO_COLOR, and the terminal is restored."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from tests.support import nursery
from tests.support.command import Cli, Terminal, prepared
from tests.support.machine import within

CURSOR_OFF, CURSOR_ON = "\x1b[?25l", "\x1b[?25h"
COLOUR = re.compile(r"\x1b\[(?!1m|0m)[0-9;]+m")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = Cli(tmp_path, monkeypatch, capsys)
    prepared(tmp_path / "app.db")
    return made


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for each in opened:
        each.close()


def test_stats_watch_redraws_until_ctrl_c(cli: Cli, terminals: list[Terminal]) -> None:
    cli.push("a")
    screen = Terminal(cli, "stats", "--watch", "--db", cli.url)
    terminals.append(screen)
    screen.wait_for("1 ready to run")
    assert CURSOR_OFF in screen.drawn
    cli.push("b", "c")
    screen.wait_for("3 ready to run")
    screen.wait_for("0 ended per second")
    screen.press_ctrl_c()
    assert screen.end() == 130
    assert screen.drawn.rindex(CURSOR_ON) > screen.drawn.rindex(CURSOR_OFF)
    assert "Traceback" not in screen.drawn


def test_stats_watch_ends_by_count(cli: Cli, terminals: list[Terminal]) -> None:
    screen = Terminal(cli, "stats", "--watch", "--count", "2", "--db", cli.url, LANG="zh_CN.UTF-8")
    terminals.append(screen)
    assert screen.end() == 0
    assert "每秒结束 0 个" in screen.drawn and screen.drawn.rindex(CURSOR_ON) > screen.drawn.rindex(CURSOR_OFF)


def test_stats_watch_into_a_pipe_is_plain(cli: Cli) -> None:
    cli.push("a")
    code, out, _ = cli.process("stats", "--watch", "--count", "2", "--db", cli.url)
    assert code == 0 and out.count("1 ready to run") == 2 and "\x1b" not in out
    code, out, _ = cli.process("stats", "--watch", "--count", "2", "--json", "--db", cli.url)
    assert code == 0 and [json.loads(line)["ready"] for line in out.splitlines()] == [1, 1]


def test_the_demo_on_a_terminal(cli: Cli, terminals: list[Terminal]) -> None:
    files = cli.home / "files"
    files.mkdir()
    for number in range(30):
        (files / f"{number}.txt").write_text("x" * number)
    screen = Terminal(cli, "demo", str(files), "--db", f"sqlite:///{cli.home}/demo.db")
    terminals.append(screen)
    assert screen.end(60) == 0, screen.drawn
    assert "aiotaskq demo: 30 files" in screen.drawn and "✓" in screen.drawn and "Try next" in screen.drawn
    assert COLOUR.search(screen.drawn) and screen.drawn.rindex(CURSOR_ON) > screen.drawn.rindex(CURSOR_OFF)


def test_purge_asks_and_shows_its_progress(cli: Cli, terminals: list[Terminal]) -> None:
    rows = [Task(task_id=f"t-{n}", type="t", seq=n, status=Status.FAILED, completed_at=9) for n in range(2_500)]
    cli.store(*rows)
    screen = Terminal(cli, "tasks", "delete", "--status", "failed", "--db", cli.url)
    terminals.append(screen)
    screen.wait_for("Tasks to delete: 2,500. Continue? [y/N]:")
    screen.type("n\n")
    assert screen.end() == 1 and "nothing was done" in screen.drawn
    screen = Terminal(cli, "tasks", "delete", "--status", "failed", "--db", cli.url)
    terminals.append(screen)
    screen.wait_for("[y/N]:")
    screen.type("y\n")
    assert screen.end() == 0 and "tasks deleted: 2,500" in screen.drawn
    assert "/2500" in screen.drawn and COLOUR.search(screen.drawn)


def test_no_color(cli: Cli, terminals: list[Terminal]) -> None:
    cli.store(*[Task(task_id=f"t-{n}", type="t", seq=n, status=Status.FAILED, completed_at=9) for n in range(1_500)])
    screen = Terminal(cli, "tasks", "retry", "--status", "failed", "--yes", "--db", cli.url, NO_COLOR="1")
    terminals.append(screen)
    assert screen.end() == 0 and "tasks retried: 1,500" in screen.drawn
    assert "/1500" in screen.drawn and not COLOUR.search(screen.drawn)


def test_the_last_column_ends_where_the_terminal_does(cli: Cli, terminals: list[Terminal]) -> None:
    error = "ValueError: " + "长" * 100
    cli.store(Task(task_id="t-1", type="t", status=Status.FAILED, completed_at=9, error_message=error))
    screen = Terminal(cli, "tasks", "list", "--db", cli.url)
    terminals.append(screen)
    assert screen.end() == 0
    (line,) = [line for line in screen.drawn.splitlines() if line.startswith("t-1")]
    assert line.rstrip().endswith("…") and error[:20] in line
    assert error in cli.out("tasks", "list", "--db", cli.url)  # a pipe gets all of it


def test_a_closed_pipe_ends_the_command_quietly(cli: Cli) -> None:
    cli.store(*[Task(task_id=f"t-{n}", type="t" * 90, seq=n) for n in range(3_000)])
    command = [sys.executable, "-m", "aiotaskq", "tasks", "list", "--limit", "3000", "--db", cli.url]
    process = nursery.Popen(command, cwd=cli.home, env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        assert process.stdout.readline().startswith(b"TASK_ID")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(within(20)) == 1

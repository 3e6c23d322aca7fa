"""The examples run as they are: each is written by the command line into an empty folder, and started there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiotaskq.cli.init import EXAMPLES, examples, summaries
from tests.support import nursery
from tests.support.command import Cli
from tests.support.machine import within
from tests.support.programs import ROOT

PRINTED = {
    "legacy": "downloaded 0, 1, 2, scheduled\n",
    "llm": "You said: how far is the moon\nYou said: how far is the moon\ncancelled\n",
}
HELLO = {
    "age": "the report has run before the last order: True\n",
    "app": "Hello, world!\n",
    "blocking": "the event loop was free\n499500\n",
    "chain": "['BOOK', 'saved BOOK']\n",
    "cron": "['tick', 'report']\n",
    "dead_letter": "IndexError: list index out of range\nfetched by the second server\n",
    "delay": "first: the smaller number\nsecond\na second later\n",
    "event": "approved by Ann\n",
    "group": "sum: 4500\n",
    "hook": "greet: Hello!\n",
    "limit": "ann alone: True\nbob alone: True\nann alone: True\n",
    "rate": "spread: True\n",
    "resource": "sent to ann\n",
    "retry": "fetched after 2 failures\n",
    "retry_after": "1 failed Retry: 429 Too Many Requests\n2 completed None\n",
    "steps": "charged 17\npayment 17 mailed\n",
    "after": "published cats.mp4\n",
    "subscribe": "mail to Ann\nship order.placed:17\n",
    "tags": "bill 18 {'team': 'shop', 'order': '18'}\n2\n",
    "unique": "True False True\nbill of ann\n",
    "workflow": "[['DUNE', 'EMMA'], 'saved DUNE and EMMA']\n",
    "stream": "data how\ndata far\ndata is\ndata the\ndata moon\nend completed\n",
}
TESTED = {"aiohttp", "fastapi", "hello", "money_transfer", "widget_store"}
"""Those that have tests of their own."""
LINES = {"money_transfer": 157, "widget_store": 116}
"""Of the tutorials that two of them rebuild, lines of code: Temporal's without its bank, and the main module of DBOS
without its tables and its page."""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIOTASKQ_", "COV", "PYTEST"))}
    return nursery.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=within(60),
    )


def test_each_example_is_run_here() -> None:
    assert sorted([*PRINTED, *TESTED]) == examples()


@pytest.mark.parametrize("name", PRINTED)
def test_a_script_does_what_it_says(name: str, cli: Cli) -> None:
    cli.out("init", "here", "--example", name)
    ran = python(cli.home / "here", "app.py")
    assert (ran.returncode, ran.stdout) == (0, PRINTED[name]), ran.stderr


@pytest.mark.parametrize("name", HELLO)
def test_each_first_program_is_short_and_does_what_it_says(name: str) -> None:
    path = EXAMPLES / "hello" / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30
    ran = python(EXAMPLES / "hello", path.name)
    assert (ran.returncode, ran.stdout) == (0, HELLO[name]), ran.stderr


def test_each_first_program_is_run_here() -> None:
    assert sorted([*HELLO, "test_virtual"]) == sorted(path.stem for path in (EXAMPLES / "hello").glob("*.py"))


@pytest.mark.parametrize("name", sorted(TESTED))
def test_the_tests_of_a_web_application_pass(name: str, cli: Cli) -> None:
    cli.out("init", "here", "--example", name)
    ran = python(cli.home / "here", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout and "failed" not in ran.stdout


@pytest.mark.parametrize("name", LINES)
def test_a_rebuilt_tutorial_takes_no_more_lines_than_the_tutorial(name: str) -> None:
    text = (EXAMPLES / name / "app.py").read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose: set[int] = set()
    for each in ast.walk(ast.parse(text)):
        if isinstance(each, documented) and ast.get_docstring(each) is not None:
            prose.update(range(each.body[0].lineno, (each.body[0].end_lineno or 0) + 1))
    lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in prose]
    assert 10 < sum(bool(line) and not line.startswith("#") for line in lines) <= LINES[name]


def test_examples_are_listed_and_unknown_ones_refused(cli: Cli) -> None:
    lines = cli.out("init", "--list").splitlines()
    assert sorted(line.split()[0] for line in lines[1:]) == examples() == sorted(summaries())
    assert "there is no example 'flask'; use aiohttp, fastapi, hello" in cli.fails("init", "--example", "flask", code=2)
    cli.monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert sorted(summaries()) == examples() and "旧系统的脚本" in cli.out("init", "--list")


def test_no_file_is_overwritten_and_none_is_written_then(cli: Cli) -> None:
    (cli.home / "test_app.py").write_text("mine")
    assert "test_app.py exists already; nothing was written" in cli.fails("init", "--example", "fastapi")
    assert [path.name for path in cli.home.iterdir()] == ["test_app.py"]
    assert (cli.home / "test_app.py").read_text() == "mine"


def test_the_files_are_those_of_the_package(cli: Cli) -> None:
    cli.out("init", "here", "--example", "llm")
    assert (cli.home / "here" / "app.py").read_text() == (EXAMPLES / "llm" / "app.py").read_text()

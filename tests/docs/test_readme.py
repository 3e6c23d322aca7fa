"""The README and the manual: every Python block runs as it stands, and every command is one of the command line."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from aiotaskq.cli.commands import app_for
from tests.support.machine import within
from tests.support.programs import ROOT
from tests.support.promises import Proofs, table

PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "aiotaskq" / "docs").glob("*.md"))]
}
README = PAGES["README.md"]
BLOCKS = {name: re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL) for name, text in PAGES.items()}
PYTHON = [
    pytest.param(name, code, id=f"{name}-{number}")
    for name, blocks in BLOCKS.items()
    for number, (language, code) in enumerate(blocks)
    if language == "python"
]


def test_the_first_two_shell_blocks_are_the_two_commands() -> None:
    shell = [code.strip() for language, code in BLOCKS["README.md"] if language in ("bash", "sh", "shell", "console")]
    assert shell[:2] == [
        "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/aiotaskq demo",
        "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox",
    ]


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_python_blocks_run(page: str, code: str, tmp_path: Path) -> None:
    program = tmp_path / "block.py"
    program.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=within(50),
    )
    assert (done.returncode, done.stderr) == (0, "")
    if "Hello" in code:
        assert f"```text\n{done.stdout}```" in PAGES[page]
        assert len([line for line in code.splitlines() if line.strip()]) <= 12


# A bare verb names a command, it does not call it; what has placeholders cannot be typed either.
COMMANDS = [
    line
    for text in PAGES.values()
    for line in re.findall(r"`aiotaskq ([^`\s]+ [^`\n]+)`", text)
    if not re.search(r"[|…]| N\b", line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_called_as_they_want_to_be(line: str) -> None:
    command: Any = typer.main.get_command(app_for(None))
    words, context = shlex.split(line), None
    while True:
        context = command.make_context(line, words, parent=context)  # raises for what it does not take
        if not hasattr(command, "resolve_command"):
            return
        _, command, words = command.resolve_command(context, context._protected_args + context.args)


def test_the_index_name_is_never_recommended() -> None:
    assert not [name for name, text in PAGES.items() if "pip install aiotaskq" in text]


def test_each_promise_has_a_test_in_the_contract_suite() -> None:
    """That it passes on every backend whose cell promises something is checked at the end of the run."""
    contract = ROOT / "tests" / "contract"
    marked = {
        name for file in contract.glob("test_*.py") for name in re.findall(r'promise\("(.+?)"\)', file.read_text())
    }
    rows = table()
    assert len(rows) >= 8
    assert marked == set(rows)


def test_a_promise_that_is_tried_and_not_proved_is_found() -> None:
    proofs = Proofs()
    assert proofs.missing() == []
    row = "survives kill -9 of the process"
    proofs.tried |= {(row, "memory"), (row, "sqlite"), (row, "redis")}
    proofs.proved.add((row, "redis"))
    assert proofs.missing() == [(row, "sqlite")]


@pytest.mark.parametrize("name", PAGES)
def test_links_between_the_pages_lead_somewhere(name: str) -> None:
    folder = ROOT if name == "README.md" else ROOT / "aiotaskq" / "docs"
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", PAGES[name])
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_readme_lists_every_page() -> None:
    assert [name for name in PAGES if name != "README.md" and f"(aiotaskq/docs/{name})" not in README] == []

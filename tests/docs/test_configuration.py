"""The page of the settings has every one, with its default."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import typer

from aiotaskq import TaskQ
from aiotaskq.cli.commands import app_for
from tests.support.programs import ROOT

DOCS = ROOT / "aiotaskq" / "docs"
PAGES = [DOCS / "configuration.md", DOCS / "zh" / "configuration.md"]
INTERNAL = {"AIOTASKQ_DEMO_LEDGER"}
"""Set by one process of the package for another one."""


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the table of a section by their first cells."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [re.split(r" \| ", line.strip("| ")) for line in re.findall(r"^\| `.*$", section, re.MULTILINE)]
    return {first.strip("`"): rest for first, *rest in cells}


def defaults(function: Callable[..., Any]) -> dict[str, str]:
    """Return the arguments of a function and the text of their defaults, durations in seconds."""
    made = {}
    for name, each in inspect.signature(function).parameters.items():
        if name != "self":
            value = each.default.total_seconds() if isinstance(each.default, timedelta) else each.default
            made[name] = repr(int(value) if isinstance(value, float) and value.is_integer() else value)
    return made


@pytest.mark.parametrize("path", PAGES, ids=["en", "zh"])
@pytest.mark.parametrize("function", [TaskQ.__init__, TaskQ.running], ids=["TaskQ", "running"])
def test_every_argument_is_there_with_its_default(path: Any, function: Callable[..., Any]) -> None:
    heading = "`TaskQ(…)`" if function is TaskQ.__init__ else "`tq.running(…)`"
    table = rows(path.read_text(encoding="utf-8"), heading)
    assert {name: cells[1].strip("`") for name, cells in table.items()} == defaults(function)


def options(command: Any) -> Iterator[Any]:
    """Yield the options of a command and of those below it."""
    yield from command.params
    for each in getattr(command, "commands", {}).values():
        yield from options(each)


@pytest.mark.parametrize("path", PAGES, ids=["en", "zh"])
def test_every_variable_is_there_with_its_default(path: Any) -> None:
    sources = [each.read_text(encoding="utf-8") for each in (ROOT / "aiotaskq").rglob("*.py")]
    given = {each.envvar: each.default for each in options(typer.main.get_command(app_for(None))) if each.envvar}
    written = {name for source in sources for name in re.findall(r'"(AIOTASKQ_[A-Z_]+)"', source)}
    named = (written | given.keys()) - INTERNAL
    heading = "Environment variables" if path is PAGES[0] else "环境变量"
    table = rows(path.read_text(encoding="utf-8"), heading)
    assert set(table) == named and len(named) > 10
    wrong = {
        name: default
        for name, default in given.items()
        if table[name][0].strip("`") != str(default) and default is not None
    }
    assert wrong == {} and given["AIOTASKQ_PROCESSES"] == 1

"""The architecture note that the wheel ships: what it names exists, and its tables are complete."""

from __future__ import annotations

import ast
import re

from aiotaskq.cli.commands import COMMANDS, GROUPS
from tests.architecture.test_layers import LAYERS, PACKAGE

NOTE = (PACKAGE / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return NOTE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_layers_are_those_of_the_table_in_the_tests() -> None:
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", section("Layers"), re.MULTILINE)
    named = {
        name.removesuffix(".py").strip("/"): int(number)
        for number, cell in rows
        for name in re.findall(r"`([\w/.]+)`", cell)
    }
    assert named == {name or "__init__": layer for name, layer in LAYERS.items()}


def test_every_file_and_folder_that_it_names_exists() -> None:
    inside = re.findall(r"`((?:[A-Za-z_]+/)+(?:[a-z_]+\.(?:py|lua|po|md))?|[a-z_]+\.py)`", NOTE)
    assert len(inside) > 40
    worker = PACKAGE / "runtime" / "worker"
    missing = [path for path in inside if not any((root / path).exists() for root in (PACKAGE, worker, PACKAGE.parent))]
    assert missing == []


def test_every_file_of_the_worker_is_explained() -> None:
    explained = set(re.findall(r"`(\w+\.py)`", section("The worker")))
    assert explained == {path.name for path in (PACKAGE / "runtime" / "worker").glob("*.py")} - {"__init__.py"}


def test_every_file_of_the_command_line_that_is_no_command_is_explained() -> None:
    folder = PACKAGE / "cli"
    note = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    shared = {path.stem for path in folder.glob("*.py")} - {"__init__", *COMMANDS, *GROUPS}
    assert set(re.findall(r"``(\w+)``", note.partition("The other files:")[2])) - {"run"} == shared

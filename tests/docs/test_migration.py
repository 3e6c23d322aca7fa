"""Each row of the tables for users of other libraries does what it says, in both languages of the page."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.migration import handling, pushing, scheduling, working  # noqa: F401 - they register programs
from tests.docs.migration.rows import ROWS, Program, run
from tests.support.command import Cli
from tests.support.programs import ROOT

PLACEHOLDERS = {"aiotaskq", "app", "Result", "text", "url", "GET"}


class Row(NamedTuple):
    """The spans of code in a row of a table: what a library calls it, and what it is here."""

    library: str
    theirs: tuple[str, ...]
    ours: tuple[str, ...]


def rows(page: str) -> list[Row]:
    text = (ROOT / "aiotaskq" / "docs" / page).read_text(encoding="utf-8")
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *lines = [re.split(r"(?<!\\)\|", line)[1:3] for line in table.splitlines()]
        spans = [[re.findall(r"`(.+?)`", cell.replace("\\|", "|")) for cell in line] for line in lines]
        found += [Row(head[0].strip(), tuple(theirs), tuple(ours)) for theirs, ours in spans]
    return found


TABLES = rows("migration.md")
PROGRAMS = list(dict.fromkeys(ROWS.values()))


def test_each_row_has_a_program_and_both_languages_have_the_same_rows() -> None:
    assert rows("zh/migration.md") == TABLES
    assert sorted((row.library, row.theirs[0]) for row in TABLES) == sorted(ROWS)


@pytest.mark.parametrize("row", TABLES, ids=lambda row: f"{row.library}: {row.theirs[0]}")
def test_the_program_of_a_row_uses_the_words_that_the_row_has(row: Row) -> None:
    source = inspect.getsource(ROWS[row.library, row.theirs[0]])
    program = source[source.index("def ") :]  # without the words of the other library
    words = {word for span in row.ours for word in re.findall(r"[A-Za-z_]\w{2,}", span)} - PLACEHOLDERS
    assert [word for word in sorted(words) if not re.search(rf"\b{word}\b", program)] == []


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_works(program: Program, tmp_path: Path, cli: Cli) -> None:
    run(program, cli, tmp_path)

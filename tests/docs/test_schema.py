"""The page of the tables names each one, and columns that exist."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from aiotaskq import TaskQ
from aiotaskq.core.coded import COLUMNS
from tests.support.programs import ROOT

PAGE = (ROOT / "aiotaskq" / "docs" / "schema.md").read_text(encoding="utf-8")
LATER = {"aiotaskq_clock"}
"""Made by the first worker."""


async def test_every_table_is_named_and_every_column_exists(tmp_path: Path) -> None:
    async with TaskQ(f"sqlite:///{tmp_path}/app.db"):
        pass
    database = sqlite3.connect(tmp_path / "app.db")
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    columns = {row[1] for row in database.execute("PRAGMA table_info(task_queue)")}
    database.close()
    first, _, second = PAGE.partition("## Columns of a task")
    cells = [
        [cell for row in re.findall(r"^\| (`.*?) \|", part, re.MULTILINE) for cell in row.split(", ")]
        for part in (first, second)
    ]
    named_tables, named_columns = ({name.strip("`") for name in each} for each in cells)
    assert named_tables - LATER == {name for name in tables - LATER if not name.startswith("sqlite_")}
    assert named_columns <= columns and len(named_columns) > 20


def test_the_columns_that_a_codec_encodes_are_named() -> None:
    (row,) = [line for line in PAGE.splitlines() if "encoded where there is a [codec]" in line]
    assert set(re.findall(r"`(\w+)`", row.split("|")[1])) == set(COLUMNS)

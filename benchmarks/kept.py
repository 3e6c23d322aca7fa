"""Results that are kept beside the benchmarks, and the tables of the manual that show them, in both languages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path("benchmarks", "results")
PAGES = (Path("aiotaskq", "docs", "benchmarks.md"), Path("aiotaskq", "docs", "zh", "benchmarks.md"))


def read(name: str, root: Path = ROOT) -> Any:
    """Return a kept result, None if there is none."""
    path = root / RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(folder: Path, name: str, result: Any) -> None:
    """Write a result into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def show(tables: Mapping[str, Sequence[str]], root: Path = ROOT) -> None:
    """Write the rows of these tables, by their marks, into the pages. Raises ValueError if one has no such table."""
    for path in (root / page for page in PAGES):
        text = path.read_text(encoding="utf-8")
        for mark, rows in tables.items():
            text = with_rows(text, mark, rows)
        path.write_text(text, encoding="utf-8")


def with_rows(text: str, mark: str, rows: Sequence[str]) -> str:
    """Return a page with these rows in the table that follows ``<!-- mark -->``. Raises ValueError without it."""
    lines = text.split("\n")
    try:
        begin = lines.index(f"<!-- {mark} -->") + 3  # the mark, the head, the line below it
    except ValueError:
        raise ValueError(f"no line <!-- {mark} --> is in the page; write it above the table") from None
    end = begin
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    return "\n".join([*lines[:begin], *rows, *lines[end:]])

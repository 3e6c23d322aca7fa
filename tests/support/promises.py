"""The table of promises in the manual, and whether the contract suite has proved each cell of it."""

from __future__ import annotations

from pathlib import Path

GUARANTEES = Path(__file__).parent.parent.parent / "aiotaskq" / "docs" / "guarantees.md"
NOTHING = ("no", "no server", "no leases")  # cells that promise nothing


def table() -> dict[str, dict[str, str]]:
    """Return the cells by row and backend."""
    lines = iter(GUARANTEES.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.startswith("| | memory | SQLite |"):
            break
    columns = [cell.replace(",", " ").split()[0].lower() for cell in line.strip("|").split("|")[1:]]
    next(lines)
    rows = {}
    for line in lines:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = dict(zip(columns, cells, strict=True))
    return rows


class Proofs:
    """What a run of the tests was to prove, and what it has proved: pairs of row and backend."""

    def __init__(self) -> None:
        self.tried: set[tuple[str, str]] = set()
        self.proved: set[tuple[str, str]] = set()

    def missing(self) -> list[tuple[str, str]]:
        """Return the cells that promise something for which a test was there, and none passed."""
        promised = {
            (row, backend) for row, cells in table().items() for backend in cells if cells[backend] not in NOTHING
        }
        return sorted((self.tried & promised) - self.proved)

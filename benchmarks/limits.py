"""Keeps what limits cost: ``python -m benchmarks.limits REPORT.json``, of a run with ``--only '*/gates'``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import kept
from benchmarks.case import AIOTASKQ
from benchmarks.published import NAMES, rough
from benchmarks.queues import PLACES

NAME = "limits"
STORES = ("memory", *PLACES)
FIGURES = ("none", "none, 40 at a time", "hot", "1,000 gates")


def of_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a report. Raises ValueError where its figures are rough, or some are missing."""
    if found := rough(report):
        raise ValueError(f"the report is not kept: {'; '.join(found)}")
    figures = {
        each["family"]: {name: each["figures"][name]["median"] for name in FIGURES}
        for each in report["measurements"]
        if each["scenario"] == "gates" and each["who"] == AIOTASKQ
    }
    if missing := set(STORES) - figures.keys():
        raise ValueError(f"the report has no figures of {', '.join(sorted(missing))}; run --only '*/gates'")
    return {"machine": report["machine"], "rounds": report["settings"]["rounds"], "tasks_per_second": figures}


def rows(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of the manual's table."""
    found = []
    for family in STORES:
        none, by_40, hot, many = (result["tasks_per_second"][family][name] for name in FIGURES)
        cells = (NAMES[family], f"{none:,.0f}", f"{hot / none:.2f}", f"{hot / by_40:.2f}", f"{many / none:.2f}")
        found.append(f"| {' | '.join(cells)} |")
    return found


def main(arguments: Sequence[str], *, said: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.limits", description="Keep what limits cost.")
    parser.add_argument("report", type=Path, metavar="REPORT.json")
    options = parser.parse_args(arguments)
    result = of_report(json.loads(options.report.read_text(encoding="utf-8")))
    kept.write(kept.ROOT / kept.RESULTS, NAME, result)
    kept.show({"what limits cost": rows(result)})
    said("\n".join(rows(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What was measured, as data: the JSON of a run, the medians by name, and what changed since another run."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.case import AIOTASKQ, FAMILIES, NOTES, is_peer, quantile
from benchmarks.runner import Measured, Settings
from benchmarks.targets import judge

FORMAT = 1
BUSY = 0.5  # load before the run, as a part of the cores, above which its figures are doubtful
LOOK = 0.1  # scale below which a run is too short for its figures to be relied on
SHARES = [number / 100 for number in range(100)] + [0.995, 0.999]  # of which a percentile plot is drawn

Report = dict[str, Any]


def make(
    machine: dict[str, Any], settings: Settings, measured: Iterable[Measured], absent: Iterable[str], stopped: bool
) -> Report:
    """Return the report of a run, ready for JSON."""
    rows = [_row(each) for each in measured]
    report: Report = {
        "format": FORMAT,
        "machine": machine,
        "settings": {"seconds": settings.seconds, "rounds": settings.rounds, "scale": settings.scale},
        "stopped_early": stopped,
        "measurements": [row for row in rows if row["figures"]],
        "failed": [{"id": row["id"], "why": row["error"]} for row in rows if row["error"]],
        "repeated": [{"id": row["id"], "why": why} for row in rows for why in row["repeated"]],
        "absent": sorted(absent),
        "notes": {f"{family}/{who}": note for (family, who), note in sorted(NOTES.items())},
    }
    report["targets"] = [
        {
            "text": outcome.target.text,
            "wanted": _wanted(outcome.target.at_least, outcome.target.at_most, outcome.target.unit),
            "value": outcome.value,
            "unit": outcome.target.unit,
            "reached": outcome.reached,
            "why": outcome.why,
        }
        for outcome in judge(medians(report), less_is_better(report), settings.scale)
    ]
    return report


def report_servers(report: Report) -> str:
    """Return the servers that took part, with their versions, in one line."""
    return ", ".join(f"{name} {version}" for name, version in report["machine"].get("servers", {}).items()) or "none"


def _row(measured: Measured) -> dict[str, Any]:
    case = measured.case
    figures = {}
    for name, values in measured.rounds.items():
        unit = case.scenario.figures[name]
        figures[name] = {
            "unit": unit.name,
            "less_is_better": unit.less,
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "rounds": values,
        }
    waits = measured.waits
    return {
        "id": f"{case.scenario.id}/{case.label}",
        "family": case.scenario.family,
        "scenario": case.scenario.name,
        "title": case.scenario.title,
        "who": case.label,
        "n": measured.n,
        "took_s": round(measured.took, 2),
        "figures": figures,
        "percentiles_ms": [[share, float(f"{quantile(waits, share) * 1000:.6g}")] for share in SHARES]
        if len(waits) > 1
        else [],
        "error": measured.error,
        "repeated": measured.repeated,
    }


def _wanted(at_least: float | None, at_most: float | None, unit: str) -> str:
    sign, value = ("≥", at_least) if at_least is not None else ("≤", at_most)
    return f"{sign} {value:.3g} {unit}"


def medians(report: Report) -> dict[str, float]:
    """Return the medians by ``family/scenario/contestant:figure``."""
    return {
        f"{row['id']}:{name}": figure["median"]
        for row in report["measurements"]
        for name, figure in row["figures"].items()
    }


def less_is_better(report: Report) -> set[str]:
    """Return the figures of which less is better, as ``family/scenario:figure``."""
    return {
        f"{row['family']}/{row['scenario']}:{name}"
        for row in report["measurements"]
        for name, figure in row["figures"].items()
        if figure["less_is_better"]
    }


@dataclass(frozen=True)
class Group:
    """One figure of one scenario, all contestants in it: a small table, or a plot."""

    scenario: str
    """``family/name``."""
    title: str
    figure: str
    unit: str
    less: bool
    rows: list[tuple[str, float, float, float]]
    """Contestant, median, min, max; the best first."""

    @property
    def family(self) -> str:
        """The family of the scenario."""
        return self.scenario.partition("/")[0]

    def against_aiotaskq(self, value: float) -> float | None:
        """Return how many times as good aiotaskq is."""
        own = next((median for who, median, _, _ in self.rows if who == AIOTASKQ), None)
        if not own or not value:
            return None
        return value / own if self.less else own / value

    def ahead(self) -> list[tuple[str, float]]:
        """Return the peers whose median is better than that of aiotaskq, with it; the best first."""
        own = next((median for who, median, _, _ in self.rows if who == AIOTASKQ), None)
        if own is None:
            return []

        def better(median: float) -> bool:
            if math.isnan(own):
                return not math.isnan(median)
            return median < own if self.less else median > own

        return [(who, median) for who, median, _, _ in self.rows if is_peer(who) and better(median)]


def groups(report: Report, family: str) -> Iterator[Group]:
    """Yield the groups of a family, in the order in which they were measured."""
    rows = [row for row in report["measurements"] if row["family"] == family]
    for scenario in dict.fromkeys(row["scenario"] for row in rows):
        there = [row for row in rows if row["scenario"] == scenario]
        for name in dict.fromkeys(name for row in there for name in row["figures"]):
            found = [(row["who"], row["figures"][name]) for row in there if name in row["figures"]]
            first = found[0][1]
            less = first["less_is_better"]
            values = [(who, figure["median"], figure["min"], figure["max"]) for who, figure in found]
            values.sort(key=lambda each: (math.isnan(each[1]), each[1] if less else -each[1]))
            title = there[0]["title"] if len(there[0]["figures"]) == 1 else f"{there[0]['title']}: {name}"
            yield Group(f"{family}/{scenario}", title, name, first["unit"], less, values)


def families(report: Report) -> list[str]:
    """Return the families that were measured, in the order of the report."""
    there = {row["family"] for row in report["measurements"]}
    return [family for family in FAMILIES if family in there]


def warnings(report: Report) -> Iterator[str]:
    """Yield what makes the figures of a report doubtful, each in whole sentences."""
    machine, settings = report["machine"], report["settings"]
    if report["stopped_early"]:
        yield "The run was stopped early: what follows is what was measured by then."
    if machine["load"] > BUSY * machine["cores"]:
        yield (
            f"The machine was busy: its load was {machine['load']:g} on {machine['cores']} cores before anything was "
            "measured. Figures of this run are rough."
        )
    if settings["scale"] != 1:
        look = ": a look, not a measurement" if settings["scale"] < LOOK else ""
        yield f"Sizes and times were {settings['scale']:g} of the full ones, which the titles name{look}."
    if repeated := sorted({each["id"] for each in report["repeated"]}):
        yield f"A run failed and was tried a second time: {', '.join(repeated)}."
    if machine["disk"] in ("tmpfs", "ramfs"):
        yield "The files were in memory: figures that are named durable were not durable."


def digest(report: Report, family: str) -> str:
    """Return what identifies the figures of a family, so that a plot can name the figures that it was drawn from."""
    shown = [[group.title, group.unit, group.rows] for group in groups(report, family)]
    return f"sha256:{hashlib.sha256(json.dumps(shown).encode()).hexdigest()}"


def short(value: float) -> str:
    """Return a figure with three digits that count."""
    if value != value:
        return "–"
    if abs(value) >= 100:
        digits = len(str(int(abs(value))))
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.3g}"


# ---- another run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One figure then and now. ``clear``: the rounds of the two runs do not overlap."""

    id: str
    unit: str
    before: float
    now: float
    better: bool
    clear: bool


def changes(old: Report, new: Report) -> list[Change]:
    """Compare what both runs measured; contestants of other names are left out."""
    before = {row["id"]: row for row in old["measurements"]}
    found = []
    for row in new["measurements"]:
        for name, figure in row["figures"].items():
            was = before.get(row["id"], {"figures": {}})["figures"].get(name)
            if was is None:
                continue
            better = (figure["median"] < was["median"]) == figure["less_is_better"]
            apart = figure["min"] > was["max"] or figure["max"] < was["min"]
            found.append(Change(f"{row['id']}:{name}", figure["unit"], was["median"], figure["median"], better, apart))
    return found


@dataclass(frozen=True)
class Ratio:
    """How many times as good one figure of aiotaskq is as that of another checkout, round by round."""

    id: str
    median: float
    least: float
    most: float


def ratios(report: Report) -> list[Ratio]:
    """Compare this checkout with the other one that took turns with it."""
    rows = {row["id"]: row for row in report["measurements"]}
    found = []
    for row in rows.values():
        here = rows.get(f"{row['family']}/{row['scenario']}/{AIOTASKQ}")
        if here is None or not row["who"].startswith(f"{AIOTASKQ} of "):
            continue
        for figure, theirs in row["figures"].items():
            own = here["figures"].get(figure, {"rounds": []})
            pairs = zip(own["rounds"], theirs["rounds"], strict=False)  # of a case that failed there are fewer
            times = [b / a if theirs["less_is_better"] else a / b for a, b in pairs if a and b]
            if times:
                label = f"{row['family']}/{row['scenario']}:{figure}"
                found.append(Ratio(label, statistics.median(times), min(times), max(times)))
    return found


def dumps(report: Report) -> str:
    """Return a report as JSON of one line for each measurement, so that a difference between two can be read."""
    parts = []
    for key, value in report.items():
        if isinstance(value, list) and value:
            lines = ",\n  ".join(json.dumps(each, ensure_ascii=False) for each in value)
            parts.append(f"{json.dumps(key)}: [\n  {lines}\n ]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def read(path: Path) -> Report:
    """Return the report of an earlier run. Raises ValueError when the file is none."""
    try:
        report: Report = json.loads(path.read_text(encoding="utf-8"))
        if report["format"] != FORMAT:
            raise ValueError(f"{path}: format {report['format']}, and this program reads {FORMAT}")
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a report of this program ({error})") from None
    return report

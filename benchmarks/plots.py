"""Plots of a report, as SVG text: a bar for each contestant, and lines over percentiles; the one file of matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.case import AIOTASKQ, FAMILIES, LIMIT
from benchmarks.report import Group, Report, digest, families, groups, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {AIOTASKQ: "#0b7285", LIMIT: "#ced4da"}
OTHER = "#adb5bd"
LINES = ["#d9480f", "#5f3dc4", "#2b8a3e", "#a61e4d", "#1864ab", "#e67700", "#495057"]
INK = "#343a40"
COLUMNS = 2
LONG = 50  # characters of a title that would be cut off


def draw(report: Report, folder: Path) -> dict[str, str]:
    """Draw every plot, write each as SVG and PNG into the folder, and return the SVGs by name.

    Raises ImportError where matplotlib is not installed.
    """
    _prepare()
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for family in families(report):
        for name, figure in (
            (f"{family}", _bars(list(groups(report, family)))),
            (f"{family}-percentiles", _percentiles(report, family)),
        ):
            if figure is not None:
                figure.savefig(folder / f"{name}.png", dpi=130)
                svg = _svg(figure, digest(report, family))
                (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
                made[name] = svg[svg.index("<svg") :]
    return made


def bars(report: Report, family: str) -> str:
    """Draw the bars of a family as an SVG file whose identifier is the digest of the figures that it shows.

    Raises ImportError where matplotlib is not installed.
    """
    _prepare()
    return _svg(_bars(list(groups(report, family))), digest(report, family))


def _prepare() -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {
        "svg.fonttype": "none",
        "svg.hashsalt": "aiotaskq",
        "font.family": "sans-serif",
        "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }


def _svg(figure: Figure, identifier: str) -> str:
    """Return a figure as the text of an SVG file, and close it."""
    import matplotlib.pyplot as plt

    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Identifier": identifier})
    plt.close(figure)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _bars(shown: list[Group]) -> Figure:
    """Small multiples: one panel for each figure, a bar for each contestant, a line from the least to the most."""
    import matplotlib.pyplot as plt

    count = (len(shown) + COLUMNS - 1) // COLUMNS
    lines = [max(len(group.rows) for group in shown[row * COLUMNS : (row + 1) * COLUMNS]) for row in range(count)]
    heights = [0.75 + 0.24 * each for each in lines]
    figure, panels = plt.subplots(
        count, COLUMNS, figsize=(10.5, sum(heights)), squeeze=False, height_ratios=heights, layout="constrained"
    )
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.set(h_pad=0.12, w_pad=0.1)
    for number, group in enumerate(shown):
        _panel(panels.flat[number], group, lines[number // COLUMNS])
    for panel in panels.flat[len(shown) :]:
        panel.set_visible(False)
    return figure


def _panel(panel: Axes, group: Group, lines: int) -> None:
    """Draw one panel with room for so many bars, so that all bars of a plot are equally thick."""
    names = [who for who, *_ in group.rows]
    values = [median for _, median, _, _ in group.rows]
    spread: Any = [
        [max(0.0, median - low) for _, median, low, _ in group.rows],
        [max(0.0, high - median) for _, median, _, high in group.rows],
    ]
    colours = [COLOURS.get(who, OTHER) for who in names]
    panel.barh(names, values, color=colours, height=0.72, xerr=spread, error_kw={"ecolor": INK, "elinewidth": 0.8})
    panel.set_ylim(lines - 0.5, -0.5)
    most = max(max((high for *_, high in group.rows), default=0.0), 1e-9)
    panel.set_xlim(0, most * 1.25)
    for number, (_, median, _, high) in enumerate(group.rows):
        panel.text(max(median, high) + most * 0.015, number, short(median), va="center", fontsize=8)
    title = f"{group.title}  ({group.unit})"
    panel.set_title(title, loc="left", fontsize=9.5 if len(title) < LONG else 8, fontweight="bold")
    panel.set_xticks([])
    for side in ("top", "right", "bottom", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(axis="y", length=0)
    for label in panel.get_yticklabels():
        if label.get_text() == AIOTASKQ:
            label.set_fontweight("bold")
            label.set_color(COLOURS[AIOTASKQ])


def _percentiles(report: Report, family: str) -> Figure | None:
    """One panel for each scenario that has waits: what share of them was shorter."""
    import matplotlib.pyplot as plt

    rows = [row for row in report["measurements"] if row["family"] == family and row["percentiles_ms"]]
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    if not scenarios:
        return None
    figure, panels = plt.subplots(
        1, len(scenarios), figsize=(10.5 if len(scenarios) > 1 else 7.5, 3.2), squeeze=False, layout="constrained"
    )
    for panel, scenario in zip(panels.flat, scenarios, strict=True):
        there = [row for row in rows if row["scenario"] == scenario]
        _lines(panel, there)
    return figure


def _lines(panel: Axes, rows: list[dict[str, Any]]) -> None:
    colours = iter(LINES * len(rows))
    for row in rows:
        # From the middle to the far end: 50 %, 90 %, 99 % and 99.9 % stand at the same distance from each other.
        points = [(1 / (1 - share), wait) for share, wait in row["percentiles_ms"] if share >= 0.5]
        style = {"color": COLOURS[AIOTASKQ], "linewidth": 2.2} if row["who"] == AIOTASKQ else {"color": next(colours)}
        if row["who"] == LIMIT:
            style = {"color": "#868e96", "linestyle": "--"}
        panel.plot(*zip(*points, strict=True), label=row["who"], **style)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks([2, 10, 100, 1000], ["50 %", "90 %", "99 %", "99.9 %"])
    panel.minorticks_off()
    panel.set_ylabel("ms")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_title(rows[0]["title"], loc="left", fontsize=9.5, fontweight="bold")
    panel.grid(axis="y", color="#e9ecef")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def title_of(name: str) -> str:
    """Return a description of a plot, for readers who cannot see it."""
    family, _, kind = name.partition("-")
    return f"{FAMILIES[family]}: {'waits by percentile' if kind else 'a bar for each contestant'}"

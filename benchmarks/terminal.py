"""What the terminal shows: the progress while it runs, the tables of a report afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from benchmarks.case import AIOTASKQ, FAMILIES, LIMIT, Scenario
from benchmarks.report import Change, Ratio, Report, families, groups, report_servers, short

BAR = 16  # columns of the longest bar
BLOCK = "▇"
STYLES = {AIOTASKQ: "bold cyan", LIMIT: "dim"}
MARKS = {True: ("✓", "green"), False: ("✗", "red"), None: ("–", "dim")}


def progress(console: Console) -> Progress:
    """Return a progress bar over the runs."""
    return Progress(
        TextColumn("{task.description}", justify="left"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def list_scenarios(console: Console, scenarios: Mapping[str, Scenario]) -> None:
    """Show the scenarios with their contestants, and which contestants are absent."""
    table = Table("scenario", "what", "contestants", box=None, pad_edge=False, header_style="bold")
    for scenario in scenarios.values():
        names = [Text(case.who, style="dim strike" if case.absent else "") for case in scenario.cases.values()]
        table.add_row(scenario.id, scenario.title, Text(", ").join(names))
    console.print(table)
    missing = sorted({f"{c.who} ({c.absent})" for s in scenarios.values() for c in s.cases.values() if c.absent})
    if missing:
        console.print(f"\nabsent, as the module is not installed: {', '.join(missing)}")


def show(console: Console, report: Report) -> None:
    """Show all tables of a report."""
    console.print("each figure: median, min–max, and how many times as good aiotaskq is", style="dim")
    console.print(f"servers: {report_servers(report)}", style="dim", highlight=False)
    for family in families(report):
        show_family(console, report, family)
    show_targets(console, report)
    for each in report["repeated"]:
        console.print(f"{each['id']}: tried a second time: {each['why']}", style="yellow", highlight=False)
    for line in [*report["absent"], *(f"{each['id']}: FAILED: {each['why']}" for each in report["failed"])]:
        console.print(line, style="dim" if "not installed" in line else "red", highlight=False)


def show_family(console: Console, report: Report, family: str) -> None:
    """Show one family: for each figure its contestants, the best first."""
    shown = list(groups(report, family))
    width = max(cell_len(who) for group in shown for who, *_ in group.rows)
    console.rule(Text(FAMILIES[family], style="bold"), align="left", style="dim")
    for group in shown:
        most = max(median for _, median, _, _ in group.rows) or 1.0
        console.print(Text(group.title, style="bold") + Text(f"  {group.unit}", style="not bold dim"))
        for who, median, low, high in group.rows:
            style = STYLES.get(who, "")
            times = None if who == AIOTASKQ else group.against_aiotaskq(median)
            line = Text(f"  {who:{width}} {short(median):>10} ", style=style)
            line.append(f"{short(low)}–{short(high)}".rjust(17), style="dim")
            length = round(BAR * median / most) if median == median else 0
            line.append(f" {BLOCK * length:{BAR}}", style=style or "blue")
            line.append("" if times is None else f" {short(times):>7} ×")
            console.print(line, no_wrap=True, crop=True)
    console.print()


def show_targets(console: Console, report: Report) -> None:
    """Show which targets were reached."""
    rows = [each for each in report["targets"] if each["reached"] is not None]
    unknown = len(report["targets"]) - len(rows)
    if not rows:
        return
    table = Table(title="Targets", title_style="bold", title_justify="left", box=None, pad_edge=False)
    for name in ("", "target", "wanted", "is"):
        table.add_column(name, justify="right" if name in ("wanted", "is") else "left")
    for each in rows:
        mark, style = MARKS[each["reached"]]
        value = f"{short(each['value'])} {each['unit']}"
        text = each["text"] + (f" ({each['why']})" if each["why"] else "")
        table.add_row(Text(mark, style=style), text, each["wanted"], Text(value, style=style))
    console.print(table)
    reached = sum(each["reached"] for each in rows)
    console.print(f"{reached} of {len(rows)} reached" + (f", {unknown} not measured at full size" if unknown else ""))


def show_changes(console: Console, changes: Sequence[Change], old: str) -> None:
    """Show what is clearly other than in an earlier run: the rounds of the two do not overlap."""
    clear = sorted((each for each in changes if each.clear), key=lambda each: each.better)
    console.print(f"\nagainst {old}: {len(changes)} figures compared, {len(clear)} clearly changed", style="bold")
    if not clear:
        return
    table = Table("figure", box=None, pad_edge=False)
    for name in ("before", "now", "ratio"):
        table.add_column(name, justify="right")
    for each in clear:
        ratio = f"{each.now / each.before:.2f} ×" if each.before else "–"
        style = "green" if each.better else "red"
        unit = Text(f" {each.unit}", style="dim")
        table.add_row(each.id, short(each.before), Text(short(each.now)) + unit, Text(ratio, style=style))
    console.print(table)


def show_ratios(console: Console, ratios: Sequence[Ratio], other: str) -> None:
    """Show how many times as good this checkout is as another one that took turns with it."""
    console.print(f"\nagainst {other}, round by round: above 1 this checkout is better", style="bold")
    table = Table("figure", box=None, pad_edge=False)
    for name in ("median", "min–max"):
        table.add_column(name, justify="right")
    for each in ratios:
        style = "green" if each.least > 1 else "red" if each.most < 1 else ""
        table.add_row(each.id, Text(f"{each.median:.3f} ×", style=style), f"{each.least:.3f}–{each.most:.3f}")
    console.print(table)

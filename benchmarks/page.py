"""The report as one HTML file that needs nothing from anywhere: tables, and the plots as SVG in the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from benchmarks.case import AIOTASKQ, FAMILIES, LIMIT
from benchmarks.report import Group, Report, families, groups, report_servers, short, warnings

STYLE = """
:root { color-scheme: light; --ink: #212529; --soft: #868e96; --line: #dee2e6; --aiotaskq: #0b7285; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 2rem 0 .5rem; }
p { max-width: 48rem; }
nav { margin: 1rem 0; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
a { color: var(--aiotaskq); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .85em; }
th, td { padding: .18rem 1.1rem .18rem 0; vertical-align: baseline; }
tbody tr.first td { border-top: 1px solid var(--line); padding-top: .45rem; }
.number { text-align: right; white-space: nowrap; }
.soft, .limit { color: var(--soft); }
.aiotaskq { color: var(--aiotaskq); font-weight: 600; }
.yes { color: #2b8a3e; } .no { color: #c92a2a; }
.bar { display: block; height: .6rem; min-width: 1px; background: #adb5bd; border-radius: 1px; }
.aiotaskq .bar { background: var(--aiotaskq); } .limit .bar { background: #dee2e6; }
.lane { width: 11rem; }
figure { margin: 1rem 0; overflow-x: auto; }
figure svg { max-width: 100%; height: auto; display: block; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--aiotaskq); }
.warn { border-left: 3px solid #e67700; padding: .25rem 0 .25rem .9rem; }
code { font-size: .92em; }
"""


def render(report: Report, plots: Mapping[str, str], titles: Mapping[str, str]) -> str:
    """Return the page; ``plots`` are SVG texts by name, none where matplotlib is missing, ``titles`` what they show."""
    parts = [*_head(report), *_targets(report)]
    for family in families(report):
        parts += _family(report, family, plots, titles)
    parts += _end(report)
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>aiotaskq, measured</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _head(report: Report) -> Iterator[str]:
    machine, settings = report["machine"], report["settings"]
    yield "<header><h1>aiotaskq, measured</h1>"
    yield (
        "<p>Beside its peers, with their recommended settings, and beside the limit: what the driver or the language "
        "can do with nothing around it. Contestants take turns, each in a process of its own, in "
        f"{settings['rounds']} round{'s' * (settings['rounds'] > 1)} of the same run; a figure is their median, a "
        "whisker goes from the least to the most.</p>"
    )
    for warning in warnings(report):
        yield f'<p class="warn">{escape(warning)}</p>'
    yield "<dl>"
    rows = {
        "date": machine["date"],
        "command": machine["command"],
        "commit": machine["commit"] or "unknown",
        "machine": f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {machine['system']}",
        "disk": f"{machine['disk']}; the shortest durable write takes {machine['sync_ms']:g} ms",
        "load before": f"{machine['load']:g}",
        "Python": machine["python"],
        "servers": report_servers(report),
        "took": f"{machine.get('seconds', 0):,.0f} s",
    }
    for name, value in rows.items():
        yield f"<dt>{name}</dt><dd>{escape(str(value))}</dd>"
    yield "</dl>"
    links = (f'<a href="#{family}">{escape(FAMILIES[family])}</a>' for family in families(report))
    yield f'<nav><a href="#targets">Targets</a> {" ".join(links)}</nav></header>'


def _targets(report: Report) -> Iterator[str]:
    known = [each for each in report["targets"] if each["reached"] is not None]
    if not known:
        return
    reached = sum(each["reached"] for each in known)
    left = len(report["targets"]) - len(known)
    yield f'<section id="targets"><h2>Targets: {reached} of {len(known)} reached</h2>'
    if left:
        yield f'<p class="soft">{left} more were not measured in this run, or apply to the full size only.</p>'
    yield '<div class="wide"><table><thead><tr><th></th><th>what</th><th class="number">wanted</th>'
    yield '<th class="number">is</th><th></th></tr></thead><tbody>'
    for each in known:
        kind, mark = ("yes", "✓") if each["reached"] else ("no", "✗")
        first = ' class="first"' if not each["text"].startswith("…") else ""
        yield (
            f'<tr{first}><td class="{kind}">{mark}</td><td>{escape(each["text"])}</td>'
            f'<td class="number soft">{escape(each["wanted"])}</td>'
            f'<td class="number {kind}">{short(each["value"])} {escape(each["unit"])}</td>'
            f'<td class="soft">{escape(each["why"])}</td></tr>'
        )
    yield "</tbody></table></div></section>"


def _family(report: Report, family: str, plots: Mapping[str, str], titles: Mapping[str, str]) -> Iterator[str]:
    yield f'<section id="{family}"><h2>{escape(FAMILIES[family])}</h2>'
    for name in (family, f"{family}-percentiles"):
        if name in plots:
            svg = plots[name].replace("<svg", f'<svg role="img" aria-label="{escape(titles[name])}"', 1)
            yield f"<figure>{svg}</figure>"
    table = list(_table(groups(report, family)))
    if family in plots:
        yield "<details><summary>All figures</summary>"
        yield from table
        yield "</details>"
    else:
        yield from table
    there = {row["who"] for row in report["measurements"] if row["family"] == family}
    notes = {key.partition("/")[2]: note for key, note in report["notes"].items() if key.startswith(f"{family}/")}
    if told := {who: note for who, note in notes.items() if who in there}:
        yield "<h3>How they are set up</h3><dl>"
        for who, note in told.items():
            yield f"<dt>{escape(who)}</dt><dd>{escape(note)}</dd>"
        yield "</dl>"
    yield "</section>"


def _table(shown: Iterator[Group]) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr><th></th><th></th><th class="number">median</th>'
    yield '<th class="number">min</th><th class="number">max</th><th></th><th></th>'
    yield '<th class="number">aiotaskq is</th></tr></thead><tbody>'
    for group in shown:
        most = max(median for _, median, _, _ in group.rows) or 1.0
        for number, row in enumerate(group.rows):
            yield _line(group, number, row, most)
    yield "</tbody></table></div>"


def _line(group: Group, number: int, row: tuple[str, float, float, float], most: float) -> str:
    who, median, low, high = row
    share = 100 * median / most if median == median else 0.0
    times = None if who == AIOTASKQ else group.against_aiotaskq(median)
    kinds = [
        *(["first"] if number == 0 else []),
        *({AIOTASKQ: ["aiotaskq"], LIMIT: ["limit"]}.get(who, [])),
    ]
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    cells = [
        f"<td>{escape(group.title) if number == 0 else ''}</td><td>{escape(who)}</td>",
        f'<td class="number">{short(median)}</td>',
        f'<td class="number soft">{short(low)}</td><td class="number soft">{short(high)}</td>',
        f'<td class="soft">{escape(group.unit)}</td>',
        f'<td class="lane"><span class="bar" style="width:{share:.1f}%"></span></td>',
        f'<td class="number">{"" if times is None else short(times) + " ×"}</td>',
    ]
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _end(report: Report) -> Iterator[str]:
    machine: dict[str, Any] = report["machine"]
    yield '<section id="rest"><h2>What took part</h2><dl>'
    for name, version in machine["versions"].items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(version)}</dd>"
    yield "</dl>"
    if report["absent"]:
        yield f"<p>Absent: {escape('; '.join(report['absent']))}.</p>"
    for each in report["failed"]:
        yield f'<p class="no">{escape(each["id"])} failed: {escape(each["why"])}</p>'
    yield "</section>"

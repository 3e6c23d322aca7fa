"""The figures in the front pages and the manual are those of the kept report, or none; none is written by hand.

What is written of a report is tested with that of ``tests/docs/published``, which is none to be published.
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fleet, kept, million, plots, published
from benchmarks.__main__ import main
from benchmarks.case import AIOTASKQ, LIMIT
from benchmarks.published import (
    BACKLOGS,
    BEGIN,
    END,
    FRONT,
    KEPT,
    LATENCIES,
    NAMES,
    NONE,
    PAGE,
    PLOTS,
    QUIET,
    RATES,
    RESULTS,
    STORES,
    details,
    problems,
    summary,
)
from benchmarks.report import Report, digest, dumps, groups, read, short
from tests.docs import generated

ROOT = Path(__file__).parent.parent.parent
SAMPLE = Path(__file__).parent / "published"
ROUGH = read(SAMPLE / "report.json")
REPORT: Report = {
    **ROUGH,
    "machine": {**ROUGH["machine"], "command": "python -m benchmarks", "load": QUIET},
    "settings": {**ROUGH["settings"], "scale": 1.0},
}
"""The sample as that of a full run on a quiet machine."""
PUBLISHED = (ROOT / KEPT).exists()
SMALL: Report = {**REPORT, "measurements": [{**row, "percentiles_ms": []} for row in REPORT["measurements"]]}
HEAD = "| A peer is ahead in |"
PAGES = [path for path in sorted((ROOT / "aiotaskq" / "docs").rglob("*.md")) if path.stem != "api"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES]


def changed(**factors: float) -> Report:
    """Return the kept report with the figures ``family/scenario/contestant:figure`` multiplied."""
    report = copy.deepcopy(SMALL)
    for row in report["measurements"]:
        for name, figure in row["figures"].items():
            for value in ("median", "min", "max"):
                figure[value] *= factors.get(f"{row['id']}:{name}", 1.0)
    return report


def figures(report: Report) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    for row in report["measurements"]:
        for name, figure in row["figures"].items():
            yield row, name, figure


# ---- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "language"), FRONT.items())
def test_the_front_pages_show_the_figures_of_the_kept_report(name: str, language: str) -> None:
    shown = published.parts((ROOT / name).read_text(encoding="utf-8"), Path(name))[1]
    assert shown == (summary(read(ROOT / KEPT), language) if PUBLISHED else NONE)


def test_the_readme_is_short_with_figures_in_it() -> None:
    text = published.replaced((ROOT / "README.md").read_text(encoding="utf-8"), summary(REPORT), Path("README.md"))
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 900


def test_the_manual_shows_the_figures_of_the_kept_report() -> None:
    shown = published.parts((ROOT / PAGE).read_text(encoding="utf-8"), PAGE)[1]
    assert shown == (details(read(ROOT / KEPT)) if PUBLISHED else NONE)


def test_the_kept_report_is_one_that_may_be_published() -> None:
    assert problems(read(ROOT / KEPT) if PUBLISHED else REPORT) == []


def test_the_kept_files_are_the_report_and_its_plots() -> None:
    # See benchmarks/kept.py.
    others = {"fleet.json", "limits.json", *(f"million-{store}.json" for store in million.PLACES)}
    files = {"report.json", *(f"{each}.svg" for each in PLOTS)} if PUBLISHED else set()
    assert {path.name for path in (ROOT / RESULTS).iterdir()} == files | others


@pytest.mark.parametrize("folder", [SAMPLE, *([ROOT / RESULTS] if PUBLISHED else [])], ids=lambda path: path.name)
@pytest.mark.parametrize("family", PLOTS)
def test_a_plot_shows_the_figures_of_its_report(family: str, folder: Path) -> None:
    report = read(folder / "report.json")
    svg = ElementTree.parse(folder / f"{family}.svg")
    (identifier,) = svg.iter("{http://purl.org/dc/elements/1.1/}identifier")
    assert identifier.text == digest(report, family)
    texts = {"".join(each.itertext()).strip() for each in svg.iter("{http://www.w3.org/2000/svg}text")}
    for group in groups(report, family):
        assert {f"{group.title}  ({group.unit})", *(who for who, *_ in group.rows)} <= texts
        assert {short(median) for _, median, *_ in group.rows} <= texts


def test_a_plot_names_one_set_of_figures_only() -> None:
    other = changed(**{f"sqlite/push.one/{AIOTASKQ}:rate": 1.001})
    assert digest(other, "sqlite") != digest(REPORT, "sqlite")
    assert digest(other, "postgresql") == digest(REPORT, "postgresql")


def test_the_kept_text_of_a_report_is_the_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(dumps(REPORT), encoding="utf-8")
    # As text: a figure that is no number equals nothing.
    assert json.dumps(read(path)) == json.dumps(REPORT)
    assert len(path.read_text().splitlines()) < 500


# ---- where a peer is ahead ------------------------------------------------------------------------------------------


def expected(report: Report) -> dict[tuple[str, str], set[str]]:
    """Return what has to be told, found in the data alone: by scenario and figure, the peers and their medians."""
    ours = {
        (row["family"], row["scenario"], name): figure["median"]
        for row, name, figure in figures(report)
        if row["who"] == AIOTASKQ
    }
    told: dict[tuple[str, str], set[str]] = {}
    for row, name, figure in figures(report):
        mine, theirs = ours.get((row["family"], row["scenario"], name)), figure["median"]
        if row["who"] in (LIMIT, AIOTASKQ, "aiotaskq.sync") or mine is None:
            continue
        sign = -1 if figure["less_is_better"] else 1
        if sign * theirs > sign * mine or (math.isnan(mine) and not math.isnan(theirs)):
            start = f"| {NAMES[row['family']]}: {row['title']}"
            key = f"{start} ({figure['unit']})" if len(row["figures"]) == 1 else f"{start}: {name} ({figure['unit']})"
            told.setdefault((key, short(mine)), set()).add(f"{row['who']} {short(theirs)}")
    return told


def told(text: str) -> dict[tuple[str, str], set[str]]:
    """Return what the section tells of the figures in which a peer is ahead."""
    found = {}
    lines = text.partition(HEAD)[2].partition("\n\n")[0].splitlines()[2:]
    for line in lines:
        title, ours, peers = line.removesuffix(" |").split(" | ")
        found[title, ours] = {re.sub(r" \([\d.,]+ ×\)$", "", each) for each in peers.split("; ")}
    return found


def test_each_figure_in_which_a_peer_is_ahead_is_told() -> None:
    assert told(details(REPORT)) == expected(REPORT)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_each_is_told_whatever_the_figures_are(seed: int) -> None:
    dice = random.Random(seed)
    factors = [0.001, 0.5, 1.0, 1.0, 2.0, 1000.0, float("nan")]
    report = changed(**{f"{row['id']}:{name}": dice.choice(factors) for row, name, _ in figures(SMALL)})
    wanted = expected(report)
    assert told(details(report)) == wanted
    assert f"ahead in {len(wanted)} of" in details(report)
    assert f"faster in {len(wanted)} of" in summary(report)


def test_nothing_is_told_where_no_peer_is_ahead() -> None:
    best = {
        f"{row['id']}:{name}": 1e-9 if figure["less_is_better"] else 1e9
        for row, name, figure in figures(SMALL)
        if row["who"] == AIOTASKQ
    }
    report = changed(**best)
    assert HEAD not in details(report) and "A peer is ahead in none of the" in details(report)
    assert "faster in 0 of" in summary(report)


@pytest.mark.parametrize("name", ["postgresql/push.bulk", "sqlite/drain.100", "sqlite/drain.two", "sqlite/push.one"])
def test_what_peers_are_good_at_is_in_the_table(name: str) -> None:
    assert name in RATES
    (peer, *_) = (
        row["who"]
        for row in REPORT["measurements"]
        if row["id"].startswith(f"{name}/") and row["who"] not in (AIOTASKQ, LIMIT)
    )
    slow, quick = changed(**{f"{name}/{peer}:rate": 1e-6}), changed(**{f"{name}/{peer}:rate": 1e6})
    rate = next(row["figures"]["rate"]["median"] for row in quick["measurements"] if row["id"] == f"{name}/{peer}")
    assert f"{peer} **{short(rate)}**" in details(quick)
    assert f"{peer} **" not in "".join(line for line in details(slow).splitlines() if line.startswith(title(name)))


def title(name: str) -> str:
    row = next(row for row in REPORT["measurements"] if row["id"] == f"{name}/{AIOTASKQ}")
    return f"| {NAMES[row['family']]}: {row['title']} |"


# ---- a section belongs to its report --------------------------------------------------------------------------------

SHOWN = [
    f"{row['id']}:{name}"
    for row, name, _ in figures(SMALL)
    if f"{row['family']}/{row['scenario']}" in (*RATES, *LATENCIES)
    or (f"{row['family']}/{row['scenario']}" in BACKLOGS and row["who"] == AIOTASKQ)
]


def test_another_figure_makes_other_figures() -> None:
    assert len(SHOWN) > 100
    assert [name for name in SHOWN if details(changed(**{name: 1.5})) == details(SMALL)] == []


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("figure", ["drain.10/aiotaskq:rate", "latency/aiotaskq:p50", "latency/aiotaskq:p99"])
def test_another_figure_makes_another_summary(figure: str, language: str) -> None:
    for store in STORES:
        assert summary(changed(**{f"{store}/{figure}": 1.5}), language) != summary(SMALL, language)


def test_the_cost_of_a_push_is_the_time_that_one_producer_waits() -> None:
    (row,) = [line for line in summary(SMALL).splitlines() if line.startswith("| one awaited push |")]
    rates = {row["id"]: row["figures"]["rate"]["median"] for row in SMALL["measurements"] if "rate" in row["figures"]}
    assert row.removesuffix(" |").split(" | ")[1:] == [
        f"{short(1000 / rates[f'{store}/push.one/{AIOTASKQ}'])} ms" for store in STORES
    ]


@pytest.mark.parametrize("key", ["date", "command", "cpu", "cores", "python", "servers", "versions"])
def test_another_machine_makes_other_figures(key: str) -> None:
    other = copy.deepcopy(SMALL)
    was = other["machine"][key]
    other["machine"][key] = (
        99 if isinstance(was, int) else {**was, "redis": "99"} if isinstance(was, dict) else "2000-01-01 --x"
    )
    assert details(other) != details(SMALL)
    assert summary(other) != summary(SMALL) or key not in ("date", "cores")


def test_a_second_try_is_told() -> None:
    told = details({**SMALL, "repeated": [{"id": "redis/run/arq", "why": "a connection broke"}]})
    assert "tried a second time: redis/run/arq." in told


# ---- publishing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Front pages and a page with other figures, where ``--publish`` writes."""
    for name in (*FRONT, PAGE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n", encoding="utf-8")
    monkeypatch.setattr(published, "ROOT", tmp_path)
    monkeypatch.setattr(plots, "bars", lambda report, family: f"<svg>{digest(report, family)}</svg>")
    return tmp_path


def given_report(folder: Path, report: Report) -> str:
    path = folder / "given.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    return str(path)


def test_publish_keeps_the_report_and_writes_the_figures(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = changed(**{f"sqlite/push.one/{AIOTASKQ}:rate": 3.0})
    assert main(["--publish", given_report(checkout, report)]) == 0
    for name, language in FRONT.items():
        assert (checkout / name).read_text() == f"before\n\n{summary(report, language)}\n\nafter\n"
    assert (checkout / PAGE).read_text() == f"before\n\n{details(report)}\n\nafter\n"
    assert (checkout / KEPT).read_text(encoding="utf-8") == dumps(report)
    assert (checkout / RESULTS / "sqlite.svg").read_text() == f"<svg>{digest(report, 'sqlite')}</svg>"
    assert "written: benchmarks/results/postgresql.svg" in capsys.readouterr().out
    once = {path: path.read_bytes() for path in checkout.rglob("*.*")}
    assert main(["--publish", given_report(checkout, report)]) == 0
    assert {path: path.read_bytes() for path in checkout.rglob("*.*")} == once


def test_publish_takes_the_report_of_the_last_run(checkout: Path) -> None:
    (checkout / "out").mkdir()
    shutil.copy(given_report(checkout, SMALL), checkout / "out" / "report.json")
    assert main(["--out", str(checkout / "out"), "--publish"]) == 0
    assert (checkout / KEPT).read_text(encoding="utf-8") == dumps(SMALL)


def without(name: str) -> Report:
    return {**SMALL, "measurements": [row for row in SMALL["measurements"] if row["id"] != name]}


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({**SMALL, "stopped_early": True}, "stopped early"),
        ({**SMALL, "failed": [{"id": "mysql/run/limit", "why": "it broke"}]}, "mysql/run/limit failed: it broke"),
        ({**SMALL, "absent": ["huey: huey is not installed"]}, "left out: huey: huey is not installed"),
        (without("sqlite/drain.two/huey"), "sqlite/drain.two/huey was not measured"),
        (without("postgresql/push.bulk/aiotaskq"), "postgresql/push.bulk/aiotaskq was not measured"),
        (without("redis/latency/limit"), "redis/latency/limit was not measured"),
        (
            {**SMALL, "machine": {**SMALL["machine"], "command": "python -m benchmarks --only 'sqlite*'"}},
            "a part of the cases was run (--only)",
        ),
        ({**SMALL, "machine": {**SMALL["machine"], "load": 0.51}}, "its load was 0.51 before"),
        ({**SMALL, "settings": {**SMALL["settings"], "scale": 0.2}}, "sizes and times were 0.2 of the full ones"),
        ({"format": 99}, "format 99"),
    ],
    ids=["stopped", "failed", "absent", "no peer", "not ours", "no limit", "a part", "busy", "small", "another format"],
)
def test_what_is_not_whole_is_refused_and_nothing_is_written(
    report: Report, said: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = given_report(checkout, report)
    before = {each: each.read_bytes() for each in checkout.rglob("*.*")}
    assert main(["--publish", path]) == 2
    assert said in capsys.readouterr().err
    assert {each: each.read_bytes() for each in checkout.rglob("*.*")} == before


def test_a_peer_that_needs_another_python_may_be_absent() -> None:
    assert problems({**SMALL, "absent": ["oban: oban is not installed"]}) == []


@pytest.mark.parametrize("name", [*FRONT, PAGE.as_posix()])
@pytest.mark.parametrize("text", ["no marks", f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"])
def test_a_file_without_its_marks_is_refused(
    text: str, name: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / name).write_text(text, encoding="utf-8")
    assert main(["--publish", given_report(checkout, SMALL)]) == 2
    assert f"{name}: the figures go between" in capsys.readouterr().err
    assert (checkout / name).read_text() == text and not (checkout / RESULTS).exists()


def test_without_matplotlib_nothing_is_written(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(report: Report, family: str) -> str:
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(plots, "bars", missing)
    assert main(["--publish", given_report(checkout, SMALL)]) == 2
    assert "matplotlib" in capsys.readouterr().err
    assert not (checkout / RESULTS).exists()


# ---- no figure by hand ----------------------------------------------------------------------------------------------

AMOUNT = r"\d[\d.,]*(?: to \d[\d.,]*)? ?"
UNIT = r"(?:(?:[a-z]+)?/s\b|[mµn]s\b|%|×|bytes\b|(?:[a-z]+ )?(?:a|per) second\b)"
WORD = r"(?:two|three|four|five|six|seven|eight|nine|ten|\d[\d.]*)"
SHARE = r"(?:twice|half|thirds?|quarters?|fifths?)"
RATIO = (
    rf"\b(?:{WORD} times (?:as|what|that|faster|slower|the rate)|{SHARE} (?:as fast|of the rate)"
    r"|(?:faster|slower|quicker) than)\b"
)
FIGURE = re.compile(rf"{AMOUNT}{UNIT}|{RATIO}|(?:milli|micro)seconds\b")

RULES = {
    "within 50 ms": "a promise: the contract suite proves it",
    "tasks that take more than 20 ms": "a limit of aiotaskq.runtime.worker.prefetch: above it nothing is claimed ahead",
    "they take more than 20 ms": "the same, of the tasks of a model",
    "12 × worker processes + 11 × pushing processes": "factors: connections of a process, times their number",
    "fastest rate is 10,000 in a second": "a limit of aiotaskq.core.limits: the shortest interval of a gate",
    "50 ms 之内": "as above, in Chinese; so are the next ones",
    "单个任务超过 20 ms": "a limit of aiotaskq.runtime.worker.prefetch",
    "任务耗时超过 20 ms": "the same, of the tasks of a model",
    "its cores in use to 70 %": "an assumption: USED of benchmarks.fleet",
    "服务器核心用到 70 %": "an assumption: USED of benchmarks.fleet",
    "12 × 工作进程数 + 11 × 推送进程数": "factors: connections of a process, times their number",
}
"""What has the form of a measured figure, and is none: where it stands, and why it may be written by hand."""


def by_hand(text: str) -> list[str]:
    """Return what looks like a measured figure and is no rule, with the words around it."""
    for rule in RULES:
        text = text.replace(rule, "")
    return [text[max(0, found.start() - 40) : found.end() + 20] for found in FIGURE.finditer(text)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_measured_figure_is_written_by_hand(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if BEGIN in text:
        before, _, after = published.parts(text)
        text = f"{before}\n{after}"
    text = text.partition(generated.BEGIN)[0] + text.partition(generated.END)[2]
    model = kept.read("fleet")
    for row in (*million.rows(), *fleet.checks(model), *fleet.table(model)):
        text = text.replace(row, "")
    assert by_hand(text) == [], "measured figures come from --publish or --keep; a promise or a limit goes into RULES"


def test_each_rule_is_still_in_the_documents() -> None:
    texts = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert [rule for rule in RULES if rule not in texts] == []


@pytest.mark.parametrize(
    "text",
    [
        "it drains 38,626 tasks/s",
        "2,166 tasks a second",
        "p50 is 0.86 ms",
        "25 µs a call",
        "at 85 % of its rate",
        "2.5 times what `asyncio.Queue` takes",
        "three times as quick",
        "4 × a peer",
        "takes milliseconds",
        "two fifths of the rate",
        "faster than huey",
        "200 bytes",
    ],
)
def test_a_figure_is_recognised(text: str) -> None:
    assert by_hand(f"Also, {text}.")


@pytest.mark.parametrize(
    "text",
    [
        "within 30 s",
        "poison after three times",
        "at most 256 KB",
        "`%s`",
        "a quarter of the limit on open files",
        "once a second",
    ],
)
def test_what_is_no_figure_is_let_pass(text: str) -> None:
    assert by_hand(text) == []

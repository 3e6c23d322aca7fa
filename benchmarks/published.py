"""The figures of the front pages and of the manual: written from a report, which is kept beside its plots."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks.case import AIOTASKQ, LIMIT, Run, is_peer, load
from benchmarks.queues import backlog_sizes
from benchmarks.report import Group, Report, dumps, families, groups, short, warnings

ROOT = Path(__file__).parent.parent
RESULTS = Path("benchmarks", "results")
KEPT = RESULTS / "report.json"
PAGE = Path("aiotaskq", "docs", "benchmarks.md")
FRONT = {"README.md": "en", "aiotaskq/docs/zh/README.zh-CN.md": "zh"}
"""The front pages, by the language of the summary in them."""
BEGIN = "<!-- figures: written by `python -m benchmarks --publish`, which replaces what stands here -->"
END = "<!-- end of figures -->"
NONE = f"""{BEGIN}

No figures are published: they come from a full run on a quiet machine, and there is none of this version.

{END}"""
"""What stands there until figures are published."""
QUIET = 0.5
"""The highest load before a run whose figures may be published."""

RATES = (
    "memory/run",
    "sqlite/push.one",
    "sqlite/push.many",
    "sqlite/push.bulk",
    "sqlite/drain.10",
    "sqlite/drain.100",
    "sqlite/drain.two",
    "sqlite/run",
    "postgresql/push.one",
    "postgresql/push.many",
    "postgresql/push.bulk",
    "postgresql/drain.10",
    "postgresql/drain.100",
    "postgresql/drain.two",
    "postgresql/run",
    "redis/push.one",
    "redis/push.many",
    "redis/drain.10",
    "redis/drain.100",
    "redis/drain.two",
    "redis/run",
    "scheduler/add",
)
"""The scenarios of the table of rates, in its order."""

LIMITS = {
    "sqlite/push.many": ("one a commit", "sqlite/push.one"),
    "postgresql/push.many": ("one a commit", "postgresql/push.many"),
    "redis/push.many": ("one a call", "redis/push.many"),
}
"""Where the limit does less than aiotaskq in one step: what it does, and the scenario that measures it."""

LATENCIES = ("memory/latency", "sqlite/latency", "postgresql/latency", "redis/latency")
BACKLOGS = ("memory/backlog", "sqlite/backlog", "postgresql/backlog", "mysql/backlog", "redis/backlog")
PLOTS = ("sqlite", "postgresql")
STORES = ("sqlite", "postgresql", "mysql", "redis")
"""The stores of the summary on the front pages, in its order."""
OPTIONAL = {"oban": "it needs Python 3.12"}
"""The peers that may be absent, and why; all others take part in what is published."""

NAMES = {
    "memory": "memory",
    "sqlite": "SQLite",
    "postgresql": "PostgreSQL",
    "mysql": "MariaDB",
    "redis": "Valkey",
    "facade": "blocking facade",
    "store": "public store",
    "scheduler": "scheduler",
    "startup": "start",
}
"""The families, as the README and the manual name them."""

WORDS = {
    "en": {
        "run": "tasks run in a second, one worker",
        "latency": "from push to start, p50 / p99",
        "push": "one awaited push",
        "said": "Durable tasks, medians of {rounds} rounds on a quiet machine with {cores} cores, {date}. Others are "
        "faster in {behind} of {all} figures: [all of them, and how they are measured]({page}).",
    },
    "zh": {
        "run": "一个工作进程每秒执行的任务",
        "latency": "从推送到开始，p50 / p99",
        "push": "一次等待的推送",
        "said": "持久任务，在 {cores} 核的空闲机器上取 {rounds} 轮的中位数，{date}。{all} 项数字中有 {behind} 项其他库"
        "更快：[全部数字与测量方法]({page})。",
    },
}

Draw = Callable[[Report, str], str]


# ---- what may be published ------------------------------------------------------------------------------------------


def rough(report: Report) -> list[str]:
    """Return why the figures of a report are rough, one reason each; nothing for a full run on a quiet machine."""
    found = []
    if report["stopped_early"]:
        found.append("the run was stopped early")
    if (load := report["machine"]["load"]) > QUIET:
        found.append(f"the machine was busy: its load was {load:g} before anything was measured, and may be {QUIET:g}")
    if (scale := report["settings"]["scale"]) < 1:
        found.append(f"sizes and times were {scale:g} of the full ones")
    return found + [f"{each['id']} failed: {each['why']}" for each in report["failed"]]


def problems(report: Report) -> list[str]:
    """Return why a report is not fit to be published, one reason each; nothing where it is."""
    found = rough(report)
    if partial := {"--only", "--against"} & set(shlex.split(report["machine"]["command"])):
        found.append(f"a part of the cases was run ({', '.join(sorted(partial))})")
    found += [f"left out: {each}" for each in report["absent"] if each.partition(":")[0] not in OPTIONAL]
    there = {row["id"] for row in report["measurements"]}
    found += [f"{name} was not measured" for name in _wanted() if name not in there]
    return found


def _wanted() -> Iterator[str]:
    """Yield the cases that the tables need: each contestant of their scenarios, so that none can be left out."""
    scenarios = load()
    front = (f"{store}/{scenario}" for store in STORES for scenario in ("drain.10", "latency", "push.one"))
    for name in dict.fromkeys((*RATES, *LATENCIES, *BACKLOGS, *front)):
        for who in scenarios[name].cases:
            if who not in OPTIONAL:
                yield f"{name}/{who}"


def publish(report: Report, draw: Draw, root: Path) -> list[Path]:
    """Keep a report and its plots under ``root``, write its figures into the pages; return the files.

    Raises ValueError where the report has ``problems`` or a page lacks its marks; nothing is written then.
    """
    if found := problems(report):
        raise ValueError("; ".join(found))
    pages = {**{name: summary(report, language) for name, language in FRONT.items()}, PAGE.as_posix(): details(report)}
    texts = {
        **{
            root / name: replaced((root / name).read_text(encoding="utf-8"), figures, Path(name))
            for name, figures in pages.items()
        },
        root / KEPT: dumps(report),
        **{root / RESULTS / f"{family}.svg": draw(report, family) for family in PLOTS},
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def parts(text: str, name: Path = Path("README.md")) -> tuple[str, str, str]:
    """Return the text of a file before the figures, the figures with their marks, and the text after them.

    Raises ValueError unless each mark is there once, the first before the second.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise ValueError(
            f"{name.as_posix()}: the figures go between one line {BEGIN} and one line {END}; write both there"
        )
    before, _, rest = text.partition(BEGIN)
    inside, _, after = rest.partition(END)
    return before, f"{BEGIN}{inside}{END}", after


def replaced(text: str, figures: str, name: Path) -> str:
    """Return the text of a file with these figures instead of its own. Raises ValueError if its marks are missing."""
    before, _, after = parts(text, name)
    return f"{before}{figures}{after}"


# ---- what is written ------------------------------------------------------------------------------------------------


def summary(report: Report, language: str = "en") -> str:
    """Return three figures of each durable store as a front page shows them, with the marks around them."""
    there, words = _groups(report), WORDS[language]

    def of(store: str, scenario: str, figure: str = "rate") -> float:
        return _median(there[f"{store}/{scenario}", figure], AIOTASKQ)

    rows = [
        (words["run"], *(short(of(store, "drain.10")) for store in STORES)),
        (
            words["latency"],
            *(f"{short(of(store, 'latency', 'p50'))} / {_ms(of(store, 'latency', 'p99'))}" for store in STORES),
        ),
        (words["push"], *(_ms(1000 / of(store, "push.one")) for store in STORES)),
    ]
    behind, compared = _behind_of(report)
    page = Path("benchmarks.md") if language == "zh" else PAGE
    said = words["said"].format(
        rounds=report["settings"]["rounds"],
        cores=report["machine"]["cores"],
        date=report["machine"]["date"][:10],
        behind=len(behind),
        all=compared,
        page=page.as_posix(),
    )
    return "\n".join([BEGIN, _table(("", *(NAMES[store] for store in STORES)), rows), "", said, END])


def _ms(value: float) -> str:
    return f"{short(value)} ms"


def details(report: Report) -> str:
    """Return the figures of the manual's page, with the marks around: all rates, where a peer is ahead, versions."""
    blocks = [
        f"{_measured(report)} All figures, with their least and most, are in `{KEPT.as_posix()}`, plots beside it.",
        "Tasks a second, more is better. **Bold** is the best of aiotaskq and its peers; the limit is what the driver "
        "or the language does with nothing around it.",
        _table(("", AIOTASKQ, "limit", "peers"), _rates(report)),
        "From a push to the start of its handler, workers idle, p50 / p99 in ms, less is better (bold: the best p50):",
        _table(("", AIOTASKQ, "limit", "peers"), _latencies(report)),
        _backlogs(report),
        *_behind(report),
        _setup(report),
    ]
    return "\n\n".join([BEGIN, *blocks, END])


def _measured(report: Report) -> str:
    """Say when, where and how."""
    machine, rounds = report["machine"], report["settings"]["rounds"]
    servers = [f"{NAMES[kind]} {_number(said)}" for kind, said in machine["servers"].items()]
    sentences = [
        f"Measured on {machine['date'][:10]} by `{machine['command']}`: {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_gib']:g} GiB, {machine['python']}, {', '.join(servers)}, files on {machine['disk']}, where "
        f"the shortest durable write takes {short(machine['sync_ms'])} ms.",
        f"A figure is the median of {rounds} rounds." if rounds > 1 else "A figure is a single round.",
        *warnings(report),
    ]
    return " ".join(sentences)


def _rates(report: Report) -> Iterator[tuple[str, ...]]:
    there = _groups(report)
    for name in RATES:
        group = there[name, "rate"]
        text, limit = LIMITS.get(name, ("", name))
        most = next((median for who, median, *_ in there[limit, "rate"].rows if who == LIMIT), None)
        unit = "" if group.unit == "tasks/s" else f" ({group.unit})"
        yield (
            f"{_title(group)}{unit}",
            _bold(short(_median(group, AIOTASKQ)), not group.ahead()),
            "" if most is None else f"{text}: {short(most)}" if text else short(most),
            _peers(group, lambda who, median: short(median)),
        )


def _latencies(report: Report) -> Iterator[tuple[str, ...]]:
    there = _groups(report)
    for name in LATENCIES:
        half, most = there[name, "p50"], there[name, "p99"]
        both = {who: f"{short(median)} / {short(_median(most, who))}" for who, median, *_ in half.rows}
        yield (
            NAMES[half.family],
            _bold(both[AIOTASKQ], not half.ahead()),
            both.get(LIMIT, ""),
            _peers(half, lambda who, median, both=both: both[who]),  # type: ignore[misc]
        )


def _backlogs(report: Report) -> str:
    there = _groups(report)
    _, (few, many) = backlog_sizes(Run(1, scale=report["settings"]["scale"]))
    ratios = []
    for name in BACKLOGS:
        small, large = (each for (scenario, _), each in there.items() if scenario == name)
        ratios.append(f"{NAMES[small.family]} {short(_median(large, AIOTASKQ) / _median(small, AIOTASKQ))}")
    return (
        f"The rate of aiotaskq with {many:,} tasks waiting, as a part of its rate with {few:,} waiting: "
        f"{', '.join(ratios)}."
    )


def _behind_of(report: Report) -> tuple[list[Group], int]:
    """Return every figure of the whole report in which a peer is ahead, and how many were measured beside peers."""
    compared = [group for group in _groups(report).values() if any(is_peer(who) for who, *_ in group.rows)]
    return [group for group in compared if group.ahead()], len(compared)


def _behind(report: Report) -> list[str]:
    """Tell every figure in which a peer is ahead, also of what is in no table above."""
    behind, compared = _behind_of(report)
    if not behind:
        return [f"A peer is ahead in none of the {compared} figures that were measured beside peers."]
    said = (
        f"A peer is ahead in {len(behind)} of the {compared} figures that were measured beside peers. A peer is "
        "another library, what the standard library offers for the same, or the old threads; × is how many times as "
        "good it is."
    )
    return [said, _table(("A peer is ahead in", AIOTASKQ, "peers that are ahead"), map(_lost, behind))]


def _lost(group: Group) -> tuple[str, ...]:
    own = _median(group, AIOTASKQ)
    peers = (f"{who} {short(median)}{_times(group, median, own)}" for who, median in group.ahead())
    return f"{_title(group)} ({group.unit})", short(own), "; ".join(peers)  # there are commas in names


def _times(group: Group, median: float, own: float) -> str:
    better, worse = (own, median) if group.less else (median, own)
    return f" ({short(better / worse)} ×)" if worse and not math.isnan(own) else ""


def _setup(report: Report) -> str:
    """Tell the versions, and how each contestant of the tables is set up."""
    shown = {f"{row['family']}/{row['who']}" for row in report["measurements"] if row["scenario"] in ("run", "latency")}
    notes = [f"- {_contestant(key)}: {note}" for key, note in report["notes"].items() if key in shown]
    versions = ", ".join(f"{name} {version}" for name, version in report["machine"]["versions"].items())
    return "\n".join(["Versions, and how each contestant is set up:", "", f"- {versions}", *notes])


def _contestant(key: str) -> str:
    family, _, who = key.partition("/")
    return f"{NAMES[family]}, {who}"


def _groups(report: Report) -> Mapping[tuple[str, str], Group]:
    """Return what was measured by scenario, ``family/name``, and figure."""
    return {(group.scenario, group.figure): group for family in families(report) for group in groups(report, family)}


def _title(group: Group) -> str:
    return f"{NAMES[group.family]}: {group.title}".replace("|", "\\|")


def _median(group: Group, wanted: str) -> float:
    return next((median for who, median, *_ in group.rows if who == wanted), float("nan"))


def _peers(group: Group, shown: Callable[[str, float], str]) -> str:
    """Return the peers of a row, the best first, in bold if it is ahead."""
    peers = [(who, median) for who, median, *_ in group.rows if is_peer(who)]
    ahead = [who for who, _ in group.ahead()][:1]
    return "; ".join(f"{who} {_bold(shown(who, median), who in ahead)}" for who, median in peers)


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


def _number(version: str) -> str:
    """Return the number in the version text of a server."""
    found = re.search(r"\d+(\.\d+)*", version)
    return found[0] if found else version


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)

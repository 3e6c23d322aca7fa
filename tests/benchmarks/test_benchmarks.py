"""The benchmarks' runner: that it measures, reports and tells what failed. No test asserts a time."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.cli.tools import run_benchmarks
from benchmarks import machine, page, report
from benchmarks.__main__ import main
from benchmarks.case import AIOTASKQ, LIMIT, Case, Run, Sample, Scenario, Unit, load, quantile
from benchmarks.cases.scheduler import plan
from benchmarks.runner import ContestantProcess, Failed, Measured, Runner, Settings, chosen
from benchmarks.stores import START, Stores
from benchmarks.system import Tally, in_threads
from benchmarks.targets import ANY_PEER, TARGETS, judge
from tests.support.installed import Unavailable
from tests.support.machine import within
from tests.support.servers import postgresql, postgresql_jit

ROOT = Path(__file__).parent.parent.parent


# ---- a whole run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run: memory, SQLite with two worker processes, threads, a peer that may be missing."""
    out = tmp_path_factory.mktemp("bench")
    only = ["memory/run/aiotaskq", "memory/run/limit", "sqlite/drain.two/limit", "sqlite/latency/aiotaskq", "store/set"]
    command = [sys.executable, "-m", "benchmarks", "--scale", "0.01", "--rounds", "2", "--out", str(out)]
    command += [word for name in only for word in ("--only", name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=within(50))
    assert done.returncode == 0, done.stdout + done.stderr
    (out / "said.txt").write_text(done.stdout)
    return out


@pytest.fixture(scope="module")
def data(made: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((made / "report.json").read_text())
    return read


def test_every_case_gives_a_figure_for_each_round(data: dict[str, Any]) -> None:
    figures = {row["id"]: row["figures"] for row in data["measurements"]}
    assert {
        "memory/run/aiotaskq",
        "memory/run/limit",
        "sqlite/drain.two/limit",
        "sqlite/latency/aiotaskq",
        "store/set/aiotaskq",
        "store/set/limit",
    } <= figures.keys()
    assert not data["failed"] and not data["stopped_early"]
    for names in figures.values():
        for figure in names.values():
            assert len(figure["rounds"]) == 2
            assert 0 < figure["min"] <= figure["median"] <= figure["max"]
    assert figures["sqlite/latency/aiotaskq"].keys() == {"p50", "p99"}


def test_waits_are_kept_as_percentiles(data: dict[str, Any]) -> None:
    (row,) = [row for row in data["measurements"] if row["id"] == "sqlite/latency/aiotaskq"]
    shares, waits = zip(*row["percentiles_ms"], strict=True)
    assert list(waits) == sorted(waits) and waits[0] > 0
    assert shares[0] == 0.0 and shares[-1] == 0.999


def test_who_is_not_installed_is_told_as_absent(data: dict[str, Any]) -> None:
    told = any(line.startswith("cachetools.TTLCache:") for line in data["absent"])
    assert told is (importlib.util.find_spec("cachetools") is None)


def test_machine_and_versions_are_named(data: dict[str, Any]) -> None:
    machine = data["machine"]
    assert machine["cores"] == os.cpu_count() and machine["disk"] and machine["sync_ms"] > 0
    assert machine["versions"]["aiosqlite"] and machine["versions"]["SQLite"]
    assert machine["command"].startswith("python -m benchmarks --rounds 2 --scale 0.01 --only")
    assert "--out" not in machine["command"]


@pytest.mark.parametrize(
    ("jit", "said"), [(False, r"1\d\.\d+, JIT not installed"), (True, r"1[0-7]\.\d+ .*, JIT on")], ids=["18", "jit"]
)
def test_the_version_of_the_server_is_named_with_its_jit(jit: bool, said: str, tmp_path: Path) -> None:
    (postgresql_jit if jit else postgresql)()  # raises Unavailable
    with contextlib.closing(Stores(tmp_path, jit=jit)) as stores:
        assert stores.start("postgresql") is not None
        assert re.fullmatch(said, machine.servers(stores)["postgresql"])


def test_the_page_needs_nothing_from_anywhere(made: Path) -> None:
    text = (made / "report.html").read_text()
    assert "<script" not in text and "src=" not in text and "@import" not in text
    assert "aiotaskq" in text and "The queue in memory" in text
    assert "a look, not a measurement" in text


def test_the_terminal_shows_medians_and_targets(made: Path) -> None:
    said = (made / "said.txt").read_text()
    assert "push, run and finish, 10 at a time  tasks/s" in said
    assert "memory, end to end" in said and "not measured" in said
    assert "servers: none" in said
    assert "report.html" in "".join(said.split())  # the terminal may wrap the path anywhere


def test_no_process_and_no_file_of_a_run_is_left(made: Path) -> None:
    assert {path.name for path in made.iterdir()} - {"plots"} == {"report.json", "report.html", "logs", "said.txt"}


def test_a_run_is_compared_with_an_earlier_one(data: dict[str, Any]) -> None:
    faster = json.loads(json.dumps(data))
    for row in faster["measurements"]:
        for figure in row["figures"].values():
            for name in ("median", "min", "max"):
                figure[name] *= 100
    found = {each.id: each for each in report.changes(data, faster)}
    assert found["memory/run/aiotaskq:rate"].better and found["memory/run/aiotaskq:rate"].clear
    assert not found["sqlite/latency/aiotaskq:p50"].better and found["sqlite/latency/aiotaskq:p50"].clear
    assert not any(each.clear for each in report.changes(data, data))


def test_waits_in_another_process_are_reported(tmp_path: Path) -> None:
    postgresql()  # raises Unavailable
    with contextlib.closing(Stores(tmp_path)) as stores:
        process = ContestantProcess(tmp_path / "log")
        try:
            for who in (AIOTASKQ, LIMIT):
                with stores.empty("postgresql") as place:
                    sample = process.run(load()["postgresql/latency.two"].cases[who], Run(5, place), within(60))
                assert len(sample.waits) == 5 and min(sample.waits) > 0
        finally:
            process.close()


# ---- what can go wrong ----------------------------------------------------------------------------------------------


def test_a_case_that_fails_is_told_and_the_next_one_runs(tmp_path: Path) -> None:
    scenarios = load()
    good = scenarios["store/set"].cases[LIMIT]
    process = ContestantProcess(tmp_path / "log")
    try:
        nowhere = scenarios["sqlite/push.one"].cases[LIMIT]
        with pytest.raises(Failed, match="OperationalError"):
            process.run(nowhere, Run(10, str(tmp_path / "no" / "folder.db")), within(30))
        assert process.run(good, Run(1_000), within(30)).values["rate"] > 0
        unknown = Case(good.scenario, "nobody", good.function)
        with pytest.raises(Failed, match="exit code 1"):
            process.run(unknown, Run(10), within(30))
        with pytest.raises(Failed, match="no end within"):
            process.run(good, Run(100_000_000), 0.1)
        assert process.run(good, Run(1_000), within(30)).values["rate"] > 0
    finally:
        process.close()


def test_what_is_not_installed_is_left_out_also_where_it_is_a_whole_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise Unavailable("its package is not installed\nand more")

    def find_spec(name: str) -> Any:
        return None if name == "redis" else original(name)

    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setitem(START, "postgresql", lambda **_: missing())
    monkeypatch.chdir(tmp_path)  # the report, and the files of the runs, are where the user is
    only = ["redis/push.one", "postgresql/push.one", "sqlite/push.one/limit"]
    words = [word for name in only for word in ("--only", name)]
    assert main([*words, "--scale", "0.01", "--rounds", "1", "--out", "here"]) == 0
    made = json.loads((tmp_path / "here" / "report.json").read_text())
    assert [row["id"] for row in made["measurements"]] == ["sqlite/push.one/limit"] and not made["failed"]
    assert {"limit: redis is not installed", "postgresql: its package is not installed"} <= set(made["absent"])


def test_what_is_not_a_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"format": 99}')
    assert main(["--only", "store/set", "--compare", str(other)]) == 2
    assert "format 99" in capsys.readouterr().err
    other.write_text("[]")
    assert main(["--only", "store/set", "--compare", str(other)]) == 2
    assert main(["--only", "nonsense"]) == 2
    assert "nothing is named nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("who", "failures", "failed", "repeated"),
    [("huey", 1, [], ["it broke"]), ("huey", 2, ["it broke"], ["it broke"]), (AIOTASKQ, 1, ["it broke"], [])],
)
def test_a_peer_that_fails_is_tried_a_second_time(
    who: str, failures: int, failed: list[str], repeated: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([Failed("it broke")] * failures)

    def once(process: ContestantProcess, case: Case, run: Run, patience: float) -> Sample:
        if run.n == 7 and (error := next(left, None)):
            raise error
        return Sample({"rate": 1.0})

    monkeypatch.setattr(ContestantProcess, "run", once)
    scene = Scenario("memory", "x", "a title", {"rate": Unit("tasks/s")}, size=7, warm_up=False)
    with (
        contextlib.closing(Stores(tmp_path)) as stores,
        Runner(stores, Settings(rounds=2), tmp_path / "logs", lambda what: None, lambda: None) as runner,
    ):
        runner.measure(scene, [Case(scene, who, lambda run: Sample({}))])
    made = report.make({}, Settings(), runner.measured, [], False)
    assert [each["why"] for each in made["failed"]] == failed
    assert made["repeated"] == [{"id": f"memory/x/{who}", "why": why} for why in repeated]


def test_another_checkout_takes_turns_with_this_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = tmp_path / "old" / "aiotaskq"
    package.mkdir(parents=True)
    # The package of this checkout, that says so.
    (package / "__init__.py").write_text(
        "import pathlib, sys\n"
        "print('the other package', file=sys.stderr, flush=True)\n"
        f"__path__ = [{str(ROOT / 'aiotaskq')!r}]\n"
        "exec(pathlib.Path(__path__[0], '__init__.py').read_text())\n"
    )
    words = [
        "--only",
        "store/set",
        "--only",
        "huey",
        "--scale",
        "0.01",
        "--rounds",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--against", str(package.parent)]) == 0
    made = report.read(tmp_path / "out" / "report.json")
    here, there = made["measurements"]
    assert [row["id"] for row in (here, there)] == ["store/set/aiotaskq", "store/set/aiotaskq of old"]
    assert here["n"] == there["n"] and len(there["figures"]["rate"]["rounds"]) == 2
    logs = {path.name: path.read_text() for path in (tmp_path / "out" / "logs").iterdir()}
    assert logs == {"store-aiotaskq-of-old.log": "the other package\n", "store-aiotaskq.log": ""}
    (ratio,) = report.ratios(made)
    assert ratio.id == "store/set:rate"
    assert ratio.least <= ratio.median <= ratio.most and ratio.least > 0
    assert "above 1 this checkout is better" in " ".join(capsys.readouterr().out.split())  # wrapped where it is narrow
    assert not next(report.groups(made, "store")).ahead()


def test_a_ratio_is_that_of_each_round_and_above_one_where_this_checkout_is_better() -> None:
    scene = Scenario("memory", "x", "a title", {"rate": Unit("tasks/s"), "p50": Unit("ms", less=True)})
    measurements = []
    for checkout, rates, waits in (
        (None, [10.0, 30.0, 20.0], [1.0, 1.0, 4.0]),
        (Path("old"), [5.0, 10.0, 40.0], [2.0] * 3),
    ):
        measurements.append(Measured(Case(scene, AIOTASKQ, lambda run: Sample({}), checkout=checkout)))
        for figure, wait in zip(rates, waits, strict=True):
            measurements[-1].add(Sample({"rate": figure, "p50": wait}))
    made = report.make({}, Settings(), measurements, [], False)
    assert report.ratios(made) == [
        report.Ratio("memory/x:rate", 2.0, 0.5, 3.0),
        report.Ratio("memory/x:p50", 2.0, 0.5, 2.0),
    ]


def test_what_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "store/set", "--against", str(tmp_path)]) == 2
    assert "is no checkout of aiotaskq" in capsys.readouterr().err


def test_the_list_names_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in load())


# ---- its parts ------------------------------------------------------------------------------------------------------


def test_every_target_names_what_is_measured() -> None:
    there = {
        f"{scenario.id}/{who}:{figure}"
        for scenario in load().values()
        for who in [*scenario.cases, ANY_PEER]
        for figure in scenario.figures
    }
    for target in TARGETS:
        assert target.of in there and (not target.by or target.by in there), target
        assert (target.at_least is None) != (target.at_most is None), target


def test_targets_are_reached_by_their_ratio_only() -> None:
    figures = {f"memory/run/{AIOTASKQ}:rate": 60.0, f"memory/run/{LIMIT}:rate": 100.0, "memory/run/huey:rate": 30.0}
    outcomes = {outcome.target.text: outcome for outcome in judge(figures)}
    first = outcomes["memory, end to end: of asyncio.Queue with ids and handlers"]
    assert (first.value, first.reached) == (0.6, True)
    assert outcomes["… of huey's"].reached is False
    assert outcomes["… of taskiq's broker in memory"].reached is None


def test_the_best_peer_is_neither_we_nor_the_limit() -> None:
    scene = "postgresql/latency"
    figures = {
        f"{scene}/{AIOTASKQ}:p50": 1.0,
        f"{scene}/{LIMIT}:p50": 0.1,
        f"{scene}/a:p50": 2.0,
        f"{scene}/b:p50": 4.0,
    }
    (found,) = [each for each in judge(figures, {f"{scene}:p50"}) if each.value is not None]
    assert (found.value, found.why, found.reached) == (0.5, "a", True)


def test_what_says_something_of_a_size_is_not_judged_at_a_smaller_one() -> None:
    figures = {f"memory/backlog/{AIOTASKQ}:200,000": 90.0, f"memory/backlog/{AIOTASKQ}:10,000": 100.0}
    assert [each.value for each in judge(figures, scale=1.0) if each.value is not None] == [0.9]
    assert not [each for each in judge(figures, scale=0.5) if each.value is not None]


def test_patterns_name_families_scenarios_and_contestants() -> None:
    scenarios = load()

    def names(*only: str) -> set[str]:
        return {f"{scene.id}/{case.who}" for scene, cases in chosen(scenarios, list(only)) for case in cases}

    assert names("sqlite/push.one/limit") == {"sqlite/push.one/limit"}
    assert {name.partition("/")[0] for name in names("redis")} == {"redis"}
    assert {name.rpartition("/")[2] for name in names("huey")} == {"huey"}
    assert names("sqlite/push*") == {name for name in names() if name.startswith("sqlite/push")}
    assert len(names()) > 100


def test_due_times_of_a_plan_are_counted_rightly() -> None:
    planned = plan(Run(50, scale=0.3), 1_000.0)
    assert planned.end == 1_003.0
    by_hand = 0
    for every, start in planned.schedules:
        assert start >= planned.begin
        due = itertools.takewhile(lambda at: at < planned.end, itertools.count(start, every))
        by_hand += sum(1 for _ in due)
    assert planned.due == by_hand > 40


async def test_a_tally_wakes_at_the_last_task_also_from_threads() -> None:
    tally = Tally()
    tally.expect(4_000)

    def thousand() -> None:
        for _ in range(1_000):
            tally.hit()

    in_threads(4, thousand)
    await tally.reached(5)
    assert tally.count == 4_000 and tally.first <= tally.last
    tally.expect(1)
    tally.fail(ValueError("the worker broke"))
    with pytest.raises(ValueError, match="broke"):
        await tally.reached(5)


def test_quantiles() -> None:
    values = [float(number) for number in range(101)]
    assert quantile(values, 0.5) == pytest.approx(50)
    assert quantile(values, 0.99) == pytest.approx(99)
    assert quantile([3.0], 0.99) == 3.0


def test_less_can_be_better() -> None:
    scene = Scenario("memory", "x", "a title", {"p50": Unit("ms", less=True)})
    measurements = []
    for who, value in ((AIOTASKQ, 2.0), ("other", 6.0), ("<b>", 1.0)):
        measurements.append(Measured(Case(scene, who, lambda run: Sample({}))))
        measurements[-1].add(Sample({"p50": value}))
    machine = {"load": 0.0, "cores": 2, "disk": "ext4", "versions": {}, "cpu": "a < b", "date": "", "command": ""}
    machine |= {"commit": "", "memory_gib": 1, "system": "", "python": "", "sync_ms": 0.1}
    made = report.make(machine, Settings(), measurements, [], False)
    (group,) = report.groups(made, "memory")
    assert [row[0] for row in group.rows] == ["<b>", AIOTASKQ, "other"]
    assert group.against_aiotaskq(6.0) == 3.0
    text = page.render(made, {}, {})
    assert "<b>" not in text and "&lt;b&gt;" in text and "a &lt; b" in text


@pytest.mark.parametrize(
    ("value", "shown"), [(231_456.0, "231,000"), (99.94, "99.9"), (0.12345, "0.123"), (float("nan"), "–"), (0.0, "0")]
)
def test_figures_are_shown_with_three_digits(value: float, shown: str) -> None:
    assert report.short(value) == shown


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_runs_the_benchmarks_of_its_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_benchmarks(["--list"]) == 0
    assert "memory/push.one" in capfd.readouterr().out
    assert run_benchmarks(["--only", "nonsense"]) == 2


def test_without_a_checkout_the_command_says_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_benchmarks([], checkout=tmp_path) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: the benchmarks are not part of the package") and said.err.count("\n") == 1
    assert not said.out

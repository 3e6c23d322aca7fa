"""The run of a million tasks, with fewer; the model of a fleet; what limits cost; and what the manual says of them."""

from __future__ import annotations

import json
import math
import sqlite3
from array import array
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fleet, kept, limits, million
from benchmarks.effects import check
from benchmarks.fleet import Costs, Measured
from tests.support.machine import within
from tests.support.servers import postgresql


def ledger(folder: Path, name: str, *numbers: int) -> Path:
    path = folder / f"{name}.ledger"
    path.write_bytes(array("I", numbers).tobytes())
    return path


# ---- a million, or fewer --------------------------------------------------------------------------------------------


@pytest.mark.timeout(within(60))
def test_every_effect_of_a_run_is_counted(tmp_path: Path) -> None:
    said: list[str] = []
    assert million.main(["--store", "sqlite", "--tasks", "1200", "--out", str(tmp_path)], said=said.append) == 0
    made = json.loads((tmp_path / "million-sqlite.json").read_text())
    assert made["counts"] == {"completed": 1_200} and made["ledger"]["effects"] == 1_200
    assert not (made["ledger"]["lost"] or made["ledger"]["repeated"] or made["ledger"]["unknown"])
    assert made["memory"].keys() == {"producer", "worker 1"} and not million.problems(made)
    assert all(each["last_quarter_mib"] > 1 for each in made["memory"].values())
    assert said[0].startswith("| SQLite, 1 + 1 | 1,200 |")
    assert [path.name for path in tmp_path.iterdir()] == ["million-sqlite.json"]


def test_ledgers_tell_what_is_lost_repeated_or_was_never_pushed(tmp_path: Path) -> None:
    checked = check([ledger(tmp_path, "a", 0, 1, 1, 3), ledger(tmp_path, "b", 3, 7)], 5)
    assert (checked.effects, checked.lost, checked.repeated, checked.unknown) == (6, [2, 4], [1, 3], [7])


async def test_a_repeated_effect_is_explained_by_the_row_of_its_task_alone(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    url = f"sqlite:///{path}"
    async with million.TaskQ(url) as tq:
        await tq.push_many(million.params(range(4)))
    checked = check([ledger(tmp_path, "a", 0, 1, 2, 3, 1, 3)], 4)
    assert await million.unexplained(url, checked) == [1, 3]
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE task_queue SET retry_count = 1 WHERE params LIKE '%3%'")
    connection.close()
    assert await million.unexplained(url, checked) == [1]


def test_what_is_wrong_with_a_run_is_told() -> None:
    made: dict[str, Any] = {
        "tasks": 5,
        "counts": {"completed": 4, "failed": 1},
        "ledger": {"lost": [2, 4], "repeated": [], "unknown": [7], "unexplained": [1]},
    }
    assert million.problems(made) == [
        "2 tasks had no effect, the first is 2",
        "1 tasks had their effect twice, and nothing tells why, the first is 1",
        "1 numbers were never pushed, the first is 7",
        "the store tells of {'completed': 4, 'failed': 1} instead of 5 completed tasks",
    ]


# ---- a fleet on paper -----------------------------------------------------------------------------------------------

COSTS = Costs(push=10e-6, server=50e-6, client=40e-6, wal=2_000, connections=5, crowd=0.5)


def test_processes_here_are_bound_by_their_threads_or_by_the_cores() -> None:
    assert COSTS.here(1, 32) == COSTS.here(1, 1) == pytest.approx(1 / 90e-6)
    assert COSTS.here(2, 32) == pytest.approx(2 / 115e-6)
    assert COSTS.here(2, 1) == pytest.approx(1 / 115e-6)


@pytest.mark.parametrize("cores", fleet.CORES)
def test_a_server_is_filled_by_the_fewest_processes(cores: int) -> None:
    carried = COSTS.carried(cores)
    assert COSTS.most(carried.processes) >= carried.rate
    fewer = carried.processes - 1
    assert fewer == 0 or COSTS.most(fewer) < cores * fleet.USED / (COSTS.push + COSTS.crowded(fewer))
    assert carried.connections == 5 * carried.processes and carried.wal == pytest.approx(carried.rate * 0.002)
    assert carried.rate * (COSTS.push + COSTS.crowded(carried.processes)) == pytest.approx(cores * fleet.USED)


def test_the_error_of_the_model_is_that_of_what_it_says_without_having_seen_it() -> None:
    measured = [
        Measured(count, rate, 2.0, Costs(10e-6, server, 40e-6, 2_000, 5))
        for count, rate, server in ((1, 11_111.1, 50e-6), (2, 17_391.3, 75e-6), (4, 10_000.0, 100e-6))
    ]
    made = fleet.result(measured, where={}, tasks=1_000)
    assert made["costs"]["crowd"] == pytest.approx(0.5)
    assert [round(each["error_percent"]) for each in made["checked"]] == [0, 0, 21]
    assert fleet.checks(made)[2] == "| 4 | 10,000 | 12,100 | +21 % |"
    assert [line.split(" | ")[0] for line in fleet.table(made)] == [f"| {cores}" for cores in fleet.CORES]


def test_costs_are_taken_from_a_server_and_its_workers(tmp_path: Path) -> None:
    measured = fleet.measure(postgresql(), tmp_path, 1, 1_500)
    costs = measured.costs
    assert measured.rate > 0 and costs.wal > 300 and costs.connections >= 2 and math.isfinite(costs.carried(8).rate)
    assert min(costs.push, costs.server, costs.client) >= 0 and costs.server + costs.client > 0


# ---- the manual -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", kept.PAGES, ids=lambda page: page.parent.name)
def test_the_manual_shows_the_results_that_are_kept(page: Path) -> None:
    runs = [kept.read(f"million-{store}") for store in million.PLACES]
    assert all(each["tasks"] == 1_000_000 and not million.problems(each) for each in runs)
    model = kept.read("fleet")
    text = (kept.ROOT / page).read_text(encoding="utf-8")
    tables = {"a million tasks": million.rows(), "the model here": fleet.checks(model), "a server": fleet.table(model)}
    tables["what limits cost"] = limits.rows(kept.read(limits.NAME))
    for mark, rows in tables.items():
        assert kept.with_rows(text, mark, rows) == text
    assert "python -m benchmarks.million --store" in text and "python -m benchmarks.fleet" in text


def test_rows_of_a_table_are_replaced_in_both_pages(tmp_path: Path) -> None:
    for page in kept.PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text("a\n<!-- x -->\n| h |\n|---|\n| 1 |\n| 2 |\n\nb\n", encoding="utf-8")
    kept.show({"x": ["| 3 |"]}, tmp_path)
    assert {(tmp_path / page).read_text() for page in kept.PAGES} == {"a\n<!-- x -->\n| h |\n|---|\n| 3 |\n\nb\n"}
    with pytest.raises(ValueError, match="<!-- y -->"):
        kept.show({"y": []}, tmp_path)


def test_a_report_that_is_no_full_and_quiet_run_is_not_kept() -> None:
    each = {"scenario": "gates", "who": "aiotaskq", "figures": {name: {"median": 8.0} for name in limits.FIGURES}}
    report: Any = {
        "machine": {"load": 0.1},
        "settings": {"scale": 1, "rounds": 3},
        "stopped_early": False,
        "failed": [],
    }
    report["measurements"] = [each | {"family": family} for family in limits.STORES]
    assert limits.rows(limits.of_report(report))[0] == "| memory | 8 | 1.00 | 1.00 | 1.00 |"
    for key, value, why in (
        ("machine", {"load": 0.6}, "its load was 0.6"),
        ("settings", {"scale": 0.5, "rounds": 3}, "0.5 of the full ones"),
        ("stopped_early", True, "stopped early"),
        ("failed", [{"id": "redis/gates", "why": "away"}], "redis/gates failed: away"),
    ):
        with pytest.raises(ValueError, match=why):
            limits.of_report(report | {key: value})
    with pytest.raises(ValueError, match="no figures of memory; run --only"):
        limits.of_report(report | {"measurements": report["measurements"][1:]})

"""Bounds on a clock are scaled by how slow the machine is, in every test."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import machine
from tests.support.machine import MOST, Machine
from tests.support.programs import programs_in

TESTS = Path(__file__).parent.parent
SHORT = 2.0  # seconds; a wait that is shorter is part of what a test does
WAITS = {"timeout", "wait_for", "wait", "join", "result", "exception", "wait_for_end", "communicate", "run", "urlopen"}
NOT_WAITED_FOR = ("clock", "run", "child", "mark")
"""Owners with a virtual ``wait``, with other numbers in ``wait_for`` and ``run``, or with a scaled ``timeout``."""
CLOCKS = {"time.monotonic()", "time.perf_counter()", "time.time()", "time.thread_time()", "time.process_time()"}


def test_a_bound_grows_with_the_work_the_timers_and_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.VARIABLE, "1")
    took = {"wall": machine.CPU, "own": machine.CPU, "start": machine.START, "late": 0.0, "load": 0.5}
    monkeypatch.setattr(machine, "spin", lambda: (took["wall"], took["own"]))
    monkeypatch.setattr(machine, "start", lambda: took["start"])
    monkeypatch.setattr(machine, "late", lambda: took["late"])
    monkeypatch.setattr(machine, "load", lambda: took["load"])
    monkeypatch.setattr(machine, "AGAIN", 0.0)
    measured = Machine()
    monkeypatch.setattr(machine, "MACHINE", measured)
    measured.calibrate()
    assert (machine.within(2), machine.working(2)) == (2, 2)
    took["start"] *= 3
    measured.calibrate()
    assert machine.within(2) == pytest.approx(6) and os.environ[machine.VARIABLE] == "3.00"
    took["late"] = 5 * machine.LATE
    measured.look()
    assert machine.within(2) == pytest.approx(10) and float(os.environ[machine.VARIABLE]) == 5
    took["late"] = 0.0
    took["wall"], took["own"] = 8 * machine.CPU, 2 * machine.CPU
    measured.look()
    assert (machine.within(2), machine.working(2)) == pytest.approx((16, 4))
    took["wall"], took["own"] = machine.CPU / 2, machine.CPU / 2
    measured.look()
    assert (machine.within(2), machine.working(2)) == pytest.approx((6, 2)), "never below what the start has shown"
    took["load"] = 7.0
    assert (machine.within(2), machine.working(2)) == pytest.approx((14, 2)), "a burst between two measurements"
    took["wall"] = 1e9
    measured.look()
    assert machine.within(1) == MOST


def bounds(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield the bounds of waits, and the values that are added to or compared with a clock."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            owner, _, name = ast.unparse(node.func).rpartition(".")
            if name in WAITS and owner and not owner.endswith(NOT_WAITED_FOR):
                yield from node.args
                yield from (each.value for each in node.keywords if each.arg == "timeout")
        elif isinstance(node, ast.Compare) and any(clock in ast.unparse(node) for clock in CLOCKS):
            yield from node.comparators
        elif isinstance(node, ast.BinOp) and ast.unparse(node.left) in CLOCKS:
            yield node.right


def is_unscaled(bound: ast.expr) -> bool:
    return isinstance(bound, ast.Constant) and type(bound.value) in (int, float) and bound.value >= SHORT


@pytest.mark.parametrize(
    "code", ["asyncio.timeout(30)", "h.result(timeout=5)", "time.monotonic() - a < 8", "e = time.monotonic() + 20"]
)
def test_an_unscaled_bound_is_found(code: str) -> None:
    assert any(is_unscaled(bound) for bound in bounds(ast.parse(code)))


def test_every_bound_is_scaled() -> None:
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        if "chaos" in path.parts or "apps" in path.parts or path.name == "typing_sample.py":
            continue  # run on request, alone on their machine; users' programs
        unscaled = filter(is_unscaled, bounds(ast.parse(path.read_text())))
        found += [f"{path.relative_to(TESTS)}:{each.lineno}: {ast.unparse(each)}: write within(…)" for each in unscaled]
    assert found == []


def test_output_beside_the_awaited_line_is_not_lost(tmp_path: Path) -> None:
    with programs_in(tmp_path) as start:
        program = start("import os\nos.write(1, 'é\\nready\\nlast\\n'.encode())")
        program.wait_for("ready")
        assert program.end() == ["last"]

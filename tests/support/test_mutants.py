"""``tests.mutants``: the faults that it puts into the package, and the tests that must notice them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.mutants.__main__ import Copy
from tests.mutants.faults import PACKAGE, ROOT, Fault, faults_of, lua_faults, python_faults, sql_faults
from tests.mutants.targets import TARGETS, Target
from tests.support.machine import within


def applied(source: str, fault: Fault) -> str:
    data = source.encode()
    return (data[: fault.start] + fault.new.encode() + data[fault.end :]).decode()


@pytest.mark.parametrize(
    ("line", "faults"),
    [
        ("x = a < b", ["x = (a <= b)"]),
        ("x = a is not b and c", ["x = (a is not b or c)", "x = (a is b) and c"]),
        ("return not a", ["return None", "return (a)"]),
        ("x = é - 1", ["x = (é + 1)", "x = é - (2)"]),
        ("x = min(a, b)", ["x = (max(a, b))"]),
        ("x = a if b else c", ["x = (a if not b else c)"]),
        ("a.b = c", ["pass"]),
        ("f(True)", ["pass", "f((False))"]),
        ("n += 1", ["pass", "n += (2)"]),
        ("logger.error('x')", []),
        ("raise ValueError(f'{a + b}')", []),
        ("x: dict[str, 1] = y", []),
        ("'''A text, 1 < 2.'''", []),
    ],
)
def test_faults_in_python(line: str, faults: list[str]) -> None:
    source = f"def function():\n    {line}\n"
    found = [applied(source, fault).splitlines()[1].strip() for fault in python_faults("f.py", source)]
    assert sorted(found) == sorted(faults)


def test_faults_in_lua() -> None:
    source = "-- if a == b: a comment\nif a == b and not c then\n  drop(id, 'é', 1)  -- and a comment\nend\n"
    found = {applied(source, fault) for fault in lua_faults("f.lua", source)}
    assert found == {
        source.replace("if a == b and", "if a ~= b and"),
        source.replace(" and not", " or not"),
        source.replace("not c", "c"),
        source.replace("  drop(id, 'é', 1)  ", ""),
    }


def test_faults_in_sql() -> None:
    source = "X = f'SELECT a FROM b WHERE c <= {d} AND e IS NOT NULL'\n"
    found = {applied(source, fault) for fault in sql_faults("f.py", source)}
    assert found == {
        source.replace("<=", "<"),
        source.replace("AND", "OR"),
        source.replace("NOT ", ""),
        source.replace("NULL", "0"),
    }


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.file}{' (texts)' * target.text}")
def test_every_target_has_faults_and_tests(target: object) -> None:
    assert isinstance(target, type(TARGETS[0]))
    source = (ROOT / PACKAGE / target.file).read_text()
    faults = faults_of(target)
    assert len(faults) > 8
    tree = ast.dump(ast.parse(source)) if target.file.endswith(".py") else ""
    for fault in faults[:: len(faults) // 8 + 1]:
        faulty = applied(source, fault)
        assert faulty != source, fault
        assert not tree or ast.dump(ast.parse(faulty)) != tree, fault
    paths = [word for tests in target.tests for word in tests if word.startswith("tests/")]
    assert paths and all((ROOT / path).exists() for path in paths)


@pytest.mark.skipif(sys.platform == "win32", reason="runs each test in a fork")
def test_a_killed_fault_and_one_that_survives(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    noticed, unnoticed = ((f"tests/core/{name}.py",) for name in ("test_backoff", "test_results"))
    try:
        assert [copy.run(tests, within(60)) for tests in (noticed, unnoticed)] == ["passed", "passed"]
        fault = next(each for each in faults_of(Target("core/outcome.py", [])) if "// self.factor" in each.new)
        came = [
            copy.try_out(fault, Target("core/outcome.py", [tests]), lambda _: within(60))
            for tests in (noticed, unnoticed)
        ]
        assert [each.came_of_it for each in came] == ["killed", "survived"]
    finally:
        copy.close()

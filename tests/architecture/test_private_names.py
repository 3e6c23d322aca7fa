"""No module of the package uses a private name of another object, but for a few with a written reason."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiotaskq

PACKAGE = Path(aiotaskq.__file__).parent

# Names with an underscore that their documentation names: they are public.
DOCUMENTED = {"os._exit", "sys._current_frames", "sys._getframe"}
DOCUMENTED_OF_TUPLES = {"_asdict", "_fields", "_make", "_replace"}

ALLOWED = {
    ("app/internal.py", "_internal"): "what the package uses of a TaskQ beside its public names: internal(tq)",
    ("sync/bridge.py", "_reach"): "the same of a blocking object: reach_of(facade)",
    ("backends/redis/wire.py", "_writer"): "redis-py has no public way to the stream of a connection",
    ("backends/sql/connecting.py", "_transport"): "the drivers have no public way to the socket of a connection",
    ("cli/supervisor.py", "_args_from_interpreter_flags"): "the interpreter's flags, as multiprocessing passes them on",
    ("concurrency/loop_bound.py", "_get_running_loop"): "the public function raises, which costs too much per call",
    ("runtime/worker/executors.py", "_processes"): "a pool has no public way to the ids of its processes",
    ("log.py", "_core"): "loguru's lowest level is not public; the pinned range is tested",
    ("log.py", "_defaults"): "whether loguru added its default sink is not public; the pinned range is tested",
}
LIMIT = 11  # accesses in all


def accesses(source: str) -> Iterator[tuple[str, int]]:
    """Yield each private name of another object that a module uses, and its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.name, node.lineno) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            of = ast.unparse(node.value)
            own = of in ("self", "cls", "super()")
            if not own and node.attr not in DOCUMENTED_OF_TUPLES and f"{of}.{node.attr}" not in DOCUMENTED:
                yield node.attr, node.lineno


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@functools.cache
def found() -> list[tuple[str, str, int]]:
    """Return module, private name and line of each access."""
    return [
        (path.relative_to(PACKAGE).as_posix(), name, line)
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, line in accesses(path.read_text(encoding="utf-8"))
    ]


def test_private_names_of_others_are_few_and_have_a_reason() -> None:
    assert [f"{path}:{line}: {name}" for path, name, line in found() if (path, name) not in ALLOWED] == []
    assert len(found()) <= LIMIT


def test_every_allowed_name_is_used() -> None:
    assert ALLOWED.keys() <= {(path, name) for path, name, _ in found()}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("other._x", ["_x"]),
        ("self.a._x = 1", ["_x"]),
        ("from a import _b, c", ["_b"]),
        ("self._x, cls._y, super()._z, a.__class__, _own()", []),
        ("os._exit(1), row._replace(a=1)", []),
    ],
)
def test_what_counts_as_an_access(source: str, names: list[str]) -> None:
    assert [name for name, _ in accesses(source)] == names

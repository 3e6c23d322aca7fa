"""The layers of the package: which folder may import which, no import circles, and rules for every file."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiotaskq

PACKAGE = Path(aiotaskq.__file__).parent

# The folders and files at the root of the package; "" is its __init__. A module imports lower layers and its own.
LAYERS = {
    "cli": 8,
    "__main__": 8,
    "": 7,
    "types": 7,
    "integrations": 7,
    "testing": 7,
    "sync": 6,
    "web": 6,
    "operations": 5,
    "app": 4,
    "database": 4,
    "runtime": 3,
    "backends": 2,
    "codecs": 2,
    "errors": 2,
    "models": 2,
    "concurrency": 1,
    "core": 1,
    "log": 1,
}

# Programs of users, which belong to no layer: no module of the package imports them.
EXAMPLES = PACKAGE / "examples"


def modules_in(folder: Path) -> dict[str, Path]:
    """Return the modules of a package without its examples, by their names in it; "" is its __init__."""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
        for path in sorted(folder.rglob("*.py"))
        if EXAMPLES not in path.parents
    }


MODULES = modules_in(PACKAGE)
BENCHMARKS = modules_in(PACKAGE.parent / "benchmarks")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def tree_of(module: str) -> ast.Module:
    return parsed(MODULES[module])


def imports(tree: ast.AST) -> Iterator[tuple[str, list[str], int]]:
    """Yield module, names and line of every import, also of those in functions and for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, [], node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield node.module or "", [alias.name for alias in node.names], node.lineno


def imports_at_run_time(tree: ast.AST, in_functions: bool = True) -> Iterator[str]:
    """Yield the modules of all imports but those for type checkers, each with the name that is imported from it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from imports_at_run_time(other, in_functions)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports_at_run_time(node, in_functions)


@functools.cache
def imports_of(path: Path) -> list[tuple[str, list[str], int]]:
    return list(imports(parsed(path)))


@functools.cache
def libraries_of(module: str) -> frozenset[str]:
    """The first parts of what it imports at run time."""
    return frozenset(name.partition(".")[0] for name in imports_at_run_time(tree_of(module)))


def own_imports(
    module: str, package: str = "aiotaskq", modules: dict[str, Path] = MODULES
) -> Iterator[tuple[str, int]]:
    """Yield the modules of the package that one of them imports, and the lines."""
    for imported, names, line in imports_of(modules[module]):
        if imported == package or imported.startswith(f"{package}."):
            inside = imported.removeprefix(package).removeprefix(".")
            for name in names or [""]:
                deeper = f"{inside}.{name}".strip(".")
                yield (deeper if deeper in modules else inside), line


def layer_of(module: str) -> int:
    return LAYERS[module.partition(".")[0]]


def test_the_root_holds_what_the_table_names() -> None:
    there = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path.is_dir() and path.name not in ("__pycache__", "docs", "examples"))
    }
    assert there - {"__init__"} == LAYERS.keys() - {""}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_to_lower_layers_or_the_same(module: str) -> None:
    for other, line in own_imports(module):
        assert other or module == "__main__" or layer_of(module) > LAYERS[""], f"line {line} imports the package root"
        assert layer_of(other) <= layer_of(module), f"line {line} imports {other}, which is in a higher layer"


def test_examples_import_what_is_public() -> None:
    public = {
        "",
        "sync",
        "types",
        "sync.types",
        "errors",
        "codecs",
        "models",
        "database",
        "log",
        "testing",
        "web.server",
    }
    for path in EXAMPLES.rglob("*.py"):
        for imported, _, line in imports(ast.parse(path.read_text(encoding="utf-8"))):
            inside = imported.removeprefix("aiotaskq").removeprefix(".")
            if imported.partition(".")[0] == "aiotaskq":
                assert inside in public or inside.startswith("integrations."), f"{path}: line {line}"


@pytest.mark.parametrize(("package", "modules"), [("aiotaskq", MODULES), ("benchmarks", BENCHMARKS)])
def test_no_module_needs_itself(package: str, modules: dict[str, Path]) -> None:
    """Imports in functions and for type checkers count as well."""
    needs = {module: {other for other, _ in own_imports(module, package, modules)} - {module} for module in modules}
    while needs:
        free = {module for module, others in needs.items() if not others & needs.keys()}
        assert free, f"a circle among {sorted(needs)}"
        needs = {module: others for module, others in needs.items() if module not in free}


def test_no_chain_of_imports_is_long() -> None:
    """The longest chain has 15 modules, so that a change of the lowest one reaches few levels."""
    needs: dict[str, set[str]] = {}
    for module in MODULES:
        found = [name for name in imports_at_run_time(tree_of(module), in_functions=False) if "aiotaskq." in name]
        own = (name.removeprefix("aiotaskq.") for name in found)
        needs[module] = {name if name in MODULES else name.rpartition(".")[0] for name in own} - {module}
    length = 0
    while needs:
        needs = {module: left for module, others in needs.items() if (left := others & needs.keys())}
        length += 1
    assert length <= 15


# Which modules may import a large library; a folder stands for all of its modules.
LIBRARIES = {
    "aiosqlite": {"backends.sql.sqlite_connections"},
    "aiohttp": {"integrations.aiohttp"},
    "alembic": {"backends.sql.migrations"},
    "croniter": {"core.cron_parser"},
    "django": {"integrations.django"},
    "fastapi": {"integrations.fastapi"},
    "loguru": {"cli.run", "integrations.logging", "log"},
    "opentelemetry": {"integrations.opentelemetry"},
    "prometheus_client": {"integrations.prometheus"},
    "redis": {"backends.redis"},
    "rich": {"cli.output"},
    "sqlalchemy": {"backends.sql", "cli.tables", "database", "integrations.django", "models", "sync.session"},
    "starlette": {"integrations.aiohttp", "web"},
    "typer": {"cli"},
    "tzlocal": {"core.cron"},
    "uvicorn": {"web.http_protocol", "web.server"},
}
FOLDERS = ("backends.sql.migrations", "backends.sql", "backends.redis", "cli", "integrations.django", "web")


@pytest.mark.parametrize("library", LIBRARIES)
def test_large_libraries_are_imported_where_they_belong(library: str) -> None:
    users = set()
    for module in MODULES:
        if library in libraries_of(module):
            whole = [name for name in FOLDERS if f"{module}.".startswith(f"{name}.")]
            users.add(next((name for name in whole if name in LIBRARIES[library]), module))
    assert users == LIBRARIES[library]


def test_what_an_application_does_not_use_is_not_imported() -> None:
    code = (
        "import sys, aiotaskq, aiotaskq.sync\naiotaskq.sync.push_task({'type': 'x'})\n"
        f"print(sorted({set(LIBRARIES) - {'loguru'}!r} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    ("program", "unused"),
    [
        ("import aiotaskq", {"asyncio", "msgspec", "aiotaskq.core", "aiotaskq.app"}),
        (
            "from aiotaskq import Limit, TaskQ; tq = TaskQ('memory://')",
            {"loguru", "multiprocessing", "zoneinfo", "difflib", "aiotaskq.core.cron", "aiotaskq.core.webhooks"},
        ),
    ],
)
def test_a_program_imports_what_it_uses(program: str, unused: set[str]) -> None:
    code = f"{program}\nimport sys; print(sorted({unused!r} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# ---- every file -----------------------------------------------------------------------------------------------------


COMPILES = {"app.handle"}
"""They compile the parameter names of functions, which Python has accepted as identifiers."""


def called(node: ast.AST) -> str:
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


@pytest.mark.parametrize("module", MODULES)
def test_what_holds_for_every_file(module: str) -> None:
    tree, lines = tree_of(module), MODULES[module].read_text(encoding="utf-8").count("\n")
    assert ast.get_docstring(tree), "its first sentence says what it is responsible for"
    assert lines <= 500, f"{lines} lines"
    assert module.rpartition(".")[2] not in ("utils", "util", "helpers", "misc")
    for imported, names, line in imports_of(MODULES[module]):
        # Stored bytes are data: nothing that can build objects from them.
        assert imported.partition(".")[0] not in ("pickle", "marshal", "shelve", "dill", "yaml"), f"line {line}"
        assert "wait_for" not in names or imported != "asyncio", f"line {line}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "wait_for":
            assert ast.unparse(node) != "asyncio.wait_for", f"line {node.lineno}: it swallows cancellation on 3.11"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and module not in COMPILES:
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"line {node.lineno}"
        if isinstance(node, ast.Expr):
            dropped = called(node.value) in ("create_task", "ensure_future", "run_coroutine_threadsafe")
            assert not dropped, f"line {node.lineno}: the loop holds tasks weakly; keep a reference to this one"


def test_no_file_of_the_tests_is_longer_than_500_lines() -> None:
    root = PACKAGE.parent
    lengths = {
        str(path.relative_to(root)): path.read_text(encoding="utf-8").count("\n")
        for folder in ("tests", "benchmarks")
        for path in (root / folder).rglob("*.py")
    }
    assert [name for name, lines in lengths.items() if lines > 500] == []


def test_the_facade_decides_nothing() -> None:
    """Its methods have no statements that branch: what differs is decided by the wrapper, once."""
    for module in ("sync.facades", "sync.taskq"):
        for kind in (node for node in tree_of(module).body if isinstance(node, ast.ClassDef)):
            for method in (node for node in kind.body if isinstance(node, ast.FunctionDef)):
                if method.name in ("__init__", "_run"):  # makes what is wrapped; crosses to another loop
                    continue
                branches = [node for node in ast.walk(method) if isinstance(node, ast.If | ast.While | ast.Match)]
                assert not branches, f"{module}.{kind.name}.{method.name}"


@pytest.mark.parametrize("store", ["memory", "sql"])
def test_a_store_applies_no_rule_of_gates_and_groups(store: str) -> None:
    """It keeps rows and their order. ``backends.flow`` applies the rules, once for every store."""
    rules = {"aiotaskq.core.gate", "aiotaskq.core.parking", "aiotaskq.core.groups"}
    # They tell where a row belongs, how it is ordered, and how long it is kept.
    of_rows = {"any_flow", "at_gate", "slots", "slots_and_gate", "passing_order", "tokens"}
    of_rows |= {"is_idle", "set_back", "stays", "budget_gate", "is_later"}
    found = {
        (module, name)
        for module, path in modules_in(PACKAGE / "backends" / store).items()
        for imported, names, _ in imports_of(path)
        if imported in rules
        for name in names
        if name.islower()
    }
    assert [(module, name) for module, name in sorted(found) if name not in of_rows] == []

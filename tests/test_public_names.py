"""What stands where: the public names of both worlds, their equal signatures, and the floors of the house."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
import aiotaskq.sync

PACKAGE = Path(aiotaskq.__file__).parent

# ---- names ----------------------------------------------------------------------------------------------------------

DATABASE_NAMES = {"Base", "SessionLocal", "engine", "get_db"}  # imported when they are asked for

CLASSES = [
    "DatabaseQueue",
    "MemoryQueue",
    "RedisQueue",
    "Scheduler",
    "TaskContext",
    "TaskFunction",
    "TaskHandle",
    "TaskQ",
]
FUNCTIONS = [
    "current_task",
    "delete_public",
    "get_public",
    "get_queue",
    "get_scheduler",
    "pop_task",
    "push_task",
    "set_public",
]

# Methods without a blocking twin, and why.
AWAITED_ONLY = {
    "Queue": {
        "add",
        "adopt",
        "give_back",
        "immediate",
        "complete_with",
        "settle",
    },  # for workers and the facade itself
    "Store": {"immediate"},
    "Scheduler": {"add", "declare"},  # for TaskQ
    "TaskFunction": {"push_sync"},
    "TaskQ": {"adopt", "on_signal", "run_until", "lifespan", "sync"},  # these belong to a loop
}
ENTERING = {"__aenter__": "__enter__", "__aexit__": "__exit__"}


@pytest.mark.parametrize("module", [aiotaskq, aiotaskq.sync])
def test_all_is_sorted_and_equals_reality(module: types.ModuleType) -> None:
    real = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
    }
    names = list(module.__all__)
    assert names == sorted(set(names), key=lambda name: (not name.isupper(), name)), "constants first"
    assert set(names) - DATABASE_NAMES == real - DATABASE_NAMES
    assert all(getattr(module, name) is not None for name in set(names) - DATABASE_NAMES)


def test_both_worlds_have_the_same_names() -> None:
    assert set(aiotaskq.sync.__all__) == set(aiotaskq.__all__) >= DATABASE_NAMES


def test_what_does_not_wait_is_the_same_object_in_both() -> None:
    for name in set(aiotaskq.__all__) - {*CLASSES, *FUNCTIONS, *DATABASE_NAMES}:
        assert getattr(aiotaskq.sync, name) is getattr(aiotaskq, name), name
    for name in (*CLASSES, *FUNCTIONS):
        assert getattr(aiotaskq.sync, name) is not getattr(aiotaskq, name), name


def test_the_documented_old_imports_have_a_home() -> None:
    from aiotaskq import database, log, models

    assert models.SchedulerTask.__tablename__ == "scheduler_task" and models.TaskQueue.__tablename__ == "task_queue"
    assert {"engine", "Base", "SessionLocal", "get_db"} <= set(database.__all__)
    assert log.logger is not None
    for name in ("engine", "Base", "SessionLocal", "get_db"):
        assert getattr(aiotaskq, name) is getattr(database, name)
    assert aiotaskq.sync.Base is aiotaskq.Base and aiotaskq.sync.engine is not aiotaskq.engine
    for module in (aiotaskq, aiotaskq.sync):
        with pytest.raises(AttributeError, match="nonsense"):
            _ = module.nonsense


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of each, as the signature says."""
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in found if each.name != "self"]


def written_parameters(function: types.FunctionType) -> list[tuple[str, Any, Any]] | None:
    """The same as the code says, whatever the signature says; None where it takes all and hands it on."""
    bare = types.FunctionType(function.__code__, {}, "bare", function.__defaults__, function.__closure__)
    bare.__kwdefaults__ = function.__kwdefaults__
    found = parameters(bare)
    kinds = {kind for _, kind, _ in found}
    return None if inspect.Parameter.VAR_POSITIONAL in kinds or inspect.Parameter.VAR_KEYWORD in kinds else found


def methods(kind: type) -> dict[str, Any]:
    excused = {name for base in kind.__mro__ for name in AWAITED_ONLY.get(base.__name__, ())}
    return {
        name: value
        for name, value in inspect.getmembers(kind)
        if name in ENTERING or (not name.startswith("_") and name not in excused)
        if inspect.isfunction(value) or isinstance(value, property)
    }


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_has_its_blocking_twin(name: str) -> None:
    awaited, blocking = getattr(aiotaskq, name), getattr(aiotaskq.sync, name)
    assert parameters(blocking.__init__) == parameters(awaited.__init__) or name in ("TaskContext", "TaskFunction")
    twins = methods(awaited)
    assert twins, "nothing to compare"
    for method, original in twins.items():
        twin: Any = getattr(blocking, ENTERING.get(method, method), None)
        assert twin is not None, f"{name}.{method} has no blocking twin"
        if isinstance(original, property) or method in ENTERING:
            continue
        assert not inspect.iscoroutinefunction(twin), f"{name}.{method}"
        assert inspect.signature(twin) == inspect.signature(original), f"{name}.{method}"
        assert twin.__doc__ == original.__doc__ and twin.__doc__, f"{name}.{method}"
        written = written_parameters(twin)
        assert written is None or written == parameters(original), f"{name}.{method} takes other arguments than it says"
    extra = methods(blocking).keys() - twins.keys() - {"task", "cancel_requested"}
    assert not extra, f"{name} can more when it blocks: {extra}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_its_blocking_twin(name: str) -> None:
    awaited, blocking = getattr(aiotaskq, name), getattr(aiotaskq.sync, name)
    assert not inspect.iscoroutinefunction(blocking) and blocking.__name__ == name
    assert inspect.signature(blocking) == inspect.signature(awaited)
    assert blocking.__doc__ == awaited.__doc__ and blocking.__doc__
    assert written_parameters(blocking) in (None, parameters(awaited))


def test_the_actors_of_a_task_queue_have_their_twins(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    awaited, blocking = aiotaskq.TaskQ(url), aiotaskq.sync.TaskQ(url)
    for actor in ("queue", "store", "scheduler"):
        for method, original in methods(type(getattr(awaited, actor))).items():
            twin = getattr(type(getattr(blocking, actor)), method)
            if inspect.isfunction(original):
                assert inspect.signature(twin) == inspect.signature(original), f"{actor}.{method}"
                assert twin.__doc__ == original.__doc__, f"{actor}.{method}"


# ---- floors ---------------------------------------------------------------------------------------------------------

# Imports go down only (or stay on the floor). A room is a module, or a folder with all that is in it.
FLOORS: dict[str, float] = {
    # 5, doors: they translate, they decide nothing
    "sync": 5,
    "cli": 5,
    "web": 5,
    "integrations": 5,
    "testing": 5,
    "demo": 5,
    "__main__": 5,
    # 4, hall: everything wired
    "taskq": 4,
    "documented": 4,
    # 3, actors, and what they are made of
    "worker": 3.4,
    "runner": 3.3,
    "scheduler": 3.4,
    "calls": 3.4,
    "blocking": 3.4,
    "registry": 3.4,
    "handles": 3.3,
    "queue": 3.2,
    "store": 3.2,
    "handlers": 3.1,
    "context": 3.1,
    "running": 3.2,
    "stall": 3.1,
    "slots": 3.3,
    "pops": 3.1,
    "resources": 3.1,
    "batch": 3.1,
    "service": 3.1,
    "leases": 3.15,
    "reaper": 3.16,
    "bulk": 3.15,
    "copying": 3.1,
    "health": 3.1,
    "inbox": 3.12,
    "pace": 3.1,
    "deadlines": 3.1,
    "supply": 3.3,
    "waiting": 3.15,
    "claims": 3.1,
    "bound": 3.16,
    "expired_keys": 3.1,
    "pushed": 3.11,
    "known_ids": 3.12,
    "events": 3.1,
    # 2, stores: rows, not rules
    "backends.sql": 2.4,
    "backends.sql_session": 2.1,
    "backends.sql_claim": 2.3,
    "backends.sql_bound": 2.35,
    "backends.sql_notify": 2.3,
    "backends.sql_gap": 2,
    "backends.sql_schedules": 2.3,
    "backends.sqlite_watch": 2.3,
    "backends.sqlite_clock": 2.3,
    "backends.sql_values": 2.3,
    "backends.sql_tasks": 2.2,
    "backends.sql_rows": 2.1,
    "backends.sql_packet": 2.12,
    "backends.sql_compiled": 2.12,
    "backends.sql_insert": 2.15,
    "backends.sql_write": 2.17,
    "migrations": 2.1,
    "database": 2.1,
    "engines": 2.05,
    "settings": 2.06,
    "lazy_engine": 2.06,
    "sqlite_file": 2,
    "watch": 2.07,
    "sqlite_connections": 2.08,
    "models": 2,
    "backends.rehearsal": 2.2,
    "backends.memory": 2.1,
    "backends.memory_queue": 2.05,
    "backends.memory_lane": 2,
    "backends.memory_ended": 2.05,
    "backends.memory_running": 2,
    "backends.memory_keys": 2,
    "backends.memory_reads": 2.05,
    "backends.memory_lock": 2,
    "backends.memory_values": 2,
    "backends.redis": 2.4,
    "backends.redis_hints": 2.3,
    "backends.redis_server": 2.3,
    "backends.redis_values": 2.3,
    "backends.redis_queries": 2.3,
    "backends.redis_scripts": 2.2,
    "backends.redis_link": 2.1,
    "backends.redis_lua": 2,
    "backends.redis_rows": 2,
    "backends": 2,
    # 1, seam
    "backends.base": 1,
    # 0, words
    "agenda": 0.5,
    "clock_steps": 1.1,
    "upcoming": 0.5,
    "schedule": 0.4,
    "cron": 0.3,
    "cron_fields": 0.2,
    "cron_walk": 0.2,
    "outcome": 0.3,
    "task": 0.2,
    "clock": 0.1,
    "wakeup": 0,
    "shared_queue": 0,
    "log": 0.15,
    "task_log": 0.4,
    "masking": 0,
    "loopthread": 0.2,
    "answer": 0.1,
    "uninterrupted": 0.15,
    "extras": 0.2,
    "errors": 0.1,
    "daemons": 0,
    "forks": 0,
    "shelter": 0,
}

ROOMS = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}
TREES = {room: ast.parse(path.read_text()) for room, path in ROOMS.items()}

# From a URL to a backend, which is imported only then: the one arrow that goes up, and it is in a function.
BY_URL = {("backends", f"backends.{kind}") for kind in ("memory", "rehearsal", "sql", "redis")}


def floor_of(room: str) -> float:
    while room not in FLOORS:
        assert "." in room, f"{room}: a new room; say on which floor it is"
        room = room.rpartition(".")[0]
    return FLOORS[room]


def imports(tree: ast.AST) -> Iterator[tuple[str, list[str], int]]:
    """Module, names and line of every import that runs: also those in functions, not those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from imports(other)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, [], node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield node.module or "", [alias.name for alias in node.names], node.lineno
        else:
            yield from imports(node)


def own_imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for module, names, line in imports(tree):
        if module == "aiotaskq" or module.startswith("aiotaskq."):
            inside = module.removeprefix("aiotaskq").removeprefix(".")
            deeper = [f"{inside}.{name}".removeprefix(".") for name in names]
            for room in [room for room in deeper if room in ROOMS] or [inside]:
                yield room, line


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_only_and_never_to_the_root(room: str) -> None:
    here = floor_of(room)
    for other, line in own_imports(TREES[room]):
        assert other, f"{room}:{line} imports the package root"
        assert floor_of(other) <= here or (room, other) in BY_URL, f"{room}:{line} imports {other}, which is above it"


def test_no_room_needs_itself() -> None:
    """Imports at the top of modules have no circle, not even on one floor."""
    needs = {}
    for room, tree in TREES.items():
        top = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)], [])
        needs[room] = {other for other, _ in own_imports(top)} - {room}
    while needs:
        free = {room for room, others in needs.items() if not others & needs.keys()}
        assert free, f"a circle among {sorted(needs)}"
        needs = {room: others for room, others in needs.items() if room not in free}


# Which rooms may import a heavy library; all others do it through these.
HEAVY = {
    "aiosqlite": {"sqlite_connections"},
    "aiohttp": {"integrations.aiohttp"},
    "alembic": {"migrations"},
    "croniter": {"cron_fields"},
    "fastapi": {"integrations.fastapi"},
    "loguru": {"cli.run", "integrations.logging", "log"},
    "opentelemetry": {"integrations.opentelemetry"},
    "prometheus_client": {"integrations.prometheus"},
    "redis": {"backends.redis_link"},
    "rich": {"cli.screen"},
    "starlette": {"integrations.starlette"},
    "typer": {"cli", "cli.commands", "cli.configuration"},
    "tzlocal": {"cron"},
    "uvicorn": {"web.server"},
    "sqlalchemy": {
        "sqlite_connections",
        "backends.sql",
        "backends.sql_bound",
        "backends.sql_claim",
        "backends.sql_compiled",
        "backends.sql_write",
        "backends.sql_insert",
        "backends.sql_packet",
        "backends.sql_schedules",
        "backends.sql_session",
        "backends.sql_tasks",
        "backends.sql_values",
        "backends.sqlite_clock",
        "cli.tables",
        "database",
        "engines",
        "lazy_engine",
        "migrations",
        "models",
        "sync.session",
        "watch",
    },
}


FOLDERS = ("migrations", "cli.commands")  # each counts as one file


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_are_imported_where_they_belong(library: str) -> None:
    users = set()
    trees = {**TREES, "": ast.parse((PACKAGE / "__init__.py").read_text())}
    for room, tree in trees.items():
        if any(module.partition(".")[0] == library for module, _, _ in imports(tree)):
            folder = next((name for name in FOLDERS if room.startswith(name)), room)
            users.add(folder)
    assert users == HEAVY[library]


def test_what_an_application_does_not_use_is_not_imported() -> None:
    code = (
        "import sys, aiotaskq, aiotaskq.sync\naiotaskq.sync.push_task({'type': 'x'})\n"
        f"print(sorted({set(HEAVY) - {'loguru'}!r} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# ---- every file -----------------------------------------------------------------------------------------------------


def called(node: ast.AST) -> str:
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_keeps_the_house_rules(room: str) -> None:
    tree, lines = TREES[room], ROOMS[room].read_text().count("\n")
    assert ast.get_docstring(tree), "its first sentence says what it is responsible for"
    assert lines <= 500, f"{lines} lines"
    assert room.rpartition(".")[2] not in ("utils", "util", "helpers", "misc")
    for module, names, line in imports(tree):
        # Stored bytes are data: nothing that can build objects from them.  # J1
        assert module.partition(".")[0] not in ("pickle", "marshal", "shelve", "dill", "yaml"), f"line {line}"
        assert "wait_for" not in names or module != "asyncio", f"line {line}"
        assert module != "aiotaskq.utils"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "asyncio.wait_for", f"line {node.lineno}: it swallows cancellation on 3.11"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"line {node.lineno}"  # J1
        if isinstance(node, ast.Expr):
            dropped = called(node.value) in ("create_task", "ensure_future", "run_coroutine_threadsafe")
            assert not dropped, f"line {node.lineno}: the loop holds tasks weakly, so somebody must hold this one"  # D2


def test_the_memory_backend_stays_small() -> None:
    assert ROOMS["backends.memory"].read_text().count("\n") < 200


def test_the_facade_decides_nothing() -> None:
    """Its methods have no branches: what differs is decided by the wrapper, once."""
    for room in ("sync.actors", "sync.taskq"):
        for kind in (node for node in TREES[room].body if isinstance(node, ast.ClassDef)):
            for method in (node for node in kind.body if isinstance(node, ast.FunctionDef)):
                if method.name in ("__init__", "_run"):  # makes what is wrapped; crosses to another loop
                    continue
                branches = [node for node in ast.walk(method) if isinstance(node, ast.If | ast.While | ast.Match)]
                assert not branches, f"{room}.{kind.name}.{method.name}"

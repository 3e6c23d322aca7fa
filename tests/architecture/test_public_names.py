"""The public names of the package and of its blocking twin, and their equal signatures."""

from __future__ import annotations

import inspect
import pydoc
import types
import typing
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
import aiotaskq.codecs
import aiotaskq.errors
import aiotaskq.sync
import aiotaskq.sync.types
import aiotaskq.types

# ---- names ----------------------------------------------------------------------------------------------------------

DATABASE_NAMES = {"Base", "SessionLocal", "engine", "get_db"}  # imported when they are asked for
OLDER = {
    "DatabaseQueue",
    "MemoryQueue",
    "RedisQueue",
    "Scheduler",
    "configure",
    "delete_public",
    "get_public",
    "get_queue",
    "get_scheduler",
    "pop_task",
    "push_task",
    "set_public",
}
"""Names of the older system's guide: importable, but out of ``__all__`` and of completion."""

CLASSES = [
    "DatabaseQueue",
    "GroupHandle",
    "MemoryQueue",
    "RedisQueue",
    "Scheduler",
    "TaskContext",
    "TaskFunction",
    "TaskHandle",
    "TaskQ",
]
FUNCTIONS = [
    "current_batch",
    "current_task",
    "delete_public",
    "get_public",
    "get_queue",
    "get_scheduler",
    "pop_task",
    "push_task",
    "set_public",
    "sleep_for",
    "sleep_until",
    "step",
    "wait_event",
]

# Methods without a blocking twin, and why.
AWAITED_ONLY = {
    "Queue": {
        "add",
        "add_now",
        "adopt",
        "check_storable",
        "edit_task",
        "give_back",
        "immediate",
        "complete_with",
        "done_now",
        "pop_now",
        "push_debounced",
        "push_event",
        "push_known",
        "push_now",
        "read",
        "run_again",
        "settle",
        "told",
        "wait_for_log",
    },  # for workers and the facade itself
    "PublicValues": {"cleaning", "get_now", "immediate", "set_now"},  # for the facade
    "Scheduler": {"add", "backfill", "declare", "delete", "get", "list", "pause", "resume", "update"},  # for TaskQ
    "Limits": {"declare", "some"},  # for workers and pages
    "TaskContext": {"loop", "run_by", "run_steps", "steps_begun"},
    "TaskFunction": {"push_sync", "retire"},
    "Workflow": {"outline"},  # for a push
    "TaskQ": {"lifespan", "sync", "timezone", "worker"},  # these belong to a loop
}
OF_THE_PACKAGE = {"GroupHandle", "TaskContext", "TaskFunction", "TaskHandle"}  # programs do not make them
ENTERING = {"__aenter__": "__enter__", "__aexit__": "__exit__"}


@pytest.mark.parametrize("module", [aiotaskq, aiotaskq.sync])
def test_all_is_sorted_and_equals_reality(module: types.ModuleType) -> None:
    names = list(module.__all__)
    assert all(getattr(module, name) is not None for name in {*names, *OLDER})  # some are imported by that
    real = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
    }
    assert names == sorted(set(names)) and len(names) <= 35
    assert real - DATABASE_NAMES - OLDER == set(names)
    assert {name for name in dir(module) if not name.startswith("_")} == set(names)


def test_each_name_has_one_home() -> None:
    """What programs write is in the root, records, errors and codecs in modules of their own."""
    homes = [aiotaskq, aiotaskq.types, aiotaskq.codecs, aiotaskq.errors]
    names = [name for module in homes for name in module.__all__]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {
        "AiotaskqError",
        "BatchFailed",
        "EventTimeout",
        "LeaseLost",
        "ResultTimeout",
        "Retry",
        "TaskFailed",
    }
    assert set(aiotaskq.sync.types.__all__) <= set(aiotaskq.types.__all__)


def test_both_worlds_have_the_same_names() -> None:
    assert aiotaskq.sync.__all__ == aiotaskq.__all__


def test_what_does_not_wait_is_the_same_object_in_both() -> None:
    for name in {*aiotaskq.__all__, *OLDER} - {*CLASSES, *FUNCTIONS}:
        assert getattr(aiotaskq.sync, name) is getattr(aiotaskq, name), name
    for name in (*CLASSES, *FUNCTIONS):
        awaited, blocking = both(name)
        assert blocking is not awaited, name


def test_help_and_type_hints_of_the_public_names() -> None:
    """Both evaluate annotations: a name that is imported for type checkers only is an error there."""
    homes: list[Any] = [aiotaskq, aiotaskq.sync, aiotaskq.types, aiotaskq.sync.types, aiotaskq.codecs, aiotaskq.errors]
    for public in [getattr(home, name) for home in homes for name in home.__all__]:
        assert pydoc.render_doc(public)
        if typing.is_typeddict(public):
            assert typing.get_type_hints(public)


def both(name: str) -> tuple[Any, Any]:
    """Return what a name is where one awaits, and where one blocks."""
    if name in {*aiotaskq.__all__, *OLDER}:
        return getattr(aiotaskq, name), getattr(aiotaskq.sync, name)
    return getattr(aiotaskq.types, name), getattr(aiotaskq.sync.types, name)


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
    awaited, blocking = both(name)
    assert parameters(blocking.__init__) == parameters(awaited.__init__) or name in OF_THE_PACKAGE
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
    extra = methods(blocking).keys() - twins.keys() - {"task", "cancel_requested", "operate"}
    assert not extra, f"{name} can more when it blocks: {extra}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_its_blocking_twin(name: str) -> None:
    awaited, blocking = both(name)
    assert not inspect.iscoroutinefunction(blocking) and blocking.__name__ == name
    assert inspect.signature(blocking) == inspect.signature(awaited)
    assert blocking.__doc__ == awaited.__doc__ and blocking.__doc__
    assert written_parameters(blocking) in (None, parameters(awaited))


def test_the_actors_of_a_task_queue_have_their_twins(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    awaited, blocking = aiotaskq.TaskQ(url), aiotaskq.sync.TaskQ(url)
    for actor in ("queue", "values", "schedules"):
        for method, original in methods(type(getattr(awaited, actor))).items():
            twin = getattr(type(getattr(blocking, actor)), method)
            if inspect.isfunction(original):
                assert inspect.signature(twin) == inspect.signature(original), f"{actor}.{method}"
                assert twin.__doc__ == original.__doc__, f"{actor}.{method}"

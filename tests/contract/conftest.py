"""The contract suite: proves ``aiotaskq/backends/base.py`` on each store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotaskq.backends.base import Backend, Schedules
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.backends.values import Values
from tests.support.backends import STORES, Store

SHARED = [name for name, kind in STORES.items() if kind.shared]
ABOUT = {
    "sql_store": [name for name, kind in STORES.items() if kind.sql],
    "shared_store": SHARED,
    "durable_store": SHARED,
    "process_store": [name for name, kind in STORES.items() if kind.processes],
    "direct": [name for name, kind in STORES.items() if kind.direct],
    "registry": [*SHARED, "durable_fake"],
    "schedules": [name for name, kind in STORES.items() if kind.schedules],
}
"""The stores that a fixture is about: a test that asks for it says nothing about the others, and is not made for them.
The mark ``stores`` narrows it further."""

PLANNED = {"claim", "exchange", "gate_claims", "gates", "groups", "history", "push", "push_and_claim", "reading"}
PLANNED |= {"locks", "push_sql", "schedules", "steps", "update", "waits", "worker_leases"}
"""The files that run on PostgreSQL with JIT, too: it is there for the plans of statements, which all are in these.

The mark ``heavy`` leaves out a test of many clients or rows, which takes seconds and plans what others plan, too."""

NAMED = {"gate_claims", "groups", "push", "push_sql", "sessions", "waits"}
"""The files that run on tables with other names, too: each way in which a statement reaches a database is in these."""

VARIANTS = {
    "postgresql_jit": PLANNED,
    **dict.fromkeys(("sqlite_prefix", "postgresql_schema", "mysql_prefix"), NAMED),
}
"""The kinds of which only some files are about what differs, by their names."""

MEASURED = {"memory", "sqlite", "redis"}
"""The stores on which coverage is measured: the others run the same lines, and the rest of theirs in tests/backends."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition
    if "store" in metafunc.fixturenames and all(mark.args[0] != "store" for mark in marks.iter_markers("parametrize")):
        about = [ABOUT[name] for name in metafunc.fixturenames if name in ABOUT]
        marked = [mark.args for mark in marks.iter_markers("stores")]
        names = [name for name in STORES if all(name in stores for stores in about)]
        names = [name for name in names if all((STORES[name].same_as or name) in stores for stores in marked)]
        file, heavy = metafunc.module.__name__.rpartition("test_")[2], any(marks.iter_markers("heavy"))
        if set(names) != {"postgresql_jit"}:
            names = [name for name in names if name not in VARIANTS or (file in VARIANTS[name] and not heavy)]
        unmeasured = pytest.mark.no_cover
        each = [name if name in MEASURED else pytest.param(name, marks=unmeasured) for name in names]
        metafunc.parametrize("store", each, indirect=True)


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A fresh, empty, opened store of each kind."""
    async with STORES[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def backend(store: Store) -> Backend:
    return store.backend


@pytest.fixture
def direct(store: Store) -> MemoryBackend:
    assert isinstance(store.backend, MemoryBackend)
    return store.backend


@pytest.fixture
def values(store: Store) -> Values:
    return store.backend.values


@pytest.fixture
def schedules(store: Store) -> Schedules:
    return store.schedules


@pytest.fixture
def durable_store(store: Store) -> Store:
    """A store whose writes are on disk."""
    assert store.backend.durable
    return store


@pytest.fixture
def process_store(store: Store) -> Store:
    """A store that other processes reach, and whose writes are on disk."""
    assert store.backend.durable
    return store


@pytest.fixture
def shared_store(store: Store) -> Store:
    """A store that several processes use."""
    assert store.backend.shared
    return store


@pytest.fixture
def registry(store: Store) -> Store:
    """A store that has a registry of workers."""
    assert store.backend.workers is not None
    return store


@pytest.fixture
def sql_store(store: Store) -> Store:
    """A store whose rows can be changed with raw SQL."""
    assert store.is_sql
    return store


@pytest.fixture
def hints(backend: Backend) -> list[tuple[str, list[str]]]:
    """Every hint since the start of the test."""
    heard: list[tuple[str, list[str]]] = []
    backend.listeners.listen(lambda kind, names: heard.append((kind, list(names))))
    return heard

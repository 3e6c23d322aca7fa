"""The contract suite: every sentence of ``aiotaskq/backends/base.py``, proved on each backend of ``tests/backends``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotaskq.backends.base import Backend, Schedules, Values
from tests.backends import STORES, Store, Unavailable


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, unavailable: dict[str, str]) -> AsyncIterator[Store]:
    """A fresh, empty, opened store of each kind."""
    manager = STORES[request.param](tmp_path)
    try:
        opened = await manager.__aenter__()
    except Unavailable as error:
        unavailable[request.param] = str(error)
        pytest.skip(f"{request.param}: {error}")
    try:
        yield opened
    finally:
        await manager.__aexit__(None, None, None)


@pytest.fixture
def backend(store: Store) -> Backend:
    return store.backend


@pytest.fixture
def values(store: Store) -> Values:
    return store.backend.values


@pytest.fixture
def schedules(store: Store) -> Schedules:
    if store.backend.schedules is None:
        pytest.skip(f"{store.name} holds no schedules")
    return store.backend.schedules


@pytest.fixture
def durable_store(store: Store) -> Store:
    if not store.backend.durable:
        pytest.skip(f"{store.name} is not durable")
    if store.name == "rehearsal":
        pytest.skip("rehearsal goes by the rules of a durable store, and keeps nothing")
    return store


@pytest.fixture
def shared_store(store: Store) -> Store:
    if not store.backend.shared or store.name == "rehearsal":
        pytest.skip(f"{store.name} belongs to one process")
    return store


@pytest.fixture
def sql_store(store: Store) -> Store:
    """Where rows can be reached with raw SQL."""
    if not store.is_sql:
        pytest.skip(f"{store.name} is not SQL")
    return store


@pytest.fixture
def hints(backend: Backend) -> list[tuple[str, list[str]]]:
    """Every hint since the start of the test."""
    heard: list[tuple[str, list[str]]] = []
    backend.hints.listen(lambda kind, names: heard.append((kind, list(names))))
    return heard

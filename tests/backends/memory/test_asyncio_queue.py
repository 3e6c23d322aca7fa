"""The shared queue is an ``asyncio.Queue``: CPython's own tests of that class run on it."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import types
import unittest
from collections.abc import Iterator
from typing import Any

import pytest

from aiotaskq.concurrency.shared_queue import SharedQueue
from tests.backends.memory.queues import Items

try:
    cpython: Any = importlib.import_module("test.test_asyncio.test_queues")
except ModuleNotFoundError:  # a distribution may ship its tests in a package of their own
    cpython = None


class SharedLifoQueue(SharedQueue[Any], asyncio.LifoQueue[Any]):
    pass


class SharedPriorityQueue(SharedQueue[Any], asyncio.PriorityQueue[Any]):
    pass


class ItemsByPriority(Items):
    def priority(self, item: Any) -> int:
        return item if isinstance(item, int) else 0


KINDS: dict[str, dict[str, Any]] = {
    "shared": {"Queue": SharedQueue, "LifoQueue": SharedLifoQueue, "PriorityQueue": SharedPriorityQueue},
    "memory": {"Queue": Items, "PriorityQueue": ItemsByPriority},
}


EXCUSED = {
    "memory": {
        "QueueBasicTests.test_repr": "a repr does not show the tasks: there may be 200,000, and params may be secret",
        "QueueBasicTests.test_str": "as test_repr",
        "LifoQueueTests": "the claim order is priority, then push order; nothing is last in, first out",
        "LifoQueueJoinTests": "as LifoQueueTests",
        "LifoQueueShutdownTests": "as LifoQueueTests",
    }
}


NO_TESTS = pytest.mark.skip(reason="this Python has no test package; Debian's is libpython3.x-testsuite")


def cases() -> Iterator[Any]:
    if cpython is None:
        yield pytest.param("", object, "", marks=NO_TESTS)
    for case in vars(cpython).values() if cpython else ():
        if not (isinstance(case, type) and issubclass(case, unittest.TestCase)):
            continue
        for name, kind in itertools.product(unittest.defaultTestLoader.getTestCaseNames(case), KINDS):
            full = f"{case.__name__}.{name}"
            if not {full, case.__name__} & EXCUSED.get(kind, {}).keys():
                yield pytest.param(kind, case, name, id=f"{kind}-{full}")


def replaced(kinds: dict[str, Any]) -> Any:
    """``asyncio``, but for its queues. CPython's tests look at the beginning of a repr, which names the class."""
    named = {name: type(name, (kind,), {}) for name, kind in kinds.items()}
    return types.SimpleNamespace(**{**vars(asyncio), **named})


@pytest.mark.parametrize(("kind", "case", "name"), list(cases()))
def test_cpythons_tests_of_asyncio_queue(
    kind: str, case: type[unittest.TestCase], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = replaced(KINDS[kind])
    monkeypatch.setattr(cpython, "asyncio", fake)
    if (given := getattr(case, "q_class", None)) is not None:  # bound when the module was imported
        monkeypatch.setattr(case, "q_class", getattr(fake, given.__name__))
    result = unittest.TestResult()
    case(name).run(result)
    assert result.testsRun == 1 and not result.skipped
    for _, trace in (*result.errors, *result.failures):
        pytest.fail(trace)

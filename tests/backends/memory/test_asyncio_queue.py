"""A queue in memory is an ``asyncio.Queue``: CPython's own tests of that class run on it."""

from __future__ import annotations

import asyncio
import importlib
import types
import unittest
from collections.abc import Iterator
from typing import Any

import pytest

from tests.backends.memory.queues import Items

try:
    cpython: Any = importlib.import_module("test.test_asyncio.test_queues")
except ModuleNotFoundError:  # a distribution may ship its tests in a package of their own
    cpython = None


class ItemsByPriority(Items):
    def priority(self, item: Any) -> int:
        return item if isinstance(item, int) else 0


KINDS: dict[str, Any] = {"Queue": Items, "PriorityQueue": ItemsByPriority}

EXCUSED = {
    "QueueBasicTests.test_repr": "a repr does not show the tasks: there may be 200,000, and params may be secret",
    "QueueBasicTests.test_str": "as test_repr",
    "LifoQueueTests": "the claim order is priority, then push order; nothing is last in, first out",
    "LifoQueueJoinTests": "as LifoQueueTests",
    "LifoQueueShutdownTests": "as LifoQueueTests",
}


NO_TESTS = pytest.mark.skip(reason="this Python has no test package; Debian's is libpython3.x-testsuite")


def cases() -> Iterator[Any]:
    if cpython is None:
        yield pytest.param(object, "", marks=NO_TESTS)
    for case in vars(cpython).values() if cpython else ():
        if not (isinstance(case, type) and issubclass(case, unittest.TestCase)):
            continue
        for name in unittest.defaultTestLoader.getTestCaseNames(case):
            if not {full := f"{case.__name__}.{name}", case.__name__} & EXCUSED.keys():
                yield pytest.param(case, name, id=full)


def replaced(kinds: dict[str, Any]) -> Any:
    """``asyncio``, but for its queues. CPython's tests look at the beginning of a repr, which names the class."""
    named = {name: type(name, (kind,), {}) for name, kind in kinds.items()}
    return types.SimpleNamespace(**{**vars(asyncio), **named})


@pytest.mark.parametrize(("case", "name"), list(cases()))
def test_cpythons_tests_of_asyncio_queue(
    case: type[unittest.TestCase], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = replaced(KINDS)
    monkeypatch.setattr(cpython, "asyncio", fake)
    if (given := getattr(case, "q_class", None)) is not None:  # bound when the module was imported
        monkeypatch.setattr(case, "q_class", getattr(fake, given.__name__))
    result = unittest.TestResult()
    case(name).run(result)
    assert result.testsRun == 1 and not result.skipped
    for _, trace in (*result.errors, *result.failures):
        pytest.fail(trace)

"""The pytest plugin: ``aiotaskq.testing`` as fixtures, for pytest-asyncio in both modes and for anyio's plugin.

pytest imports this module in every environment with aiotaskq, so the package itself is imported when a fixture is used.
The fixtures are plain functions: kits and inline mode start by themselves in the loop of the test that uses them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from aiotaskq.testing import Inline, Kit, Pushes, VirtualClock

T = TypeVar("T")

__all__ = ["taskq_clock", "taskq_inline", "taskq_kit", "taskq_override", "taskq_virtual"]


@pytest.fixture
def taskq_clock() -> VirtualClock:
    """The virtual clock of the other fixtures of this test; it begins at 2026-01-01 00:00 UTC."""
    from aiotaskq.testing import START, VirtualClock

    return VirtualClock(int(START.timestamp()) * 1_000_000)


@pytest.fixture
def taskq_virtual(taskq_clock: VirtualClock) -> Iterator[Callable[..., Kit]]:
    """``kit = taskq_virtual(app.tq)``: the application's TaskQ in virtual time, until the end of the test.

    Arguments as of ``aiotaskq.testing.virtual``, without ``start``.
    """
    from aiotaskq.testing import Kit
    from aiotaskq.testing.harness import opened

    yield from _until_the_end(functools.partial(opened, Kit, clock=taskq_clock))


@pytest.fixture
def taskq_kit(taskq_virtual: Callable[..., Kit]) -> Kit:
    """A new TaskQ in virtual time, ``taskq_kit.tq``."""
    return taskq_virtual()


@pytest.fixture
def taskq_inline(taskq_clock: VirtualClock) -> Iterator[Callable[..., Inline]]:
    """``taskq_inline(app.tq)``: each push runs its task before it returns, until the end of the test.

    Arguments as of ``aiotaskq.testing.inline``.
    """
    from aiotaskq.testing import Inline
    from aiotaskq.testing.harness import opened

    yield from _until_the_end(functools.partial(opened, Inline, clock=taskq_clock))


@pytest.fixture
def taskq_override() -> Iterator[Callable[..., Pushes]]:
    """``pushes = taskq_override(app.tq)``: another store, and pushes are recorded, until the end of the test.

    Arguments as of ``aiotaskq.testing.override``.
    """
    from aiotaskq.testing import override

    yield from _until_the_end(override)


def _until_the_end(opened: Callable[..., AbstractContextManager[T]]) -> Iterator[Callable[..., T]]:
    """Yield a function that enters these contexts, which are left when the test has ended."""
    with contextlib.ExitStack() as stack:
        yield lambda tq=None, url=None, **options: stack.enter_context(opened(tq, url, **options))

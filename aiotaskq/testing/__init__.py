"""Test tools for applications that use aiotaskq: virtual time, inline tasks, assertions on pushes.

``async with virtual(tq) as kit`` runs workers and schedules in virtual time, which the test advances;
``async with inline(tq)`` runs each task before its push returns; ``with override(tq)`` only records what is pushed.
Each replaces the store of an application's own ``TaskQ`` by one in memory with the same rules, and restores it at the
end. pytest has the same as the fixtures ``taskq_kit``, ``taskq_virtual``, ``taskq_inline``, ``taskq_override`` and
``taskq_clock``.
"""

from __future__ import annotations

from aiotaskq.backends.url import DURABLE_FAKE
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.testing.harness import START
from aiotaskq.testing.kit import Inline, Kit, inline, virtual
from aiotaskq.testing.override import Pushes, override

__all__ = ["DURABLE_FAKE", "START", "Inline", "Kit", "Pushes", "VirtualClock", "inline", "override", "virtual"]

"""For tests of an application that uses aiotaskq: virtual time, tasks run inside the push, assertions on pushes.

``async with virtual(tq) as kit`` runs workers and schedules in a time that passes only when the test says so;
``async with inline(tq)`` runs each task before its push returns; ``with override(tq)`` only takes down what is pushed.
Each swaps the store of an application's own ``TaskQ`` for one in memory that goes by the same rules, and puts it back.
With pytest the same stands ready as the fixtures ``taskq_kit``, ``taskq_virtual``, ``taskq_inline``, ``taskq_override``
and ``taskq_clock``.
"""

from __future__ import annotations

from aiotaskq.backends.url import REHEARSAL
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.testing.inline import Inline, inline
from aiotaskq.testing.kit import START, Kit, virtual
from aiotaskq.testing.override import override
from aiotaskq.testing.recorder import Pushes

__all__ = ["REHEARSAL", "START", "Inline", "Kit", "Pushes", "VirtualClock", "inline", "override", "virtual"]

"""Processes that crash before or after any write to a store: what the tests of it share."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any

import pytest

from aiotaskq.backends.memory.gate_rows import MemoryGateReads
from aiotaskq.backends.memory.group_rows import MemoryGroupReads
from aiotaskq.backends.memory.side_rows import MemorySideRows
from aiotaskq.backends.sql.database import Database
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.testing.durable_fake import DurableFake

VERBS = {
    DurableFake: (
        "push",
        "_claim",
        "update",
        "report",
        "request_cancel",
        "delete",
        "purge",
        "set_paused",
        "transact",
        "add_held",
    ),
    MemorySideRows: ("expire",),
    Database: ("write",),
}
"""What writes; each is one transaction."""
READS = {
    DurableFake: ("get", "find", "overdue", "next_run_at", "look"),
    MemoryGateReads: ("due", "known", "of_queue", "find"),
    MemoryGroupReads: ("find", "members", "cancelling", "over", "children"),
    MemorySideRows: ("get", "read"),
    Database: ("read",),
}


class Process:
    """A process that crashes at its write number ``at``, counted from 1; at 0 never."""

    def __init__(self, at: int = 0, *, written: bool = False) -> None:
        self.at, self.written = at, written
        """``written``: whether that write is done."""
        self.writes = 0
        self.dead = False

    def reaches_the_store(self) -> None:
        if self.dead:
            raise DatabaseUnavailable("the process has crashed")

    async def write(self, verb: Callable[[], Awaitable[Any]]) -> Any:
        self.reaches_the_store()
        self.writes += 1
        if self.writes != self.at:
            return await verb()
        if self.written:
            await verb()
        self.dead = True
        return self.reaches_the_store()


PROCESS: ContextVar[Process] = ContextVar("PROCESS")


def let_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the verbs of each store ask the process in which they are called; nested ones belong to the outer one."""
    inside: ContextVar[bool] = ContextVar("inside", default=False)

    def replace(kind: type, name: str, writes: bool) -> None:
        original = getattr(kind, name)
        assert inspect.iscoroutinefunction(original)

        @wraps(original)
        async def verb(*args: Any, **options: Any) -> Any:
            process = PROCESS.get(None)
            if process is None or inside.get():
                return await original(*args, **options)
            token = inside.set(True)
            try:
                if writes:
                    return await process.write(lambda: original(*args, **options))
                process.reaches_the_store()
                return await original(*args, **options)
            finally:
                inside.reset(token)

        monkeypatch.setattr(kind, name, verb)

    for kinds, writes in ((VERBS, True), (READS, False)):
        for kind, names in kinds.items():
            for name in names:
                replace(kind, name, writes)

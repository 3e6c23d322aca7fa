"""An asyncio task in which foreign coroutines run one after the other, as if each had a task of its own.

To create an asyncio task takes longer than all else that is done to run a small coroutine.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import weakref
from typing import Any

_MISSING = object()
_set = object.__setattr__


class ReusableTask(asyncio.Task[None]):
    """An asyncio task that notices what a coroutine leaves behind in it.

    Such a coroutine may cancel the asyncio task later, by a timer that holds it, or have keyed data by it; it may have
    set a name, an attribute, a callback for the end, or a context variable. Then the next one needs a new task.
    """

    _touched = False
    _references = _weak_references = 0
    _context: tuple[tuple[contextvars.ContextVar[Any], Any], ...] = ()

    def mark(self) -> None:
        """Note how it is before the first foreign coroutine runs; call it in the task itself."""
        _set(self, "_context", tuple(contextvars.copy_context().items()))
        _set(self, "_weak_references", weakref.getweakrefcount(self))
        references = sys.getrefcount(self)
        _set(self, "_references", references)

    def is_as_marked(self) -> bool:
        """Return whether nothing was left behind; call it in the task itself, from the same function as ``mark``."""
        if (
            self._touched
            or sys.getrefcount(self) != self._references
            or weakref.getweakrefcount(self) != self._weak_references
        ):
            return False
        context = contextvars.copy_context()
        if len(context) != len(self._context):
            return False
        for variable, value in self._context:  # noqa: SIM110 - a generator would take twice as long
            if context.get(variable, _MISSING) is not value:
                return False
        return True

    # ---- what leaves a trace and no reference ----

    def __setattr__(self, name: str, value: Any) -> None:
        _set(self, "_touched", True)
        _set(self, name, value)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel as any asyncio task."""
        _set(self, "_touched", True)
        return super().cancel(msg)

    def add_done_callback(self, *args: Any, **options: Any) -> None:
        """Add a callback as to any asyncio task."""
        _set(self, "_touched", True)
        super().add_done_callback(*args, **options)

    def set_name(self, value: object) -> None:
        """Set the name as of any asyncio task."""
        _set(self, "_touched", True)
        super().set_name(value)

    def get_coro(self) -> Any:
        """Return the coroutine, which can be closed, as any asyncio task."""
        _set(self, "_touched", True)
        return super().get_coro()

    if sys.version_info >= (3, 12):

        def get_context(self) -> contextvars.Context:
            """Return the context, in which more can be run, as any asyncio task."""
            _set(self, "_touched", True)
            return super().get_context()

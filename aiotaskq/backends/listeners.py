"""Hints: notifications that something may have changed in a store. Their kinds, and the listeners that get them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

READY = "ready"
"""Hint: tasks became claimable, or their time changed."""
ENDED = "ended"
"""Hint: tasks reached a final status. The names are their ids, none if they are not known."""
TAKEN = "taken"
"""Hint: tasks were claimed, so a bounded queue may have room."""
CANCEL = "cancel"
"""Hint: running tasks were asked to stop. The names are their ids."""
GATES = "gates"
"""Hint: the time changed at which a gate may let a task pass."""
STEER = "steer"
"""Hint: workers are asked for something. The names are their ids."""
NOTED = "noted"
"""Hint: running tasks have new notes. The names are their ids, none if they are not known."""
AFTER = "after"
"""Hint: tasks were pushed after others. The names are the ids of these."""
KINDS = (READY, ENDED, TAKEN, CANCEL, GATES, STEER, NOTED, AFTER)

Listener = Callable[[str, Sequence[str]], None]
"""It takes the kind of a hint, and its names; it is called from any thread, must be quick, and must not raise."""


class Listeners:
    """Passes hints to the listeners of this process and, where the store can, to other processes.

    A hint says that something may have changed: it can be lost, or come for nothing. So a listener looks, and polls.
    """

    def __init__(self) -> None:
        self.by_kind: dict[str, tuple[Listener, ...]] = {}
        self.forward: Listener | None = None
        """Sends a hint to other processes; set by a backend that can."""
        self._lock = threading.Lock()

    def listen(self, listener: Listener, *kinds: str) -> Callable[[], None]:
        """Call the listener for hints of these kinds, or of all; return a function that ends this."""
        with self._lock:
            for kind in kinds or KINDS:
                self.by_kind[kind] = (*self.by_kind.get(kind, ()), listener)

        def stop() -> None:
            with self._lock:
                for kind in kinds or KINDS:
                    left = tuple(known for known in self.by_kind.get(kind, ()) if known is not listener)
                    if left:
                        self.by_kind[kind] = left
                    else:
                        self.by_kind.pop(kind, None)

        return stop

    def notify(self, kind: str, names: Sequence[str] = ()) -> None:
        """Pass on a hint of this process: to its listeners, and to other processes."""
        self.receive(kind, names)
        if self.forward is not None:
            self.forward(kind, names)

    def receive(self, kind: str, names: Sequence[str] = ()) -> None:
        """Pass on a hint of another process to the listeners of this one."""
        for listener in self.by_kind.get(kind, ()):
            listener(kind, names)

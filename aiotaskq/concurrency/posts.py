"""Calls of functions on an event loop, from any thread, in place of ``loop.call_soon_threadsafe``.

That one takes whatever OSError a signal handler raises meanwhile for one of its own socket, and drops it: an alarm that
raises TimeoutError would be lost.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable


class Posts:
    """What any thread has called on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wire them to a loop that does not run yet."""
        self._loop = loop
        self._waiting: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        loop.add_reader(self._reader, self._take)

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call the function on the loop soon; never, if the loop ends first. Raises what a signal handler raises."""
        self._waiting.append((function, args))
        try:
            self._writer.send(b"\0")
        except OSError as error:
            if error.errno is None:
                raise  # the socket's own has a number: it is full, and the loop wakes, or it is closed

    def close(self) -> None:
        """Take no more; call it when the loop does not run."""
        self._loop.remove_reader(self._reader)
        self._reader.close()
        self._writer.close()

    def _take(self) -> None:
        self._reader.recv(4096)
        while self._waiting:
            function, args = self._waiting.popleft()
            self._loop.call_soon(function, *args)

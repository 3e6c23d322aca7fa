"""Tells when a file is written to, by inotify(7) of Linux; elsewhere there is nothing of the kind."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final

__all__ = ["WriteWatch"]

_IN_MODIFY: Final = 0x2


class WriteWatch:
    """A file descriptor that is readable once a file has been written to, by any process of this host."""

    def __init__(self, path: str) -> None:
        """Watch the file at the path. Raises OSError if it is missing, or the system cannot watch it."""
        self.fd = -1
        if sys.platform != "linux":
            raise OSError("only Linux has inotify")
        import ctypes  # only where it is used: it takes a while

        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if libc.inotify_add_watch(self.fd, os.fsencode(path), _IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def clear(self) -> None:
        """Read what is there, so that only a later write makes it readable again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 65_536)

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close

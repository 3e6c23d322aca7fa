"""Ids, push stamps and times of new tasks: all rise with time."""

from __future__ import annotations

import os
import time
from collections import deque

_head = 0, ""  # the latest millisecond, and how the ids of it begin
_stamp = 0
_second = 0
_random: deque[str] = deque()
"""The random ends of the next ids: a system call for each id would take over 5 % of a push into memory."""


def new_id() -> str:
    """Return a new UUID (version 7, RFC 9562): time-ordered, so that index inserts stay at the right end."""
    global _head
    millisecond, head = _head
    if (now := time.time_ns() // 1_000_000) != millisecond:
        chance = os.urandom(3).hex()
        head = f"{now >> 16:08x}-{now & 0xFFFF:04x}-7{chance[:3]}-a{chance[3:]}-"
        _head = now, head
    try:
        return head + _random.popleft()
    except IndexError:
        own, *others = os.urandom(6 * 256).hex("-", 6).split("-")
        _random.extend(others)
        return head + own


def next_seq(now: int) -> int:
    """Return a push stamp: ``now`` (microseconds), or one more than the last stamp where that is larger."""
    global _stamp
    # Two threads may get an equal stamp; equal stamps are ordered by the store.
    _stamp = now if now > _stamp else _stamp + 1
    return _stamp


def restart_seq(now: int) -> None:
    """Let push stamps begin at ``now`` again: for a new store whose clock is behind the stamps of this process."""
    global _stamp
    _stamp = now - 1


def second_of(now: int) -> int:
    """Return the epoch second of an instant in microseconds: one object for all tasks of that second.

    An object for each would be a twentieth of the memory that a waiting task takes.
    """
    global _second
    second, latest = now // 1_000_000, _second
    if second == latest:
        return latest
    _second = second
    return second


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_random.clear)  # a child must not make the ids of its parent

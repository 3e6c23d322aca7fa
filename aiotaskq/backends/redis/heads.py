"""The head of a state: words for the scripts, with numbers as decimal text; ``lua/include/base.lua``."""

from __future__ import annotations

import functools
import re
from typing import Any
from urllib.parse import quote

import msgspec

from aiotaskq.core.gate import Flow
from aiotaskq.core.outcome import ALONE
from aiotaskq.core.task import RUNNING, Task
from aiotaskq.errors import ValidationError

NO_KEYS = (None, None, None)
HEAD = re.compile(rb"(\S+) (-?\d+) ([01]) (\S+) (\S+) ([0-3]) (-?\d+) (-?\d+) (\S+) (\d+) (\d+) ").match
"""Matches the words of a head, as ``lua/include/base.lua`` does; the last two are the lengths of lane and names."""

_encode = msgspec.json.Encoder().encode


def waits_for_parents(head: re.Match[bytes]) -> bool:
    """Whether a row with this head is a child that waits for its parents: see ``lua/include/base.lua``."""
    if head[6] not in (b"2", b"3"):
        return False
    words = head.string[head.end() + int(head[10]) :].split(b" ", 2)
    return len(words) == 3 and words[1].startswith(b"w")


def json_of(piece: Any) -> str:
    """Return a value as JSON. Raises ValidationError for one that has none."""
    try:
        return _encode(piece).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"task: {error}") from None


def keys_of(task: Task) -> tuple[str | None, ...]:
    """Return the keys by which scripts look for a row; ``NO_KEYS`` if it has none."""
    return task.unique_key, task.idempotency_key, task.scheduler_task_id


@functools.lru_cache(maxsize=100)
def owner_word(owner: str) -> str:
    """Return the id of a worker as one word without a blank, and with no other ``!`` than that of a mark."""
    base = owner.removesuffix(ALONE)
    return quote(base) + owner[len(base) :]


def lease_word(owner: str | None, lease_until: int | None) -> str:
    """Return how a running row is held: by a lease of its own, by its worker (after ``@``), or not at all (``-``)."""
    if lease_until is not None:
        return str(lease_until)
    return f"@{owner_word(owner)}" if owner else "-"


def head(task: Task) -> str:
    """Return the head of the state of a task. Raises ValidationError for a task that no row can hold."""
    fence, seq, run_at, priority = task.fence, task.seq, task.run_at, task.priority
    if not (type(fence) is type(seq) is type(run_at) is type(priority) is int):
        raise ValidationError(f"fence, seq, run_at, priority: ints are needed (got {(fence, seq, run_at, priority)!r})")
    if not (type(task.task_id) is type(task.type) is type(task.queue) is str):
        raise ValidationError(
            f"task_id, type, queue: strings are needed (got {(task.task_id, task.type, task.queue)!r})"
        )
    expires, completed = task.expires_at, task.completed_at
    lease = lease_word(task.lease_owner if task.status is RUNNING else None, task.lease_until)
    keys = keys_of(task)
    if task.flow is not None:
        keyed, end = (2 if keys == NO_KEYS else 3), _flow_end(task, task.flow, keys)
    elif keys == NO_KEYS:
        keyed, end = 0, _head_end(priority, task.queue, task.type)
    else:  # keys are hardly ever the same twice: not worth a cache
        keyed, end = 1, _head_end.__wrapped__(priority, task.queue, task.type, *keys)
    return (
        f"{task.status} {fence} {1 if task.cancel_requested else 0} {lease} "
        f"{'-' if expires is None else expires} {keyed} {seq:020d} {run_at} {'-' if completed is None else completed} "
        f"{end}"
    )


@functools.lru_cache(maxsize=1_000)
def _head_end(priority: int, queue: str, type_name: str, *keys: str | None) -> str:
    """Return the end of a head: the lengths of lane and names in bytes, the lane, and the names."""
    lane, names = f"{priority}:{queue}", json_of([type_name, *keys] if any(keys) else [type_name])
    return f"{len(lane.encode())} {len(names.encode())} {lane}{names}"


def _flow_end(task: Task, flow: Flow, keys: tuple[str | None, ...]) -> str:
    """Return the end of the head of a task with a flow, whose due_at comes before its other names."""
    due = "-" if task.due_at is None else str(task.due_at)
    # Tasks with keys, parents or children are hardly ever alike.
    place_of = _place.__wrapped__ if keys != NO_KEYS or flow.parents or flow.children else _place
    lane, length, names = place_of(task.priority, task.queue, flow, task.gate, task.waits, task.type, keys)
    return f"{_bytes(lane)} {len(due) + length} {lane}{due}{names}"


@functools.lru_cache(maxsize=4_000)
def _place(
    priority: int, queue: str, flow: Flow, gate: str | None, waits: int, type_name: str, keys: tuple[str | None, ...]
) -> tuple[str, int, str]:
    """Return the lane of a task with a flow, the length in bytes of its names without due_at, and these."""
    text = json_of(flow)
    long: int | str = "-" if gate is None else _bytes(gate)
    if waits and gate is None:
        long = f"w{waits:04d}"
    plain = json_of([type_name, *keys] if any(keys) else [type_name])
    names = f" {long} {_bytes(text)} {gate or ''}{text}{plain}"
    return f"{priority}:{queue}", _bytes(names), names


def _bytes(text: str) -> int:
    """Return how many bytes a text has."""
    return len(text) if text.isascii() else len(text.encode())

"""Filters without an index: a name with ``*`` for any text, params by a text or by a path. Pure.

Each of these takes time that grows with the text that is searched, and not faster, whatever the filter is.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from aiotaskq.core.task import Task
from aiotaskq.operations.hidden import plain

_PATH = re.compile(r"(?:params\.)?([^\s=~\"{}\[\],:]+)\s*([=~])(.*)", re.DOTALL)
_SPECIAL = re.compile(r"[\[?]")  # in fnmatch, where here only * is
MOST_VALUES = 10_000
"""Values that a path with ``*`` looks at in one task."""


def like(pattern: str, name: str) -> bool:
    """Return whether a name is as the pattern, in which each ``*`` is any text; upper and lower case are the same."""
    return fnmatch.fnmatchcase(name.casefold(), _SPECIAL.sub(r"[\g<0>]", pattern.casefold()))


def part_of(text: str | None, *names: str) -> bool:
    """Return whether a text, with ``*`` as of a pattern, is in one of the names; an absent one is in each."""
    return text is None or any(like(f"*{text}*", name) for name in names)


def params_like(text: str) -> Callable[[Task], bool]:
    """Return what tells whether the params of a task match.

    ``order.id=5`` is a value at a path, in which a number is a place in a list, and ``*`` any one; ``order.name~ann``
    is a text in that value. Any other text is searched in the params as JSON. Upper and lower case are the same.
    """
    path = _PATH.fullmatch(text)
    if path is None:
        wanted = text.casefold()
        return lambda task: wanted in _json(plain(task.params))
    names, value = path[1].split("."), path[3].strip().casefold()
    if path[2] == "=":
        return lambda task: any(value == _text(each) for each in _at(plain(task.params), names))
    return lambda task: any(value in _text(each) for each in _at(plain(task.params), names))


def _at(value: Any, names: Iterable[str]) -> Iterator[Any]:
    found = [value]
    for name in names:
        found = [each for one in found for each in _in(one, name)][:MOST_VALUES]
    return iter(found)


def _in(value: Any, name: str) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values()) if name == "*" else [value[name]] if name in value else []
    if isinstance(value, (list, tuple)):
        if name == "*":
            return list(value)
        return [value[int(name)]] if name.isdecimal() and len(name) < 10 and int(name) < len(value) else []
    return []


def _text(value: Any) -> str:
    return value.casefold() if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode().casefold()

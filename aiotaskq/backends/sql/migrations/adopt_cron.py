"""Rewrites the cron expressions of adopted rows, so that they keep the meaning that they had to croniter.

The older system passed every expression to croniter with its default settings: seconds last, ranges that wrap around,
``?`` and more. An element that the strict checks refuse becomes the explicit list of croniter's values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from aiotaskq.core.cron_parser import (
    FIELDS,
    LAST,
    MAX_LENGTH,
    Columns,
    Field,
    Refused,
    WallWalk,
    check_field,
    check_part,
    expand,
    read,
    sets_of,
    split_fields,
)

_COLUMNS: Final = (*FIELDS[1:], FIELDS[0])  # croniter's order: the second is the last one, before a year


def rewritten(expression: str) -> str:
    """Return the expression that means here what ``expression`` means to croniter; itself, where that is the same.

    Raises:
        Refused: croniter refuses it or finds no date for it, or its meaning cannot be written here; in words.
    """
    if len(expression) > MAX_LENGTH:
        split_fields(expression)  # raises
    fields = re.findall(r"\S+", expression, re.ASCII)  # as croniter splits them
    columns, nth, _ = _expand(expression, fields)
    if len(fields) <= 5:
        try:
            sets = read(expression)
        except Refused:
            pass  # croniter reads it, and the strict checks do not
        else:
            if not (sets.nth and sets.either):
                return expression
    _refuse_the_unwritable(fields, columns)
    minute, hour, date, month, weekday = (_field(index, fields[index], columns[index]) for index in range(5))
    sets = sets_of(columns, nth, fixed=False)
    if nth:
        # croniter wants the date and the weekday to match together, or ignores the date.
        if not sets.either and "*" not in columns[2]:
            raise Refused("croniter wants day of month and day of week to match together, which cannot be written")
        if sets.either and WallWalk(sets._replace(either=False)).never:
            raise Refused(f"croniter finds no date: day of month {fields[2]} is never day of week {fields[4]}")
        date = "*"
        weekday = ",".join(f"L{day}" if n == LAST else f"{day}#{n}" for day, n in sorted(sets.nth))
    elif sets.either and (len(sets.dates) == 31 or len(sets.weekdays) == 7):
        date = weekday = "*"  # one of the two is every day, and either is enough
    elif not sets.either:
        date, weekday = ("*" if "*" in column else text for text, column in ((date, columns[2]), (weekday, columns[4])))
    second = [_field(5, fields[5], columns[5])] if len(fields) > 5 else []
    made = " ".join([*second, minute, hour, date, month, weekday])
    read(made)
    return made


def _expand(expression: str, fields: list[str]) -> Columns:
    """Parse by croniter; raise the message of the strict checks where croniter refuses, since it is clearer."""
    try:
        return expand(expression)
    except Refused:
        if len(fields) in (5, 6):
            read(" ".join(fields[5:] + fields[:5]))
        else:
            split_fields(expression)
        raise


def _refuse_the_unwritable(fields: list[str], columns: list[list[Any]]) -> None:
    for spec, text in zip(_COLUMNS, fields, strict=False):
        if text[0] in "rR":
            raise Refused(f"{spec.name} {text} is random: croniter draws it anew at each start")
    if "w" in fields[2].lower():
        check_field(_COLUMNS[2], fields[2])
        if "*" not in columns[4]:
            raise Refused(f"day of week {fields[4]} cannot be kept beside day of month {fields[2]}")
    if len(fields) == 7 and "*" not in columns[6]:
        raise Refused(f"year {fields[6]} cannot be kept: there is no year field")


def _field(index: int, text: str, column: list[Any]) -> str:
    """Return the text of a field, with the explicit values of each element that the strict checks refuse."""
    spec = _COLUMNS[index]
    if _passes(check_field, spec, text):
        return text
    if "*" in column:
        return "*"
    return ",".join(part if _passes(check_part, spec, part) else _spelled(index, part) for part in text.split(","))


def _passes(check: Callable[[Field, str], None], spec: Field, text: str) -> bool:
    try:
        check(spec, text)
    except Refused:
        return False
    return True


def _spelled(index: int, part: str) -> str:
    """Return croniter's values of an element of a list: ascending numbers, written as ranges and steps."""
    alone = ["*"] * 6
    alone[index] = part
    values = expand(" ".join(alone))[0][index]
    spec = _COLUMNS[index]
    return _ascending(list(range(spec.low, spec.top + 1)) if "*" in values else values)


def _ascending(values: list[int]) -> str:
    """Write two neighbours, or three values with one distance, as a range: the DST rule tells ranges from lists."""
    texts, at = [], 0
    while at < len(values):
        end = at + 1
        step = values[end] - values[at] if end < len(values) else 0
        while end < len(values) and values[end] - values[end - 1] == step:
            end += 1
        if end - at < (2 if step == 1 else 3):
            texts.append(str(values[at]))
            at += 1
        else:
            texts.append(f"{values[at]}-{values[end - 1]}" + ("" if step == 1 else f"/{step}"))
            at = end
    return ",".join(texts)

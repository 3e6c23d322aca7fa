"""What tasks have used up, such as tokens and money: sums by name, in a task and in its group, and their budgets.

A sum only rises. A run reports what the task has used in all, so that a report may be repeated: of two that differ, the
larger number is the later one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from aiotaskq.core.errors import ValidationError, check_key, shown
from aiotaskq.core.gate import NEVER_BY_TIME

MAX_NAMES = 20
"""Names of one task."""
MAX_NAME = 50  # characters
MAX_SUM = 10**15
"""The largest sum of one task: every store adds up to it without an error."""
DIGITS = 9  # behind the decimal point: sums of decimal fractions are shown as they are added by hand

USED_UP_UNTIL = NEVER_BY_TIME
"""Until when the gate of a group is closed whose budget is used up."""

Usage = dict[str, int | float]
"""A number by name. Also the type of what is decoded, which with ``float`` alone makes floats of the ints."""

decode = msgspec.json.Decoder(Usage).decode


def added(sums: Mapping[str, float] | None, amounts: Mapping[str, Any], what: str = "usage") -> Usage:
    """Return the sums with these amounts added; ``what`` begins the texts of errors.

    Raises ValidationError for an amount that is no finite number of at least 0, and for too many names or too much.
    """
    found = dict(sums or {})
    for name, amount in amounts.items():
        check_key(what, name, MAX_NAME)
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount <= MAX_SUM:
            raise ValidationError(f"{what}: {name}: a number from 0 to {MAX_SUM:,} is needed (got {shown(amount)})")
        found[name] = _sum(found.get(name, 0), amount)
        if found[name] > MAX_SUM:
            raise ValidationError(f"{what}: {name}: the sum of the task is more than {MAX_SUM:,}")
    if len(found) > MAX_NAMES:
        raise ValidationError(f"{what}: {len(found)} names are more than {MAX_NAMES} of one task")
    return found


def checked_budget(budget: object) -> Usage:
    """Return a budget. Raises ValidationError for what is no dict of names and numbers of at least 0."""
    if not isinstance(budget, Mapping):
        raise ValidationError(f"budget: a dict of names and numbers is needed (got {shown(budget)})")
    return added(None, budget, "budget")


def is_used_up(budget: Mapping[str, float], usage: Mapping[str, float]) -> bool:
    """Whether a sum has reached its budget; a name that the budget does not have is without a bound."""
    return any(usage.get(name, 0) >= most for name, most in budget.items())


def summed(one: Mapping[str, float], other: Mapping[str, float]) -> Usage:
    """Return the sums of two, in the order of the names."""
    return {name: _sum(one.get(name, 0), other.get(name, 0)) for name in sorted({*one, *other})}


def risen(stored: Mapping[str, float] | None, reported: Mapping[str, float] | None) -> tuple[Usage, Usage]:
    """Return what is to be stored where this is and that is reported, and by how much it has risen."""
    before = stored or {}
    more = {
        name: _sum(amount, -before.get(name, 0))
        for name, amount in (reported or {}).items()
        if amount > before.get(name, 0) or name not in before
    }
    return {**before, **{name: (reported or {})[name] for name in more}}, more


def _sum(one: float, other: float) -> float:
    total = one + other
    return total if type(total) is int or not math.isfinite(total) else round(total, DIGITS)

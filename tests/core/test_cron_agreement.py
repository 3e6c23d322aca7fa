"""Cron against two other libraries: random expressions and starts, every difference explained by a written rule.

croniter gives the sets of values, so a difference to it is a fault of the walk over them or of a strict check; cronsim
is independent. Each rule below says where the reading differs on purpose. It is applied by *translating* the expression
into what the other library must be told to mean the same; after that the times must be equal, to the second.
"""

from __future__ import annotations

import heapq
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from croniter import CroniterBadDateError, CroniterError, croniter
from cronsim import CronSim

from aiotaskq.core.cron import Cron
from aiotaskq.errors import CronError
from tests.support.cron import ALIASES, for_cronsim, random_expression

S = 1_000_000
EPOCH = datetime(1970, 1, 1)
STEPS = 6

# ---- the written rules ----------------------------------------------------------------------------------------------

RULES = {
    "invalid": "croniter refuses it, too; the strict checks name the field",
    "never": "no date matches in any year: croniter and cronsim search 50 years at each step, the strict check refuses",
    "reversed": "croniter lets a range wrap around; refused, the message spells out both halves",
    "one value": "croniter reads a-a as the whole field; refused",
    "one step": "a step that leaves one value is a slip (59/15, */90); refused",
    "star in list": "croniter reads *,5 as *; refused",
    "question": "croniter reads ? as *; refused",
    "random": "croniter draws a new value at each start; refused",
    "nearest weekday": "beside a date with W croniter drops the weekdays, or wants both; refused",
    "cronsim: nearest weekday": "cronsim has no W",
    "L elsewhere": "croniter reads 5-L as 5-31; L stands alone, as a date",
    "range of nth": "croniter reads mon-fri#2 as five weekdays, each with #2; refused",
    "mixed nth": "croniter drops plain weekdays beside an nth one, or refuses them; refused",
    "every day": "a field that names every day beside a restricted one: croniter drops one of the two; refused",
    "year": "croniter has a seventh field; refused",
    "blank": "croniter takes a tab for a blank; refused",
    "nth or date": "beside an nth weekday croniter ignores a restricted date; here either of the two is enough",
    "cronsim: star first": "cronsim takes a day field that begins with * for unrestricted; here it is only *",
    "cronsim: to 7": "cronsim goes from a to 7, a second Sunday, in a/n of the weekdays; croniter goes to Saturday",
    "cronsim: last weekday": "cronsim writes 5L, croniter L5",
    "cronsim: aliases": "cronsim has none",
}
REFUSALS = [
    (
        r"is not in \d|step 0 |empty part|is neither|is not a number|must end in|is negative|is unknown|[0-4] fields",
        "invalid",
    ),
    (r"never occurs", "never"),
    (r"is reversed", "reversed"),
    (r"is one value", "one value"),
    (r"gives just one value", "one step"),
    (r"\* in a list", "star in list"),
    (r"instead of \?", "question"),
    (r"at random", "random"),
    (r"has no effect", "nearest weekday"),
    (r"W \(nearest", "invalid"),
    (r"the last Friday|stands alone", "L elsewhere"),
    (r"mixes", "mixed nth"),
    (r"is every day", "every day"),
    (r"7 fields", "year"),
    (r"control character", "blank"),
]

# ---- the other two --------------------------------------------------------------------------------------------------


def times(expression: str, start: datetime) -> Iterator[datetime]:
    """What croniter says, with the seconds first, as this project has them."""
    walk = croniter(expression, start, ret_type=datetime, second_at_beginning=True)
    return (walk.get_next() for _ in itertools.count())


def by_croniter(expression: str, start: datetime, applied: Counter[str]) -> list[datetime]:
    *rest, date, month, weekday = expression.split() if " " in expression else ALIASES[expression.lower()].split()
    if date != "*" and re.search("[#Ll]", weekday):
        applied["nth or date"] += 1
        sides = [" ".join((*rest, date, month, "*")), " ".join((*rest, "*", month, weekday))]
        found: list[Iterator[datetime]] = []
        for side in sides:
            try:
                next(times(side, start))
            except CroniterBadDateError:  # the 31st of February adds nothing
                continue
            found.append(times(side, start))
        merged = (due for due, _ in itertools.groupby(heapq.merge(*found)))
        return list(itertools.islice(merged, STEPS))
    return list(itertools.islice(times(expression, start), STEPS))


def refused_by_croniter(expression: str, start: datetime) -> bool:
    """Whether croniter refuses the text, or finds no date for it."""
    try:
        next(times(expression, start))
    except CroniterError:
        return True
    return False


def attempt(expression: str) -> tuple[Cron | None, str]:
    """The parsed expression, or the words of its refusal."""
    try:
        return Cron.parse(expression, "UTC"), ""
    except CronError as error:
        return None, str(error)


def compare(expression: str, start: datetime) -> Counter[str]:
    """Which rules explain the differences; fails on one that none explains."""
    applied: Counter[str] = Counter()
    cron, refusal = attempt(expression)
    if cron is None:
        rule = next((rule for pattern, rule in REFUSALS if re.search(pattern, refusal)), None)
        if re.search(r"[a-z]+-[a-z]+#", expression):
            rule = "range of nth"
        assert rule is not None, (expression, refusal)
        assert rule not in ("invalid", "never") or refused_by_croniter(expression, start), (expression, refusal)
        applied[rule] += 1
        return applied
    instant, found = (start - EPOCH).days * 86_400 * S + (start - EPOCH).seconds * S, []
    for _ in range(STEPS):
        instant = cron.next_after(instant)
        found.append(datetime.fromtimestamp(instant // S, UTC).replace(tzinfo=None))
    assert found == by_croniter(expression, start, applied), (expression, start, "croniter")
    if "w" in ALIASES.get(expression.lower(), expression).lower().split()[-3]:
        applied["cronsim: nearest weekday"] += 1
        return applied
    theirs = list(itertools.islice(CronSim(for_cronsim(expression, applied), start), STEPS))
    assert found == theirs, (expression, start, "cronsim")
    return applied


def compare_many(seed: str, count: int) -> Counter[str]:
    rng, applied = random.Random(seed), Counter[str]()
    while applied["accepted"] < count:
        expression = random_expression(rng)
        if len(expression) > 100:
            continue
        start = datetime(1990, 1, 1).replace(
            year=rng.randint(1990, 2090), month=rng.randint(1, 12), day=rng.randint(1, 28), hour=rng.randint(0, 23),
            minute=rng.randint(0, 59), second=rng.randint(0, 59),
        )  # fmt: skip
        rules = compare(expression, start)
        refused = sum(rules[rule] for _, rule in REFUSALS) + rules["range of nth"]
        applied += rules
        applied["accepted"] += not refused
    return applied


def test_random_expressions_agree_with_croniter_and_cronsim() -> None:  # C16, C17
    compare_many("agreement", 400)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_20_000_random_expressions_agree_with_croniter_and_cronsim() -> None:  # C16, C17
    applied = compare_many("twenty thousand", 20_000)
    assert [rule for rule in RULES if not applied[rule]] == []  # each was met


@pytest.mark.parametrize(("expression", "rule"), [
    ("59/15 * * * *", "one step"), ("*/90 * * * *", "one step"), ("3-3 * * * *", "one value"),
    ("0 0 31 2 *", "never"), ("0 22-6 * * *", "reversed"), ("0 0 * nov-mar *", "reversed"),
    ("0 0 * * fri-sun", "reversed"), ("0 0 ? * 1", "question"), ("0 0 15W * 1", "nearest weekday"),
    ("0 0 15W * *", "cronsim: nearest weekday"), ("0 0 1,15W * *", "invalid"), ("0 0 W * *", "invalid"),
    ("0 0 5-L * *", "L elsewhere"), ("R * * * *", "random"), ("*,5 * * * *", "star in list"),
    ("0 0 * * 0-6,1#2", "mixed nth"), ("0 0 1-31 * 5", "every day"), ("0 0 */1 * */2", "every day"),
    ("0 0 * * mon-fri#2", "range of nth"), ("0 0 * * JANU", "invalid"), ("0 0 1 1 * 0 2030", "year"),
    ("0 0 8 * MON#2", "nth or date"), ("0 0 */2 * 5", "cronsim: star first"), ("0 0 * * 3/2", "cronsim: to 7"),
    ("0 0 * * L5", "cronsim: last weekday"), ("@daily", "cronsim: aliases"),
])  # fmt: skip
def test_the_rules(expression: str, rule: str) -> None:
    assert rule in RULES
    assert compare(expression, datetime(2024, 2, 29, 12, 30)) == {rule: 1}

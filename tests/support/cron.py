"""Random cron expressions, and expressions in the words of cronsim, for comparisons with other libraries."""

from __future__ import annotations

import random
import re
from collections import Counter

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


def random_part(rng: random.Random, index: int) -> str:
    low, high = BOUNDS[index]
    a, b = sorted((rng.randint(low, high), rng.randint(low, high)))

    def word(number: int) -> str:
        names = {4: MONTHS, 5: DAYS}.get(index)
        if names is None or rng.random() < 0.5:
            return str(number)
        name = names[number - 1] if index == 4 else names[number % 7]
        return rng.choice((name, name.upper()))

    kind = rng.random()
    if kind < 0.4:
        return word(a)
    if kind < 0.62:
        return f"{word(a)}-{word(b)}"
    if kind < 0.74:
        return f"{word(a)}-{word(b)}/{rng.randint(1, max(1, b - a))}"
    if kind < 0.84:
        return f"*/{rng.randint(1, high - low)}"
    if kind < 0.92:
        return f"{word(a)}/{rng.randint(1, max(1, high - a))}"
    # Slips, which the strict checks are for.
    odd = [f"{word(b)}-{word(a)}", f"{word(a)}-{word(a)}", f"{word(high)}/{rng.randint(1, 9)}", "*", str(high + 1)]
    odd += [f"*/{high * 2}", "R", "1-", "", "*/0", f"{a}/x", f"-{a}"]
    if index == 3:
        odd += ["L", "15W", f"{a}-L", "?"] + ["L"] * 10
    if index == 5:
        odd += [f"{word(a)}L", f"{word(a)}#6", "mon-fri#2", "?", "5L"]
    return rng.choice(odd)


def random_field(rng: random.Random, index: int) -> str:
    draw = rng.random()
    if draw < (0.25 if index < 3 else 0.5):
        return "*"
    if index == 3 and draw < 0.6:
        return rng.choice(("L", "31", "29,30", "1-31", "*/1", "15,L", "*/10,L", "15W", "1w", "W31"))
    if index == 5 and draw < 0.65:
        days = rng.sample(range(8), rng.choice((1, 1, 2)))
        return ",".join(rng.choice((f"{day}#{rng.randint(1, 5)}", f"L{day}", f"{DAYS[day % 7]}#1")) for day in days)
    return ",".join(random_part(rng, index) for _ in range(rng.choice((1, 1, 1, 2, 3))))


def random_expression(rng: random.Random) -> str:
    if rng.random() < 0.02:
        return rng.choice([*ALIASES, "@DAILY", "@reboot", "0 0 1 1 * 0 2030", "0\t2 * * *"])
    indexes = range(rng.choice((0, 1, 1)), 6)
    return " ".join(random_field(rng, index) for index in indexes)


def for_cronsim(expression: str, applied: Counter[str]) -> str:
    """The expression that means to cronsim what the given one means here."""
    if expression.startswith("@"):
        applied["cronsim: aliases"] += 1
        expression = ALIASES[expression.lower()]
    *rest, date, month, weekday = expression.split()
    parts = weekday.upper().split(",")
    for index, part in enumerate(parts):
        if re.fullmatch(r"L\d", part):
            applied["cronsim: last weekday"] += 1
            parts[index] = part[1] + "L"
        elif re.fullmatch(r"\w+/\d+", part):
            applied["cronsim: to 7"] += 1
            parts[index] = part.replace("/", "-6/")
    weekday = ",".join(parts)
    if date != "*" and weekday != "*" and (date[0] == "*" or weekday[0] == "*"):
        applied["cronsim: star first"] += 1
        date, weekday = (text.replace("*", span) for text, span in ((date, "1-31"), (weekday, "0-6")))
    return " ".join((*rest, date, month, weekday))

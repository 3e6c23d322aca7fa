"""Alert rules: which hold for what was read of a store, and which alerts begin and end by that. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from aiotaskq.core.errors import INT64, ValidationError, check_int, check_seconds
from aiotaskq.core.tags import check_tags, labels

ALERTS: Final = "aiotaskq.alerts"
"""The type of the task that evaluates the rules, its unique key, and the key of the public value with what is open."""
NAMED: Final = 5
"""The most queues or schedules that an alert names."""


class Rules(msgspec.Struct, frozen=True):
    """Bounds beyond which there is an alert; None for no rule. Durations in seconds."""

    dead_letters: int | None
    oldest_ready: float | None
    schedule_late: float | None
    no_worker: float | None
    every: float
    tags: Mapping[str, str] = {}
    """Those of the tasks that ``dead_letters`` counts; empty for all tasks."""


class Seen(msgspec.Struct, frozen=True):
    """What was read of a store. Ages in seconds."""

    dead_letters: int
    oldest_ready: float | None
    late_schedules: Sequence[str]
    """Names of schedules that are due for longer than the rule allows."""
    unclaimed: Sequence[str]
    """Queues whose ready tasks no worker claims for longer than the rule allows."""


class Alert(msgspec.Struct, frozen=True):
    """An alert that begins or ends. Instants in microseconds UTC."""

    rule: str
    """``dead_letters``, ``oldest_ready``, ``schedule_late`` or ``no_worker``."""
    firing: bool
    """Whether it begins; False where it ends."""
    since: int
    """When it began."""
    text: str
    """A sentence that says what is wrong, or was."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as the body of a message and as the detail of an event."""
        return {
            "rule": self.rule,
            "state": "firing" if self.firing else "resolved",
            "since": self.since,
            "text": self.text,
        }


def make_rules(
    dead_letters: object,
    oldest_ready: object,
    schedule_late: object,
    no_worker: object,
    every: object,
    tags: object = None,
) -> Rules:
    """Return rules made from unchecked input. Raises ValidationError naming the argument."""
    given = {"oldest_ready": oldest_ready, "schedule_late": schedule_late, "no_worker": no_worker}
    if dead_letters is None and all(value is None for value in given.values()):
        raise ValidationError("alerts: at least one of dead_letters, oldest_ready, schedule_late, no_worker is needed")
    ages = {name: None if value is None else check_seconds(name, value, zero=False) for name, value in given.items()}
    most = None if dead_letters is None else check_int("dead_letters", dead_letters, 1)
    checked = check_tags(tags)
    if checked and most is None:
        raise ValidationError("alerts: tags choose which dead letters are counted, so dead_letters is needed")
    return Rules(most, **ages, every=check_seconds("every", every, zero=False), tags=checked)


def holding(rules: Rules, seen: Seen) -> dict[str, str]:
    """Return the rules beyond whose bounds the store is, each with a sentence."""
    found = {}
    if rules.dead_letters is not None and seen.dead_letters >= rules.dead_letters:
        found["dead_letters"] = f"tasks that have failed for good: {seen.dead_letters:,}"
        if rules.tags:  # no more of them are looked for
            tags = ", ".join(labels(rules.tags))
            found["dead_letters"] = f"tasks with {tags} that have failed for good: {seen.dead_letters:,} or more"
    age = seen.oldest_ready
    if rules.oldest_ready is not None and age is not None and age > rules.oldest_ready:
        found["oldest_ready"] = f"a task has been ready for {age:.0f} s"
    if seen.late_schedules:
        found["schedule_late"] = f"no scheduler has fired what is due: {_named(seen.late_schedules)}"
    if seen.unclaimed:
        found["no_worker"] = f"no worker claims the ready tasks of: {_named(seen.unclaimed)}"
    return found


def changes(open_since: Mapping[str, Sequence[Any]], found: Mapping[str, str], now: int) -> list[Alert]:
    """Return the alerts that begin and end. ``open_since`` has for each open one when it began, and its sentence."""
    begun = [Alert(rule, True, now, text) for rule, text in found.items() if rule not in open_since]
    ended = [Alert(rule, False, since, text) for rule, (since, text) in open_since.items() if rule not in found]
    return begun + ended


def opened(stored: object) -> list[Alert]:
    """Return the alerts that have begun and not ended, by the public value that has them.

    What is no alert in it is left out: any program can write that value.
    """
    found = stored.items() if isinstance(stored, dict) else ()
    return [
        Alert(rule, True, *about)
        for rule, about in found
        if isinstance(about, list) and list(map(type, about)) == [int, str] and 0 <= about[0] <= INT64
    ]


def after(open_since: Mapping[str, Sequence[Any]], made: Sequence[Alert]) -> dict[str, list[Any]]:
    """Return what is open after these changes."""
    ended: Collection[str] = {alert.rule for alert in made if not alert.firing}
    kept = {rule: list(about) for rule, about in open_since.items() if rule not in ended}
    return kept | {alert.rule: [alert.since, alert.text] for alert in made if alert.firing}


# ---- what needs attention without a rule of the application ---------------------------------------------------------

LONG_FACTOR: Final = 10
"""A run is long that takes so many times the p99 of its type."""
LEAST_LONG: Final = 60.0
"""Seconds below which no run is long."""
LEAST_RUNS: Final = 20
"""Runs of a type below which nothing is usual."""
WATCHED: Final = 5
"""Minutes for which what became ready in a queue is compared with what ended."""
LEAST_READY: Final = 10
"""Tasks that became ready in these minutes, below which nothing is said to grow."""


def runs_long(seconds: float, p99: float | None) -> bool:
    """Return whether a task runs for over ten times what 99 of 100 runs of its type take; None where not known."""
    return p99 is not None and seconds > max(LEAST_LONG, LONG_FACTOR * p99)


def grows(ready: int, ended: int) -> bool:
    """Return whether a backlog grows: of the same minutes, how many tasks became ready, and how many runs ended."""
    return ready >= LEAST_READY and ready > ended


def waits_long(waiting: int, rate: float) -> bool:
    """Return whether so many tasks need over a minute at a rate, in tokens per second."""
    return waiting > rate * 60


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more

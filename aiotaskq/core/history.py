"""What workers did, in numbers: sums and histograms by period, queue, type and outcome.

A histogram counts durations in microseconds by bucket. Below 16 each bucket is one number. Above, each power of two is
cut into eight buckets of one width, so that the middle of a bucket is off by at most a sixteenth of the duration: the
error of a percentile. Histograms are added bucket by bucket, so the sums of many workers, and of many minutes, have the
same error. A period is one minute; older ones are added up to quarters of an hour, then both to hours and to days, of
which the hours are deleted first: a span of months is read as its days, and not as each of its hours.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from aiotaskq.core.task import SECOND
from aiotaskq.core.usage import Usage, summed

MINUTE: Final = 60
QUARTER: Final = 900
HOUR: Final = 3_600
DAY: Final = 86_400
WIDTHS: Final = (MINUTE, QUARTER, HOUR, DAY)
"""The lengths of periods in seconds."""
KEEP_MINUTES: Final = 3 * HOUR
KEEP_QUARTERS: Final = 2 * DAY
KEEP_HOURS: Final = 30 * DAY
KEEP_DAYS: Final = 90 * DAY
USED: Final = "used"
"""The kind of the periods that have what tasks have used up, and no numbers of runs."""
KINDS: Final = ("completed", "failed", "retried", "cancelled", "expired", "lost")

Histogram = dict[int, int]
"""Counts by bucket."""
Key = tuple[int, int, str, str, str, str]
"""Begin, seconds, queue, type, kind and tag of a period."""


class Period(msgspec.Struct, frozen=True):
    """What workers did in one period with the tasks of one queue, one type and one kind of outcome."""

    at: int
    """When the period began, in microseconds UTC; hours and days are those of UTC."""
    seconds: int
    """How long it is: 60, 900, 3,600 or 86,400, or the ``step`` that was asked for."""
    queue: str
    type: str
    kind: str
    """``completed``, ``failed``, ``retried``, ``cancelled``, ``expired``, or ``lost``: the process of its worker died,
    or its lease expired; a task that fails by that is counted as ``failed``, too. ``used`` is for ``usage`` alone,
    since a run uses something before its outcome is known."""
    n: int = 0
    """How many runs ended so; of ``expired``, and of tasks that never started, how many tasks."""
    run_us: int = 0
    """The sum of their run times in microseconds; those of lost runs are not known."""
    wait_us: int = 0
    """The sum of their waits in microseconds, each from the due time to the start."""
    runs: str = ""
    """The histogram of the run times, each bucket as ``number:count``."""
    waits: str = ""
    """The histogram of the waits."""
    usage: Usage = {}
    """What tasks have used up, by name; of the kind ``used`` only."""
    tag: str = ""
    """``name=value`` if these are the sums of the tasks with this tag alone; empty for those of all tasks."""

    @property
    def key(self) -> Key:
        """What the sums are about."""
        return (self.at, self.seconds, self.queue, self.type, self.kind, self.tag)

    @property
    def run_seconds(self) -> float:
        """The sum of the run times in seconds."""
        return self.run_us / SECOND

    @property
    def wait_seconds(self) -> float:
        """The sum of the waits in seconds."""
        return self.wait_us / SECOND

    def run_percentile(self, percent: float) -> float | None:
        """Return the run time in seconds that ``percent`` of the runs did not exceed, None if there is no run.

        It is off by at most a sixteenth.
        """
        return _seconds(percentile(histogram(self.runs), percent))

    def wait_percentile(self, percent: float) -> float | None:
        """Return the wait in seconds that ``percent`` of the runs did not exceed; as ``run_percentile``."""
        return _seconds(percentile(histogram(self.waits), percent))


class Roll(msgspec.Struct, frozen=True):
    """Periods of this length that began before ``before`` become part of longer ones of each of the lengths ``into``.

    Without one of these they go.
    """

    seconds: int
    into: tuple[int, ...]
    before: int
    """In microseconds UTC."""


def rolls(now: int) -> tuple[Roll, ...]:
    """Return what is to be done at ``now``, in microseconds UTC; whole longer periods only."""
    return (
        Roll(MINUTE, (QUARTER,), begin_of(now - KEEP_MINUTES * SECOND, QUARTER)),
        Roll(QUARTER, (HOUR, DAY), begin_of(now - KEEP_QUARTERS * SECOND, DAY)),
        Roll(HOUR, (), hours_from(now)),
        Roll(DAY, (), begin_of(now - KEEP_DAYS * SECOND, DAY)),
    )


def hours_from(now: int) -> int:
    """Return since when hours are kept at ``now``, both in microseconds UTC; before there are only days."""
    return begin_of(now - KEEP_HOURS * SECOND, DAY)


def begin_of(at: int, seconds: int) -> int:
    """Return when the period of this length begins in which an instant is, both in microseconds UTC."""
    return at - at % (seconds * SECOND)


# ---- histograms ---------------------------------------------------------------------------------------------------


def bounds(number: int) -> tuple[int, int]:
    """Return the smallest duration of a bucket, and the smallest above it."""
    if number < 16:
        return number, number + 1
    shift = (number >> 3) - 1
    low = ((number & 7) + 8) << shift
    return low, low + (1 << shift)


def count_sorted(counts: Histogram, durations: Sequence[int]) -> None:
    """Add durations, which are in ascending order, to a histogram."""
    start, end = 0, len(durations)
    while start < end:
        first = durations[start]
        shift = max(first.bit_length() - 4, 0)
        head = first >> shift
        above = (head + 1) << shift
        stop = end if durations[-1] < above else bisect_left(durations, above, start)
        number = (shift << 3) + head
        counts[number] = counts.get(number, 0) + stop - start
        start = stop


def percentile(counts: Histogram, percent: float) -> float | None:
    """Return the duration in microseconds that ``percent`` of those counted do not exceed, None if there is none."""
    rank = max(1, math.ceil(sum(counts.values()) * percent / 100))
    for number in sorted(counts):
        rank -= counts[number]
        if rank <= 0:
            low, above = bounds(number)
            return (low + above - 1) / 2
    return None


def histogram(text: str) -> Histogram:
    """Return the counts of a stored histogram."""
    pairs = (pair.partition(":") for pair in text.split())
    return {int(number): int(count) for number, _, count in pairs}


def added_histograms(texts: Iterable[str]) -> Histogram:
    """Return the sum of stored histograms. Equal pairs are counted before they are read: most of many are equal."""
    counts: Histogram = {}
    for pair, times in Counter(" ".join(texts).split()).items():
        number, _, count = pair.partition(":")
        counts[int(number)] = counts.get(int(number), 0) + int(count) * times
    return counts


def histogram_text(counts: Histogram) -> str:
    """Return a histogram as it is stored: ``number:count``, divided by blanks, in the order of the numbers."""
    return " ".join([f"{number}:{counts[number]}" for number in sorted(counts)])


def _seconds(duration: float | None) -> float | None:
    return None if duration is None else duration / SECOND


# ---- sums ---------------------------------------------------------------------------------------------------------


class Sums:
    """What is added up under one key; it changes, a ``Period`` does not."""

    __slots__ = ("n", "run_us", "runs", "usage", "wait_us", "waits")

    def __init__(self) -> None:
        self.n = self.run_us = self.wait_us = 0
        self.runs: Histogram = {}
        self.waits: Histogram = {}
        self.usage: Usage = {}

    def add(self, period: Period) -> None:
        """Add the numbers of a period."""
        self.n += period.n
        self.run_us += period.run_us
        self.wait_us += period.wait_us
        if period.usage:
            self.usage = summed(self.usage, period.usage)
        for counts, text in ((self.runs, period.runs), (self.waits, period.waits)):
            for number, count in histogram(text).items():
                counts[number] = counts.get(number, 0) + count

    def add_runs(self, runs: list[int], waits: list[int]) -> None:
        """Add runs by their run times and waits, both in microseconds, a number of each; both lists are sorted."""
        self.n += len(runs)
        for durations in (runs, waits):
            durations.sort()
            if durations[0] < 0:  # the clock was set back meanwhile
                durations[:] = [max(0, duration) for duration in durations]
        self.run_us += sum(runs)
        self.wait_us += sum(waits)
        count_sorted(self.runs, runs)
        count_sorted(self.waits, waits)

    def period(self, key: Key) -> Period:
        """Return the sums under a key."""
        texts = (histogram_text(self.runs), histogram_text(self.waits))
        return Period(*key[:5], self.n, self.run_us, self.wait_us, *texts, self.usage, key[5])


def added_up(periods: Iterable[Period]) -> list[Period]:
    """Return one period for each key, with the sums, in the order of the keys."""
    alike: dict[Key, list[Period]] = {}
    for period in periods:
        alike.setdefault(period.key, []).append(period)
    return [found[0] if len(found) == 1 else _sum(found) for _, found in sorted(alike.items())]


def _sum(periods: Sequence[Period]) -> Period:
    sums = Sums()
    for period in periods:
        sums.add(period)
    return sums.period(periods[0].key)


def widened(period: Period, seconds: int) -> Period:
    """Return a period as a part of the longer one in which it begins; one that is longer already stays as it is."""
    if period.seconds >= seconds:
        return period
    return msgspec.structs.replace(period, at=begin_of(period.at, seconds), seconds=seconds)

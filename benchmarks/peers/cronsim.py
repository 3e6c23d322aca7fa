"""cronsim: the next times of a cron expression."""

from __future__ import annotations

import itertools
from zoneinfo import ZoneInfo

from benchmarks.case import Run, Sample
from benchmarks.cases.scheduler import BEGIN, CRON, next_times


@CRON.by("cronsim", "cronsim")
def cron(run: Run) -> Sample:
    from cronsim import CronSim

    begin = BEGIN.astimezone(ZoneInfo("Europe/Berlin"))
    return next_times(run, lambda line: list(itertools.islice(CronSim(line, begin), 100)))

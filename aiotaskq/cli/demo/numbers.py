"""The demo's numbers, taken from the events of its TaskQ as they happen."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.task import SECOND
from aiotaskq.runtime.events import Event

COUNTED = ("completed", "retried", "failed", "lost", "released", "cancelled", "expired")


class Numbers:
    """Counts, waits and lateness of one run of the process. ``began`` in microseconds UTC."""

    def __init__(self, tq: TaskQ, began: int, file_type: str) -> None:
        self.began = began
        self.counts: Counter[str] = Counter()
        self.files = 0
        self.skipped: list[str] = []
        self.bytes = 0
        self.compressed = 0
        self.waits: list[float] = []
        self.lateness: list[float] = []
        self.caught_up = 0
        """Due times that had passed while nothing ran; their lateness says nothing about the scheduler."""
        self._file_type = file_type
        self._first: int | None = None
        self._last = began
        for name in COUNTED:
            tq.on(name, self._ended)
        tq.on("started", self._started)
        tq.on("fired", self._fired)

    def _started(self, event: Event) -> None:
        if event.task is not None:
            # A task that was left by an earlier process has waited for us only since we are there.
            self.waits.append(max(0, event.at - max(event.task.run_at, self.began)) / SECOND)
            if event.task.type == self._file_type and self._first is None:
                self._first = event.at

    def _ended(self, event: Event) -> None:
        self.counts[event.name] += 1
        task = event.task
        if event.name == "completed" and task is not None and task.type == self._file_type:
            self.files += 1
            self._last = event.at
            if "skipped" in task.result:
                self.skipped.append(f"{task.params['path']}: {task.result['skipped']}")
            else:
                self.bytes += task.result["bytes"]
                self.compressed += task.result["gzip_bytes"]

    def _fired(self, event: Event) -> None:
        late = event.detail["lateness"]
        if event.at - late * SECOND < self.began:
            self.caught_up += 1
        else:
            self.lateness.append(late)

    @property
    def seconds(self) -> float:
        """How long the files took: from the first that started to the last that was completed."""
        return 0.0 if self._first is None else max(0.0, (self._last - self._first) / SECOND)

    @property
    def rate(self) -> float:
        """Files a second."""
        return self.files / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON; durations in seconds, None where nothing was measured."""
        return {
            **{name: self.counts[name] for name in COUNTED},
            "files": self.files,
            "seconds": round(self.seconds, 3),
            "files_per_second": round(self.rate, 1),
            "bytes": self.bytes,
            "gzip_bytes": self.compressed,
            "wait_p50": percentile(self.waits, 0.5),
            "wait_p99": percentile(self.waits, 0.99),
            "fired": len(self.lateness) + self.caught_up,
            "caught_up": self.caught_up,
            "lateness_p50": percentile(self.lateness, 0.5),
            "lateness_max": percentile(self.lateness, 1.0),
        }


def percentile(values: list[float], share: float) -> float | None:
    """Return the value that ``share`` of the values do not exceed (nearest rank)."""
    if not values:
        return None
    return round(sorted(values)[max(0, math.ceil(share * len(values)) - 1)], 6)

"""What the demo prints, and its numbers, which are collected from events."""

from __future__ import annotations

import os
import shlex
import statistics
from collections import Counter
from pathlib import Path

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.demo.files import FILE, FILES, OTHERS, File
from aiotaskq.cli.i18n import marked, tr, width
from aiotaskq.cli.options import program
from aiotaskq.cli.output import echo, echo_check, echo_title, say
from aiotaskq.core.masking import mask
from aiotaskq.core.task import SECOND
from aiotaskq.runtime.hooks import HookCall

APP = """\
from aiotaskq import TaskQ

tq = TaskQ("sqlite:///app.db")

@tq.schedule(interval=1)
@tq.task
async def hello() -> None:
    print("hello")
"""
"""The program that a new user is told to write; a test runs it."""


LABELS = {
    "files": marked("files"),
    "files_per_second": marked("files per second"),
    "bytes": marked("bytes hashed"),
    "completed": marked("completed tasks"),
    "retried": marked("retries"),
    "failed": marked("failed tasks"),
    "lost": marked("taken over from a killed process"),
    "wait_median_ms": marked("wait in the queue, median, in ms"),
    "wait_max_ms": marked("wait in the queue, maximum, in ms"),
    "fired": marked("fired schedules"),
    "late_median_ms": marked("lateness of schedules, median, in ms"),
    "late_max_ms": marked("lateness of schedules, maximum, in ms"),
}


Check = tuple[bool, str, dict[str, object]]
"""Whether a claim held, the claim, and the values for its ``{names}``."""


class Numbers:
    """Counts, waits and lateness since ``began``, in microseconds UTC."""

    def __init__(self, tq: TaskQ, began: int) -> None:
        self._began = began
        self._counts: Counter[str] = Counter()
        self._waits: list[float] = []
        self._late: list[float] = []
        self._files: list[int] = []  # when a task of a file started or ended
        for name in ("started", "completed", "retried", "failed", "lost", "fired"):
            tq.on(name, self._count)

    def _count(self, event: HookCall) -> None:
        task = event.task
        if task is not None and task.queue not in (FILES, OTHERS):  # of the shop
            return
        self._counts[event.name] += 1
        if event.name == "fired":
            late = event.detail["lateness"]
            if event.at - late * SECOND >= self._began:  # else it was due while nothing ran
                self._late.append(round(late * 1000, 1))
        elif event.name == "started" and task is not None:
            self._waits.append(round(max(0, event.at - max(task.run_at, self._began)) / 1000, 1))
        if task is not None and task.type == FILE and event.name in ("started", "completed"):
            self._files.append(event.at)
            if event.name == "completed":
                self._counts["files"] += 1
                self._counts["bytes"] += task.result.get("bytes", 0)

    @property
    def rate(self) -> float | None:
        """Files a second, from the first that started to the last that was completed; None before."""
        seconds = (max(self._files) - min(self._files)) / SECOND if self._files else 0.0
        return round(self._counts["files"] / seconds, 1) if seconds else None

    def as_dict(self) -> dict[str, float | None]:
        """Return the numbers by the names of ``LABELS``; None where nothing was measured."""
        measured: dict[str, float | None] = {"files_per_second": self.rate}
        for name, values in (("wait", self._waits), ("late", self._late)):
            measured[f"{name}_median_ms"] = round(statistics.median(values), 1) if values else None
            measured[f"{name}_max_ms"] = max(values, default=None)
        return {name: measured.get(name, self._counts[name]) for name in LABELS}


def introduce(folder: Path, url: str, files: list[File], left_out: Counter[str]) -> None:
    """Say what will be done, and where it is kept."""
    megabytes = f"{sum(file.size for file in files) / 1e6:,.1f}"
    count = count_of_files(len(files))
    echo_title(tr("aiotaskq demo: {files} in {folder}, {size} MB", files=count, folder=folder, size=megabytes))
    if left_out:
        reasons = ", ".join(f"{count:,} {tr(reason)}" for reason, count in left_out.items())
        say("left out: {what}", what=reasons)
    say("database: {url}", url=mask(url))


def rate_of(numbers: Numbers) -> str:
    return tr("{rate} files/s", rate=f"{numbers.rate or 0:,.0f}")


def count_of_files(count: int) -> str:
    return tr("1 file") if count == 1 else tr("{count} files", count=count)


def show(numbers: Numbers, checks: list[Check]) -> None:
    echo()
    column = max(width(tr(label)) for label in LABELS.values())
    for name, value in numbers.as_dict().items():
        if name != "files":  # the first check names them
            label = tr(LABELS[name])
            echo(f"  {label}{' ' * (column - width(label))}  {'-' if value is None else f'{value:,}'}")
    echo()
    echo_title(tr("Checks"))
    for held, claim, values in checks:
        echo_check(held, tr(claim, **values))
    echo()


def say_next(folder: Path, url: str, dead_letter: str) -> None:
    """Print what to try next; ``dead_letter`` is the id of the task that fails always."""
    me, db = program(), f"--db {shlex.quote(url)}"
    echo_title(tr("Try next"))
    say("1. Look at the dead letter in the database, which is kept, and retry it:")
    for words in ("stats", f"tasks get {dead_letter}", f"tasks retry {dead_letter}"):
        echo(f"     {me} {words} {db}")
    say("2. Stop the demo with Ctrl-C (or kill -9) and run it again: it continues, and repeats nothing:")
    echo(f"     {again(folder, '--pause 0.5')}")
    say("3. See it in a browser, at work (this needs the extra web):")
    echo(f"     {again(folder, '--web')}")
    say("4. Save this as app.py and start it, in as many terminals as you like; it says hello once a second:")
    for line in APP.splitlines():
        echo(f"     {line}".rstrip())
    echo(f"     $ {me} run app:tq")


def again(folder: Path, *options: str) -> str:
    where = [] if folder == Path() else [shlex.quote(os.fspath(folder))]
    return " ".join([program(), "demo", *where, *options])

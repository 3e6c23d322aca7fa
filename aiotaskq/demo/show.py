"""What the demo says: the first lines, a line a second, the table, the checks, and what to try next."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from aiotaskq.backends import mask
from aiotaskq.cli import program
from aiotaskq.cli.screen import say, say_held, say_json, say_title
from aiotaskq.demo.checks import Check
from aiotaskq.demo.files import Found
from aiotaskq.demo.numbers import Numbers, percentile
from aiotaskq.log import printable

if TYPE_CHECKING:
    from aiotaskq.demo.play import Options

APP = """\
from aiotaskq import TaskQ

tq = TaskQ("sqlite:///app.db")

@tq.schedule(interval=1)
@tq.task
async def hello() -> None:
    print("hello")
"""
"""The program that a newcomer is told to write; a test runs it."""


def introduce(folder: Path, url: str, found: Found) -> None:
    """Say what will be done, and where it is kept."""
    size = _size(sum(file.size for file in found.files))
    say_title(f"aiotaskq demo: {many(len(found.files), 'file')} in {printable(folder)}, {size}")
    if found.left_out:
        parts = [
            f"{count:,} {reason} ({printable(example, 60)})" for reason, (count, example) in found.left_out.items()
        ]
        say(f"left out: {', '.join(parts)}")
    say(f"database: {printable(mask(url), 1_000)}")


def pushed(created: int, seconds: float, resumed: bool, done: int, total: int) -> None:
    """Say what was pushed, or what was there already."""
    if resumed:
        say(f"going on with the run that was stopped: {done:,} of {many(total, 'file')} done, {total - done:,} to go")
    else:
        say(f"pushed {created:,} tasks in one transaction, on disk after {seconds:.2f} s")


def speed(numbers: Numbers) -> str:
    """Return how fast it goes."""
    return f"{numbers.rate:,.0f} files/s" if numbers.rate else ""


def every_second(number: int, done: int, total: int, numbers: Numbers) -> str:
    """Return the line that the schedule prints."""
    rate = f", {speed(numbers)}" if numbers.rate else ""
    return f"  scheduled report {number}: {done:,} of {many(total, 'file')}{rate}, {_size(numbers.bytes)} read"


def report(
    options: Options, url: str, found: Found, numbers: Numbers, checks: list[Check], run_id: str, before: int
) -> None:
    """Show the numbers, the checks, and the next things to try."""
    dead = f"{run_id}-fails-always"
    if options.as_json:
        say_json(
            {
                "ok": all(check.held for check in checks),
                "folder": str(options.folder.resolve()),
                "database": mask(url),
                "run": run_id,
                "resumed_after": before,
                "files": len(found.files),
                "left_out": {reason: count for reason, (count, _) in found.left_out.items()},
                "skipped": numbers.skipped,
                "numbers": numbers.as_dict(),
                "checks": [{"name": check.name, "held": check.held} for check in checks],
                "dead_letter": dead,
            }
        )
        return
    say()
    rows = _rows(numbers)
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        say(f"  {label:<{width}}  {value}")
    for skipped in numbers.skipped[:5]:
        say(f"skipped, since it could not be read any more: {printable(skipped)}")
    say()
    say_title("Checks")
    for check in checks:
        say_held(check.held, check.name)
    say()
    _next(options, url, dead)


def _rows(numbers: Numbers) -> list[tuple[str, str]]:
    counts = numbers.counts
    rate = f"{numbers.rate:,.0f} files/s, {_size(numbers.bytes / numbers.seconds)}/s" if numbers.seconds else "-"
    ratio = f" ({100 * numbers.compressed / numbers.bytes:.0f} %)" if numbers.bytes else ""
    rows = [
        ("files done", f"{numbers.files:,} in {numbers.seconds:.2f} s"),
        ("throughput", rate),
        ("compressed", f"{_size(numbers.bytes)} to {_size(numbers.compressed)}{ratio}"),
        ("tasks completed", f"{counts['completed']:,}"),
        ("retried", f"{counts['retried']:,}"),
        ("failed for good", f"{counts['failed']:,}"),
        (
            "wait in the queue p50 / p99",
            f"{_time(percentile(numbers.waits, 0.5))} / {_time(percentile(numbers.waits, 0.99))}",
        ),
        (
            "schedule lateness p50 / max",
            f"{_time(percentile(numbers.lateness, 0.5))} / {_time(percentile(numbers.lateness, 1.0))}, "
            f"{len(numbers.lateness)} due times",
        ),
    ]
    if numbers.counts["lost"]:
        rows.append(("taken over from a killed process", f"{numbers.counts['lost']:,}"))
    if numbers.caught_up:
        rows.append(("due while nothing ran, caught up", f"{numbers.caught_up:,}"))
    return rows


def _next(options: Options, url: str, dead: str) -> None:
    me, db, folder = program(), f"--db {shlex.quote(url)}", _folder(options)
    say_title("Try next")
    say("1. Look at the dead letter in the database, which stays, and put it back:")
    say(f"     {me} stats {db}")
    say(f"     {me} tasks show {dead} {db}")
    say(f"     {me} tasks retry {dead} {db}")
    say("2. Stop it in the middle with Ctrl-C (or kill -9) and run it again: it goes on, and repeats nothing:")
    say(f"     {me} demo --pause 0.5{folder}")
    say("3. Your own: save this as app.py and start it, in as many terminals as you like; it says hello once a second:")
    for line in APP.splitlines():
        say(f"     {line}".rstrip())
    say(f"     $ {me} run app:tq")


def stopped(options: Options, url: str, done: int, total: int) -> None:
    """Say how to go on after Ctrl-C."""
    if options.as_json:
        say_json({"ok": False, "stopped": True, "database": mask(url), "files": total, "done": done})
        return
    if not total:
        say("stopped before anything was done")
        return
    say(f"stopped: {done:,} of {many(total, 'file')} are done, and stay done. This goes on with the rest:")
    pause = f" --pause {options.pause:g}" if options.pause else ""
    db = f" --db {shlex.quote(options.url)}" if options.url else ""
    say(f"     {program()} demo{pause}{_folder(options)}{db}")


def _folder(options: Options) -> str:
    return "" if options.folder == Path() else f" {shlex.quote(os.fspath(options.folder))}"


def many(count: int, word: str) -> str:
    """Return the count with its word, plural where it is due."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"

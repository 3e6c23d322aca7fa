"""What the demo says: the first lines, a line a second, the table, the checks, and what to try next."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from aiotaskq.cli.demo.checks import Check
from aiotaskq.cli.demo.files import Found
from aiotaskq.cli.demo.numbers import Numbers, percentile
from aiotaskq.cli.demo.options import Options
from aiotaskq.cli.i18n import tr, width
from aiotaskq.cli.output import say, say_held, say_json, say_title
from aiotaskq.cli.program import program
from aiotaskq.core.masking import mask
from aiotaskq.log import printable

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
    said = tr(
        "aiotaskq demo: {files} in {folder}, {size}",
        files=many(len(found.files)),
        folder=printable(folder),
        size=size,
    )
    say_title(said)
    if found.left_out:
        parts = [
            f"{count:,} {tr(reason)} ({printable(example, 60)})" for reason, (count, example) in found.left_out.items()
        ]
        say(tr("left out: {what}", what=", ".join(parts)))
    say(tr("database: {url}", url=printable(mask(url), 1_000)))


def pushed(created: int, seconds: float, resumed: bool, done: int, total: int) -> None:
    """Say what was pushed, or what was there already."""
    if resumed:
        values = {"done": f"{done:,}", "files": many(total), "left": f"{total - done:,}"}
        say(tr("going on with the run that was stopped: {done} of {files} done, {left} to go", **values))
    else:
        values = {"count": f"{created:,}", "seconds": f"{seconds:.2f}"}
        say(tr("pushed {count} tasks in one transaction, on disk after {seconds} s", **values))


def speed(numbers: Numbers) -> str:
    """Return how fast it goes."""
    return tr("{rate} files/s", rate=f"{numbers.rate:,.0f}") if numbers.rate else ""


def every_second(number: int, done: int, total: int, numbers: Numbers) -> str:
    """Return the line that the schedule prints."""
    rate = f", {speed(numbers)}" if numbers.rate else ""
    values = {"number": number, "done": f"{done:,}", "files": many(total), "size": _size(numbers.bytes)}
    return tr("  scheduled report {number}: {done} of {files}{rate}, {size} read", rate=rate, **values)


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
    columns = max(width(label) for label, _ in rows)
    for label, value in rows:
        say(f"  {label}{' ' * (columns - width(label))}  {value}")
    for skipped in numbers.skipped[:5]:
        say(tr("skipped, since it could not be read any more: {file}", file=printable(skipped)))
    say()
    say_title(tr("Checks"))
    for check in checks:
        say_held(check.held, check.shown)
    say()
    _next(options, url, dead)


def _rows(numbers: Numbers) -> list[tuple[str, str]]:
    counts = numbers.counts
    rate = "-"
    if numbers.seconds:
        files = tr("{rate} files/s", rate=f"{numbers.rate:,.0f}")
        rate = f"{files}, {_size(numbers.bytes / numbers.seconds)}/s"
    ratio = f" ({100 * numbers.compressed / numbers.bytes:.0f} %)" if numbers.bytes else ""
    rows = [
        (
            tr("files done"),
            tr("{count} in {seconds} s", count=f"{numbers.files:,}", seconds=f"{numbers.seconds:.2f}"),
        ),
        (tr("throughput"), rate),
        (tr("compressed"), tr("{size} to {less}", size=_size(numbers.bytes), less=_size(numbers.compressed)) + ratio),
        (tr("tasks completed"), f"{counts['completed']:,}"),
        (tr("retried"), f"{counts['retried']:,}"),
        (tr("failed for good"), f"{counts['failed']:,}"),
        (
            tr("wait in the queue p50 / p99"),
            f"{_time(percentile(numbers.waits, 0.5))} / {_time(percentile(numbers.waits, 0.99))}",
        ),
        (
            tr("schedule lateness p50 / max"),
            f"{_time(percentile(numbers.lateness, 0.5))} / {_time(percentile(numbers.lateness, 1.0))}, "
            + tr("{count} due times", count=len(numbers.lateness)),
        ),
    ]
    if numbers.counts["lost"]:
        rows.append((tr("taken over from a killed process"), f"{numbers.counts['lost']:,}"))
    if numbers.caught_up:
        rows.append((tr("due while nothing ran, caught up"), f"{numbers.caught_up:,}"))
    return rows


def _next(options: Options, url: str, dead: str) -> None:
    me, db, folder = program(), f"--db {shlex.quote(url)}", _folder(options)
    say_title(tr("Try next"))
    say(tr("1. Look at the dead letter in the database, which stays, and put it back:"))
    say(f"     {me} stats {db}")
    say(f"     {me} tasks show {dead} {db}")
    say(f"     {me} tasks retry {dead} {db}")
    say(tr("2. Stop it in the middle with Ctrl-C (or kill -9) and run it again: it goes on, and repeats nothing:"))
    say(f"     {me} demo --pause 0.5{folder}")
    say(
        tr(
            "3. Your own: save this as app.py and start it, in as many terminals as you like; "
            "it says hello once a second:"
        )
    )
    for line in APP.splitlines():
        say(f"     {line}".rstrip())
    say(f"     $ {me} run app:tq")


def stopped(options: Options, url: str, done: int, total: int) -> None:
    """Say how to go on after Ctrl-C."""
    if options.as_json:
        say_json({"ok": False, "stopped": True, "database": mask(url), "files": total, "done": done})
        return
    if not total:
        say(tr("stopped before anything was done"))
        return
    values = {"done": f"{done:,}", "files": many(total)}
    say(tr("stopped: {done} of {files} are done, and stay done. This goes on with the rest:", **values))
    pause = f" --pause {options.pause:g}" if options.pause else ""
    db = f" --db {shlex.quote(options.url)}" if options.url else ""
    say(f"     {program()} demo{pause}{_folder(options)}{db}")


def _folder(options: Options) -> str:
    return "" if options.folder == Path() else f" {shlex.quote(os.fspath(options.folder))}"


def many(count: int) -> str:
    """Return the count of files with its word, plural where it is due."""
    return tr("1 file") if count == 1 else tr("{count} files", count=f"{count:,}")


def _size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"

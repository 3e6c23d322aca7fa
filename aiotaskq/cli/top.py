"""``aiotaskq top``: queues, tasks, limits and workers on the whole terminal, and keys that change them.

Operations are all by which it reads and changes a store. ``drawn`` is a function of what they have answered, of what
the operator has chosen, and of a size; ages go on between two reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import typer
from msgspec import Struct, structs

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli import answers, tasks
from aiotaskq.cli.i18n import marked, tr, translated
from aiotaskq.cli.options import DEFAULT_DB, Db, command, option
from aiotaskq.cli.output import Column, Piece, fill, full_screen, interactive, layout
from aiotaskq.cli.store_access import SHORTEST, actor, unique_prefixes, with_tq
from aiotaskq.cli.times import ago, duration, local
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.alerts import ALERTS, Alert, opened
from aiotaskq.core.masking import mask, without_passwords
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import SECOND
from aiotaskq.errors import AiotaskqError, NotFound
from aiotaskq.log import printable
from aiotaskq.operations import operate
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.fields import MAX_PAGE
from aiotaskq.operations.limits import LimitView
from aiotaskq.operations.queues import QueueView, StatsView
from aiotaskq.operations.scale import ScaleView
from aiotaskq.operations.table import Access, perform, read
from aiotaskq.operations.task_views import TaskView
from aiotaskq.operations.workers import WorkerView

INTERVAL = 1.0  # seconds between two reads
SHARE = 4  # for so many times as long as a read takes there is no other one
SMOOTH = 10  # reads over which rates are measured
ROWS = 100  # tasks or limits of one kind that are read
HEIGHTS = 1, 3, 8, ROWS
"""The lines of a panel: each panel gets so many before any gets more, the chosen one first."""


class QueueRow(QueueView):
    """A queue, and what happens in it each second; None where that is not known yet."""

    failed: int
    pushed: float | None
    ended: float | None


class Snapshot(Struct):
    """What the operations have answered."""

    at: int  # microseconds UTC
    counts: dict[str, int]
    scale: ScaleView
    alerts: list[Alert]
    queues: list[QueueRow]
    tasks: list[TaskView]
    failed: list[TaskView]
    limits: list[LimitView]
    workers: list[WorkerView]


class Panel(Struct, frozen=True):
    """A table of the page."""

    rows: str
    """The field of the snapshot with its rows."""
    title: str
    """Its heading, above the first column, with the ``{count}`` of the rows."""
    name: str
    """The field of a row that names the thing."""
    columns: tuple[Column, ...]
    does: str = ""
    """The key that changes a thing of it, and what that does."""
    statuses: tuple[str, ...] = ()
    """Those of its tasks, of which there may be more than were read; their number is not its height."""


class Page(Struct):
    """What an operator has chosen, and is told."""

    url: str
    snapshot: Snapshot
    read_only: bool = False
    panel: int = 0
    places: dict[str, tuple[str, int]] = {}
    """The name and the place of the row that was chosen, by panel."""
    question: tuple[str, str] | None = None
    """An operation, and the name of its thing."""
    said: str = ""
    error: str = ""
    """Why the store could not be read again."""
    help: bool = False


# ---- what is read ---------------------------------------------------------------------------------------------------


async def look(tq: TaskQ, seen: deque[tuple[int, StatsView]]) -> Snapshot:
    """Read a store. ``seen`` has the ticks and counts of the reads before, and gets those of this one."""
    # Of running tasks the oldest are shown, and a list begins with the newest.
    running, pending, failed = [
        (await operate(tq, "tasks.list", status=[status], limit=limit)).tasks
        for status, limit in (("running", MAX_PAGE), ("pending", ROWS), ("failed", ROWS))
    ]
    running.sort(key=lambda task: task.started_at or "")
    clock, stats = SystemClock(), await operate(tq, "stats.get")
    seen.append((clock.ticks(), stats))
    alerts: list[Alert] = []
    with contextlib.suppress(NotFound):
        alerts = opened((await operate(tq, "values.get", key=ALERTS)).value)
    return Snapshot(
        at=clock.now(),
        counts=stats.counts,
        scale=await operate(tq, "scale.get"),
        alerts=alerts,
        queues=[_queue(name, seen) for name in sorted({*stats.queues, *stats.paused})],
        tasks=[*running[:ROWS], *pending],
        failed=failed,
        limits=(await operate(tq, "limits.list", limit=ROWS)).limits,
        workers=(await operate(tq, "workers.list")).workers,
    )


def _queue(name: str, seen: Sequence[tuple[int, StatsView]]) -> QueueRow:
    (began, first), (at, last) = seen[0], seen[-1]
    now, before = (stats.queues.get(name, {}) for stats in (last, first))

    def rate(statuses: Iterable[str]) -> float | None:
        """Return how many more tasks have these statuses each second; 0 where a deletion makes them fewer."""
        more = sum(now.get(status, 0) - before.get(status, 0) for status in statuses)
        return max(0, more) * SECOND / (at - began) if at > began else None

    pending, running, failed = (now.get(status, 0) for status in ("pending", "running", "failed"))
    return QueueRow(name, name in last.paused, pending, running, failed, rate(Status), rate(FINAL))


# ---- what is drawn --------------------------------------------------------------------------------------------------


def _per_second(rate: float | None) -> str:
    return "" if rate is None else f"{rate:>8,.1f}"


OF_TASKS = {column.header: column for column in tasks.COLUMNS}
LATER = "RUN", "PROGRESS", "DUE", "QUEUE", "WORKER", "ATTEMPT", "AGE"
LIVE = (
    *(OF_TASKS[header] for header in ("TASK_ID", "TYPE", "STATUS")),
    *(replace(OF_TASKS[header], rank=rank) for rank, header in enumerate(LATER, 1)),
)
FAILED = (
    *(OF_TASKS[header] for header in ("TASK_ID", "TYPE", "ATTEMPT", "QUEUE", "ERROR")),
    Column("ENDED", lambda task: ago(task.completed_at), rank=1),
)
QUEUES = (
    *answers.QUEUES,
    Column("FAILED", "failed"),
    Column("PUSHED/S", lambda row: _per_second(row.pushed), rank=2),
    Column("ENDED/S", lambda row: _per_second(row.ended), rank=1),
)
PANELS = (
    Panel("queues", marked("QUEUES {count}"), "queue", QUEUES, marked("p pause or resume")),
    Panel("tasks", marked("TASKS {count}"), "task_id", LIVE, marked("c cancel"), ("running", "pending")),
    Panel("failed", marked("FAILED {count}"), "task_id", FAILED, marked("r retry"), ("failed",)),
    Panel("limits", marked("LIMITS {count}"), "key", answers.LIMITS, marked("p pause or resume")),
    Panel("workers", marked("WORKERS {count}"), "id", answers.WORKERS),
)
HELP = marked(
    "tab, shift-tab   choose a panel\n"
    "arrows, j, k     choose a row; page up and page down go by ten\n"
    "p                pause or resume a queue or a limit\n"
    "c                cancel a pending task, or ask a running one to stop\n"
    "r                retry a failed task\n"
    "q                quit\n"
    "\n"
    "Any key closes this."
)


def drawn(page: Page, columns: int, rows: int) -> list[list[Piece]]:
    """Return the lines of the whole page, each as pieces with their styles, and as wide as the terminal."""
    lines = _head(page, columns, rows)
    if page.help:
        lines += [[(f"  {line}", "")] for line in ["", *tr(HELP).splitlines()]]
    else:
        heights = _heights(page, rows - len(lines) - 1)
        lines += [line for number, height in enumerate(heights) for line in _panel(page, number, columns, height)]
    lines = [*lines, *[[]] * rows][: rows - 1]
    return [fill(line, columns) for line in [*lines, _foot(page)]]


def _head(page: Page, columns: int, rows: int) -> list[list[Piece]]:
    found, scale = page.snapshot, page.snapshot.scale
    right = local(found.at, False, short=True) or ""
    title = fill([("aiotaskq top  ", "bold"), (printable(page.url), "")], columns - len(right) - 1)
    working = [
        tr("{running} run in {slots} slots of {workers} workers", **structs.asdict(scale)),
        tr("{count} needed", count=scale.wanted_workers),
    ]
    if all(row.ended is not None for row in found.queues):
        pushed, ended = (f"{sum(getattr(row, name) for row in found.queues):,.0f}" for name in ("pushed", "ended"))
        working.append(tr("{pushed} pushed and {ended} ended per second", pushed=pushed, ended=ended))
    lines: list[list[Piece]] = [[*title, (f" {right}", "")]]
    lines += [[(tr(", ").join(parts), "")] for parts in (answers.ready_parts(scale), working)]
    for alert in found.alerts:
        told = tr("alert for {time}: {text}", time=duration(found.at - alert.since), text=translated(alert.text))
        lines.append([(printable(told), "bold red")])
    return lines[: 3 + rows // 4]


def _foot(page: Page) -> list[Piece]:
    if page.question is not None:
        return [(tr("cancel task {name}? y/n", name=printable(page.question[1])), "bold yellow")]
    if told := page.said or page.error:
        return [(told, "bold")]
    able = "" if page.read_only else tr(PANELS[page.panel].does)
    return [(f"{tr('tab panel   j k row   ? help   q quit')}   {able}", "bold")]


def _heights(page: Page, room: int) -> list[int]:
    """Return how many lines each panel has."""
    wanted = [ROWS if panel.statuses else 1 + len(getattr(page.snapshot, panel.rows)) for panel in PANELS]
    heights = [0] * len(PANELS)
    for most in HEIGHTS:
        for number in sorted(range(len(PANELS)), key=lambda number: number != page.panel):
            more = max(0, min(room, min(most, wanted[number]) - heights[number]))
            heights[number] += more
            room -= more
    return heights


def _panel(page: Page, number: int, columns: int, height: int) -> list[list[Piece]]:
    panel, rows = PANELS[number], getattr(page.snapshot, PANELS[number].rows)
    count = sum(page.snapshot.counts.get(status, 0) for status in panel.statuses) if panel.statuses else len(rows)
    first = replace(panel.columns[0], header=tr(panel.title, count=count))
    if panel.statuses:
        ids = unique_prefixes([each.task_id for each in (*page.snapshot.tasks, *page.snapshot.failed)])
        first = replace(first, cell=lambda row: ids[row.task_id], least=SHORTEST + 5)
    lines, chosen, place = layout(rows, (first, *panel.columns[1:]), columns), number == page.panel, _place(page, panel)
    top = max(0, min(place - (height - 1) // 2, len(rows) - height + 1))
    shown = [fill(lines[0], columns, "underline cyan" if chosen else "underline")]
    for at, line in enumerate(lines[top + 1 : top + height], top):
        whole = [("".join(text for text, _ in line), "")]
        shown.append(fill(whole, columns, "reverse") if chosen and at == place else line)
    return [*shown, *[[]] * height][:height]


def _place(page: Page, panel: Panel) -> int:
    """Return the place of the chosen row: where the thing is now, or if it is gone, where it was."""
    names = [getattr(row, panel.name) for row in getattr(page.snapshot, panel.rows)]
    name, place = page.places.get(panel.rows, ("", 0))
    return names.index(name) if name in names else max(0, min(place, len(names) - 1))


# ---- keys -----------------------------------------------------------------------------------------------------------

KEY = re.compile(r"\x1b[\[O][0-9;]*.|.", re.DOTALL)
STEPS = {"j": 1, "k": -1, "\x1b[B": 1, "\x1b[A": -1, "\x1b[6~": 10, "\x1b[5~": -10}
TABS = {"\t": 1, "\x1b[Z": -1}


def press(page: Page, key: str) -> tuple[str, str] | None:
    """Change what is chosen by a key; return the operation that is to be done, and the name of its thing."""
    question, page.question, page.said, helped = page.question, None, "", page.help
    if question is not None:
        if key in "yY":
            return question
        page.said = tr("nothing was done")
        return None
    page.help = key == "?" and not page.help
    if key == "?" or helped:
        return None
    page.panel = (page.panel + TABS.get(key, 0)) % len(PANELS)
    panel = PANELS[page.panel]
    rows = getattr(page.snapshot, panel.rows)
    if not rows or key not in (*STEPS, panel.does[:1]):
        return None
    place = max(0, min(_place(page, panel) + STEPS.get(key, 0), len(rows) - 1))
    name = getattr(rows[place], panel.name)
    page.places[panel.rows] = name, place
    if key in STEPS:
        return None
    if page.read_only:
        page.said = tr("nothing is changed here: --read-only")
        return None
    if key == "p":
        paused = rows[place].paused if panel.rows == "queues" else rows[place].state == "paused"
        return f"{panel.rows}.{'resume' if paused else 'pause'}", name
    if key == "r":
        return "tasks.retry", name
    page.question = "tasks.cancel", name
    return None


@contextlib.contextmanager
def _keyboard(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell of each key that is pressed: q also when the terminal or the process is to end, "" to draw again."""
    fd, loop = sys.stdin.fileno(), asyncio.get_running_loop()

    def pressed() -> None:
        typed = b""
        with contextlib.suppress(OSError):  # the terminal has gone
            typed = os.read(fd, 1024)
        for key in KEY.findall(typed.decode(errors="ignore").replace("\x1bO", "\x1b[")) if typed else ["q"]:
            tell(key)

    before = termios.tcgetattr(fd)
    # Suspended, it would leave the terminal as it is.
    signals = {signal.SIGWINCH: "", signal.SIGTSTP: "", signal.SIGTERM: "q", signal.SIGHUP: "q"}
    for number, key in signals.items():
        loop.add_signal_handler(number, tell, key)
    tty.setcbreak(fd)
    loop.add_reader(fd, pressed)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        for number in signals:
            loop.remove_signal_handler(number)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSAFLUSH, before)


# ---- the command ----------------------------------------------------------------------------------------------------


@command("top", "Watch queues, tasks, limits and workers live, and change them by keys; ? lists these.")
def top(
    db: Db = DEFAULT_DB,
    read_only: Annotated[bool, option("Let the keys change nothing.", "--read-only")] = False,
) -> None:
    if sys.stdin is None or not (sys.stdin.isatty() and interactive()) or os.environ.get("TERM") == "dumb":
        raise typer.BadParameter(tr("top needs a terminal; stats --watch also writes into a pipe"))
    with_tq(db, lambda tq: _watch(tq, db, read_only))


async def _watch(tq: TaskQ, url: str, read_only: bool) -> None:
    seen = deque[tuple[int, StatsView]](maxlen=SMOOTH)
    page = Page(mask(url), await look(tq, seen), read_only)
    keys, changed, clock = asyncio.Queue[str](), asyncio.Event(), SystemClock()

    async def refresh() -> None:
        took = 0
        while True:
            await clock.wait(changed, max(INTERVAL, SHARE * took / SECOND))
            changed.clear()
            began = clock.ticks()
            try:
                page.snapshot, page.error = await look(tq, seen), ""
            except AiotaskqError as error:
                page.error = _error(error)
            took = clock.ticks() - began
            keys.put_nowait("")

    with full_screen() as show, _keyboard(keys.put_nowait):
        async with asyncio.TaskGroup() as group:
            refreshing = group.create_task(refresh())
            key = ""
            while key != "q":
                if key and (change := press(page, key)) is not None:
                    page.said = await _do(tq, *change)
                    changed.set()
                if keys.empty():
                    show(drawn(page, *shutil.get_terminal_size()))
                key = await keys.get()
            refreshing.cancel()


async def _do(tq: TaskQ, name: str, thing: str) -> str:
    """Do an operation; return what to say of it."""
    operation = OPERATIONS[name]
    try:
        params = read(operation, {str(operation.thing): thing})
        await perform(operation, Access(tq, True), params, "cli", actor())
    except AiotaskqError as error:
        return _error(error)
    return tr("done: {operation} {name}", operation=name, name=printable(thing))


def _error(error: AiotaskqError) -> str:
    return tr("error: {error}", error=printable(without_passwords(translated(error))))

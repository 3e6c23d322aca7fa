"""``aiotaskq db copy FROM TO``: moves tasks and schedules between stores, and tells what could not be."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from aiotaskq.backends import connect
from aiotaskq.backends.url import scheme_of
from aiotaskq.cli.i18n import marked, tr, translated
from aiotaskq.cli.output import Bar, bar_of, note, say, say_json, say_table
from aiotaskq.cli.tables import refuse_unready
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.masking import mask
from aiotaskq.errors import NotSupported, ValidationError
from aiotaskq.runtime.copy import Copied
from aiotaskq.runtime.copy import copy as copy_all


def copy(source: str, target: str, *, running: bool, as_json: bool) -> int:
    """Copy; return 1 if something could not be copied, else 0."""
    if "memory" in (scheme_of(source), scheme_of(target)):
        raise NotSupported(tr("memory:// lives in its own process only; copy between stores that outlive it"))
    if source == target:
        raise ValidationError(tr("FROM and TO are the same store"))
    refuse_unready(source)

    async def work(bar: Bar) -> Copied:
        async with contextlib.AsyncExitStack() as stack:
            here, there = connect(source), connect(target)
            for backend in (here, there):
                stack.push_async_callback(backend.close)
                await backend.open()

            def progress(done: int, total: int) -> None:
                bar.total(total)
                bar.update(done)

            return await copy_all(here, there, SystemClock().now(), running=running, progress=progress)

    bar, _ = bar_of(tr("copy"), 0, quiet=as_json)
    with bar:
        done = asyncio.run(work(bar))
    if as_json:
        say_json({"from": mask(source), "to": mask(target), **msgspec.to_builtins(done)})
        return int(bool(done.uncopied))
    say(
        tr(
            "copied: tasks {tasks}, schedules {schedules}; "
            "there already: tasks {tasks_there}, schedules {schedules_there}",
            tasks=f"{done.tasks:,}",
            schedules=f"{done.schedules:,}",
            tasks_there=f"{done.tasks_there:,}",
            schedules_there=f"{done.schedules_there:,}",
        )
    )
    if done.released:
        say(tr("of them running before, and pending there: {count}", count=f"{done.released:,}"))
    if done.uncopied:
        say(tr("could not be copied: {count}", count=f"{len(done.uncopied):,}"))
        say_table(
            [marked("KIND"), marked("ID"), marked("PROBLEM")],
            [(row.kind, translated(row.id), translated(row.problem)) for row in done.uncopied],
        )
    note(tr("FROM is as it was; let nothing work on it any more, or its tasks are done twice"))
    return int(bool(done.uncopied))

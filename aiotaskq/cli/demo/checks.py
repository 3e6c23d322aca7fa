"""What must be true at the end of the demo, checked on what the reopened database holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from aiotaskq.cli.demo.files import File
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import Status, Task

SAMPLE = 3  # files that are hashed a second time


class Check(msgspec.Struct, frozen=True):
    """One claim, and whether it held. The claim's sentence has ``{names}`` for its values; see ``cli.language``."""

    claim: str
    held: bool
    values: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The claim in English, whatever the locale."""
        return self.claim.format(**self.values)

    @property
    def shown(self) -> str:
        """The claim in the user's language."""
        values = {name: tr(value) if isinstance(value, str) else value for name, value in self.values.items()}
        return tr(self.claim, **values) if values else tr(self.claim)


class Seen(msgspec.Struct, kw_only=True):
    """What was found in the reopened database, beside what was known before it was closed."""

    run: str
    folder: Path
    files: list[File]
    tasks: dict[str, Task]
    schedules: dict[str, Schedule]
    before: dict[str, Task]
    """Tasks of this run that an earlier process had finished."""
    cookie: tuple[Any, Any]
    counts: tuple[dict[str, int], dict[str, int]]
    schedules_then: int
    run_value: Any


def look(seen: Seen) -> list[Check]:
    """Check every claim."""
    checks = [_files(seen), _contents(seen), _retried(seen), _dead(seen)]
    checks += [
        _schedule(seen, "every-second", marked("interval of 1 s"), 3),
        _schedule(seen, "two-seconds", marked("cron with seconds"), 1),
    ]
    checks += [_once(seen), _cookie(seen), _legacy(seen), _reopened(seen)]
    if seen.before:
        checks.append(_nothing_twice(seen))
    return checks


def _files(seen: Seen) -> Check:
    tasks = [seen.tasks.get(file.task_id(seen.run)) for file in seen.files]
    done = sum(task is not None and task.status is Status.COMPLETED for task in tasks)
    claim = marked("one task per file, each completed: {done:,} of {total:,}")
    return Check(claim, done == len(tasks), {"done": done, "total": len(tasks)})


def _contents(seen: Seen) -> Check:
    step = max(1, len(seen.files) // SAMPLE)
    right = looked = 0
    for file in seen.files[::step][:SAMPLE]:
        task = seen.tasks.get(file.task_id(seen.run))
        path = seen.folder / file.path
        try:
            data = path.read_bytes()
            same = path.stat().st_mtime_ns == file.mtime_ns
        except OSError:
            continue
        if same:  # else it was changed since, and another sum is right
            looked += 1
            right += task is not None and (task.result or {}).get("sha256") == hashlib.sha256(data).hexdigest()
    claim = marked("the stored result is right: {right} of {looked} files hashed once more")
    return Check(claim, right == looked, {"right": right, "looked": looked})


def _retried(seen: Seen) -> Check:
    task = seen.tasks.get(f"{seen.run}-fails-twice")
    held = task is not None and task.status is Status.COMPLETED and task.retry_count == 2
    return Check(marked("a task that fails twice is retried twice, and succeeds"), held)


def _dead(seen: Seen) -> Check:
    task = seen.tasks.get(f"{seen.run}-fails-always")
    held = task is not None and task.status is Status.FAILED and "on purpose" in (task.error_message or "")
    return Check(marked("a task that fails always is kept among the dead letters, with its error"), held)


def _fired(seen: Seen, name: str) -> int:
    return sum(task.scheduler_task_id == f"{seen.run}-{name}" for task in seen.tasks.values())


def _schedule(seen: Seen, name: str, kind: str, least: int) -> Check:
    schedule = seen.schedules.get(f"{seen.run}-{name}")
    runs = 0 if schedule is None else schedule.run_count
    tasks = _fired(seen, name)
    claim = marked("{kind}: one task for each due time, {tasks} for {runs}")
    return Check(claim, runs == tasks >= least, {"kind": kind, "tasks": tasks, "runs": runs})


def _once(seen: Seen) -> Check:
    schedule = seen.schedules.get(f"{seen.run}-once")
    held = _fired(seen, "once") == 1 and schedule is not None and not schedule.enabled
    return Check(marked("once: fired once, and is disabled now"), held)


def _cookie(seen: Seen) -> Check:
    claim = marked("a public value with a time to live is readable, and then is not")
    return Check(claim, seen.cookie == ("session=abc", None))


def _legacy(seen: Seen) -> Check:
    numbers = range(1, 6)
    tasks = [seen.tasks.get(f"{seen.run}-legacy-{n}") for n in numbers]
    done = sum(task is not None and task.result == n * n for n, task in zip(numbers, tasks, strict=True))
    claim = marked("an old script pushed {total} tasks from a thread, without asyncio: {done} done")
    return Check(claim, done == len(tasks), {"total": len(tasks), "done": done})


def _reopened(seen: Seen) -> Check:
    then, now = seen.counts
    results = sum(task.result is not None for task in seen.tasks.values())
    held = then == now and seen.schedules_then == len(seen.schedules) and seen.run_value is not None
    claim = marked(
        "closed and reopened, the database still holds {tasks:,} tasks, {results:,} results and {schedules} schedules"
    )
    return Check(claim, held, {"tasks": sum(now.values()), "results": results, "schedules": len(seen.schedules)})


def _nothing_twice(seen: Seen) -> Check:
    again = sum(
        task_id not in seen.tasks or seen.tasks[task_id].fence != task.fence for task_id, task in seen.before.items()
    )
    claim = marked("{done:,} tasks were completed before this run went on; {again} of them ran again")
    return Check(claim, not again, {"done": len(seen.before), "again": again or marked("none")})

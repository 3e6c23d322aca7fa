"""What must be true at the end of the demo, checked on what the reopened database holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from aiotaskq.demo.files import File
from aiotaskq.task import Status, Task

SAMPLE = 3  # files that are hashed a second time


class Check(msgspec.Struct, frozen=True):
    """One claim, and whether it held."""

    name: str
    held: bool


class Seen(msgspec.Struct, kw_only=True):
    """What was found in the reopened database, beside what was known before it was closed."""

    run: str
    folder: Path
    files: list[File]
    tasks: dict[str, Task]
    schedules: dict[str, dict[str, Any]]
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
        _schedule(seen, "every-second", "interval of 1 s", 3),
        _schedule(seen, "two-seconds", "cron with seconds", 1),
    ]
    checks += [_once(seen), _cookie(seen), _legacy(seen), _reopened(seen)]
    if seen.before:
        checks.append(_nothing_twice(seen))
    return checks


def _files(seen: Seen) -> Check:
    tasks = [seen.tasks.get(file.task_id(seen.run)) for file in seen.files]
    done = sum(task is not None and task.status is Status.COMPLETED for task in tasks)
    return Check(f"one task per file, each completed: {done:,} of {len(tasks):,}", done == len(tasks))


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
    return Check(f"the stored result is right: {right} of {looked} files hashed once more", right == looked)


def _retried(seen: Seen) -> Check:
    task = seen.tasks.get(f"{seen.run}-fails-twice")
    held = task is not None and task.status is Status.COMPLETED and task.retry_count == 2
    return Check("a task that fails twice is retried twice, and succeeds", held)


def _dead(seen: Seen) -> Check:
    task = seen.tasks.get(f"{seen.run}-fails-always")
    held = task is not None and task.status is Status.FAILED and "on purpose" in (task.error_message or "")
    return Check("a task that fails always is kept among the dead letters, with its error", held)


def _fired(seen: Seen, name: str) -> int:
    return sum(task.scheduler_task_id == f"{seen.run}-{name}" for task in seen.tasks.values())


def _schedule(seen: Seen, name: str, kind: str, least: int) -> Check:
    runs = seen.schedules.get(f"{seen.run}-{name}", {}).get("run_count", 0)
    tasks = _fired(seen, name)
    return Check(f"{kind}: one task for each due time, {tasks} for {runs}", runs == tasks >= least)


def _once(seen: Seen) -> Check:
    row = seen.schedules.get(f"{seen.run}-once", {})
    held = _fired(seen, "once") == 1 and row.get("enabled") is False
    return Check("once: fired once, and is disabled now", held)


def _cookie(seen: Seen) -> Check:
    return Check(
        "a public value with a time to live is readable, and then is not", seen.cookie == ("session=abc", None)
    )


def _legacy(seen: Seen) -> Check:
    numbers = range(1, 6)
    tasks = [seen.tasks.get(f"{seen.run}-legacy-{n}") for n in numbers]
    done = sum(task is not None and task.result == n * n for n, task in zip(numbers, tasks, strict=True))
    return Check(
        f"an old script pushed {len(tasks)} tasks from a thread, without asyncio: {done} done", done == len(tasks)
    )


def _reopened(seen: Seen) -> Check:
    then, now = seen.counts
    results = sum(task.result is not None for task in seen.tasks.values())
    held = then == now and seen.schedules_then == len(seen.schedules) and seen.run_value is not None
    return Check(
        f"closed and reopened, the database still holds {sum(now.values()):,} tasks, {results:,} results and "
        f"{len(seen.schedules)} schedules",
        held,
    )


def _nothing_twice(seen: Seen) -> Check:
    again = sum(
        task_id not in seen.tasks or seen.tasks[task_id].fence != task.fence for task_id, task in seen.before.items()
    )
    return Check(
        f"{len(seen.before):,} tasks were completed before this run went on; {again or 'none'} of them ran again",
        not again,
    )

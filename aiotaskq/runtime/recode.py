"""Rewrites the rows of a store with the present codec, while workers use the store; it can be stopped and repeated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from aiotaskq.backends.base import Backend, Schedules
from aiotaskq.backends.groups import Groups
from aiotaskq.backends.steps import Steps
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.coded import no_codec
from aiotaskq.core.task import TaskFilter

CHUNK = 100  # rows in one transaction: they are locked meanwhile
TRIES = 5
PAUSE = 0.2  # seconds


class Recoded(msgspec.Struct):
    """The result: what was written, what could not be decoded, and rows that others held all the time."""

    tasks: int = 0
    schedules: int = 0
    steps: int = 0
    events: int = 0
    groups: int = 0
    """Those with callbacks."""
    undecodable: list[str] = []
    locked: list[str] = []
    last: str | None = None
    """The task up to which all was done, the newest first."""


async def recode(backend: Backend, clock: Clock, done: Recoded, progress: Callable[[int, int], None]) -> None:
    """Rewrite all tasks of the backend behind ``done.last`` with their steps, then its groups, events and
    schedules.

    ``done`` says what was done. Rows that are pushed meanwhile have the present codec already. ``progress`` is called
    with how many tasks were looked at, and of how many. Raises NotSupported where the store has no codec, and
    DatabaseUnavailable.
    """
    if backend.codec is None:
        raise no_codec()
    total = sum((await backend.stats(clock.now())).counts.values())
    looked, page = 0, [] if done.last is None else [done.last]
    while True:
        after = await _last_of(backend, page)
        page = [task.task_id for task in await backend.find(TaskFilter(after=after), CHUNK)]
        if not page:
            break
        done.tasks += await _written(backend.recode, page, clock, done)
        count, left = await backend.steps.recode(page)
        done.steps += count
        done.undecodable += left
        done.last = page[-1]
        looked += len(page)
        progress(looked, max(total, looked))
    await _recode_groups(backend.groups, done)
    await _recode_events(backend.steps, clock, done)
    await recode_schedules(backend.schedules, clock, done)


async def _recode_groups(groups: Groups, done: Recoded) -> None:
    """Rewrite the callbacks of all groups, also of those that have ended: a retry lets them call back again."""
    page: list[str] = []
    while True:
        kept = [group.group_id for group in await groups.get(page) if group is not None]
        page = [group.group_id for group in await groups.find(CHUNK, after=kept[-1] if kept else None)]
        if not page:
            return
        count, left = await groups.recode(page)
        done.groups += count
        done.undecodable += left


async def _recode_events(store: Steps, clock: Clock, done: Recoded) -> None:
    last = None
    while keys := [event.key for event in await store.events(clock.now(), CHUNK, after=last)]:
        count, left = await store.recode_events(keys)
        done.events += count
        done.undecodable += left
        last = keys[-1]


async def recode_schedules(schedules: Schedules, clock: Clock, done: Recoded) -> None:
    """Rewrite all schedules; note in ``done`` what was done. Raises as ``recode``."""
    ids = [schedule.task_id for schedule in await schedules.all()]
    for start in range(0, len(ids), CHUNK):
        done.schedules += await _written(schedules.recode, ids[start : start + CHUNK], clock, done)


async def _last_of(backend: Backend, page: Sequence[str]) -> str | None:
    """Return the last task of a page that is still there: a list cannot be continued behind one that was deleted."""
    rows = await backend.get(page)
    return next((task.task_id for task in reversed(rows) if task is not None), None)


async def _written(
    verb: Callable[[Sequence[str]], Awaitable[list[bool | None]]], ids: Sequence[str], clock: Clock, done: Recoded
) -> int:
    count = 0
    for number in range(TRIES):
        if number:
            await clock.sleep(PAUSE)
        answers = await verb(ids)
        count += answers.count(True)
        done.undecodable += [name for name, answer in zip(ids, answers, strict=True) if answer is None]
        ids = [name for name, answer in zip(ids, answers, strict=True) if answer is False]
        if not ids:
            return count
    done.locked += ids
    return count

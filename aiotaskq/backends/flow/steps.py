"""Durable steps, events and the waits for events, as side rows; and what follows from an event.

A step is a row of its task. An event is a row under its key. A wait is a row of the key of its event. The transaction
that begins to wait and the transaction that emits both lock the row of the event first, so the later of the two sees
what the earlier one has written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from aiotaskq.backends.change import Change, Leave
from aiotaskq.backends.side_rows import STEP, SideRow
from aiotaskq.core.status import PENDING
from aiotaskq.core.steps import EventValue, NewStep, Step, answered, woken
from aiotaskq.core.task import Task

if TYPE_CHECKING:
    from aiotaskq.backends.flow.transaction import Beside

Stored = Callable[[str], str]

EVENT = "event"
WAIT = "wait"
MOST_WOKEN = 1_000  # waits of one transaction that wakes what waits
FORGOTTEN = 100  # events of one transaction that deletes waits


class Wait(NamedTuple):
    """What the row of a wait says; ``began_at`` is of the run that was left to wait, since an edit raises its fence."""

    key: str
    task_id: str
    number: int
    began_at: int
    seq: int
    n: int
    version: int
    until: int
    at: int

    def as_step(self, fence: int) -> NewStep:
        """Return it as the step that was stored with it."""
        step = Step(
            kind="wait", name=self.key, number=self.number, n=self.n, text=str(self.until), version=self.version
        )
        return NewStep(self.task_id, self.seq, fence, step)


def step_row(new: NewStep, text: str) -> SideRow:
    """Return the row of a step, whose text is stored so."""
    step = new.step
    name = f"{new.seq} {step.kind} {step.number} {step.name}"
    return SideRow(name, f"{step.n} {step.at} {step.version} {text}", None, new.task_id)


def to_step(row: SideRow) -> tuple[int, Step]:
    """Return the push stamp and the step of a row, its text as it is stored."""
    seq, kind, number, name = row.name.split(" ", 3)
    n, at, version, text = row.text.split(" ", 3)
    place = {"number": int(number), "n": int(n), "at": int(at), "version": int(version)}
    return int(seq), Step(kind=kind, name=name, text=text, **place)  # type: ignore[arg-type]


def event_row(event: EventValue) -> SideRow:
    """Return the row of an event."""
    return SideRow(event.key, f"{event.at} {event.expires_at or '-'} {event.text}", event.expires_at)


def to_event(key: str, stored: str) -> EventValue:
    """Return the event of a row."""
    at, expires, text = stored.split(" ", 2)
    return EventValue(key=key, text=text, at=int(at), expires_at=None if expires == "-" else int(expires))


def _wait_row(new: NewStep, task: Task) -> SideRow:
    step = new.step
    text = f"{task.began_at or 0} {new.seq} {step.n} {step.version} {step.until} {step.at}"
    return SideRow(f"{step.number} {new.task_id}", text, owner=step.name)


def _to_wait(row: SideRow) -> Wait:
    number, task_id = row.name.split(" ", 1)
    return Wait(row.owner, task_id, int(number), *map(int, row.text.split(" ")))


def suspend(tx: Beside, leaves: Sequence[Leave], stored: Stored) -> list[bool]:
    """Do as ``Steps.suspend``; ``stored`` returns a text as it is stored."""
    waits = [wait for leave in leaves for wait in leave.waits]
    keys = [wait.step.name for wait in waits]
    late = sorted({wait.task_id for wait in waits if wait.fence > 1})
    ids = [leave.change.before.task_id for leave in leaves]
    tx.foresee(ids, lambda: _events(tx, keys), lambda: tx.side.of(STEP, late, texts=False))
    events = _events(tx, keys)
    there = {(row.owner, row.name) for row in tx.side.of(STEP, late, texts=False)} if late else set()

    # A codec may raise, and not every store undoes what was written by then: so the rows of steps are made first.
    met: list[tuple[Change, list[SideRow], list[NewStep]]] = []
    for leave in leaves:
        change, found, left = leave.change, [], []
        for wait in leave.waits:
            event = events.get(wait.step.name)
            if event is not None and event.there(wait.step.at):
                found.append(answered(wait, event))
            elif (wait.task_id, f"{wait.seq} event {wait.step.number} {wait.step.name}") not in there:
                left.append(wait)  # else it was answered since an earlier run
        if leave.woken is None or len(left) == len(leave.waits):
            found = []
        else:
            change = Change(change.before, leave.woken)
        new = [*leave.new, *[each for each in found if each is not None]]
        met.append((change, [step_row(each, stored(each.step.text)) for each in new], left))
    held = tx.update([change for change, _, _ in met])
    done = [each for each, ok in zip(met, held, strict=True) if ok]
    tx.side.add(STEP, [row for _, rows, _ in done for row in rows])
    tx.side.put(WAIT, [_wait_row(wait, change.before) for change, _, left in done for wait in left])
    return held


def emit(tx: Beside, events: Sequence[EventValue], stored: Stored, wakes: bool = True) -> list[EventValue]:
    """Do as ``Steps.emit``, but for the texts of events: they are given, and returned, as they are stored.

    ``wakes``: whether what waits goes on, which else is left to ``mend``.
    """
    known = _events(tx, [event.key for event in events])
    found, new = [], {}
    for event in events:
        there = known.get(event.key)
        if there is None or not there.there(event.at):
            known[event.key] = new[event.key] = there = event
        found.append(there)
    if new:
        tx.side.put(EVENT, [event_row(event) for event in new.values()])
        if wakes:
            _wake(tx, new, _waits(tx, sorted(new)), stored)
    return found


def mend(tx: Beside, keys: Sequence[str], stored: Stored, now: int) -> tuple[int, bool]:
    """Let go on what waits for those of these events that are there; return how many tasks have become due.

    And whether others are left: up to ``MOST_WOKEN`` are looked at.
    """
    tx.foresee((), lambda: _events(tx, keys), lambda: _waits(tx, keys))
    events = _events(tx, keys)
    waits = _waits(tx, sorted(events))
    met = [wait for wait in waits if events[wait.key].there(wait.at)]  # it may have expired since
    return _wake(tx, events, met[:MOST_WOKEN], stored, now), len(met) > MOST_WOKEN


def _events(tx: Beside, keys: Sequence[str]) -> dict[str, EventValue]:
    return {key: to_event(key, text) for key, text in tx.side.lock(EVENT, keys).items()} if keys else {}


def _waits(tx: Beside, keys: Sequence[str]) -> list[Wait]:
    return [_to_wait(row) for row in tx.side.of(WAIT, keys)] if keys else []


def _wake(
    tx: Beside, events: Mapping[str, EventValue], waits: Sequence[Wait], stored: Stored, mend_at: int | None = None
) -> int:
    """Store the values of events for the tasks that wait for them, and let these go on; return how many do."""
    if not waits:
        return 0
    rows = tx.tasks(sorted({wait.task_id for wait in waits}))
    changes: dict[str, Change] = {}
    answers = []
    for wait in waits:
        row, event = rows.get(wait.task_id), events[wait.key]
        if row is None or row.final or row.seq != wait.seq:
            continue
        if (answer := answered(wait.as_step(row.fence), event)) is not None:
            answers.append(step_row(answer, stored(answer.step.text)))
        if row.began_at == wait.began_at:
            if (after := woken(row, event.at if mend_at is None else mend_at)) is not None:
                changes.setdefault(row.task_id, Change(row, after))
            elif mend_at is not None and row.parked and row.gate is not None:
                tx.touch(row)  # a caller has woken it, whose process may have died before its gate was admitted
    written = list(changes.values())
    held = tx.update(written) if written else []
    tx.side.add(STEP, answers)
    # Those of tasks whose gates are admitted after the commit, if the process lives so long, are left for ``mend``.
    kept = {task_id for task_id, change in changes.items() if tx.joined and change.before.flow is not None}
    over: dict[str, list[str]] = {}
    for wait in waits:
        if wait.task_id not in kept:
            over.setdefault(wait.key, []).append(f"{wait.number} {wait.task_id}")
    for key, names in over.items():
        tx.side.delete(WAIT, key, names)
    return sum(held)


def count(tx: Beside, keys: Sequence[str]) -> dict[str, int]:
    """Count the tasks that wait for each of these events."""
    waits = _waits(tx, keys)
    runs = tx.runs(sorted({wait.task_id for wait in waits}))
    found: dict[str, set[str]] = {key: set() for key in keys}
    for wait in waits:
        run = runs.get(wait.task_id)
        if run is not None and run.status is PENDING and run.began_at == wait.began_at:
            found[wait.key].add(wait.task_id)
    return {key: len(ids) for key, ids in found.items()}


def forget(tx: Beside, after: str) -> str:
    """Delete the waits of tasks that are gone, for the first events behind ``after``; return where to go on."""
    keys = tx.side.owners(WAIT, FORGOTTEN, after=after)
    waits = [(row.owner, row.name, row.name.split(" ", 1)[1]) for row in tx.side.of(WAIT, keys, texts=False)]
    there = tx.tx.existing(sorted({task_id for *_, task_id in waits}))
    gone: dict[str, list[str]] = {}
    for key, name, task_id in waits:
        if task_id not in there:
            gone.setdefault(key, []).append(name)
    for key, names in gone.items():
        tx.side.delete(WAIT, key, names)
    return keys[-1] if len(keys) == FORGOTTEN else ""

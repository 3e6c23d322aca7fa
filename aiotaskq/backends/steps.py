"""Durable steps, events and the waits for events, as side rows of one store; ``core.steps`` has the rules.

A step is a row of its task. An event is a row under its key. A wait is a row of the key of its event. The transaction
that begins to wait and the transaction that emits both lock the row of the event first, so the later of the two sees
what the earlier one has written.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from msgspec.structs import replace

from aiotaskq.backends.change import Change, Leave
from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.side_rows import OF_TASKS, STEP, Range, SideRow, SideRows
from aiotaskq.core.coded import is_coded, no_codec, plain_text, stored_text
from aiotaskq.core.status import PENDING
from aiotaskq.core.steps import END, NEVER, EventValue, NewStep, Step, answered, in_order, woken
from aiotaskq.core.task import is_late_holder

if TYPE_CHECKING:
    from aiotaskq.backends.flow.transaction import Store, Transaction
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.task import Task

S = TypeVar("S", Step, EventValue)
Stored = Callable[[str], str]
Wait: TypeAlias = tuple[NewStep, int]
"""A wait, whose fence is not stored, and when the run began that was left to wait: an edit raises the fence."""

EVENT = "event"
WAIT = "wait"
PAGE = 1_000  # owners of side rows that are looked at together
MOST_WOKEN = 1_000  # waits of one transaction that wakes what waits
FORGOTTEN = 100  # events of one transaction that deletes waits


def step_row(new: NewStep, text: str) -> SideRow:
    """Return the row of a step, whose text is stored so."""
    step = new.step
    name = f"{new.seq} {step.kind} {step.number} {step.name}"
    return SideRow(name, f"{step.n} {step.at} {step.version} {step.span or '-'} {text}", None, new.task_id)


def to_step(row: SideRow) -> tuple[int, Step]:
    """Return the push stamp and the step of a row, its text as it is stored."""
    seq, kind, number, name = row.name.split(" ", 3)
    n, at, version, span, text = row.text.split(" ", 4)
    place = {"number": int(number), "n": int(n), "at": int(at), "version": int(version)}
    return int(seq), Step(kind=kind, name=name, text=text, span=span.strip("-"), **place)  # type: ignore[arg-type]


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
    began_at, seq, n, version, until, at = row.text.split(" ")
    step = Step(kind="wait", name=row.owner, number=int(number), n=int(n), text=until, at=int(at), version=int(version))
    return NewStep(task_id, int(seq), 0, step), int(began_at)


def _delete(tx: Transaction, waits: Iterable[tuple[str, str]]) -> None:
    """Delete waits, each given by the key of its event and the name of its row."""
    names: dict[str, list[str]] = {}
    for key, name in waits:
        names.setdefault(key, []).append(name)
    for key, each in names.items():
        tx.side.delete(WAIT, key, each)


def suspend(tx: Transaction, leaves: Sequence[Leave], stored: Stored) -> list[bool]:
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


def emit(
    tx: Transaction, events: Sequence[EventValue], stored: Stored, wakes: bool = True, then: Sequence[Task] = ()
) -> list[EventValue]:
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
        if then:
            _push(tx, then, events[0].at)
        if wakes:
            _wake(tx, new, _waits(tx, sorted(new)), stored)
    return found


def _push(tx: Transaction, tasks: Sequence[Task], now: int) -> None:
    """Push tasks that nothing pushes again: the key of a task that has expired is free, and a sweep ends that one."""
    each = list(zip(tasks, push(tx, tasks, refused=False), strict=True))
    late = {row.task_id: row for task, row in each if is_late_holder(row, task, now)}
    late = {key: row for key, row in late.items() if row.undecodable is None or row.coded}  # else it cannot be written
    if late and any(tx.update([Change(row, row.replace(unique_key=None)) for row in late.values()])):
        push(tx, [task for task, row in each if row.task_id in late], refused=False)


def mend(tx: Transaction, keys: Sequence[str], stored: Stored, now: int) -> tuple[int, bool]:
    """Let go on what waits for those of these events that are there; return how many tasks have become due.

    And whether others are left: up to ``MOST_WOKEN`` are looked at.
    """
    tx.foresee((), lambda: _events(tx, keys), lambda: _waits(tx, keys))
    events = _events(tx, keys)
    waits = _waits(tx, sorted(events))
    # It may have expired since.
    met = [(wait, began_at) for wait, began_at in waits if events[wait.step.name].there(wait.step.at)]
    return _wake(tx, events, met[:MOST_WOKEN], stored, now), len(met) > MOST_WOKEN


def _events(tx: Transaction, keys: Sequence[str]) -> dict[str, EventValue]:
    return {key: to_event(key, text) for key, text in tx.side.lock(EVENT, keys).items()} if keys else {}


def _waits(tx: Transaction, keys: Sequence[str]) -> list[Wait]:
    return [_to_wait(row) for row in tx.side.of(WAIT, keys)] if keys else []


def _wake(
    tx: Transaction, events: Mapping[str, EventValue], waits: Sequence[Wait], stored: Stored, mend_at: int | None = None
) -> int:
    """Store the values of events for the tasks that wait for them, and let these go on; return how many do."""
    if not waits:
        return 0
    rows = tx.tasks(sorted({wait.task_id for wait, _ in waits}))
    changes: dict[str, Change] = {}
    answers = []
    for wait, began_at in waits:
        row, event = rows.get(wait.task_id), events[wait.step.name]
        if row is None or row.final or row.seq != wait.seq:
            continue
        if (answer := answered(wait, event)) is not None:
            answers.append(step_row(answer, stored(answer.step.text)))
        if row.began_at == began_at:
            if (after := woken(row, event.at if mend_at is None else mend_at)) is not None:
                changes.setdefault(row.task_id, Change(row, after))
            elif mend_at is not None and row.parked and row.gate is not None and row.flow is not None:
                # A caller has woken it, whose process may have died before its gate was admitted.
                tx.touched.make_due([row.gate], dict(row.flow.gates))
    written = list(changes.values())
    held = tx.update(written) if written else []
    tx.side.add(STEP, answers)
    # Those of tasks whose gates are admitted after the commit, if the process lives so long, are left for ``mend``.
    kept = {task_id for task_id, change in changes.items() if tx.joined and change.before.flow is not None}
    over = [wait for wait, _ in waits if wait.task_id not in kept]
    _delete(tx, [(wait.step.name, f"{wait.step.number} {wait.task_id}") for wait in over])
    return sum(held)


def count(tx: Transaction, keys: Sequence[str]) -> dict[str, int]:
    """Count the tasks that wait for each of these events."""
    waits = _waits(tx, keys)
    runs = tx.runs(sorted({wait.task_id for wait, _ in waits}))
    found: dict[str, set[str]] = {key: set() for key in keys}
    for wait, began_at in waits:
        run = runs.get(wait.task_id)
        if run is not None and run.status is PENDING and run.began_at == began_at:
            found[wait.step.name].add(wait.task_id)
    return {key: len(ids) for key, ids in found.items()}


def forget(tx: Transaction, after: str) -> str:
    """Delete the waits of tasks that are gone, for the first events behind ``after``; return where to go on."""
    keys = tx.side.owners(WAIT, FORGOTTEN, after=after)
    waits = [(row.owner, row.name, row.name.split(" ", 1)[1]) for row in tx.side.of(WAIT, keys, texts=False)]
    there = tx.existing(sorted({task_id for *_, task_id in waits}))
    _delete(tx, [(key, name) for key, name, task_id in waits if task_id not in there])
    return keys[-1] if len(keys) == FORGOTTEN else ""


def set_back_sleeps(tx: Transaction, back: int, now: int, codec: Codec | None) -> None:
    """Move the ends of sleeps and waits that are after ``now`` back by so many microseconds, as due times are."""
    after = ""
    while ids := tx.side.owners(STEP, PAGE, after=after):
        moved, after = [], ids[-1]
        for row in tx.side.of(STEP, ids):
            with contextlib.suppress(ValueError):  # what reads a damaged row says so; the others are moved
                if to_step(row)[1].kind in END:
                    head, _, stored = row.text.rpartition(" ")
                    until, error = plain_text(stored, codec)
                    if error is None and now < int(until) < NEVER:
                        moved.append(replace(row, text=f"{head} {stored_text(str(int(until) - back), codec)}"))
        tx.side.put(STEP, moved)


class Steps:
    """The steps of the tasks of one store, and the events that they wait for. Each method is atomic.

    Steps are deleted with their task. Of two writes of the same step, and of two events of the same key, the first one
    stays. All instants are in microseconds UTC.
    """

    codec: Codec | None = None
    """That of the backend: it encodes the texts."""
    used = False
    """Whether this process uses them: else it looks only now and then for what is to be deleted."""

    def __init__(self, store: Store, side: SideRows) -> None:
        self._store, self._side = store, side
        self.mends = store.wakes_later
        """Whether a process that dies amid an ``emit`` may leave tasks to ``mend``."""
        self._looked_at = ""  # behind this event the next look for waits of tasks that are gone begins

    async def read(self, task_id: str, seq: int) -> list[Step]:
        """Read the steps of a task that has this push stamp, in their order."""
        rows = await self._store.look(lambda tx: tx.side.of(STEP, [task_id]))
        found = map(to_step, rows)
        return in_order(self._plain(step) for stamp, step in found if stamp == seq)

    async def read_many(self, tasks: Sequence[Task]) -> list[list[Step]]:
        """Read the steps of several tasks, of each in their order."""
        ids = sorted({task.task_id for task in tasks})
        found: dict[tuple[str, int], list[Step]] = {(task.task_id, task.seq): [] for task in tasks}
        for row in await self._store.look(lambda tx: tx.side.of(STEP, ids)):
            seq, step = to_step(row)
            if (row.owner, seq) in found:
                found[row.owner, seq].append(self._plain(step))
        return [in_order(found[task.task_id, task.seq]) for task in tasks]

    async def add(self, new: Sequence[NewStep]) -> list[Step | None]:
        """Store steps; return for each the one that is there, None if the task does not run with this fence."""
        if not new:
            return []
        rows = self._rows(new)
        texts = await self._store.add_held(STEP, rows, [(each.fence, each.seq) for each in new])
        if texts == [row.text for row in rows]:  # as nearly always
            return [each.step for each in new]
        return self._there(new, rows, texts)

    async def add_with(self, session: Any, new: NewStep) -> Step | None:
        """``add`` in the caller's transaction, which the caller commits. Raises as ``Backend.push_with``."""
        rows = self._rows([new])
        texts = await self._store.transact_with(
            session, lambda tx: tx.add_held(STEP, rows, [(new.fence, new.seq)]), lambda: None
        )
        return self._there([new], rows, texts)[0]

    async def put(self, new: Sequence[NewStep]) -> None:
        """Store the steps of tasks that are about to be pushed, whatever their fences; those that are there stay."""
        if rows := self._rows(new):
            await self._store.transact(lambda tx: tx.side.add(STEP, rows), repeatable=True)

    def _rows(self, new: Sequence[NewStep]) -> list[SideRow]:
        return [step_row(each, self._stored(each.step.text)) for each in new]

    def _there(self, new: Sequence[NewStep], rows: Sequence[SideRow], texts: Sequence[str | None]) -> list[Step | None]:
        return [
            None
            if text is None
            else each.step
            if text == row.text
            else self._plain(to_step(replace(row, text=text))[1])
            for each, row, text in zip(new, rows, texts, strict=True)
        ]

    async def suspend(self, leaves: Sequence[Leave]) -> list[bool]:
        """``Backend.update`` of running tasks that sleep or wait, and store their steps; return which of them held.

        If one of the events of a task exists at the ``at`` of its step, ``woken`` is written instead, and its value is
        stored as ``core.steps.answered`` says. The task waits for the others, as long as it lives, until the next call
        for it. A wait is stored only once: that of an earlier run may have been answered by an event since.
        """
        return await self._store.transact(lambda tx: suspend(tx, leaves, self._stored))

    async def emit(
        self,
        events: Sequence[EventValue],
        then: Sequence[Task] = (),
        session: Any = None,
        committed: Callable[[], None] = lambda: None,
    ) -> list[EventValue]:
        """Store events, each unless there is one of its key at its ``at``; return those that are there.

        ``then`` are the tasks that one event pushes: they are pushed if it is new. ``session`` and ``committed`` as for
        ``Backend.push_with``.

        The value of a new one is stored for each task that waits for it, as ``core.steps.answered`` says; if that is
        left since the same run, it becomes due, as ``core.steps.woken``. An edit, which raises the fence, does not end
        a wait: ``began_at`` tells the runs apart. No event is missed. Sends the hint ``ready`` if a task becomes due.
        """
        stored = [replace(event, text=self._stored(event.text)) for event in events]
        wakes = not self.mends

        def body(tx: Transaction) -> list[EventValue]:
            return emit(tx, stored, self._stored, wakes, then)

        if session is not None:
            found = await self._store.transact_with(session, body, committed)
        else:
            found = await self._store.transact(body, repeatable=True)
            if events and not wakes:
                await self._wake(sorted({event.key for event in events}), max(event.at for event in events))
        each = zip(events, stored, found, strict=True)
        return [event if there is new else self._plain(there) for event, new, there in each]

    async def get_events(self, keys: Sequence[str], now: int) -> list[EventValue | None]:
        """Read events by key; None where there is none at ``now``."""
        found = await self._side.get(EVENT, keys, now)
        return [
            None if text is None else self._plain(to_event(key, text)) for key, text in zip(keys, found, strict=True)
        ]

    async def event(self, key: str, now: int) -> EventValue | None:
        """Read the event of a key; None if there is none at ``now``."""
        return (await self.get_events([key], now))[0]

    async def events(self, now: int, limit: int, *, prefix: str = "", after: str | None = None) -> list[EventValue]:
        """Read events, in the order of their keys, whose keys begin with ``prefix`` and are behind ``after``."""
        rows = await self._side.read(Range(EVENT, now, limit, prefix=prefix, after=after or ""))
        return [self._plain(to_event(row.name, row.text)) for row in rows]

    async def waiting(self, keys: Sequence[str]) -> dict[str, int]:
        """Count the tasks that wait for each of these events."""
        return await self._store.look(lambda tx: count(tx, keys))

    async def awaited(self, limit: int, *, prefix: str = "") -> dict[str, int]:
        """Count the tasks that wait for events, by the keys of the first ``limit`` of these that begin with ``prefix``.

        In the order of the keys; a key of which all tasks have gone on may count against the limit.
        """

        def body(tx: Transaction) -> dict[str, int]:
            return count(tx, tx.side.owners(WAIT, limit, prefix=prefix))

        counts = await self._store.look(body)
        return {key: counts[key] for key in sorted(counts) if counts[key]}

    async def expire(self, now: int, limit: int) -> int:
        """Delete up to ``limit`` events that do not exist at ``now`` any more; return how many were deleted."""
        if self.mends:
            await self.mend(now)  # what an event was emitted for goes on, though it has expired
        after = self._looked_at
        self._looked_at = await self._store.transact(lambda tx: forget(tx, after))
        return await self._side.expire(EVENT, now, limit)

    async def mend(self, now: int) -> int:
        """Make tasks due whose event has come, though they wait; return how many.

        For events whose transaction was committed by a process that died before it could let the tasks pass.
        """
        count, after = 0, ""
        while keys := await self._store.look(lambda tx, last=after: tx.side.owners(WAIT, PAGE, after=last)):  # type: ignore[misc]
            found = await self._side.get(EVENT, keys, 0)  # those that have expired, too
            if there := [key for key, text in zip(keys, found, strict=True) if text is not None]:
                count += await self._wake(there, now)
            if len(keys) < PAGE:
                break
            after = keys[-1]
        return count

    async def _wake(self, keys: Sequence[str], now: int) -> int:
        """Let go on what waits for those of these events that have come; return how many tasks have become due."""
        count, left = 0, True
        while left:
            more, left = await self._store.transact(lambda tx: mend(tx, keys, self._stored, now), repeatable=True)
            count += more
        return count

    async def orphans(self, limit: int) -> list[str]:
        """Return the ids of up to ``limit`` tasks that have steps and no row.

        Its row was deleted by another program, or is about to be pushed: ``put`` comes first.
        """

        def body(tx: Transaction, after: str) -> tuple[Sequence[str], Collection[str]]:
            ids = tx.side.owners(STEP, PAGE, after=after)
            return ids, tx.existing(ids)

        found: list[str] = []
        after, last = "", False
        while len(found) < limit and not last:
            ids, there = await self._store.look(functools.partial(body, after=after))
            found += [task_id for task_id in ids if task_id not in there]
            after, last = ids[-1] if ids else "", len(ids) < PAGE
        return found[:limit]

    async def drop(self, ids: Sequence[str]) -> None:
        """Delete the side rows of those of these tasks that have no row."""

        def body(tx: Transaction) -> None:
            there = tx.existing(ids)
            for kind in OF_TASKS:
                tx.side.delete_of(kind, [task_id for task_id in ids if task_id not in there])

        await self._store.transact(body, repeatable=True)

    async def recode(self, ids: Sequence[str]) -> tuple[int, list[str]]:
        """Write the values of the steps of these tasks anew with the codec.

        Return how many were written, and which cannot be decoded and stay. Raises NotSupported where there is no codec.
        """
        return await self._recode(
            STEP, 4, lambda tx: tx.side.of(STEP, ids), lambda row: f"{row.owner} {to_step(row)[1].label}"
        )

    async def recode_events(self, keys: Sequence[str]) -> tuple[int, list[str]]:
        """Write the values of these events anew; as ``recode``."""

        def read(tx: Transaction) -> list[SideRow]:
            return [event_row(to_event(key, text)) for key, text in tx.side.lock(EVENT, keys).items()]

        return await self._recode(EVENT, 2, read, lambda row: row.name)

    async def _recode(
        self,
        kind: str,
        blanks: int,
        read: Callable[[Transaction], Sequence[SideRow]],
        name_of: Callable[[SideRow], str],
    ) -> tuple[int, list[str]]:
        """Do as ``recode`` with the rows that are ``read``; the value of each is behind so many blanks of its text."""
        if self.codec is None:
            raise no_codec()

        def body(tx: Transaction) -> tuple[int, list[str]]:
            written, left = [], []
            for row in read(tx):
                *before, text = row.text.split(" ", blanks)
                plain, error = plain_text(text, self.codec)
                if error is not None:
                    left.append(name_of(row))
                elif text:
                    written.append(replace(row, text=" ".join([*before, self._stored(plain)])))
            tx.side.put(kind, written)
            return len(written), left

        return await self._store.transact(body, repeatable=True)

    def _stored(self, text: str) -> str:
        return stored_text(text, self.codec)

    def _plain(self, stored: S) -> S:
        """Return a step or an event with its text as it was given."""
        if not is_coded(stored.text):
            return stored
        text, error = plain_text(stored.text, self.codec)
        return replace(stored, text=text, undecodable=error)

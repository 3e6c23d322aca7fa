"""Steps and events in SQL.

Who waits for an event, and who emits it, both write its row in ``aiotaskq_event`` first. So one of the two comes after
the other, and sees what that has written. The locks of a transaction are taken in one order: events, then tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, exists, func, or_, select, update

from aiotaskq.backends.change import Change
from aiotaskq.backends.coded import encoded_change
from aiotaskq.backends.sql.beside import drop_beside
from aiotaskq.backends.sql.caller_session import run_in
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.dialects.base import Dialect
from aiotaskq.backends.sql.gates import SqlGates
from aiotaskq.backends.sql.insert import insert_new, replace
from aiotaskq.backends.sql.rows import TASKS, to_task
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run
from aiotaskq.backends.sql.transaction import SqlTransaction
from aiotaskq.backends.steps import Leave, Steps, recoded, step_name
from aiotaskq.core.steps import EventValue, NewStep, Step, answered, in_order, woken
from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.models import EventRow, StepRow, WaitRow

_S: Any = StepRow.__table__
_E: Any = EventRow.__table__
_W: Any = WaitRow.__table__
s, e, w, task = _S.c, _E.c, _W.c, TASKS.c
_COLUMNS = ("task_id", "seq", "kind", "name", "number", "n", "value", "at", "version")
_STEP = select(*(s[name] for name in _COLUMNS))
_READ = _STEP.where(s.task_id == bindparam("b_id"), s.seq == bindparam("b_seq"))
_EVENT = select(e.key, e.value, e.at, e.expires_at).where(e.at.is_not(None))
_AWAITED = 86_400 * SECOND
"""After so long the row of an event that did not come may go: it is only there to be locked."""
KEYS = 100  # events mended at a time
Update = Callable[[SqlTransaction, Sequence[Change]], list[bool]]
Emitted = tuple[list[EventValue], Sequence[Change], list[bool]]
Hints = Callable[[Sequence[Change], Sequence[bool]], None]


class SqlSteps(Steps):
    """The tables ``aiotaskq_step``, ``aiotaskq_event`` and ``aiotaskq_wait``."""

    def __init__(
        self, database: Database, gates: SqlGates, *, update: Update, enter: Callable[[Connection], None], hints: Hints
    ) -> None:
        """``update`` writes changes in a transaction, ``enter`` begins in that of a caller, ``hints`` sends theirs."""
        self._database, self._gates = database, gates
        self._update, self._enter, self._hints = update, enter, hints

    async def read(self, task_id: str, seq: int) -> list[Step]:
        rows = await self._database.read(lambda c: run(c, _READ, {"b_id": task_id, "b_seq": seq}).fetchall())
        return in_order(self._plain_step(_step(row)) for row in rows)

    async def read_many(self, tasks: Sequence[Task]) -> list[list[Step]]:
        def body(connection: Connection) -> list[Any]:
            parts = chunks([task.task_id for task in tasks])
            return [row for part in parts for row in connection.execute(_STEP.where(s.task_id.in_(part)))]

        found: dict[tuple[str, int], list[Step]] = {(task.task_id, task.seq): [] for task in tasks}
        for row in await self._database.read(body):
            if (row[0], row[1]) in found:
                found[row[0], row[1]].append(self._plain_step(_step(row)))
        return [in_order(found[task.task_id, task.seq]) for task in tasks]

    async def add(self, new: Sequence[NewStep]) -> list[Step | None]:
        if not new:
            return []
        rows = [self._row(each) for each in new]
        # Where one statement guards and inserts, it is all that is written; a second one only reads what was first.
        found = await self._database.write(lambda c: _add(c, new, rows), self._database.dialect.autocommit)
        return [None if step is None else self._plain_step(step) for step in found]

    async def put(self, new: Sequence[NewStep]) -> None:
        rows = [self._row(each) for each in new]
        for part in chunks(rows):
            await self._database.write(lambda c, part=part: insert_new(c, _S, _COLUMNS, part))  # type: ignore[misc]

    async def add_with(self, session: Any, new: NewStep) -> Step | None:
        def body(connection: Connection) -> Step | None:
            self._enter(connection)
            return _add(connection, [new], [self._row(new)])[0]

        step = await run_in(session, self._database.url, self._database.dialect, body)
        return None if step is None else self._plain_step(step)

    def _row(self, new: NewStep) -> tuple[Any, ...]:
        step = new.step
        value = self._stored(step.text)
        return (new.task_id, new.seq, step.kind, step.name, step.number, step.n, value, step.at, step.version)

    async def suspend(self, leaves: Sequence[Leave]) -> list[bool]:
        def body(tx: SqlTransaction) -> tuple[list[Change], list[bool]]:
            connection = tx.connection
            waits = [wait for leave in leaves for wait in leave.waits]
            events = _locked(connection, {wait.step.name: wait.step.at for wait in waits})
            was_answered = _answered(connection, [wait for wait in waits if wait.fence > 1])
            met = [
                leave.meets(
                    lambda wait: _there(events.get(wait.step.name), wait.step.at),
                    lambda wait: (wait.task_id, wait.seq, wait.step.name, wait.step.number) in was_answered,
                )
                for leave in leaves
            ]
            changes = [change for change, _, _ in met]
            held = self._update(tx, [self._encoded(change) for change in changes])
            kept = [(leave, *each) for leave, each, ok in zip(leaves, met, held, strict=True) if ok]
            new = [step for leave, _, found, _ in kept for step in (*leave.new, *found)]
            if new:
                insert_new(connection, _S, _COLUMNS, [self._row(step) for step in new])
            if rows := [_wait(wait, change.before) for _, change, _, left in kept for wait in left]:
                replace(connection, _W, rows)
            return changes, held

        (changes, held), *_ = await self._gates.write(body)
        self._hints(changes, held)
        return held

    def _encoded(self, change: Change) -> Change:
        return change if self.codec is None else encoded_change(change, self.codec)

    async def emit(self, events: Sequence[EventValue]) -> list[EventValue]:
        stored = [self._stored_event(event) for event in events]

        (found, changes, held), *_ = await self._gates.write(lambda tx: self._emit(tx, stored))
        self._hints(changes, held)
        return self._plain_events(events, stored, found)

    async def emit_with(
        self, session: Any, event: EventValue, committed: Callable[[], None] = lambda: None
    ) -> EventValue:
        stored = [self._stored_event(event)]
        woke: list[tuple[Sequence[Change], Sequence[bool]]] = []

        def body(tx: SqlTransaction) -> list[EventValue]:
            self._enter(tx.connection)
            found, changes, held = self._emit(tx, stored, keep=True)
            woke.append((changes, held))
            return found

        def wake() -> None:
            self._hints(*woke[0])
            committed()

        found = await self._gates.write_in(session, body, wake)
        return self._plain_events([event], stored, found)[0]

    def _plain_events(
        self, events: Sequence[EventValue], stored: Sequence[EventValue], found: Sequence[EventValue]
    ) -> list[EventValue]:
        each = zip(events, stored, found, strict=True)
        return [event if there is new else self._plain_event(there) for event, new, there in each]

    def _emit(self, tx: SqlTransaction, events: Sequence[EventValue], keep: bool = False) -> Emitted:
        """Store events; return those that are there, and the changes of the tasks that waited for new ones.

        The rows of the waits of tasks with gates are ``kept`` where their gates are made due in a later transaction.
        """
        known = _locked(tx.connection, {event.key: event.at for event in events})
        found, new = [], {}
        for event in events:
            there = _there(known.get(event.key), event.at)
            if there is None:
                known[event.key] = new[event.key] = there = event
            found.append(there)
        if not new:
            return found, (), []
        replace(tx.connection, _E, [_event_row(event) for event in new.values()])
        return found, *self._wake(tx, new, keep)

    def _wake(
        self,
        tx: SqlTransaction,
        events: Mapping[str, EventValue],
        keep: bool = False,
        mend_at: int | None = None,
    ) -> tuple[Sequence[Change], list[bool]]:
        """Store the values of events for the tasks that wait for them, and let these go on."""
        connection = tx.connection
        keys = sorted(events)
        # Locked, so that the newest rows are read whatever the isolation of a caller's transaction is.
        waits = [row for part in chunks(keys) for row in connection.execute(_WAITING_FOR, {"keys": part})]
        if not waits:
            return (), []
        ids = sorted({row.task_id for row in waits})
        rows = {row.task_id: row for part in chunks(ids) for row in _tasks(connection, part)}
        changes: dict[str, Change] = {}
        answers = []
        for wait in waits:
            row, event = rows.get(wait.task_id), events[wait.key]
            if row is None or row.final or row.seq != wait.seq:
                continue
            if (answer := answered(_awaited_by(wait, row), event)) is not None:
                answers.append(self._row(answer))
            if row.began_at == wait.began_at:
                at = event.at if mend_at is None else mend_at
                if (after := woken(row, at)) is not None:
                    changes.setdefault(row.task_id, Change(row, after))
                # It is due already: a caller has woken it, whose process may have died before its gate was admitted.
                elif mend_at is not None and row.parked and row.gate is not None and row.flow is not None:
                    tx.touched.make_due([row.gate], dict(row.flow.gates))
        written = list(changes.values())
        held = self._update(tx, written) if written else []
        if answers:
            insert_new(connection, _S, _COLUMNS, answers)
        kept = {each for each, change in changes.items() if keep and change.before.flow is not None}
        for part in chunks([each for each in ids if each not in kept]):
            for some in chunks(keys):
                connection.execute(delete(_W).where(w.task_id.in_(part), w.key.in_(some)))
        return written, held

    async def get_events(self, keys: Sequence[str], now: int) -> list[EventValue | None]:
        def body(connection: Connection) -> list[Any]:
            parts = chunks(sorted(set(keys)))
            return [row for part in parts for row in connection.execute(_THERE, {"keys": part})]

        found = {row.key: self._plain_event(_event(row)) for row in await self._database.read(body)}
        return [_there(found.get(key), now) for key in keys]

    async def events(self, now: int, limit: int, *, prefix: str = "", after: str | None = None) -> list[EventValue]:
        def body(connection: Connection) -> Sequence[Any]:
            query = _EVENT.where(or_(e.expires_at.is_(None), e.expires_at > now)).order_by(e.key).limit(limit)
            if prefix:
                query = query.where(*dialect_of(connection).begins_with(e.key, prefix))
            if after is not None:
                query = query.where(e.key > after)
            return connection.execute(query).all()

        return [self._plain_event(_event(row)) for row in await self._database.read(body)]

    async def waiting(self, keys: Sequence[str]) -> dict[str, int]:
        def body(connection: Connection) -> dict[str, int]:
            counts = dict.fromkeys(keys, 0)
            for part in chunks(keys):
                counts.update((key, count) for key, count in connection.execute(_COUNT.where(w.key.in_(part))))
            return counts

        return await self._database.read(body)

    async def awaited(self, limit: int, *, prefix: str = "") -> dict[str, int]:
        def body(connection: Connection) -> list[str]:
            query = select(w.key).distinct().order_by(w.key).limit(limit)
            if prefix:
                query = query.where(*dialect_of(connection).begins_with(w.key, prefix))
            return list(connection.execute(query).scalars())

        counts = await self.waiting(sorted(await self._database.read(body)))
        return {key: count for key, count in counts.items() if count}

    async def expire(self, now: int, limit: int) -> int:
        # The keys stay in the database. MySQL takes a LIMIT only in a derived table.
        late = select(e.key).where(e.expires_at <= now).order_by(e.expires_at).limit(limit).subquery()
        statement = delete(_E).where(e.key.in_(select(late.c.key)), e.expires_at <= now)
        return await self._database.write(lambda c: int(c.execute(statement).rowcount))

    async def orphans(self, limit: int) -> list[str]:
        return await self._database.read(lambda c: list(c.execute(_ORPHANS.limit(limit)).scalars()))

    async def drop(self, ids: Sequence[str]) -> None:
        for part in chunks(sorted(ids)):
            await self._database.write(lambda c, part=part: drop_beside(c, part))  # type: ignore[misc]

    async def recode(self, ids: Sequence[str]) -> tuple[int, list[str]]:
        if self.codec is None:
            return await super().recode(ids)

        def body(connection: Connection) -> tuple[int, list[str]]:
            rows = [row for part in chunks(ids) for row in connection.execute(_STEP.where(s.task_id.in_(part)))]
            anew = [(row, self._anew(row.value)) for row in rows if row.value]
            for row, value in anew:
                if value is not None:
                    connection.execute(_ANEW, {**dict(zip(_KEY, row, strict=False)), "b_value": value})
            return recoded((step_name(row.task_id, _step(row)), value is not None) for row, value in anew)

        return await self._database.write(body)

    async def recode_events(self, keys: Sequence[str]) -> tuple[int, list[str]]:
        if self.codec is None:
            return await super().recode_events(keys)

        def body(connection: Connection) -> tuple[int, list[str]]:
            rows = [row for part in chunks(keys) for row in connection.execute(_EVENT.where(e.key.in_(part)))]
            anew = [(row, self._anew(row.value)) for row in rows]
            for row, value in anew:
                if value is not None:  # unless it has expired, and another one was emitted
                    connection.execute(_EVENT_ANEW, {"b_key": row.key, "b_at": row.at, "b_value": value})
            return recoded((row.key, value is not None) for row, value in anew)

        return await self._database.write(body)

    async def mend(self, now: int) -> int:
        found = _FORGOTTEN.where(or_(e.expires_at.is_(None), e.expires_at > now)).limit(KEYS)
        keys = await self._database.read(lambda c: list(c.execute(found).scalars()))
        if not keys:
            return 0

        def body(tx: SqlTransaction) -> tuple[Sequence[Change], list[bool]]:
            events = _locked(tx.connection, dict.fromkeys(keys, now))
            there = {key: event for key, event in events.items() if event.there(now)}
            return self._wake(tx, there, mend_at=now)

        (changes, held), *_ = await self._gates.write(body)
        self._hints(changes, held)
        return sum(held)


_KEY = ("b_task_id", "b_seq", "b_kind", "b_name", "b_number")
_ANEW = update(_S).where(*(column == bindparam(name) for name, column in zip(_KEY, _S.primary_key, strict=True)))
_ANEW = _ANEW.values(value=bindparam("b_value"))
_EVENT_ANEW = update(_E).where(e.key == bindparam("b_key"), e.at == bindparam("b_at"))
_EVENT_ANEW = _EVENT_ANEW.values(value=bindparam("b_value"))
_THERE = _EVENT.where(e.key.in_(bindparam("keys", expanding=True)))
_WAITING_FOR = select(_W).where(w.key.in_(bindparam("keys", expanding=True))).with_for_update(read=True)
_ANSWERED = select(s.task_id, s.seq, s.name, s.number).where(s.kind == "event")
_WAITS = (task.status == str(Status.PENDING), task.began_at == w.began_at)
_COUNT = (
    select(w.key, func.count(w.task_id.distinct()))
    .select_from(_W.join(TASKS, w.task_id == task.task_id))
    .where(*_WAITS)
)
_COUNT = _COUNT.group_by(w.key)
_FORGOTTEN = select(w.key).distinct().select_from(_W.join(_E, w.key == e.key)).where(e.at.is_not(None))
_ORPHANS = select(s.task_id).distinct().where(~exists(select(task.task_id).where(task.task_id == s.task_id)))
_GUARD = select(task.task_id, task.status, task.fence, task.seq)


@functools.cache
def _guard(dialect: Dialect) -> Any:
    # A shared lock: a handler's own transaction may have one as well, by a step of it.
    query = _GUARD.where(dialect.among(task.task_id, "ids")).order_by(task.task_id).with_for_update(read=True)
    return dialect.by_id(query)


def _add(connection: Connection, new: Sequence[NewStep], rows: Sequence[tuple[Any, ...]]) -> list[Step | None]:
    fences = [each.fence for each in new]
    found = dialect_of(connection).insert_held(connection, _S, _COLUMNS, list(zip(*rows, strict=True)), fences)
    inserted, held = _insert_locked(connection, new, rows) if found is None else found
    if inserted == sum(held):
        return [each.step if ok else None for each, ok in zip(new, held, strict=True)]
    # Of each the first write stays.
    there = {}
    for part in chunks(sorted({row[0] for row in rows})):
        there.update({tuple(row[:5]): _step(row) for row in connection.execute(_STEP.where(s.task_id.in_(part)))})
    return [there.get(row[:5]) if ok else None for row, ok in zip(rows, held, strict=True)]


def _insert_locked(
    connection: Connection, new: Sequence[NewStep], rows: Sequence[tuple[Any, ...]]
) -> tuple[int, list[bool]]:
    """Do as ``Dialect.insert_held``, in two statements; rows that are there already stay."""
    running: dict[str, tuple[Any, int, int]] = {}
    dialect = dialect_of(connection)
    for part in chunks(sorted({each.task_id for each in new})):
        for task_id, status, fence, seq in dialect.run_among(connection, _guard(dialect), "ids", part, {}).fetchall():
            running[task_id] = (status, fence, seq)
    held = [running.get(each.task_id) == (Status.RUNNING, each.fence, each.seq) for each in new]
    kept = [row for row, ok in zip(rows, held, strict=True) if ok]
    return insert_new(connection, _S, _COLUMNS, kept) if kept else 0, held


def _step(row: Sequence[Any]) -> Step:
    _task_id, _seq, kind, name, number, n, value, at, version = row
    return Step(kind=kind, name=name, number=number, n=n, text=value, at=at, version=version)


def _event(row: Sequence[Any]) -> EventValue:
    key, value, at, expires_at = row
    return EventValue(key=key, text=value, at=at, expires_at=expires_at)


def _locked(connection: Connection, keys: Mapping[str, int]) -> dict[str, EventValue]:
    """Lock the rows of events, in the order of their keys; return the events, also those that have expired.

    ``keys`` have the instants of the write. The row of an event that did not come is made, to be locked.
    """
    statement = dialect_of(connection).upsert(_E, ["key"], ["touched_at"])
    found = {}
    for part in chunks(sorted(keys)):
        rows = [{"key": key, "touched_at": keys[key], "expires_at": keys[key] + _AWAITED} for key in part]
        connection.execute(statement, rows)
        found.update({row.key: _event(row) for row in connection.execute(_THERE, {"keys": part})})
    return found


def _event_row(event: EventValue) -> dict[str, Any]:
    values = {"value": event.text, "at": event.at, "expires_at": event.expires_at, "touched_at": event.at}
    return {"key": event.key, **values}


def _there(event: EventValue | None, at: int) -> EventValue | None:
    return event if event is not None and event.there(at) else None


def _answered(connection: Connection, waits: Sequence[NewStep]) -> set[tuple[Any, ...]]:
    """Return for which of these waits an event is stored, as the id and the push stamp, the key and the number."""
    ids = sorted({wait.task_id for wait in waits})
    return {tuple(row) for part in chunks(ids) for row in connection.execute(_ANSWERED.where(s.task_id.in_(part)))}


def _wait(wait: NewStep, task: Task) -> dict[str, Any]:
    step = wait.step
    place = {"task_id": wait.task_id, "key": step.name, "number": step.number, "seq": wait.seq, "n": step.n}
    return place | {"version": step.version, "ends_at": step.until, "began_at": task.began_at}


def _awaited_by(row: Any, task: Task) -> NewStep:
    step = Step(kind="wait", name=row.key, number=row.number, n=row.n, text=str(row.ends_at), version=row.version)
    return NewStep(task.task_id, task.seq, task.fence, step)


def _tasks(connection: Connection, ids: Sequence[str]) -> list[Task]:
    query = select(TASKS).where(task.task_id.in_(ids)).order_by(task.task_id).with_for_update()
    return [to_task(row) for row in connection.execute(dialect_of(connection).by_id(query))]

"""The transaction body of each verb on tasks: plain functions over a SQLAlchemy connection.

They run in the backend's own transactions and, for a transactional push, in the caller's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple, cast

from msgspec.structs import replace
from sqlalchemy import Select, and_, delete, exists, func, literal_column, or_, select, text, true, union_all, update
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.base import matching
from aiotaskq.backends.change import Change, has_moved, holds
from aiotaskq.backends.flow.groups import (
    again,
    follow,
    follow_deletes,
    is_tied,
    parents_first,
    staying,
    unseen,
    waits_again,
)
from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.side_rows import OF_TASKS, TAG, WORKER
from aiotaskq.backends.sql.claim_statements import ENDED, PAUSED, PENDING, QUEUES, RUNNING
from aiotaskq.backends.sql.dialects.base import Dialect, Tx
from aiotaskq.backends.sql.gate_rows import GateRows
from aiotaskq.backends.sql.rows import GATES, LIVE, TASKS, column_of, json_text, read_flow, read_run_at, to_task
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.workers import Held
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import COLUMNS, decoded, encoded, verbatim
from aiotaskq.core.outcome import ALONE
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.tags import labels
from aiotaskq.core.task import EQUAL, Task, TaskFilter
from aiotaskq.models import OUR_TABLES, SideRowModel

c = TASKS.c
_SIDE: Any = SideRowModel.__table__
_WORKERS = select(_SIDE.c.name).where(_SIDE.c.kind == WORKER, _SIDE.c.owner == "", _SIDE.c.expires_at.is_(None))
_TAG: Any = literal_column(f"'{TAG}'")  # as in the condition of its index
FEW = 2_000
"""Tasks with a tag that are all read; where each tag of a filter has more, all tasks are looked through."""
_NEWEST = (c.seq.desc(), c.task_id.desc())
# No plan shall read all rows in the order of an index to find some.
_NEWEST_SORTED = ((c.seq + literal_column("0")).desc(), c.task_id.desc())
MOST_QUEUES = 100  # in which the latest ends are looked for
# No row is read, but the statement fails where a table is missing.
_EXISTING = "".join(f", (SELECT 1 FROM {name} LIMIT 0)" for name in OUR_TABLES)  # noqa: S608 - our own names


def clock(tx: Tx) -> int | None:
    """Return the database's time in microseconds UTC, None on SQLite. Raises if one of our tables is missing."""
    answer = tx.connection.execute(text(f"SELECT {tx.dialect.clock}{_EXISTING}")).scalar()
    return None if answer is None else int(answer)


class Row(NamedTuple):
    """What of a row says which run has the task, and whether a change holds."""

    task_id: str
    status: str | None
    fence: int
    lease_owner: str | None
    lease_until: int | None
    cancel_requested: bool
    run_at: int
    gate: str | None
    seq: int
    began_at: int | None


Lock = Literal["wait", "skip", "share"]
"""How rows are locked: those that another transaction has are waited for, or skipped; in a lock that others may share
they are waited for.
"""


@functools.cache
def _rows_of(dialect: Dialect, lock: Lock | None) -> Select[Any]:
    query = dialect.by_id(select(*(c[name] for name in Row._fields)).where(dialect.among(c.task_id, "keys")))
    if lock is None:
        return query
    return query.order_by(c.task_id).with_for_update(read=lock == "share", skip_locked=lock == "skip")


def read_rows(tx: Tx, ids: Iterable[str], lock: Lock | None) -> dict[str, Row]:
    """Read these rows. With ``lock`` they are locked, by every caller in the order of their ids."""
    found = map(Row._make, tx.rows_for(_rows_of(tx.dialect, lock), sorted(set(ids)), {}))
    return {row.task_id: row for row in found}


def update_tasks(tx: GateRows, changes: Sequence[Change]) -> list[bool]:
    """Write the changes whose guard holds; return which did."""
    return parents_first(changes, functools.partial(_update, tx))


def _update(tx: GateRows, changes: Sequence[Change]) -> list[bool]:
    if not changes:
        return []
    ids = [change.before.task_id for change in changes]
    back = [change for change in changes if change.before.final]
    revived = any(change.after.unique_key is not None for change in back)
    waits = any(waits_again(change.before, change.after) for change in back)
    if len(changes) > 1 and (revived or waits or len(set(ids)) < len(ids)):
        # Each sees the one before.
        return [held for change in changes for held in _update(tx, [change])]
    if waits:
        changes = [replace(changes[0], after=again(tx, changes[0].after))]
    held = None
    found: dict[str, Row] = {}
    moves = any(change.before.flow is not None and change.before.status is Status.PENDING for change in changes)
    if not (revived or moves or any(change.lease_over for change in changes)):
        held = tx.dialect.write_guarded(tx.connection, changes)
    if held is None:
        found, held = guarded(tx, changes)
        if revived and held[0]:
            # A dead letter that is retried must not break the uniqueness of a newer task.
            after = changes[0].after
            newer = select(c.task_id).where(c.live_key == after.unique_key, c.task_id != after.task_id)
            held[0] = after.final or tx.connection.execute(newer).first() is None
        if passed := [change for change, ok in zip(changes, held, strict=True) if ok]:
            tx.dialect.write(tx.connection, passed)
    if then := [task for change, ok in zip(changes, held, strict=True) if ok for task in change.then]:
        push(tx, then, refused=False)
    flows = [change.before.flow is not None or change.after.flow is not None for change in changes]
    written = [change for change, ok, flow in zip(changes, held, flows, strict=True) if ok and flow]
    if written:
        moved = [(_as_it_was(change, found), change.after) for change in written]
        tx.note_slots(moved)
        tx.touched.written(moved)
        follow(tx, [(change.before, change.after) for change in written])
    return held


def _as_it_was(change: Change, rows: Mapping[str, Row]) -> Task:
    """Return the task before a change: while it was pending it may have passed gates since it was read."""
    if change.before.status is not Status.PENDING or change.before.flow is None:
        return change.before
    row = rows[change.before.task_id]
    return change.before.replace(run_at=read_run_at(row.run_at), gate=row.gate)


def guarded(tx: Tx, changes: Sequence[Change]) -> tuple[dict[str, Row], list[bool]]:
    """Lock the rows, and return them and whether the guard of each change holds."""
    # A reaper skips locked rows: another transaction, such as a handler's own, is about to write them, and waiting for
    # one would delay all the others. A worker's change of its own task must not be lost, and waits.
    found = read_rows(tx, [change.before.task_id for change in changes if not change.lease_over], "wait")
    found |= read_rows(tx, [change.before.task_id for change in changes if change.lease_over], "skip")
    each = [(found.get(change.before.task_id), change) for change in changes]
    return found, [row is not None and holds(row, change) and not has_moved(row, change) for row, change in each]


_REQUEST_CANCEL = update(TASKS).values(cancel_requested=true())


def report(tx: Tx, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
    ids = [task_id for task_id, _, _ in progress]
    # A row that another transaction has locked, as a handler's own, is not written: all the others would wait as well.
    ours = read_rows(tx, ids, "skip")
    known = ours | read_rows(tx, [task_id for task_id in ids if task_id not in ours], None)
    running = {(i, row.fence) for i, row in known.items() if row.status == Status.RUNNING}
    held = [(task_id, fence) in running for task_id, fence, _ in progress]
    found = zip(progress, held, strict=True)
    if values := [(json_text(value), i) for (i, _, value), ok in found if ok and i in ours]:
        tx.dialect.set_each(tx.connection, ("progress",), values)
    return held


def request_cancel(tx: Tx, ids: Sequence[str]) -> list[bool]:
    # A locked row is waited for: afterwards the task has ended, or can be flagged.
    running = [i for i, row in read_rows(tx, ids, "wait").items() if row.status == Status.RUNNING]
    tx.dialect.set_on(tx.connection, _REQUEST_CANCEL, running, {})
    return [task_id in running for task_id in ids]


def cancelling(tx: Tx, ids: Sequence[str]) -> list[str]:
    asked = select(c.task_id).where(c.status == str(Status.RUNNING), c.cancel_requested)
    return [row[0] for row in tx.rows_in(asked, c.task_id, ids)]


def get(tx: Tx, ids: Sequence[str]) -> list[Task | None]:
    found = tx.look(ids)
    return [found.get(task_id) for task_id in ids]


def _tagged(task_id: ColumnElement[str], where: TaskFilter) -> list[ColumnElement[bool]]:
    """Return the conditions that a task with this id has the tags of a filter."""
    tag = _SIDE.alias()
    having = select(tag.c.owner).where(tag.c.kind == _TAG, tag.c.owner == task_id)
    return [exists(having.where(tag.c.name == name)) for name in labels(where.tags)]


def _few_tagged(tx: Tx, where: TaskFilter) -> Sequence[str] | None:
    """Return the ids of the tasks with the tags of a filter if few tasks have one of them; else None."""
    execute, owner = tx.connection.execute, _SIDE.c.owner
    for name in labels(where.tags):
        having = select(owner).where(_SIDE.c.kind == _TAG, _SIDE.c.name == name)
        if len(execute(having.limit(FEW + 1)).all()) <= FEW:
            return execute(having.where(*_tagged(owner, where))).scalars().all()
    return None


def _conditions(where: TaskFilter) -> list[ColumnElement[bool]]:
    """Return the conditions of a filter, without its status."""
    columns = {name: c[column_of(name)] for name in EQUAL}
    if where.newest is not None:
        # A window is read by the order of its rows: by the index of a queue, all of its rows would be sorted.
        columns["queue"] = func.coalesce(c.queue, "")
    conditions: list[ColumnElement[bool]] = [columns[name] == value for name, value in where.equal.items()]
    if where.completed_before is not None:
        conditions.append(c.completed_at < where.completed_before)
    if where.created_since is not None:
        conditions.append(c.created_at >= where.created_since)
    if where.error is not None:
        conditions.append(_contains(c.error_message, where.error))
    if where.error_type is not None:
        conditions.append(_contains(func.substr(c.error_message, 1, len(where.error_type)), where.error_type))
    return conditions + _tagged(c.task_id, where)


def _contains(column: Any, text: str) -> ColumnElement[bool]:
    # LIKE ignores case on SQLite. Removing an empty text is not the same on every database.
    if not text:
        return cast("ColumnElement[bool]", column.is_not(None))
    return func.length(func.replace(column, text, "")) < func.length(column)


def _of_status(status: Status) -> ColumnElement[bool]:
    known = {Status.PENDING: PENDING, Status.RUNNING: RUNNING}
    return c.status == known[status] if status in known else and_(c.status == str(status), ENDED)


def find(tx: Tx, where: TaskFilter, limit: int) -> list[Task]:
    conditions, behind, last = _conditions(where), list[ColumnElement[bool]](), None
    if where.after is not None:
        last = tx.connection.execute(select(c.seq).where(c.task_id == where.after)).scalar()
        if last is not None:
            behind = [c.seq <= last, or_(c.seq < last, c.task_id < where.after)]
    if (ids := _few_tagged(tx, where)) is not None:
        few = filter(matching(replace(where, tags={})), tx.look(ids).values())
        in_order = sorted(few, key=lambda task: (task.seq, task.task_id), reverse=True)
        return [task for task in in_order if last is None or (task.seq, task.task_id) < (last, where.after)][:limit]
    # One query for each status: the index has the rows of each in this order; for several they would be sorted. All in
    # one statement, which sees one snapshot: a task may change its status meanwhile.
    one_each: list[tuple[ColumnElement[bool], Status | None]] = []
    pending, sorts = tx.dialect.pending, tx.dialect.in_push_order is true()
    for status in dict.fromkeys(where.status):
        one_each += [(part, status) for part in (pending if status is Status.PENDING else [_of_status(status)])]
    queries = []
    for rows, name in one_each or [(rows, None) for rows in _each(tx)]:
        there = [rows, *behind]
        sort = sorts and name is Status.PENDING
        order = _NEWEST_SORTED if sort else _NEWEST
        if where.newest is not None:
            # A statement of its own, so that the next one is planned for the number that it has found.
            oldest = select(c.seq).where(*there).order_by(*order).offset(where.newest - 1).limit(1)
            if (first := tx.connection.execute(oldest).scalar()) is not None:
                there.append(c.seq >= first)
        query = select(TASKS).where(*there, *conditions).order_by(*order).limit(limit)
        if sort:
            chosen = query.with_only_columns(c.task_id)  # the rows themselves are not sorted
            query = select(TASKS).where(c.task_id.in_(chosen))
        queries.append(query)
    found: Any = queries[0]
    if len(queries) > 1:
        found = union_all(*[select(query.subquery(f"page_{number}")) for number, query in enumerate(queries)])
    newest = sorted(tx.connection.execute(found), key=lambda row: (row.seq, row.task_id), reverse=True)
    return [to_task(row) for row in newest[:limit]]


def _each(tx: Tx) -> list[ColumnElement[bool]]:
    """Return conditions that part all rows, so that an index has the rows of each in the order of their pushes."""
    waiting = tx.dialect.in_push_order
    if waiting is true():
        return [waiting]
    named = ENDED if tx.dialect.partial_indexes else c.status.is_not(None)
    foreign = [status for status in tx.distinct(c.status, named) if status not in (*FINAL, *LIVE)]
    ended = [c.status.is_(None), *(c.status == status for status in (*sorted(map(str, FINAL)), *foreign))]
    return [waiting, c.status == RUNNING, *(and_(status, ENDED) for status in ended)]


def last_ended(tx: Tx, status: Status, limit: int) -> list[str]:
    there, found = _of_status(status), list[Any]()
    for queue in islice(tx.distinct(c.queue, there), MOST_QUEUES):  # the index has the ends of each queue
        query = select(c.completed_at, c.seq, c.task_id).where(there, c.queue == queue, c.completed_at.is_not(None))
        found += tx.connection.execute(query.order_by(c.completed_at.desc()).limit(limit)).all()
    return [task_id for _, _, task_id in sorted(map(tuple, found), reverse=True)[:limit]]


def ids_with_prefix(tx: Tx, prefixes: Sequence[str], limit: int) -> list[list[str]]:
    if tx.dialect.ids_by_bytes:
        queries = [select(c.task_id).where(*tx.dialect.begins_with(c.task_id, prefix)) for prefix in prefixes]
        found = [tx.connection.execute(query.order_by(c.task_id).limit(limit)).scalars().all() for query in queries]
        return [list(ids) for ids in found]
    # In the order of a language there is no such range: all ids are read, once for the prefixes of each length.
    by_prefix: dict[str, list[str]] = {prefix: [] for prefix in prefixes}
    for length in sorted({len(prefix) for prefix in by_prefix}):
        start = func.substr(c.task_id, 1, length)
        number = func.row_number().over(partition_by=start, order_by=c.task_id).label("number")
        part = [prefix for prefix in by_prefix if len(prefix) == length]
        numbered = select(c.task_id, start.label("start"), number).where(start.in_(part)).subquery()
        query = select(numbered.c.start, numbered.c.task_id).where(numbered.c.number <= limit)
        for prefix, task_id in tx.connection.execute(query):
            by_prefix[prefix].append(task_id)
    return [sorted(by_prefix[prefix]) for prefix in prefixes]


def active(tx: Tx, schedule_ids: Sequence[str]) -> dict[str, int]:
    query = select(c.scheduler_task_id, func.count()).where(c.status.in_([str(status) for status in LIVE]))
    rows = tx.rows_in(query.group_by(c.scheduler_task_id), c.scheduler_task_id, schedule_ids)
    return dict.fromkeys(schedule_ids, 0) | dict(rows)


class Place(NamedTuple):
    """Some of the ended rows, which a purge looks at in the order of their ends."""

    status: Status
    queue: str
    dated: bool
    """Whether they have a time of their end; another program may have written others."""


class Passed(NamedTuple):
    """How far a purge has come, where it has left rows of members of groups."""

    place: Place
    completed_at: int | None
    """Of the last of these rows."""
    left: int
    """How many rows that ended then were left."""


def purge(tx: Tx, where: TaskFilter, limit: int, passed: Passed | None = None) -> tuple[int, Passed | None]:
    """Delete up to ``limit`` rows; return how many, and where to go on, None at the end.

    A transaction ends behind the rows that it has left: there may be many.
    """
    connection, deleted = tx.connection, 0
    for place in _places(tx, where, passed):
        status = place.status
        dated = c.completed_at.is_not(None) if place.dated else c.completed_at.is_(None)
        there = [_of_status(status), c.queue == place.queue, dated, *_conditions(where)]
        behind = passed if passed is not None and passed.place == place else None
        if behind is not None and place.dated:
            there.append(c.completed_at >= behind.completed_at)
        oldest = select(c.task_id, c.completed_at, c.flow).where(*there).order_by(c.completed_at)
        page = connection.execute(oldest.limit(limit - deleted).offset(0 if behind is None else behind.left)).all()
        tied = _tied(page, status)
        stay = _staying(tx, tied, status, where.completed_before)
        if status is Status.COMPLETED:
            stay |= unseen(tx, [row.task_id for row in page])
        for part in chunks([row.task_id for row in page if row.task_id not in stay]):
            # A task that was retried meanwhile stays.
            deleted += connection.execute(delete(TASKS).where(c.task_id.in_(part), c.status == str(status))).rowcount
            _drop_beside(tx, part)
        follow_deletes(tx, [task for i, task in tied.items() if i not in stay and task.status is Status.FAILED])
        if stay:
            ends = [row.completed_at for row in page if row.task_id in stay]
            left = ends.count(ends[-1])
            if behind is not None and behind.completed_at == ends[-1]:
                left += behind.left
            return deleted, Passed(place, ends[-1], left)
        if deleted >= limit:
            return deleted, None
    return deleted, None


def _places(tx: Tx, where: TaskFilter, passed: Passed | None) -> Iterator[Place]:
    """Yield where a purge has to look, from where it has come on."""
    statuses = list(dict.fromkeys(status for status in where.status or FINAL if status in FINAL))
    for status in statuses if passed is None else statuses[statuses.index(passed.place.status) :]:
        here = passed.place if passed is not None and passed.place.status is status else None
        rest = [] if here is None else [c.queue >= here.queue]
        queues = tx.distinct(c.queue, _of_status(status), *rest) if where.queue is None else [where.queue]
        for queue in queues:
            if here is None or here.queue != queue or here.dated:
                yield Place(status, queue, True)
            if where.completed_before is None:
                yield Place(status, queue, False)


def _tied(page: Sequence[Any], status: Status) -> dict[str, Task]:
    """Return those of these rows that are members or callbacks of groups.

    Members are without their children, which have ended.
    """
    flows = [(row.task_id, flow) for row in page if (flow := read_flow(row.flow)[0]) is not None]
    bare = [(task_id, flow if flow.group is None else replace(flow, children=())) for task_id, flow in flows]
    tasks = [Task(task_id=task_id, type="", status=status, flow=flow) for task_id, flow in bare]
    return {task.task_id: task for task in tasks if is_tied(task)}


def _staying(tx: Tx, tied: Mapping[str, Task], status: Status, before: int | None) -> set[str]:
    """Return the ids of those of these rows of one status that a purge leaves: see ``groups.staying``.

    Their rows are locked before their groups, as everywhere; one that another transaction has stays.
    """
    there = select(c.task_id).where(c.status == str(status)).order_by(c.task_id)
    query = tx.dialect.by_id(there.with_for_update(skip_locked=True))
    stay = tied.keys() - {row[0] for row in tx.rows_in(query, c.task_id, sorted(tied))}
    return stay | staying(tx, [tied[task_id] for task_id in tied.keys() - stay], before)


def delete_tasks(tx: GateRows, ids: Sequence[str], ended: bool) -> int:
    """Delete rows, only those that have ended if ``ended``; return how many."""
    there = [c.status.in_([str(status) for status in FINAL])] if ended else []
    flowing = select(TASKS).where(c.flow.is_not(None), *there).order_by(c.task_id).with_for_update()
    tied = [to_task(row) for row in tx.rows_in(tx.dialect.by_id(flowing), c.task_id, sorted(ids))]
    tx.remove_slots([task.task_id for task in tied if not task.final])
    deleted = 0
    for part in chunks(ids):
        deleted += tx.connection.execute(delete(TASKS).where(c.task_id.in_(part), *there)).rowcount
        _drop_beside(tx, part)
    follow_deletes(tx, tied)
    return deleted


def _drop_beside(tx: Tx, ids: Sequence[str]) -> None:
    """Delete the side rows of those of these tasks whose rows are gone."""
    gone = ~exists(select(c.task_id).where(c.task_id == _SIDE.c.owner))
    tx.connection.execute(delete(_SIDE).where(_SIDE.c.kind.in_(OF_TASKS), _SIDE.c.owner.in_(ids), gone))


def set_paused(tx: Tx, queue: str, paused: bool) -> bool:
    """Pause or resume a queue, and return whether there are gates."""
    if not tx.insert_new(QUEUES, ("name", "paused"), [(queue, paused)]):
        tx.connection.execute(update(QUEUES).where(QUEUES.c.name == queue).values(paused=paused))
    return tx.connection.execute(select(GATES.c.key).limit(1)).first() is not None


def paused(tx: Tx) -> list[str]:
    return [row[0] for row in tx.connection.execute(PAUSED.order_by(QUEUES.c.name))]


# ---- workers ----


def held(tx: Tx, owners: Sequence[str]) -> dict[str, list[Held]]:
    found: dict[str, list[Held]] = {owner: [] for owner in owners}
    query = select(c.lease_owner, c.task_id, c.fence, c.cancel_requested).where(c.status == RUNNING)
    names = [name for owner in owners for name in (owner, f"{owner}{ALONE}")]
    for owner, task_id, fence, cancel in tx.rows_in(query, c.lease_owner, names):
        found[owner.removesuffix(ALONE)].append((task_id, fence, bool(cancel)))
    return found


def overdue(tx: Tx, now: int, limit: int) -> list[Task]:
    # The owners before the workers: an owner of a task was registered before, and is there unless it was removed.
    owners = list(tx.distinct(c.lease_owner, c.status == RUNNING, above=""))
    workers = set(tx.connection.execute(_WORKERS).scalars()) if owners else set()
    gone = [owner for owner in owners if owner.removesuffix(ALONE) not in workers]
    # Owner by owner, in the order of the index: for a list of them PostgreSQL reads the rows of all others as well.
    orphans = [_running_of(owner).where(c.lease_until.is_(None)) for owner in gone]
    found = _read(tx, orphans, limit)
    queries = [_running_of(owner).where(c.lease_until <= now).order_by(c.lease_until) for owner in gone]
    queries += tx.dialect.expired(now)
    late = _read(tx, queries, limit) if len(found) < limit else []
    late.sort(key=lambda task: (task.expires_at if task.status is Status.PENDING else task.lease_until) or 0)
    return (found + late)[:limit]


def _running_of(owner: str) -> Select[Any]:
    return select(TASKS).where(c.status == RUNNING, c.lease_owner == owner)


def _read(tx: Tx, queries: Sequence[Select[Any]], limit: int) -> list[Task]:
    return [to_task(row) for query in queries for row in tx.connection.execute(query.limit(limit))]


# ---- recoding ----


def recode_tasks(tx: Tx, ids: Sequence[str], codec: Codec) -> list[bool | None]:
    """Rewrite the rows of these tasks; return for each as ``Backend.recode``."""
    done: dict[str, bool | None] = dict.fromkeys(tx.existing(ids), False)  # those that are locked
    written = []
    query = tx.dialect.by_id(select(TASKS).order_by(c.task_id).with_for_update(skip_locked=True))
    for row in tx.rows_in(query, c.task_id, sorted(set(ids))):
        task = decoded(to_task(row), codec)
        done[row.task_id] = True if task.undecodable is None else None
        if task.undecodable is None:
            new = verbatim(encoded(task, codec))
            written.append((*(_text(name, getattr(new, name)) for name in COLUMNS), row.task_id))
    if written:
        tx.dialect.set_each(tx.connection, COLUMNS, written)
    return [done.get(task_id) for task_id in ids]


def _text(name: str, value: Any) -> str | None:
    empty = value is None or (name in ("extra", "attempts") and not value)
    return None if empty else json_text(value)

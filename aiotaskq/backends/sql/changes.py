"""Changes of tasks as rows to write: grouped by the columns that they write, with the values of their guards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from aiotaskq.backends.change import Change
from aiotaskq.backends.sql.rows import CONTENT, FLOW, STATE, content, flow_columns, json_text, state, value_of
from aiotaskq.backends.sql.statement_size import Columns, small_enough
from aiotaskq.core.parking import any_flow
from aiotaskq.core.status import COMPLETED, RUNNING

# May differ from what was read while a task runs, under the same fence; the other columns are written if they change.
_VOLATILE = frozenset({"status", "lease_until", "cancel_requested"})
_STATE = frozenset({*STATE, "gate", "live_gate"}) - {"attempts", "fence", "unique_key", "live_key"}
GUARD = ("b_id", "b_status", "b_fence", "b_final", "b_cancel")
ENDING = ("result", "completed_at", "ended_at", "status", "lease_owner", "lease_until", "live_key", "cancel_requested")
"""What a run that has completed changes."""
GATED_ENDING = (*ENDING, "live_gate")


class Group(NamedTuple):
    """Changes that write the same columns; ``columns`` are their values, and after these the guard's."""

    names: tuple[str, ...]
    columns: Columns

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        return list(zip(*self.columns, strict=True))


def groups(changes: Sequence[Change]) -> Iterator[Group]:
    """Yield the changes that complete a run, those that leave the content of their tasks as it was, and the others.

    Those of undecodable rows are apart: a column that could not be read must not be written with those that were. So
    are those of rows that keep a unique key: it is not written, since the row may have given it up.
    """
    kinds: dict[tuple[bool, ...], list[Change]] = {}
    for change in changes:
        kinds.setdefault(_kind(change), []).append(change)
    for (completes, same, *_), found in kinds.items():
        yield (
            _completed(found, found[0].before.flow is not None) if completes else _group(found, () if same else CONTENT)
        )


def _kind(change: Change) -> tuple[bool, ...]:
    """Return whether it completes a run and nothing else, leaves the content, is of a readable row, keeps a key, and
    is of a task with gates.
    """
    before, after = change.before, change.after
    same, readable = after.params is before.params and after.extra is before.extra, before.undecodable is None
    completes = (
        same
        and readable
        and after.status is COMPLETED
        and before.status is RUNNING
        and not before.cancel_requested
        and after.lease_owner is None
        and after.lease_until is None
        and before
        == replace(
            after,
            status=RUNNING,
            lease_owner=before.lease_owner,
            lease_until=before.lease_until,
            completed_at=before.completed_at,
            ended_at=before.ended_at,
            result=before.result,
        )
    )
    keeps_key = before.unique_key is not None and not after.final
    return completes, same, readable, keeps_key, before.flow is not None


def _completed(changes: Sequence[Change], gated: bool) -> Group:
    """Return these as data: nearly all changes are of this kind, and to compare all columns would take longer."""
    own = [
        (
            None if after.result is None else json_text(after.result),
            after.completed_at,
            after.ended_at,
            before.task_id,
            before.fence,
        )
        for before, after in [(change.before, change.after) for change in changes]
    ]
    result, completed_at, ended_at, ids, fences = zip(*own, strict=True)
    none, true, false = (None,) * len(own), (True,) * len(own), (False,) * len(own)
    written = [result, completed_at, ended_at, (COMPLETED.value,) * len(own), none, none, none, false]
    if gated:
        return Group(GATED_ENDING, [*written, none, ids, (RUNNING.value,) * len(own), fences, true, false])
    return Group(ENDING, [*written, ids, (RUNNING.value,) * len(own), fences, true, false])


def _group(changes: Sequence[Change], more: tuple[str, ...]) -> Group:
    afters, befores = [change.after for change in changes], [change.before for change in changes]
    names: tuple[str, ...] = STATE
    columns = list(zip(*map(state, afters), strict=True))
    before = list(zip(*map(state, befores), strict=True))
    if any_flow(befores) or any_flow(afters) or befores[0].undecodable is not None:
        names += FLOW
        columns += zip(*map(flow_columns, afters), strict=True)
        before += zip(*map(flow_columns, befores), strict=True)
    # Fewer columns to write, and no entry of an index on what stays as it is.
    written = _VOLATILE if all(task.status is RUNNING for task in befores) else _STATE
    if more:
        written = written | {"flow"}  # also over one that could not be read
    kept = [n for n, name in enumerate(names) if name in written or columns[n] != before[n]]
    names, columns = tuple([names[n] for n in kept]), [columns[n] for n in kept]
    if more:
        columns += zip(*map(content, afters), strict=True)
    guards = [
        (
            change.before.task_id,
            change.before.status.value,
            change.before.fence,
            change.after.final,
            change.before.cancel_requested,
        )
        for change in changes
    ]
    return Group(names + more, [*columns, *zip(*guards, strict=True)])


def hoisted(names: Sequence[str], columns: Columns) -> tuple[dict[str, Any], tuple[str, ...], Columns]:
    """Part the columns whose value is the same in all rows, as names and values, from those that differ."""
    same, differ = {}, []
    for name, column in zip(names, columns, strict=True):
        if column == column[:1] * len(column):
            same[name] = column[0]
        else:
            differ.append((name, column))
    return same, tuple([name for name, _ in differ]), [column for _, column in differ]


def in_one(changes: Sequence[Change]) -> bool:
    """Whether one statement writes all of them where a dialect writes many rows in one (``Dialect.autocommit``)."""
    return (
        not any(change.then or change.lease_over or change.before.final for change in changes)
        and not any(change.before.flow or change.after.flow for change in changes)  # gates are written with them
        and len({_kind(change) for change in changes}) == 1
        and changes[0].before.undecodable is None
        and len({change.before.task_id for change in changes}) == len(changes)
        and small_enough(len(changes), (value_of(change.after, "result") for change in changes))
    )

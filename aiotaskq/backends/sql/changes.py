"""Changes of tasks as rows to write: grouped by the columns that they write, with the values of their guards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from aiotaskq.backends.base import Change
from aiotaskq.backends.sql.rows import CONTENT, STATE, content, result_of, state
from aiotaskq.backends.sql.statement_size import small_enough
from aiotaskq.core.task import Status

_ATTEMPTS = STATE.index("attempts")
GUARD = ("b_id", "b_status", "b_fence", "b_final", "b_cancel")
# May differ from what was read while a task runs, under the same fence; the other columns are written if they change.
_VOLATILE = frozenset({"status", "lease_until", "cancel_requested"})


class Group(NamedTuple):
    """Changes that write the same columns; ``rows`` are their values, and after these the guard's."""

    changes: Sequence[Change]
    names: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def groups(changes: Sequence[Change]) -> Iterator[Group]:
    """Yield the changes that leave the content of their tasks as it was, and the others.

    Those of undecodable rows are apart: a column that could not be read must not be written with those that were.
    """
    # Nearly always all are of one kind, which this finds out for less than the grouping below takes.
    if all(
        change.after.params is change.before.params
        and change.after.extra is change.before.extra
        and change.before.undecodable is None
        for change in changes
    ):
        if changes:
            yield _group(changes, ())
        return
    kinds: dict[tuple[bool, bool], list[Change]] = {}
    for change in changes:
        kinds.setdefault((_same_content(change), change.before.undecodable is None), []).append(change)
    for (same, _), found in kinds.items():
        yield _group(found, () if same else CONTENT)


def _same_content(change: Change) -> bool:
    return change.after.params is change.before.params and change.after.extra is change.before.extra


def _group(changes: Sequence[Change], more: tuple[str, ...]) -> Group:
    columns = list(zip(*[state(change.after) for change in changes], strict=True))
    names: tuple[str, ...] = STATE
    if all(change.before.status is Status.RUNNING for change in changes):
        # Fewer columns to write, and no entry of an index on what stays as it is.
        before = zip(*[state(change.before) for change in changes], strict=True)
        differ = [new != old or name in _VOLATILE for new, old, name in zip(columns, before, STATE, strict=True)]
        columns = [values for values, changed in zip(columns, differ, strict=True) if changed]
        names = tuple([name for name, changed in zip(STATE, differ, strict=True) if changed])
    elif columns[_ATTEMPTS] == tuple(state(change.before)[_ATTEMPTS] for change in changes):
        del columns[_ATTEMPTS]
        names = (*STATE[:_ATTEMPTS], *STATE[_ATTEMPTS + 1 :])
    if more:
        columns += zip(*[content(change.after) for change in changes], strict=True)
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
    return Group(changes, names + more, list(zip(*columns, *zip(*guards, strict=True), strict=True)))


def in_one(changes: Sequence[Change]) -> bool:
    """Whether one statement writes all of them where a dialect writes many rows in one (``Dialect.autocommit``)."""
    first = _same_content(changes[0])
    return (
        not any(change.then or change.lease_over or change.before.final for change in changes)
        and all(change.before.undecodable is None for change in changes)
        and all(_same_content(change) is first for change in changes)
        and len({change.before.task_id for change in changes}) == len(changes)
        and small_enough(len(changes), (result_of(change.after) for change in changes))
    )

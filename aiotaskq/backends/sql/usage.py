"""What tasks and groups have used up, in SQL, and the gates of groups whose budgets are used up.

A transaction locks tasks first, then groups, then gates. The tasks that it parks behind these are only taken where they
are free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec.structs import replace
from sqlalchemy import Connection, bindparam, select, update

from aiotaskq.backends.flow.gates import NOT_USED_UP
from aiotaskq.backends.sql import gate_statements as gates_sql
from aiotaskq.backends.sql.admission import Admitted, SqlAdmission
from aiotaskq.backends.sql.gate_repairs import park_unstarted
from aiotaskq.backends.sql.rows import GROUPS, TASKS, json_text, read_flow, read_usage
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.core.gate import Bounds, Gate
from aiotaskq.core.groups import GroupState
from aiotaskq.core.notes import NewNotes
from aiotaskq.core.usage import USED_UP_UNTIL, Usage, budget_gate, is_used_up, risen, summed

Known = Mapping[str, Bounds | None]

c, g = TASKS.c, GROUPS.c
_READ = select(c.task_id, c.usage, c.flow)
_WRITE = update(TASKS).where(c.task_id == bindparam("b_id")).values(usage=bindparam("usage"))
_READ_GROUPS = select(g.group_id, g.parent_id, g.usage, g.budget).order_by(g.group_id).with_for_update()
_WRITE_GROUP = update(GROUPS).where(g.group_id == bindparam("b_id")).values(usage=bindparam("usage"))


def write_usage(connection: Connection, new: Sequence[NewNotes]) -> Known:
    """Store what these tasks report, whose rows are locked; return the gates to make due after the commit."""
    reported = {each.task_id: each.usage for each in new if each.usage is not None}
    rows = []
    by_group: dict[str, Usage] = {}
    for part in chunks(list(reported)):
        for row in connection.execute(_READ.where(c.task_id.in_(part))):
            usage, more = risen(None if row.usage is None else read_usage(row.usage), reported[row.task_id])
            if not more:
                continue
            rows.append({"b_id": row.task_id, "usage": json_text(usage)})
            flow, _ = read_flow(row.flow)
            if flow is not None and flow.group is not None:
                by_group[flow.group] = summed(by_group.get(flow.group, {}), more)
    if rows:
        connection.execute(_WRITE, rows)
    used_up = _add_to_groups(connection, by_group) if by_group else []
    return close_gates(connection, used_up) if used_up else {}


def _add_to_groups(connection: Connection, by_group: Mapping[str, Usage]) -> list[str]:
    """Add to the sums of groups, and of those around them; return the ids of those whose budgets are used up."""
    used_up: list[str] = []
    while by_group:
        above: dict[str, Usage] = {}
        written = []
        for part in chunks(sorted(by_group)):
            for row in connection.execute(_READ_GROUPS.where(g.group_id.in_(part))):
                more = by_group[row.group_id]
                usage = summed(_usage(row.usage), more)
                written.append({"b_id": row.group_id, "usage": json_text(usage)})
                if is_used_up(_usage(row.budget), usage):
                    used_up.append(row.group_id)
                if row.parent_id is not None:
                    above[row.parent_id] = summed(above.get(row.parent_id, {}), more)
        if written:
            connection.execute(_WRITE_GROUP, written)
        by_group = above
    return used_up


def _usage(text: str | None) -> Usage:
    return {} if text is None else read_usage(text) or {}


def add_closed(connection: Connection, group_ids: Collection[str]) -> None:
    """Make the gates of new groups, closed.

    Without a locking read of what is not there: the transaction may be the caller's, and in MySQL such reads of two
    transactions end in a deadlock when both insert.
    """
    keys = sorted(map(budget_gate, group_ids))
    if not gates_sql.add(connection, [Gate(key=key, closed_until=USED_UP_UNTIL) for key in keys]):
        close_gates(connection, group_ids)


def close_gates(connection: Connection, group_ids: Iterable[str]) -> Known:
    """Close the gates of these groups, and park what has passed them and has not started.

    Return the gates at which others may pass now, to be made due after the commit.
    """
    admission = SqlAdmission(connection, 0, {})
    keys = sorted(map(budget_gate, group_ids))
    admission.lock(keys)
    for key in keys:
        gate = admission.gates[key]
        if gate.closed_until != USED_UP_UNTIL:
            admission.gates[key] = replace(gate, closed_until=USED_UP_UNTIL, next_at=USED_UP_UNTIL)
    freed = park_unstarted(connection, keys)
    admission.end()
    return {key: bounds for key, bounds in freed.items() if key not in keys}


def write_budget(connection: Connection, group: GroupState, now: int) -> tuple[Admitted | None, Known]:
    """Write the budget of a group that is locked; open its gate, or close it.

    Return what is to be done after the commit: see ``SqlAdmission.end`` and ``close_gates``.
    """
    values = {"budget": json_text(group.budget)}
    connection.execute(update(GROUPS).where(g.group_id == group.group_id).values(values))
    if group.used_up:
        return None, close_gates(connection, [group.group_id])
    admission = SqlAdmission(connection, now, {})
    admission.change(budget_gate(group.group_id), NOT_USED_UP)
    return admission.end(), {}

"""Replaces the indexes of the tasks by those that serve a million rows as fast as a hundred."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

    from aiotaskq.backends.sql.migrations.adopt import Report

revision = "0003_scale"
down_revision = "0002_leases"

PENDING = "status = 'pending'"
ENDED = "coalesce(status, '') NOT IN ('pending', 'running')"
REPLACED = ("claim", "lease", "due", "expiry", "newest", "scheduler")
INDEXES: dict[str, tuple[list[str], str | None]] = {
    # The columns, and the rows that it is over on a database that can leave out the others.
    "ready": (["status", "priority", "run_at", "seq", "task_id", "queue", "expires_at"], PENDING),
    "expires": (["status", "expires_at"], f"{PENDING} AND expires_at IS NOT NULL"),
    "held": (["status", "lease_until"], "status = 'running'"),
    "ended": (["status", "queue", "completed_at"], ENDED),
    "listed": (["status", "seq", "task_id"], ENDED),
    "fired": (["scheduler_task_id", "status"], "scheduler_task_id IS NOT NULL"),
    "pushed": (["seq", "task_id"], None),
}


# Sweep up after some thousand tasks, not only when a fifth of all rows are dead: a claim has to pass them by.
VACUUM = "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000"


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Every step asks first whether it is done: MySQL commits each one, and create_all may have been here before."""
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("task_queue")}
    for name in (f"ix_task_queue_{short}" for short in REPLACED):
        if name in there:
            op.drop_index(name, "task_queue")
    for short, (columns, rows) in INDEXES.items():
        if (name := f"ix_task_queue_{short}") not in there:
            where = None if rows is None else sa.text(rows)
            op.create_index(name, "task_queue", columns, postgresql_where=where, sqlite_where=where)
    if op.get_bind().dialect.name == "postgresql":
        # Unless somebody has thought about it already.
        own = (
            op.get_bind()
            .execute(sa.text("SELECT reloptions FROM pg_class WHERE oid = 'task_queue'::regclass"))
            .scalar()
        )
        if own is None:
            op.execute(f"ALTER TABLE task_queue SET ({VACUUM})")

"""Adds the time at which a task was due that has been put off since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

    from aiotaskq.backends.sql.migrations.adopt import Report

revision = "0006_due"
down_revision = "0005_keys"


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Ask first whether it is done: MySQL commits each step, and create_all may have been here before."""
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("task_queue")}
    if "due_at" not in there:
        op.add_column("task_queue", sa.Column("due_at", sa.BigInteger()))

"""Adds what a schedule has fired and not yet handed to a queue that lives in another store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from aiotaskq.models import LongText

if TYPE_CHECKING:
    from alembic.operations import Operations

    from aiotaskq.backends.sql.migrations.adopt import Report

revision = "0004_outbox"
down_revision = "0003_scale"


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Ask first whether it is done: MySQL commits each step, and create_all may have been here before."""
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("scheduler_task")}
    if "outbox" not in there:
        op.add_column("scheduler_task", sa.Column("outbox", LongText()))

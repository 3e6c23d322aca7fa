"""Adds what leases, fences, delays, keys and schedules with zones need, and adopts the rows that were there before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from aiotaskq.backends.sql.migrations.adopt import Report, adopt
from aiotaskq.models import LongText, Name

if TYPE_CHECKING:
    from alembic.operations import Operations

revision = "0002_leases"
down_revision = "0001_documented"


def added() -> dict[str, list[sa.Column[object]]]:
    """Return the columns to add. Each may be NULL or has a server default, so that old software can go on writing."""
    zero = sa.text("0")
    return {
        "task_queue": [
            sa.Column("queue", Name(100), nullable=False, server_default="default"),
            sa.Column("run_at", sa.BigInteger(), nullable=False, server_default=zero),
            sa.Column("seq", sa.BigInteger(), nullable=False, server_default=zero),
            sa.Column("expires_at", sa.BigInteger()),
            sa.Column("timeout", sa.Float(53)),
            sa.Column("fence", sa.BigInteger(), nullable=False, server_default=zero),
            sa.Column("crashes", sa.Integer(), nullable=False, server_default=zero),
            sa.Column("lease_owner", Name(100)),
            sa.Column("lease_until", sa.BigInteger()),
            sa.Column("unique_key", Name(255)),
            sa.Column("live_key", Name(255)),
            sa.Column("idempotency_key", Name(255)),
            sa.Column("result", LongText()),
            sa.Column("progress", LongText()),
            sa.Column("cancel_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
            sa.Column("on_success", Name(100)),
            sa.Column("on_failure", Name(100)),
            sa.Column("extra", LongText()),
        ],
        "scheduler_task": [
            sa.Column("next_run_us", sa.Integer(), nullable=False, server_default=zero),
            sa.Column("timezone", Name(64)),
            sa.Column("misfire", Name(20), nullable=False, server_default="fire_once"),
            sa.Column("overlap", Name(20), nullable=False, server_default="allow"),
            sa.Column("catch_up", sa.BigInteger()),
            sa.Column("priority", sa.Integer(), nullable=False, server_default=zero),
            sa.Column("queue", Name(100), nullable=False, server_default="default"),
            sa.Column("max_retries", sa.Integer(), nullable=False, server_default=sa.text("3")),
            sa.Column("timeout", sa.Float(53)),
            sa.Column("declared", sa.Boolean(), nullable=False, server_default=sa.false()),
            sa.Column("version", sa.BigInteger(), nullable=False, server_default=zero),
        ],
    }


def new_tables() -> dict[str, list[sa.Column[object]]]:
    """Return the columns of the tables that the guide did not have."""
    return {
        "aiotaskq_public": [
            sa.Column("key", Name(255), primary_key=True),
            sa.Column("value", LongText(), nullable=False),
            sa.Column("expires_at", sa.BigInteger()),
        ],
        "aiotaskq_queue": [
            sa.Column("name", Name(100), primary_key=True),
            sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.false()),
        ],
    }


INDEXES = {
    "task_queue": {
        "ix_task_queue_claim": ["status", "priority", "run_at", "seq", "queue"],
        "ix_task_queue_lease": ["status", "lease_until"],
        "ix_task_queue_due": ["status", "run_at"],
        "ix_task_queue_expiry": ["status", "expires_at"],
        "ix_task_queue_newest": ["seq"],
        "ix_task_queue_scheduler": ["scheduler_task_id", "status"],
        "uq_task_queue_idempotency_key": ["idempotency_key"],
        "uq_task_queue_live_key": ["live_key"],
    },
    "scheduler_task": {"ix_scheduler_task_due": ["enabled", "next_run_at", "next_run_us"]},
    "aiotaskq_public": {"ix_aiotaskq_public_expiry": ["expires_at"]},
}


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Every step asks first whether it is done: MySQL commits each one, and create_all may have been here before."""
    connection = op.get_bind()
    inspector = sa.inspect(connection)
    for table, columns in added().items():
        there = {column["name"] for column in inspector.get_columns(table)}
        for column in columns:
            if column.name not in there:
                op.add_column(table, column)
    for table, columns in new_tables().items():
        if not inspector.has_table(table):
            op.create_table(table, *columns)
    adopt(connection, report, now)
    # After the rows were written: filling an index once is quicker. The unique ones cannot fail, all is NULL there.
    inspector.clear_cache()
    for table, indexes in INDEXES.items():
        have = {index["name"] for index in inspector.get_indexes(table)}
        for name, names in indexes.items():
            if name not in have:
                op.create_index(name, table, names, unique=name.startswith("uq_"))

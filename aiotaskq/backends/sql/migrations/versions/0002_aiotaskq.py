"""Adds the columns, tables and indexes of this package to the documented tables, and adopts the rows that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.migrations.adopt import Report, adopt
from aiotaskq.models import LongText, Name

if TYPE_CHECKING:
    from alembic.operations import Operations

revision = "0002_aiotaskq"
down_revision = "0001_documented"


def added() -> dict[str, list[sa.Column[object]]]:
    """Return the columns to add. Each may be NULL or has a server default, so that old software can still write."""
    zero = sa.text("0")
    return {
        "task_queue": [
            sa.Column("queue", Name(100), nullable=False, server_default="default"),
            sa.Column("run_at", sa.BigInteger(), nullable=False, server_default=zero),
            sa.Column("due_at", sa.BigInteger()),
            sa.Column("seq", sa.BigInteger(), nullable=False, server_default=zero),
            sa.Column("expires_at", sa.BigInteger()),
            sa.Column("timeout", sa.Float(53)),
            sa.Column("fence", sa.BigInteger(), nullable=False, server_default=zero),
            sa.Column("crashes", sa.Integer(), nullable=False, server_default=zero),
            sa.Column("lease_owner", Name(100)),
            sa.Column("lease_until", sa.BigInteger()),
            sa.Column("began_at", sa.BigInteger()),
            sa.Column("ended_at", sa.BigInteger()),
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
            sa.Column("outbox", LongText()),
        ],
    }


def new_tables() -> dict[str, list[sa.Column[object]]]:
    """Return the columns of the tables that are not documented."""
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


PENDING = "status = 'pending'"
RUNNING = "status = 'running'"
ENDED = "coalesce(status, '') NOT IN ('pending', 'running')"
INDEXES: dict[str, dict[str, tuple[list[str], str | None]]] = {
    # The columns, and the condition of the rows in it on a database that has partial indexes.
    "task_queue": {
        "ix_task_queue_ready": (["status", "priority", "run_at", "seq", "task_id", "queue", "expires_at"], PENDING),
        "ix_task_queue_expires": (["status", "expires_at"], f"{PENDING} AND expires_at IS NOT NULL"),
        "ix_task_queue_held": (["status", "lease_until"], RUNNING),
        "ix_task_queue_ended": (["status", "queue", "completed_at"], ENDED),
        "ix_task_queue_listed": (["status", "seq", "task_id"], ENDED),
        "ix_task_queue_fired": (["scheduler_task_id", "status"], "scheduler_task_id IS NOT NULL"),
        "ix_task_queue_pushed": (["seq", "task_id"], None),
        "uq_task_queue_idempotency_key": (["idempotency_key"], "idempotency_key IS NOT NULL"),
        "uq_task_queue_live_key": (["live_key"], "live_key IS NOT NULL"),
    },
    "scheduler_task": {"ix_scheduler_task_due": (["enabled", "next_run_at", "next_run_us"], None)},
    "aiotaskq_public": {"ix_aiotaskq_public_expiry": (["expires_at"], None)},
}


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Add what is missing: MySQL commits each step, and ``create_all`` may have run before."""
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
        for name, (names, rows) in indexes.items():
            if name not in have:
                where = None if rows is None else sa.text(rows)
                unique = name.startswith("uq_")
                op.create_index(name, table, names, unique=unique, postgresql_where=where, sqlite_where=where)
    dialect_of(connection).tune_tasks(connection)

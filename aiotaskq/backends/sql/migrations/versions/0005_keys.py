"""Leaves the tasks that have no key out of the two unique indexes: most have none, and each had an entry in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

    from aiotaskq.backends.sql.migrations.adopt import Report

revision = "0005_keys"
down_revision = "0004_outbox"


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Ask first whether it is done, since create_all may have been here before. MySQL has no such indexes."""
    dialect = op.get_bind().dialect.name
    if dialect in ("mysql", "mariadb"):
        return
    indexes = {index["name"]: index for index in sa.inspect(op.get_bind()).get_indexes("task_queue")}
    for column in ("idempotency_key", "live_key"):
        name, rows = f"uq_task_queue_{column}", sa.text(f"{column} IS NOT NULL")
        known = indexes.get(name)
        if known is not None and known.get("dialect_options", {}).get(f"{dialect}_where") is not None:
            continue
        if known is not None:
            op.drop_index(name, "task_queue")
        op.create_index(name, "task_queue", [column], unique=True, postgresql_where=rows, sqlite_where=rows)

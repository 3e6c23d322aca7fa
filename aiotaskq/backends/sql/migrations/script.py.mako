"""${message}."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

    from aiotaskq.backends.sql.migrations.adopt import Report

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Add what is missing: MySQL commits each step, and ``create_all`` may have run before."""
    raise NotImplementedError

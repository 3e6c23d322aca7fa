"""The rows that belong to a task, and go with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, exists, select

from aiotaskq.backends.side_rows import OF_TASKS
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.models import SideRowModel

_S: Any = SideRowModel.__table__


def drop_beside(connection: Connection, ids: Sequence[str]) -> None:
    """Delete what belongs to those of these tasks whose rows are gone."""
    gone = ~exists(select(TASKS.c.task_id).where(TASKS.c.task_id == _S.c.owner))
    connection.execute(delete(_S).where(_S.c.kind.in_(OF_TASKS), _S.c.owner.in_(ids), gone))

"""Alembic: keeps an application's ``alembic revision --autogenerate`` from dropping the tables of aiotaskq."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiotaskq.backends.sql.migrations import is_ours

__all__ = ["include_name"]


def include_name(
    name: str | None,
    type_: str,
    parent_names: Mapping[str, Any],
    *,
    schema: str | None = None,
    table_prefix: str = "",
) -> bool:
    """Return whether Alembic compares what has this name in the database; False for the tables of aiotaskq.

    In ``env.py``: ``context.configure(…, include_name=include_name)``. A filter of the application's own calls it:
    ``return include_name(name, type_, parent_names) and …``. ``schema`` and ``table_prefix`` are those of ``TaskQ``.
    Tables of the same name in another schema than that, by default the connection's own, are the application's.
    """
    if type_ != "table" or name is None or parent_names.get("schema_name") != schema:
        return True
    return not (name.startswith(table_prefix) and is_ours(name.removeprefix(table_prefix)))

"""What a database says about our tables, to compare databases that were made in different ways."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from aiotaskq.backends.sql import migrations
from aiotaskq.backends.sql.migrations.adopt import Report
from aiotaskq.models import OUR_TABLES

TABLES = (*OUR_TABLES, migrations.VERSION_TABLE)
PUSH = {
    "sqlite": ("VIEW", "SELECT sql FROM sqlite_master WHERE name LIKE 'aiotaskq_push%' ORDER BY name"),
    "postgresql": ("FUNCTION", "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'aiotaskq_push'"),
    "mysql": (
        "PROCEDURE",
        "SELECT routine_definition FROM information_schema.routines WHERE routine_schema = database()",
    ),
}
"""By database: the kind of ``aiotaskq_push``, and the query of its text."""


def schema(connection: sa.Connection) -> dict[str, Any]:
    """Return the columns, keys, indexes and options of our tables, the version, and how SQL pushes."""
    found = sa.inspect(connection)
    made: dict[str, Any] = {"version": connection.execute(sa.text("SELECT * FROM aiotaskq_version")).all()}
    for name in TABLES:
        made[name] = [
            [{key: str(value) for key, value in column.items()} for column in found.get_columns(name)],
            sorted(str(_plain(index)) for index in found.get_indexes(name)),
            found.get_pk_constraint(name),
            found.get_table_options(name),
        ]
    if connection.dialect.name == "postgresql":
        options = "SELECT relname, reloptions FROM pg_class WHERE relname ~ 'aiotaskq|task' ORDER BY relname"
        made["options"] = connection.execute(sa.text(options)).all()
        made["indexes"] = connection.execute(sa.text("SELECT indexdef FROM pg_indexes ORDER BY indexname")).all()
    made["push"] = connection.execute(sa.text(PUSH[connection.dialect.name][1])).scalars().all()
    assert made["push"]
    return made


def _plain(index: Any) -> dict[str, Any]:
    options = {key: str(value) for key, value in index.get("dialect_options", {}).items()}
    return {**index, "dialect_options": options}


def drop(connection: sa.Connection) -> None:
    """Drop our tables, and what is made with them."""
    connection.execute(sa.text(f"DROP {PUSH[connection.dialect.name][0]} aiotaskq_push"))
    for name in TABLES:
        connection.execute(sa.text(f"DROP TABLE {name}"))


def made_both_ways(engine: sa.Engine, now: int) -> list[dict[str, Any]]:
    """Return what an empty database becomes by the revisions, and by ``upgrade``; ``now`` in microseconds UTC."""
    made = []
    for make in (lambda connection: migrations.migrate(connection, Report(), now), migrations.upgrade):
        with engine.begin() as connection:
            make(connection)
        with engine.begin() as connection:
            made.append(schema(connection))
            drop(connection)
    return made

"""The plans of prepared statements on PostgreSQL: one for all claims, however many tasks wait at gates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.core.gate import PARKED
from tests.backends.sql.plans import analyze, fill, start
from tests.support.rows import LEASE, NOW, new

CLAIMS = 12
PLANS = sa.text("SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements")


async def test_one_plan_serves_all_claims_beside_parked_tasks(tmp_path: Path) -> None:
    engine = await asyncio.to_thread(start, "postgresql", tmp_path, "prepared")
    parked: dict[str, Any] = {"status": "pending", "run_at": PARKED, "due_at": NOW, "gate": "g", "live_gate": "g"}
    await asyncio.to_thread(fill, engine, 20_000, "parked-", **parked)
    await asyncio.to_thread(analyze, engine)
    one = engine.url.update_query_dict({"pool_size": "1", "max_overflow": "0"})  # connection: each has its own plans
    backend = SqlBackend(one.render_as_string(hide_password=False).replace("+psycopg", ""))
    await backend.open()
    try:
        for _ in range(CLAIMS):
            await backend.push([new() for _ in range(3)])
            assert len(await backend.claim("w", NOW, 3, lease_until=LEASE)) == 3
        setting = "SHOW max_parallel_workers_per_gather"
        assert await backend.database.read(lambda c: c.exec_driver_sql(setting).scalar()) == "0"
        rows = await backend.database.read(lambda connection: connection.execute(PLANS).all())
        ((generic, custom),) = [counts for text, *counts in rows if text.startswith("WITH head AS")]
        assert (custom, generic) == (5, CLAIMS - 5), "after five plans for certain values, one for any"
        stats = await backend.stats(NOW)
        assert (stats.counts["pending"], stats.ready) == (20_000, 0)
        with engine.connect() as connection:
            query = "SELECT pg_relation_size('ix_task_queue_ready') < pg_relation_size('ix_task_queue_pushed') / 10"
            assert connection.exec_driver_sql(query).scalar(), "parked rows are not in the index of what is ready"
    finally:
        await backend.close()
        engine.dispose()

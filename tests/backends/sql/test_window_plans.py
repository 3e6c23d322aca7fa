"""A list of tasks by a filter without an index reads a window of the newest ones, however many rows there are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from aiotaskq.backends.sql import tasks as sql_tasks
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task, TaskFilter
from tests.backends.sql.plans import FUTURE, WITH_STATISTICS, Cost, Filled, analyze, cost, on
from tests.support.sql import tx_on


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    filled = Filled(tmp_path_factory)
    yield filled
    filled.dispose()


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, databases: Filled) -> sa.Engine:
    """The filled database, before and after it has looked at its rows."""
    return databases.engine(*request.param)


@pytest.mark.parametrize(
    "where",
    [
        TaskFilter(type="none"),
        TaskFilter(queue="none"),
        TaskFilter(error="none"),
        TaskFilter(status=(Status.COMPLETED,), type="none"),
        TaskFilter(status=(Status.COMPLETED,), queue="none"),
        TaskFilter(status=(Status.COMPLETED,), error="none", after="done-50000"),
    ],
    ids=["type", "queue", "error", "completed-type", "completed-queue", "behind"],
)
@WITH_STATISTICS
def test_a_filter_without_an_index_reads_a_window(engine: sa.Engine, where: TaskFilter) -> None:
    def looked_for() -> tuple[list[Task], Cost, list[str]]:
        page, found = cost(engine, lambda c: sql_tasks.find(tx_on(c), replace(where, newest=1_000), 50))
        # PostgreSQL may read the window, which `reads` bounds, by a bitmap, and sort what matches.
        return page, found, [each for each in found.detours if not each.startswith("Bitmap")]

    page, found, detours = looked_for()
    if detours and engine.dialect.name == "postgresql":
        analyze(engine)  # its statistics are of rows chosen at random, and those were unusual
        page, found, detours = looked_for()
    assert page == []
    assert detours == []
    assert found.reads <= 2 * 2 * 2_000


@on("sqlite")
@pytest.mark.parametrize("newest", [None, 1_000])
def test_pending_rows_are_sorted_by_their_index(engine: sa.Engine, newest: int | None) -> None:
    where = TaskFilter(status=(Status.PENDING,), newest=newest)
    page, found = cost(engine, lambda c: sql_tasks.find(tx_on(c), where, 50))
    assert len(page) == 50
    assert "ix_task_queue_ready" in found.indexes
    # And the parked ones: there are none.
    parked = "SCAN task_queue USING INDEX ix_task_queue_gate"
    assert set(found.detours) == {"USE TEMP B-TREE FOR ORDER BY", parked}
    assert found.reads <= (1 if newest is None else 3) * 2 * 3 * FUTURE

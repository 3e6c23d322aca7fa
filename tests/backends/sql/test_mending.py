"""What is mended is read in batches: as many statements for many rows as for few."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from aiotaskq.backends.flow.groups import mend_children
from aiotaskq.backends.sql.rows import TASKS, json_text
from aiotaskq.core.gate import PARKED, Flow
from aiotaskq.core.task import SECOND
from tests.backends.sql.plans import DATABASES, cost, start
from tests.support.rows import NOW
from tests.support.sql import tx_on

CHILDREN = 60


@pytest.fixture(scope="module", params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    made = start(request.param, tmp_path_factory.mktemp("mending"), "mending")
    yield made
    made.dispose()


def _wait(engine: sa.Engine, parent: str, count: int) -> None:
    row = {"task_type": "t", "params": "{}", "queue": "q", "created_at": NOW // SECOND, "status": "pending"}
    row |= {"priority": 0, "seq": NOW}
    child = {"run_at": PARKED, "due_at": NOW, "waits": 1, "flow": json_text(Flow(parents=((parent, "p"),)))}
    rows = [{**row, **child, "task_id": f"{parent}-{number}"} for number in range(count)]
    with engine.begin() as connection:
        connection.execute(sa.insert(TASKS), rows)


def test_children_are_looked_at_together(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        parent = {"task_id": "here", "task_type": "t", "params": "{}", "queue": "q", "created_at": 0, "priority": 0}
        connection.execute(sa.insert(TASKS), [parent | {"status": "running", "seq": NOW, "run_at": NOW}])
    _wait(engine, "here", CHILDREN)
    none, found = cost(engine, lambda c: mend_children(tx_on(c), [f"here-{number}" for number in range(CHILDREN)], NOW))
    assert none == 0
    assert len(found.statements) == 2, found.statements
    _wait(engine, "gone", 2)
    few, found = cost(engine, lambda c: mend_children(tx_on(c), ["gone-0", "gone-1"], NOW))
    assert few == 2
    assert len(found.statements) <= 12, found.statements

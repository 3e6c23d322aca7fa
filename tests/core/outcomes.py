"""Tasks and outcomes for the tests of the rules."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from aiotaskq.core.outcome import Backoff
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import SECOND, Task

NOW = 1_750_000_000 * SECOND


NOW_S = NOW // SECOND


P, R, C, F, X, E = (
    Status.PENDING,
    Status.RUNNING,
    Status.COMPLETED,
    Status.FAILED,
    Status.CANCELLED,
    Status.EXPIRED,
)


def task(status: Status = R, **fields: Any) -> Task:
    values: dict[str, Any] = {"task_id": "1", "type": "t", "params": {"a": 1}, "status": status, "run_at": NOW - 5}
    if status is R:
        values |= {"fence": 4, "lease_owner": "worker-1", "lease_until": NOW + 9}
        values |= {"started_at": NOW_S - 1, "began_at": NOW - 2}
    if status in FINAL:
        values |= {"fence": 4, "error_message": "before", "retry_count": 3, "crashes": 2}
        values |= {"completed_at": NOW_S - 1, "ended_at": NOW - 1}
    return Task(**{**values, **fields})


backoffs = st.builds(
    Backoff,
    base=st.floats(0, 1e6),
    factor=st.floats(1, 1000),
    limit=st.floats(0, 1e6),
    jitter=st.booleans(),
)


chances = st.floats(0, 1, exclude_max=True)

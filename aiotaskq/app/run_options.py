"""How long and how wide a TaskQ runs: the options that ``running``, ``run`` and ``run_until`` share."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aiotaskq.core.validation import check_seconds


class RunOptions(msgspec.Struct, frozen=True):
    """How workers and the scheduler run. Raises ValidationError for a wrong ``drain`` or ``grace``."""

    concurrency: int = 10
    """Handlers at a time; checked by the worker."""
    queues: Sequence[str] | None = None
    """Names of the queues that are worked on; None means every queue."""
    scheduler: bool = True
    """Whether schedules are fired."""
    drain: float = 25.0
    """Seconds that handlers get to end by themselves when the run stops."""
    grace: float = 5.0
    """Seconds that they get after that to end once they are cancelled."""

    def __post_init__(self) -> None:
        check_seconds("drain", self.drain)
        check_seconds("grace", self.grace)

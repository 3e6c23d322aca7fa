"""How long and how wide a TaskQ runs: the options that ``running``, ``run`` and ``run_until`` share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from msgspec.structs import force_setattr

from aiotaskq.core.validation import check_seconds


class RunOptions(msgspec.Struct, frozen=True):
    """How workers and the scheduler run. Raises ValidationError for a wrong ``drain`` or ``grace``."""

    concurrency: int = 10
    """Handlers at a time; checked by the worker."""
    queues: Sequence[str] | None = None
    """Names of the queues that are worked on; None means every queue."""
    scheduler: bool = True
    """Whether schedules are fired."""
    drain: float | timedelta = 25.0
    """Seconds, or a timedelta, that handlers get to end by themselves when the run stops."""
    grace: float | timedelta = 5.0
    """Seconds, or a timedelta, that they get after that to end once they are cancelled."""

    def __post_init__(self) -> None:
        force_setattr(self, "drain", check_seconds("drain", self.drain))
        force_setattr(self, "grace", check_seconds("grace", self.grace))

    @property
    def times(self) -> tuple[float, float]:
        """``drain`` and ``grace`` in seconds."""
        return float(self.drain), float(self.grace)  # type: ignore[arg-type]  # the constructor has converted timedeltas

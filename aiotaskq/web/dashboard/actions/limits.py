"""Actions on limits: set bounds, reset them, pause and resume."""

from __future__ import annotations

import math
from typing import Any

from aiotaskq.errors import ValidationError
from aiotaskq.operations.limits import limits
from aiotaskq.web.dashboard.actions.door import action
from aiotaskq.web.dashboard.actions.fields import number
from aiotaskq.web.dashboard.view import Change
from aiotaskq.web.dashboard.words import marked


def _bounds(change: Change) -> dict[str, Any]:
    """Return the bounds of the form; an empty field takes one away."""
    given: dict[str, Any] = {name: change.text(name) for name in ("key", "cap", "window", "max_waiting", "rate")}
    burst = change.text("burst")
    if given["rate"] is not None:
        given["rate"], given["per"] = _rate(number("rate", given["rate"]))
        if burst is not None:
            given["burst"] = burst
    elif burst is not None:
        raise ValidationError("burst: it is about a rate; give that, too")
    return given


def _rate(rate: float) -> tuple[int, float]:
    """Return tokens and seconds of a rate of a form, which holds six digits of what was set: it must stay the same."""
    near = round(rate, 3)  # a limit has whole microseconds for each token: 3 per second is shown as 2.99999
    if math.isclose(near, rate, rel_tol=1e-5):
        rate = near
    return (int(rate), 1.0) if rate.is_integer() else (1, 1 / rate)


action(
    limits["pause"],
    "limit",
    marked("The limit {key} is paused."),
    question=marked("Pause the limit {key}? No task passes until it is resumed; tasks that run go on."),
    button=marked("Pause the limit"),
)
action(limits["resume"], "limit", marked("The limit {key} lets tasks pass."))
action(limits["reset"], "limit", marked("The limit {key} takes the bounds that pushes declare."))
action(limits["set"], "limit", marked("The bounds of the limit {key} are set."), values=_bounds)

"""Actions on gates: set bounds, reset them, close and open."""

from __future__ import annotations

import math
from typing import Any

from aiotaskq.core.limits import Rate
from aiotaskq.errors import ValidationError
from aiotaskq.web.dashboard.actions.fields import number, whole
from aiotaskq.web.dashboard.view import Change, Done, Question, actions, done, link
from aiotaskq.web.dashboard.words import marked


@actions("close-gate")
async def close(change: Change) -> Question | Done:
    """Let no task pass until the gate is opened."""
    key = change.needed("key")
    if not change.sure:
        text = marked("Close the gate {key}? No task passes until it is opened; tasks that run go on.")
        return Question(text, {"key": key}, marked("Close the gate"), link("gate", key=key))
    await change.tq.limits.close(key)
    return done(marked("The gate {key} is closed."), link("gate", key=key), key=key)


@actions("open-gate")
async def open_gate(change: Change) -> Done:
    """Open a closed gate."""
    key = change.needed("key")
    await change.tq.limits.open(key)
    return done(marked("The gate {key} is open."), link("gate", key=key), key=key)


@actions("reset-gate")
async def reset(change: Change) -> Done:
    """Take the bounds that pushes declare."""
    key = change.needed("key")
    await change.tq.limits.reset(key)
    return done(marked("The gate {key} takes the bounds that pushes declare."), link("gate", key=key), key=key)


@actions("set-gate")
async def set_bounds(change: Change) -> Done:
    """Set bounds; an empty field takes one away."""
    key = change.needed("key")
    given: dict[str, Any] = {name: _whole(change, name) for name in ("cap", "window", "max_waiting")}
    text, burst = change.text("rate"), _whole(change, "burst")
    if text is not None:
        given["rate"] = _rate(number("rate", text), burst)
    elif burst is not None:
        raise ValidationError("burst: it is about a rate; give that, too")
    else:
        given["rate"] = None
    await change.tq.limits.set(key, **given)
    return done(marked("The bounds of the gate {key} are set."), link("gate", key=key), key=key)


def _whole(change: Change, name: str) -> int | None:
    text = change.text(name)
    return None if text is None else whole(name, text, 11)


def _rate(rate: float, burst: int | None) -> Rate:
    """Return the rate of a form, which holds six digits of what was set: sent again, it must stay the same."""
    near = round(rate, 3)  # a gate has whole microseconds for each token: 3 per second is shown as 2.99999
    if math.isclose(near, rate, rel_tol=1e-5):
        rate = near
    return Rate(int(rate), 1, burst=burst) if rate.is_integer() else Rate(1, 1 / rate, burst=burst)

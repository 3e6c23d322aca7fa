"""Operations for probes: whether the process lives, and whether it can do its work."""

from __future__ import annotations

from aiotaskq.web.operation import Answer, Call, Good, Operations, say
from aiotaskq.web.schemas import Health

health = Operations("health")


@health("GET", "/healthz", Good(200, "It lives", Health, {"status": "ok", "parts": {}}), open=True)
async def healthz(call: Call) -> Answer:
    """Say that the process answers; nothing else is looked at."""
    return say(Health("ok", {}))


@health(
    "GET",
    "/readyz",
    Good(200, "It can do its work", Health, {"status": "ok", "parts": {"store": "ok", "workers": "ok"}}),
    Good(503, "It cannot", Health, {"status": "failing", "parts": {"store": "failing"}}),
    open=True,
)
async def readyz(call: Call) -> Answer:
    """Say whether the store answers, and whether the workers and the scheduler of this process get on."""
    parts = {name: "ok" if problem is None else "failing" for name, problem in (await call.tq.health()).items()}
    ready = all(state == "ok" for state in parts.values())
    return say(Health("ok" if ready else "failing", parts), 200 if ready else 503)  # type: ignore[arg-type]

"""Endpoints for probes: liveness and readiness."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from aiotaskq.web.endpoint import Call, Response, Success, get, respond


class Health(Struct):
    """Whether this process can do its work, and which part of it cannot."""

    status: Literal["ok", "failing"]
    parts: dict[str, Literal["ok", "failing"]]


TAG = "aiotaskq health"


@get("/healthz", TAG, Success(200, "The process answers", Health, {"status": "ok", "parts": {}}), public=True)
async def healthz(call: Call) -> Response:
    """Liveness: the process answers; nothing else is checked."""
    return respond(Health("ok", {}))


@get(
    "/readyz",
    TAG,
    Success(200, "Ready", Health, {"status": "ok", "parts": {"store": "ok", "workers": "ok"}}),
    Success(503, "Not ready", Health, {"status": "failing", "parts": {"store": "failing"}}),
    public=True,
)
async def readyz(call: Call) -> Response:
    """Readiness: whether the store answers, and whether this process's workers and scheduler work."""
    parts = {name: "ok" if problem is None else "failing" for name, problem in (await call.tq.health()).items()}
    ready = all(state == "ok" for state in parts.values())
    return respond(Health("ok" if ready else "failing", parts), 200 if ready else 503)  # type: ignore[arg-type]

"""Every endpoint of the API, in the order in which paths are matched."""

from __future__ import annotations

from collections.abc import Collection

from aiotaskq.errors import ValidationError
from aiotaskq.operations.everything import NOUNS
from aiotaskq.web.door import endpoints
from aiotaskq.web.endpoint import Endpoint
from aiotaskq.web.endpoints.health import healthz, readyz
from aiotaskq.web.endpoints.tasks import task_stream

ENDPOINTS: tuple[Endpoint, ...] = (
    task_stream,
    *(each for nouns in NOUNS for each in endpoints(nouns)),
    healthz,
    readyz,
)


def selected(names: Collection[str] | None) -> tuple[Endpoint, ...]:
    """Return the endpoints of these names; None selects all. Raises ValidationError for an unknown name."""
    if names is None:
        return ENDPOINTS
    known = {each.name for each in ENDPOINTS}
    if isinstance(names, str) or (unknown := sorted(set(names) - known)):
        what = repr(names) if isinstance(names, str) else ", ".join(unknown)
        raise ValidationError(f"operations: a list of {', '.join(sorted(known))} is needed (got {what:.60})")
    return tuple(each for each in ENDPOINTS if each.name in names)

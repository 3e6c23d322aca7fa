"""From an error to an HTTP status and problem details (RFC 9457), which never hold params, URLs or passwords."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import msgspec
from msgspec import Meta

from aiotaskq.errors import (
    AiotaskqError,
    ClosedError,
    DatabaseUnavailable,
    NotFound,
    NotSupported,
    QueueFull,
    SchemaTooNew,
    TaskConflict,
    ValidationError,
    WrongLoop,
)
from aiotaskq.log import printable

MEDIA_TYPE = "application/problem+json"

# The first that fits counts.
_STATUSES: tuple[tuple[type[AiotaskqError], int, str | None], ...] = (
    (ValidationError, 422, None),
    (NotFound, 404, None),
    (TaskConflict, 409, None),
    (NotSupported, 501, None),
    (QueueFull, 503, "the queue is full; push later"),
    # What these say names hosts and files, which are nobody's business out there; the log has it.
    (DatabaseUnavailable, 503, "the store does not answer; try again later"),
    (ClosedError, 503, "the task queue is closed; try again later"),
    (SchemaTooNew, 503, "the store was written by a newer version"),
    (WrongLoop, 503, "the task queue is open in another event loop"),
)


class Problem(msgspec.Struct, frozen=True):
    """Problem details, RFC 9457. ``type`` is always ``about:blank``: ``title`` is then the status in words."""

    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: Annotated[str, Meta(description="What was wrong, where, and what to do")]
    code: Annotated[str, Meta(description="A stable word for programs")]
    type: str = "about:blank"


class Refused(Exception):
    """A request that is answered with a problem; raised and caught in here."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem(status, code, detail)


def problem(status: int, code: str, detail: str) -> Problem:
    """Make a problem; its detail becomes one harmless line."""
    return Problem(HTTPStatus(status).phrase, status, printable(detail, 500), code)


def problem_of(error: AiotaskqError) -> Problem | None:
    """Return what a client is told of an error, or None if it is a fault of ours, which must be seen."""
    for kind, status, detail in _STATUSES:
        if isinstance(error, kind):
            return problem(status, type(error).__name__, str(error) if detail is None else detail)
    return None

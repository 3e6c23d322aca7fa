"""From an error to an HTTP status and problem details (RFC 9457), which never hold params, URLs or passwords."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import msgspec
from msgspec import Meta

from aiotaskq.backends.read_limit import ReadTooLong
from aiotaskq.errors import (
    AiotaskqError,
    ClosedError,
    DatabaseUnavailable,
    NotFound,
    NotSupported,
    QueueFull,
    ResultTimeout,
    SchemaTooNew,
    TaskConflict,
    ValidationError,
    WrongLoop,
)
from aiotaskq.log import log, printable
from aiotaskq.operations.table import NotShown

MEDIA_TYPE = "application/problem+json"

# The first class that fits counts. A detail of None is the error's own message.
_STATUSES: tuple[tuple[type[AiotaskqError], int, str | None], ...] = (
    (ValidationError, 422, None),
    (NotFound, 404, None),
    (NotShown, 403, None),
    (TaskConflict, 409, None),
    (NotSupported, 501, None),
    (ResultTimeout, 504, None),
    (QueueFull, 503, "the queue is full; push later"),
    (ReadTooLong, 503, "this takes too long, and was cancelled; narrow the filter, or the span of time"),
    # The messages of these name hosts and files, which clients must not learn; they are logged.
    (DatabaseUnavailable, 503, "the store does not answer; try again later"),
    (ClosedError, 503, "the task queue is closed; try again later"),
    (SchemaTooNew, 503, "the store was written by a newer version"),
    (WrongLoop, 503, "the task queue is open in another event loop"),
)

DETAILS = tuple(detail for _, _, detail in _STATUSES if detail is not None)
"""Sentences that the pages translate."""


class Problem(msgspec.Struct, frozen=True):
    """Problem details, RFC 9457. ``type`` is always ``about:blank``: ``title`` is then the status in words."""

    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: Annotated[str, Meta(description="What was wrong, where, and what to do")]
    code: Annotated[str, Meta(description="A stable word for programs")]
    type: str = "about:blank"


class ProblemError(Exception):
    """A request that is answered with a problem; ``dispatch`` catches it."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = make_problem(status, code, detail)


def make_problem(status: int, code: str, detail: str) -> Problem:
    """Return a problem; its detail becomes one printable line of at most 500 characters."""
    return Problem(HTTPStatus(status).phrase, status, printable(detail, 500), code)


def status_of(kind: type[AiotaskqError]) -> int:
    """Return the status with which an error of this class is answered."""
    return next(status for each, status, _ in _STATUSES if issubclass(kind, each))


def answered(error: ProblemError | AiotaskqError, where: str) -> Problem:
    """Return the problem with which a request is answered after an error; that of the server is logged.

    Raises an error that the client cannot have caused.
    """
    if isinstance(error, ProblemError):
        return error.problem
    for kind, status, detail in _STATUSES:
        if isinstance(error, kind):
            if status >= 500:
                log.warning("{}: {}: {}", where, type(error).__name__, error)
            return make_problem(status, type(error).__name__, str(error) if detail is None else detail)
    raise error


def unmatched(status: int, default: str = "") -> Problem:
    """Return the problem of a request that no operation matches, by path (404) or by method (405)."""
    details = {404: "there is nothing at this path", 405: "this path does not take that method"}
    return make_problem(status, "HTTPException", details.get(status, default))

"""One endpoint of the API: its method, path, parameters, responses and documentation, independent of a framework."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from aiotaskq.web.policy import Policy
from aiotaskq.web.problem_details import MEDIA_TYPE, Problem

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

JSON = "application/json"
METHODS_THAT_CHANGE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Request(Protocol):
    """What endpoints and pages need to know of an HTTP request; each framework's adapter provides it."""

    @property
    def method(self) -> str:
        """In capitals."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, looked up without regard to case."""

    @property
    def path(self) -> Mapping[str, str]:
        """The decoded parts of the path by name; of a page its ``name`` below the prefix, "" for the overview."""

    @property
    def query(self) -> list[tuple[str, str]]:
        """The decoded query parameters."""

    @property
    def original(self) -> Any:
        """The request of the framework, for ``allow`` and ``actor``."""

    @property
    def secure(self) -> bool:
        """Whether the client's connection is encrypted, as far as the server knows."""

    @property
    def address(self) -> str:
        """The client's address, "" if it is not known."""

    def logged_in(self, user: str) -> None:
        """Let ``allow`` and ``actor`` see who has logged in to the dashboard."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""

    def is_stopping(self) -> bool:
        """Whether the server waits for the end of open responses, to stop; False where it does not tell."""


class Response(msgspec.Struct, frozen=True):
    """An HTTP response: a status, a body (None is no body), and headers beside the content type."""

    status: int
    body: bytes | None
    headers: Sequence[tuple[str, str]] = ()
    media_type: str = JSON
    stream: AsyncGenerator[bytes] | None = None
    """In place of the body: parts that are sent as they come. The sender closes it."""


class Call(msgspec.Struct, frozen=True):
    """A checked request, as an endpoint gets it."""

    tq: TaskQ
    policy: Policy
    request: Request
    query: Any
    body: Any


class Success(msgspec.Struct, frozen=True):
    """A response other than a problem, as the OpenAPI document describes it."""

    status: int
    description: str
    type: Any = None
    example: Any = None
    media_type: str = JSON


Run = Callable[[Call], Awaitable[Response]]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one path, with its documentation."""

    name: str
    method: str
    path: str
    tag: str
    summary: str
    description: str
    run: Run
    thing: Any = str
    """The type of the name in the path."""
    query: Any = None
    body: Any = None
    example: Any = None
    successes: tuple[Success, ...] = ()
    own_problems: tuple[int, ...] = ()
    public: bool = False
    """Whether it is answered without a token: it discloses nothing."""

    @property
    def changes(self) -> bool:
        """Whether it changes something."""
        return self.method in METHODS_THAT_CHANGE

    @property
    def problems(self) -> tuple[int, ...]:
        """The statuses of the problems with which it may be answered."""
        statuses = {*self.own_problems, *([] if self.public else [503])}
        if self.changes:
            statuses.add(403)
        if not self.public:
            statuses.add(422)  # also for an unknown query parameter
        if "{" in self.path:
            statuses.add(404)  # also where a control character keeps the path from being found
        if self.body is not None:
            statuses |= {400, 408, 413, 415}
        return tuple(sorted(statuses))


def get(path: str, tag: str, *successes: Success, name: str = "", **more: Any) -> Callable[[Run], Endpoint]:
    """Return what makes an endpoint that is no operation of the table: its function has its documentation.

    The name is that of the function if none is given.
    """

    def made(run: Run) -> Endpoint:
        summary, _, description = (run.__doc__ or "").strip().partition("\n")
        return Endpoint(
            name=name or run.__name__,
            method="GET",
            path=path,
            tag=tag,
            summary=summary.rstrip("."),
            description=" ".join(description.split()),
            run=run,
            successes=successes,
            **more,
        )

    return made


def respond(body: Any = None, status: int = 200, **headers: str) -> Response:
    """Return a view as a JSON response; a header's name is written with underscores."""
    return Response(status, None if status == 204 else msgspec.json.encode(body), _headers(headers))


def problem_response(problem: Problem, **headers: str) -> Response:
    """Return a problem as a response."""
    return Response(problem.status, msgspec.json.encode(problem), _headers(headers), MEDIA_TYPE)


def _headers(given: dict[str, str]) -> list[tuple[str, str]]:
    # A response must not be cached, and must never be taken for markup.
    always = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
    return always + [(name.replace("_", "-"), value) for name, value in given.items()]

"""One endpoint of the API: its method, path, parameters, responses and documentation, independent of a framework."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from aiotaskq.web.policy import Policy
from aiotaskq.web.problem_details import MEDIA_TYPE, Problem, ProblemError

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

JSON = "application/json"
METHODS_THAT_CHANGE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Request(Protocol):
    """What an endpoint needs to know of an HTTP request; each framework's adapter provides it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, looked up without regard to case."""

    @property
    def path(self) -> Mapping[str, str]:
        """The decoded parts of the path by name."""

    @property
    def query(self) -> list[tuple[str, str]]:
        """The decoded query parameters."""

    @property
    def original(self) -> Any:
        """The request of the framework, for ``actor``."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""

    def is_stopping(self) -> bool:
        """Whether the server waits for the end of open responses, to stop; False where it does not tell."""


class ApiResponse(msgspec.Struct, frozen=True):
    """An HTTP response: a status, a JSON body (None is no body), and headers beside the content type."""

    status: int
    body: bytes | None
    headers: dict[str, str] = {}
    media_type: str = JSON
    stream: AsyncGenerator[bytes] | None = None
    """In place of the body: parts that are sent as they come. The sender closes it."""


class Call(msgspec.Struct, frozen=True):
    """A checked request, as an endpoint gets it."""

    tq: TaskQ
    policy: Policy
    path: Mapping[str, str]
    query: Any
    body: Any
    headers: Mapping[str, str]
    is_stopping: Callable[[], bool]
    """Whether the server waits for the end of open responses, to stop."""
    actor: Callable[[], Awaitable[str]]
    """Returns the name of the visitor."""
    targets: list[str] = []
    """What was changed so far, where the path does not name it; for the event ``operated``."""

    def many(self, done: int) -> None:
        """Note how many things the endpoint has changed so far."""
        given = {} if self.body is None else msgspec.structs.asdict(self.body)
        words = " ".join(f"{name}={value}" for name, value in given.items() if value and value is not msgspec.UNSET)
        self.targets[:] = [*([f"filter: {words}"] if words else []), f"count: {done}"]

    def may_show(self, asked: bool) -> bool:
        """Return whether params are shown: only if asked for. Raises ProblemError where the host does not allow it."""
        if asked and not self.policy.show_args:
            raise ProblemError(403, "NotShown", "params and values are not shown here: that takes show_args=True")
        return asked


class Success(msgspec.Struct, frozen=True):
    """A response other than a problem, as the OpenAPI document describes it."""

    status: int
    description: str
    type: Any = None
    example: Any = None
    media_type: str = JSON


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one path, with its documentation."""

    name: str
    method: str
    path: str
    tag: str
    summary: str
    description: str
    run: Callable[[Call], Awaitable[ApiResponse]]
    query: Any = None
    body: Any = None
    example: Any = None
    successes: tuple[Success, ...] = ()
    own_problems: tuple[int, ...] = ()
    public: bool = False
    """Whether it is answered without a token: it discloses nothing."""
    tells: bool = False
    """Whether its function tells of its changes by itself."""

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


class Endpoints:
    """A table of endpoints that a decorator fills, in the order in which they are matched."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.all: list[Endpoint] = []

    def __call__(
        self,
        method: str,
        path: str,
        *successes: Success,
        query: Any = None,
        body: Any = None,
        example: Any = None,
        problems: tuple[int, ...] = (),
        public: bool = False,
    ) -> Callable[[Callable[[Call], Awaitable[ApiResponse]]], Callable[[Call], Awaitable[ApiResponse]]]:
        """Register a function: its name is the operation's, its docstring the documentation."""

        def register(run: Callable[[Call], Awaitable[ApiResponse]]) -> Callable[[Call], Awaitable[ApiResponse]]:
            summary, _, description = (run.__doc__ or "").strip().partition("\n")
            self.all.append(
                Endpoint(
                    name=run.__name__,
                    method=method,
                    path=path,
                    tag=self.tag,
                    summary=summary.rstrip("."),
                    description=" ".join(description.split()),
                    run=run,
                    query=query,
                    body=body,
                    example=example,
                    successes=successes,
                    own_problems=problems,
                    public=public,
                )
            )
            return run

        return register


def respond(body: Any = None, status: int = 200, **headers: str) -> ApiResponse:
    """Return a view as a JSON response; a header's name is written with underscores."""
    return ApiResponse(status, None if status == 204 else msgspec.json.encode(body), _headers(headers))


def problem_response(problem: Problem, **headers: str) -> ApiResponse:
    """Return a problem as a response."""
    return ApiResponse(problem.status, msgspec.json.encode(problem), _headers(headers), MEDIA_TYPE)


def _headers(given: dict[str, str]) -> dict[str, str]:
    # A response must not be cached, and must never be taken for markup.
    always = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return always | {name.replace("_", "-"): value for name, value in given.items()}

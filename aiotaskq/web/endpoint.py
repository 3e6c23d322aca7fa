"""One endpoint of the API, independent of a framework; from a request to its response: checks, and the run of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from aiotaskq.errors import AiotaskqError
from aiotaskq.operations.table import read_as
from aiotaskq.web.access import is_encrypted, is_same_origin
from aiotaskq.web.policy import Policy
from aiotaskq.web.problem_details import MEDIA_TYPE, Problem, ProblemError, answered

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

S = TypeVar("S", bound=msgspec.Struct)
JSON = "application/json"
METHODS_THAT_CHANGE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, kw_only=True)
class Request:
    """What endpoints and pages need to know of an HTTP request; the adapter of each framework makes it."""

    method: str
    """In capitals."""
    headers: Mapping[str, str]
    """Looked up without regard to case."""
    path: Mapping[str, str]
    """The decoded parts of the path by name; of a page its ``name`` below the prefix, "" for the overview."""
    query: list[tuple[str, str]]
    """The decoded query parameters."""
    original: Any
    """The request of the framework, for ``allow`` and ``actor``."""
    scheme: str
    """``https`` if the connection to this server is encrypted."""
    address: str
    """The client's address, "" if it is not known."""
    logged_in: Callable[[str], None]
    """Gives ``allow`` and ``actor`` the user of the dashboard's session."""
    chunks: Callable[[], AsyncIterator[bytes]]
    """Returns the body as it arrives."""
    is_stopping: Callable[[], bool]
    """Whether the server waits for the end of open responses, to stop; False where it does not tell."""

    @property
    def secure(self) -> bool:
        """Whether the client's connection is encrypted, as far as the server knows."""
        return is_encrypted(self.scheme, self.headers)


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


# ---- from a request to its response ----

BODY_TIMEOUT = 10.0  # seconds in which a body has to arrive


async def dispatch(endpoint: Endpoint, tq: TaskQ, policy: Policy, request: Request) -> Response:
    """Check a request and run the endpoint; a request that is refused gets a problem as its response.

    An error that the client cannot have caused is raised, so that the framework's error handling reports it.
    """
    try:
        if endpoint.changes:
            _check_change(policy, request.headers)
        query = _query(endpoint, policy, request.query)
        body = None if endpoint.body is None else await _body(endpoint.body, policy, request)
        return await endpoint.run(Call(tq, policy, request, query, body))
    except (ProblemError, AiotaskqError) as error:
        return problem_response(answered(error, f"{endpoint.method} {endpoint.path}"))


def _check_change(policy: Policy, headers: Mapping[str, str]) -> None:
    if policy.read_only:
        raise ProblemError(403, "ReadOnly", "this API is read-only; nothing can be changed here")
    if not is_same_origin(headers, policy.origins):
        raise ProblemError(
            403, "CrossOrigin", "a page of another origin asked for a change; name it in origins if it may"
        )


def _query(endpoint: Endpoint, policy: Policy, pairs: list[tuple[str, str]]) -> Any:
    """Return the checked query parameters, None where the endpoint has none."""
    kind = endpoint.query
    known = () if kind is None else kind.__struct_encode_fields__
    if not endpoint.public:  # a probe may send what it likes
        # A misspelt filter must not mean every task.
        for name, _ in pairs:
            if name not in known and name not in policy.own_query:
                said = f"there are {', '.join(known)}" if known else "there are none here"
                raise ProblemError(422, "UnknownParameter", f"query: unknown parameter {name!r:.60}; {said}")
    if kind is None:
        return None
    lists = {field.name for field in msgspec.structs.fields(kind) if _is_list(field.type)}
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name not in known:
            continue
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise ProblemError(422, "ValidationError", f"{name}: given more than once")
        else:
            values[name] = value
    return read_as(kind, values, strict=False)


def _is_list(kind: Any) -> bool:
    info = msgspec.inspect.type_info(kind)
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    kinds = tuple(each.type if isinstance(each, msgspec.inspect.Metadata) else each for each in kinds)
    return any(isinstance(each, msgspec.inspect.ListType) for each in kinds)


def media_type_of(request: Request) -> str:
    """Return what a request says that its body is, "" if it says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _body(kind: type[S], policy: Policy, request: Request) -> S:
    media_type, data = media_type_of(request), b""
    if media_type in ("", JSON):
        large, late = f"body: more than {policy.max_body:,} bytes", f"body: did not arrive within {BODY_TIMEOUT:g} s"
        data = await read_body(request, policy.max_body, large, late)
    optional = not any(each.required for each in msgspec.structs.fields(kind))
    if not media_type and optional and not data:
        return kind()
    if media_type != JSON:
        raise ProblemError(
            415, "UnsupportedMediaType", f"content-type: {JSON} is needed (got {media_type or 'none'!r:.60})"
        )
    try:
        return read_as(kind, msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # the latter for bytes in a string that are not UTF-8
        raise ProblemError(400, "NotJson", f"body: {error}") from None
    except RecursionError:
        raise ProblemError(400, "NotJson", "body: nested too deeply") from None


async def read_body(request: Request, limit: int, large: str, late: str) -> bytes:
    """Read the body of a request. Raises ProblemError, which says this, where it is too large or too late."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise ProblemError(413, "BodyTooLarge", f"body: {announced[:20]} bytes are more than {limit:,}")
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.chunks():
                data += chunk
                if len(data) > limit:
                    raise ProblemError(413, "BodyTooLarge", large)
    except TimeoutError:
        raise ProblemError(408, "BodyTooSlow", late) from None
    return bytes(data)

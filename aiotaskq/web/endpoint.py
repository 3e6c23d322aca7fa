"""One endpoint of the API, independent of a framework; from a request to its response: checks, and the run of it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from aiotaskq.core.errors import missing
from aiotaskq.errors import AiotaskqError
from aiotaskq.operations.table import parameters_of, read_as
from aiotaskq.web.access import is_same_origin
from aiotaskq.web.policy import Policy
from aiotaskq.web.problem_details import MEDIA_TYPE, Problem, ProblemError, answered

try:
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
except ModuleNotFoundError:
    raise missing("starlette", "web") from None

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

S = TypeVar("S", bound=msgspec.Struct)
JSON = "application/json"


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
    """One method on one path; the docstring of its function is its documentation."""

    name: str
    method: str = "GET"
    path: str
    tag: str
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
        return self.method != "GET"

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


HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Of each response: it must not be cached, and must never be taken for markup."""


def respond(body: Any = None, status: int = 200, media_type: str = JSON, **headers: str) -> Response:
    """Return a view as a JSON response, without a body for 204; a header's name is written with underscores."""
    named = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    if status == 204:
        return Response(None, status, named)
    return Response(msgspec.json.encode(body), status, named, media_type)


def problem_response(problem: Problem, **headers: str) -> Response:
    """Return a problem as a response."""
    return respond(problem, problem.status, MEDIA_TYPE, **headers)


# ---- from a request to its response ----

BODY_TIMEOUT = 10.0  # seconds in which a body has to arrive


def responder(endpoint: Endpoint, tq: TaskQ, policy: Policy) -> Callable[[Request], Awaitable[Response]]:
    """Return what checks a request and runs the endpoint; a request that is refused gets a problem as its response.

    An error that the client cannot have caused is raised, so that the framework's error handling reports it.
    """

    async def respond_to(request: Request) -> Response:
        try:
            if endpoint.changes:
                _check_change(policy, request.headers)
            query = _query(endpoint, policy, request.query_params.multi_items())
            body = None if endpoint.body is None else await _body(endpoint.body, policy, request)
            return await endpoint.run(Call(tq, policy, request, query, body))
        except (ProblemError, AiotaskqError) as error:
            return problem_response(answered(error, f"{endpoint.method} {endpoint.path}"))

    return respond_to


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
    lists = _lists(kind)
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


@functools.cache
def _lists(kind: type[msgspec.Struct]) -> set[str]:
    return {each.name for each in parameters_of(kind) if each.kind is list}


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
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise ProblemError(413, "BodyTooLarge", large)
    except TimeoutError:
        raise ProblemError(408, "BodyTooSlow", late) from None
    except ClientDisconnect:  # the application is not at fault: no traceback in its log
        raise ProblemError(400, "Disconnected", "body: the client closed the connection") from None
    return bytes(data)

"""From a request to a response: checks the origin, the query and the body, and runs the endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from aiotaskq.errors import AiotaskqError
from aiotaskq.operations.table import read_as
from aiotaskq.web.access import is_same_origin
from aiotaskq.web.endpoint import JSON, Call, Endpoint, Request, Response, problem_response
from aiotaskq.web.policy import Policy
from aiotaskq.web.problem_details import ProblemError, answered

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

BODY_TIMEOUT = 10.0  # seconds in which a body has to arrive

S = TypeVar("S", bound=msgspec.Struct)


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
    media_type = media_type_of(request)
    optional = not any(each.required for each in msgspec.structs.fields(kind))
    if not media_type and optional and not await _read(policy.max_body, request):
        return kind()
    if media_type != JSON:
        raise ProblemError(
            415, "UnsupportedMediaType", f"content-type: {JSON} is needed (got {media_type or 'none'!r:.60})"
        )
    data = await _read(policy.max_body, request)
    try:
        return read_as(kind, msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # the latter for bytes in a string that are not UTF-8
        raise ProblemError(400, "NotJson", f"body: {error}") from None
    except RecursionError:
        raise ProblemError(400, "NotJson", "body: nested too deeply") from None


async def _read(limit: int, request: Request) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise ProblemError(413, "BodyTooLarge", f"body: {announced[:20]} bytes are more than {limit:,}")
    late = f"body: did not arrive within {BODY_TIMEOUT:g} s"
    return await read_body(request, limit, f"body: more than {limit:,} bytes", late)


async def read_body(request: Request, limit: int, large: str, late: str) -> bytes:
    """Read the body of a request. Raises ProblemError, which says this, where it is too large or too late."""
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

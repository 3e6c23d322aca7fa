"""One operation of the API: what it is called, takes and answers, and how a request becomes an answer.

Whoever mounts it gives a ``Request`` and writes the ``Answer``; everything in between is the same in every framework.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.task import check_int
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.log import log
from aiotaskq.web.access import is_same_origin
from aiotaskq.web.problem_details import MEDIA_TYPE, Problem, Refused, problem_of

JSON = "application/json"
MAX_BODY = 512 * 1024  # bytes; params are at most 256 KiB of JSON, and escapes make text longer
PATIENCE = 10.0  # seconds in which a body has to arrive
CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})

S = TypeVar("S", bound=msgspec.Struct)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the host allows."""

    read_only: bool = False
    show_args: bool = False
    origins: frozenset[str] = frozenset()
    max_body: int = MAX_BODY


def check_taskq(what: str, tq: object) -> None:
    """Raise ValidationError unless ``tq`` is a task queue of an event loop."""
    if not isinstance(tq, TaskQ):
        kind = f"{type(tq).__module__}.{type(tq).__name__}"
        raise ValidationError(
            f"{what}: an aiotaskq.TaskQ is needed (got {kind}); make it with `from aiotaskq import TaskQ`, and push "
            "with tq.sync.push(…) or task.push_sync(…) in `def` endpoints and threads"
        )


def make_policy(
    *, read_only: bool = False, show_args: bool = False, origins: Collection[str] = (), max_body: int = MAX_BODY
) -> Policy:
    """Check what the host allows.

    Args:
        read_only: whoever asks for a change gets 403.
        show_args: a task and a schedule are shown with params and result, lists too if they are asked to
            (``?show=params``), and stored values can be read. Without it none of them ever is.
        origins: other origins (``https://ops.example.com``) whose pages may ask for changes.
        max_body: bytes of a request's body; longer ones get 413.

    Raises:
        ValidationError: for a body limit that is no number of bytes, or origins given as one text.
    """
    if isinstance(origins, str):
        raise ValidationError(f"origins: a list is needed, not one text (got {origins!r:.60})")
    check_int("max_body", max_body, 1)
    return Policy(read_only=read_only, show_args=show_args, origins=frozenset(origins), max_body=max_body)


class Request(Protocol):
    """What an operation needs to know of a request; header names are lower case."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, looked up without regard to case."""

    @property
    def path(self) -> Mapping[str, str]:
        """The decoded parts of the path by name."""

    @property
    def query(self) -> list[tuple[str, str]]:
        """The decoded query parameters."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""


class Answer(msgspec.Struct, frozen=True):
    """What goes back: a status, a JSON body (None is no body), and headers beside the content type."""

    status: int
    body: bytes | None
    headers: dict[str, str] = {}
    media_type: str = JSON


class Call(msgspec.Struct, frozen=True):
    """A checked request, as an operation gets it."""

    tq: TaskQ
    policy: Policy
    path: Mapping[str, str]
    query: Any
    body: Any

    def may_show(self, asked: bool) -> bool:
        """Whether params are shown: only if they are asked for. Raises Refused where the host does not allow it."""
        if asked and not self.policy.show_args:
            raise Refused(403, "NotShown", "params and values are not shown here: that takes show_args=True")
        return asked


class Good(msgspec.Struct, frozen=True):
    """An answer other than a problem, for the document."""

    status: int
    says: str
    type: Any = None
    example: Any = None


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one path, with what documents it."""

    name: str
    method: str
    path: str
    tag: str
    summary: str
    description: str
    run: Callable[[Call], Awaitable[Answer]]
    query: Any = None
    body: Any = None
    example: Any = None
    answers: tuple[Good, ...] = ()
    refuses: tuple[int, ...] = ()
    open: bool = False
    """Answers without a token: it tells nothing that anybody could not know."""

    @property
    def changes(self) -> bool:
        """Whether it changes something."""
        return self.method in CHANGES

    @property
    def problems(self) -> tuple[int, ...]:
        """The statuses of the problems it may answer with."""
        found = {*self.refuses, *([] if self.open else [503])}
        if self.changes:
            found.add(403)
        if self.query is not None or self.body is not None or "{" in self.path:
            found.add(422)
        if "{" in self.path:
            found.add(404)  # also where a control character keeps the path from being found
        if self.body is not None:
            found |= {400, 408, 413, 415}
        return tuple(sorted(found))


class Operations:
    """A table of operations that a decorator fills, in the order in which they are matched."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.all: list[Operation] = []

    def __call__(
        self,
        method: str,
        path: str,
        *good: Good,
        query: Any = None,
        body: Any = None,
        example: Any = None,
        refuses: tuple[int, ...] = (),
        open: bool = False,
    ) -> Callable[[Callable[[Call], Awaitable[Answer]]], Callable[[Call], Awaitable[Answer]]]:
        """Register a function; its name is the operation's, its docstring says what it does."""

        def register(run: Callable[[Call], Awaitable[Answer]]) -> Callable[[Call], Awaitable[Answer]]:
            summary, _, more = (run.__doc__ or "").strip().partition("\n")
            self.all.append(
                Operation(
                    name=run.__name__,
                    method=method,
                    path=path,
                    tag=self.tag,
                    summary=summary.rstrip("."),
                    description=" ".join(more.split()),
                    run=run,
                    query=query,
                    body=body,
                    example=example,
                    answers=good,
                    refuses=refuses,
                    open=open,
                )
            )
            return run

        return register


def say(body: Any = None, status: int = 200, **headers: str) -> Answer:
    """Answer with a view, as JSON; a header's name is written with underscores."""
    return Answer(status, None if status == 204 else msgspec.json.encode(body), _headers(headers))


def say_problem(problem: Problem, **headers: str) -> Answer:
    """Answer with a problem."""
    return Answer(problem.status, msgspec.json.encode(problem), _headers(headers), MEDIA_TYPE)


def _headers(given: dict[str, str]) -> dict[str, str]:
    # What is said holds for this moment, and is never anything but data, whatever is stored in it.
    always = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return always | {name.replace("_", "-"): value for name, value in given.items()}


async def perform(operation: Operation, tq: TaskQ, policy: Policy, request: Request) -> Answer:
    """Check a request, run the operation, and answer, also where it is refused.

    An error that is a fault of ours is raised: the framework's own handling of those shows and reports it.
    """
    try:
        if operation.changes:
            _check_change(policy, request.headers)
        query = None if operation.query is None else _query(operation.query, request.query)
        body = None if operation.body is None else await _body(operation.body, policy, request)
        return await operation.run(Call(tq, policy, request.path, query, body))
    except Refused as refused:
        return say_problem(refused.problem)
    except AiotaskqError as error:
        problem = problem_of(error)
        if problem is None:
            raise
        if problem.status >= 500:
            log.warning("{} {}: {}: {}", operation.method, operation.path, type(error).__name__, error)
        return say_problem(problem)


def _check_change(policy: Policy, headers: Mapping[str, str]) -> None:
    if policy.read_only:
        raise Refused(403, "ReadOnly", "this API is read-only; nothing can be changed here")
    site, origin, host = (headers.get(name) for name in ("sec-fetch-site", "origin", "host"))
    if not is_same_origin(site, origin, host, policy.origins):
        raise Refused(403, "CrossOrigin", "a page of another origin asked for a change; name it in origins if it may")


def _query(kind: type[S], pairs: list[tuple[str, str]]) -> S:
    lists = {field.name for field in msgspec.structs.fields(kind) if _is_list(field.type)}
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise Refused(422, "ValidationError", f"{name}: given more than once")
        else:
            values[name] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(422, "ValidationError", f"query: {error}") from None


def _is_list(kind: Any) -> bool:
    info = msgspec.inspect.type_info(kind)
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    kinds = tuple(each.type if isinstance(each, msgspec.inspect.Metadata) else each for each in kinds)
    return any(isinstance(each, msgspec.inspect.ListType) for each in kinds)


async def _body(kind: type[S], policy: Policy, request: Request) -> S:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise Refused(415, "UnsupportedMediaType", f"content-type: {JSON} is needed (got {media_type or 'none'!r:.60})")
    data = await _read(policy.max_body, request)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise Refused(422, "ValidationError", f"body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # the latter for bytes in a string that are not UTF-8
        raise Refused(400, "NotJson", f"body: {error}") from None
    except RecursionError:
        raise Refused(400, "NotJson", "body: nested too deeply") from None


async def _read(limit: int, request: Request) -> bytes:
    """Read a body that is neither too long nor too slow: memory and time are bounded whatever is sent."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise Refused(413, "BodyTooLarge", f"body: {announced[:20]} bytes are more than {limit:,}")
    data = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.chunks():
                data += chunk
                if len(data) > limit:
                    raise Refused(413, "BodyTooLarge", f"body: more than {limit:,} bytes")
    except TimeoutError:
        raise Refused(408, "BodyTooSlow", f"body: did not arrive within {PATIENCE:g} s") from None
    return bytes(data)

"""What the host of the API allows: changes, params and results, other origins, body sizes, the visitor's name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from aiotaskq.core.errors import check_int
from aiotaskq.errors import ValidationError

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

MAX_BODY = 512 * 1024  # bytes; params are at most 256 KiB of JSON, and escapes make text longer

Actor = Callable[[Any], str | Awaitable[str]]
"""Called with the framework's request: the name of the visitor. It may be a coroutine function."""
Allow = Callable[[Any, str], bool | Awaitable[bool]]
"""Called with the framework's request and the name of an action, or ``"view"``: whether the visitor may."""
CheckUser = Callable[[str, str], Any | Awaitable[Any]]
"""Called with a user name and a password: something true for a valid login, else None."""


class RunningOptions(TypedDict, total=False):
    """How workers run in an application, as in ``TaskQ.running``."""

    concurrency: int
    queues: Sequence[str] | None
    scheduler: bool
    workers: bool | None
    """False only opens the task queue, for a process that pushes what others run."""
    drain: float | timedelta
    grace: float | timedelta


class OperationsOptions(TypedDict, total=False):
    """What the operations API of an application has and allows; each may be left out."""

    operations: Collection[str] | None
    """Names of the operations wanted (``["healthz", "readyz"]``); default all."""
    read_only: bool
    """Every request for a change is answered with 403."""
    show_args: bool
    """Tasks and schedules are shown with params and results where that is asked for (``?params=true``), and stored
    values can be read. Without it none of them ever is, and no filter finds them: of an error only the type is shown
    and searched."""
    origins: Collection[str]
    """Other origins (``https://ops.example.com``) whose pages may ask for changes."""
    max_body: int
    """Bytes of a request's body; longer ones get 413."""
    own_query: Collection[str]
    """Names of query parameters that the host itself reads, such as ``key`` in its access control. Any other parameter
    that an operation does not know is refused."""
    actor: Actor | None
    """Called with the framework's request at a change; returns the name of the visitor, for the audit log and the hook
    ``operated``. It may be a coroutine function."""


class DashboardOptions(TypedDict, total=False):
    """What the dashboard of an application shows, and to whom; each may be left out."""

    allow: Allow | None
    """Called with the framework's request and the name of an action, or ``"view"``; returns whether the visitor may. It
    may be a coroutine function."""
    read_only: bool
    """No action is offered or taken."""
    show_args: bool
    """Params, results and stored values are shown."""
    origins: Collection[str]
    """Other origins whose pages may send forms."""
    actor: Actor | None
    """Called with the framework's request; returns the name of the visitor, for the audit log. It may be a coroutine
    function. By default the name of the login."""
    login: CheckUser | None
    """Called with a user name and a password; returns something true for a valid login, else None. It may be a
    coroutine function. Then the pages have a form of their own, and a session of 12 hours."""
    secret: str | None
    """Signs the sessions of ``login``: at least 16 ASCII characters, the same text in every process."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The values of ``OperationsOptions``. Raises ValidationError for a wrong one."""

    operations: Collection[str] | None = None
    read_only: bool = False
    show_args: bool = False
    origins: Collection[str] = ()
    max_body: int = MAX_BODY
    own_query: Collection[str] = ()
    actor: Actor | None = None

    def __post_init__(self) -> None:
        for name, value in (("origins", self.origins), ("own_query", self.own_query)):
            if isinstance(value, str):
                raise ValidationError(f"{name}: a list is needed, not one text (got {value!r:.60})")
        check_int("max_body", self.max_body, 1)


def running(tq: TaskQ, options: RunningOptions) -> Callable[[], AbstractAsyncContextManager[TaskQ]]:
    """Return what runs workers in an application. Raises TypeError for an unknown option.

    Under ``override`` no workers run, whatever ``workers`` is.
    """
    given: RunningOptions = {**options, "workers": options.get("workers") and None}  # True is for the real run only
    inspect.signature(tq.running).bind(**given)
    return functools.partial(tq.running, **given)


def original(request: Any) -> Any:
    """Return the request of the framework, for ``allow`` and ``actor``."""
    return request.scope.get("aiotaskq.original", request)


async def actor_of(actor: Actor | None, request: Any) -> str:
    """Return the name of the visitor, "" where nothing tells it."""
    if actor is None:
        return ""
    found = actor(original(request))
    return str(await found if inspect.isawaitable(found) else found)

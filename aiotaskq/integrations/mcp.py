"""A server of the Model Context Protocol: an assistant reads a store through it, and retries with its user's consent.

``aiotaskq mcp`` runs it on stdin and stdout. See https://modelcontextprotocol.io/specification for the protocol.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import msgspec
from pydantic import Field

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.extras import missing
from aiotaskq.core.instants import to_iso
from aiotaskq.core.outcome import RETRYABLE
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.hidden import error_filter
from aiotaskq.operations.limits import limit_view
from aiotaskq.operations.table import Access, Operation, parameters, perform, read
from aiotaskq.runtime.audit import audit
from aiotaskq.runtime.queue.bulk import ids_named
from aiotaskq.runtime.waiting import Waiting, waiting
from aiotaskq.web.views import task_view

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
except ImportError:
    raise missing("mcp", "mcp") from None

P = ParamSpec("P")
T = TypeVar("T")
Json = dict[str, Any]

MOST = 100
"""The longest list that a tool returns."""
ACTOR = "mcp"
"""The actor of the audit events."""

State = Literal["pending", "running", "completed", "failed", "cancelled", "expired"]
Ended = Literal["failed", "cancelled", "expired"]
TaskId = Annotated[str, Field(description="The id of a task, or the beginning of one.")]
Type = Annotated[str | None, Field(description="Only tasks of this type.")]
Queue = Annotated[str | None, Field(description="Only tasks of this queue.")]
ErrorText = Annotated[
    str | None,
    Field(description="Only tasks whose error contains this text; where messages are hidden, whose type begins so."),
]
Limit = Annotated[int, Field(ge=1, le=MOST, description="The longest list to return.")]
DryRun = Annotated[bool, Field(description="True only counts. Pass False once the user has agreed to the count.")]

READS = """Reads a store of the task queue aiotaskq: what runs, what waits and why, what failed.
Begin with stats_get; list_tasks finds tasks, show_task tells all of one, why_waiting says what a pending one
waits for.
Times are UTC, durations seconds."""
WRITES = """
Changes are asked for twice: retry_tasks and cancel_task only count unless dry_run is False. Show the count first."""
HIDDEN = """
Params, results and messages of errors and of progress are hidden: the server was started without --show-args."""


def mcp_server(tq: TaskQ, *, write: bool = False, show_args: bool = False) -> MCPServer[Any]:
    """Return a server with the tools of an open TaskQ.

    Args:
        write: also the tools that retry and cancel tasks, and change queues and limits. Each change is logged and
            emitted as an ``operated`` event with the actor ``mcp``.
        show_args: tools return params, results and messages of errors, which may hold personal data.
    """
    instructions = READS + (WRITES if write else "") + ("" if show_args else HIDDEN)
    version = sys.modules["aiotaskq"].__version__
    server: MCPServer[Any] = MCPServer("aiotaskq", version=version, instructions=instructions, log_level="WARNING")
    tools = _Tools(tq, show_args)
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    for each in (
        tools.list_tasks,
        tools.show_task,
        tools.why_waiting,
    ):
        server.add_tool(_told(each), annotations=reads)
    changes = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
    if write:
        stops = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
        server.add_tool(_told(tools.retry_tasks), annotations=changes)
        server.add_tool(_told(tools.cancel_task), annotations=stops)
    for operation in OPERATIONS.values():
        if write or not operation.changes:
            server.add_tool(_told(_tool(operation, tq, show_args)), annotations=changes if operation.changes else reads)
    return server


def _told(tool: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Return a tool whose errors reach the assistant as their text, without a traceback in the log."""

    @functools.wraps(tool)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await tool(*args, **kwargs)
        except AiotaskqError as error:
            raise ToolError(str(error)) from error

    return call


_KINDS = {list: list[str], dict: dict[str, Any], datetime: float | str}


def _tool(operation: Operation, tq: TaskQ, show: bool) -> Callable[..., Awaitable[Json]]:
    """Return the tool of an operation in the table."""

    async def tool(**given: Any) -> Json:
        params = read(operation, {name: value for name, value in given.items() if value is not None})
        return _json(await perform(operation, Access(tq, show), params, "mcp", ACTOR))

    taken = []
    for each in parameters(operation):
        told = Field(description=each.description, ge=each.least, le=each.most)
        kind = _KINDS.get(each.kind, each.kind)
        if each.words:
            word = Literal.__getitem__(each.words)
            kind = list[word] if each.kind is list else word  # type: ignore[valid-type]
        kind = Annotated[kind if each.required else kind | None, told]
        default: Any = inspect.Parameter.empty if each.required else each.default
        taken.append(inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    tool.__name__ = operation.name.replace(".", "_")
    tool.__doc__ = f"{operation.summary} {operation.description}".strip()
    tool.__signature__ = inspect.Signature(taken, return_annotation=Json)  # type: ignore[attr-defined]
    tool.__annotations__ = {**{each.name: each.annotation for each in taken}, "return": Json}
    return tool


class _Tools:
    """The functions behind the tools; their docstrings are the descriptions that an assistant reads."""

    def __init__(self, tq: TaskQ, show: bool) -> None:
        self._tq, self._show = tq, show

    # ---- reads ----

    async def list_tasks(
        self,
        status: Annotated[list[State] | None, Field(description="Only tasks of these statuses.")] = None,
        type: Type = None,
        queue: Queue = None,
        error: ErrorText = None,
        limit: Limit = 20,
        after: Annotated[str | None, Field(description="Continue after the task of this id.")] = None,
    ) -> Json:
        """List tasks, the newest first. ``next`` is the ``after`` of the next page, null on the last one."""
        where = {"status": status, "type": type, "queue": queue, **error_filter(error, self._show)}
        found = await self._tq.find(**_given(where), limit=limit + 1, after=after)
        page = found[:limit]
        return {
            "tasks": [_json(task_view(task, one=False, show=self._show)) for task in page],
            "next": page[-1].task_id if len(found) > limit else None,
        }

    async def show_task(self, task_id: TaskId) -> Json:
        """Show a task: its status, attempts, errors, and if it is pending, what it waits for."""
        task = await self._tq.get(await self._id(task_id))
        found = _json(task_view(task, one=True, show=self._show))
        return {**found, "waiting": _waiting(await waiting(self._tq.queue, task))}

    async def why_waiting(self, task_id: TaskId) -> Json:
        """Say what a pending task waits for.

        ``reason``: paused (its queue), delayed or retry (until ``until``), sleeping (its handler, until ``until``),
        event (the ``event`` of this key has not come), unknown_type (no worker has its handler, or the ``version`` of
        it that began the task), parents (tasks before it in a workflow), limit_paused, full or rate (see ``limit``),
        passing (about to be ready), ready (a free worker: see ``workers``, ``slots``, ``busy``, ``ahead``), or null if
        it is not pending.
        """
        task = await self._tq.get(await self._id(task_id))
        return {"task_id": task.task_id, "status": str(task.status)} | (
            _waiting(await waiting(self._tq.queue, task)) or {"reason": None}
        )

    # ---- changes ----

    async def retry_tasks(
        self,
        task_id: Annotated[str | None, Field(description="One task, instead of all that match.")] = None,
        status: Annotated[list[Ended] | None, Field(description="Statuses to retry; failed if left out.")] = None,
        type: Type = None,
        queue: Queue = None,
        error: ErrorText = None,
        dry_run: DryRun = True,
    ) -> Json:
        """Put failed tasks back as pending, their retries unused: one by its id, or all that match the filters."""
        where = _given({"status": status, "type": type, "queue": queue, **error_filter(error, self._show)})
        if (task_id is None) == (not where):
            raise ValidationError("retry_tasks: give either task_id, or at least one of status, type, queue and error")
        if task_id is not None:
            found = await self._id(task_id)
            if dry_run:
                task = await self._tq.get(found)
                return {"count": int(task.status in RETRYABLE), "dry_run": True}
            await self._tq.retry(found)
            await self._audit("retry-task", found)
            return {"count": 1, "dry_run": False}
        where.setdefault("status", ["failed"])
        if dry_run:
            return {"count": await self._tq.count(**where), "dry_run": True}
        count = await self._tq.retry_many(**where)
        words = " ".join(f"{name}={value}" for name, value in where.items())
        await self._audit("retry-tasks", f"filter: {words}", f"count: {count}")
        return {"count": count, "dry_run": False}

    async def cancel_task(self, task_id: TaskId, dry_run: DryRun = True) -> Json:
        """Cancel a pending task, or ask a running one to stop."""
        found = await self._id(task_id)
        task = await self._tq.get(found)
        if dry_run:
            return {"task_id": found, "status": str(task.status), "count": int(not task.final), "dry_run": True}
        cancelled = await self._tq.cancel(found)
        if cancelled:
            await self._audit("cancel-task", found)
        task = await self._tq.get(found)
        return {"task_id": found, "status": str(task.status), "count": int(cancelled), "dry_run": False}

    async def _audit(self, action: str, *targets: str) -> None:
        await audit(self._tq.queue, "mcp", action, ACTOR, targets)

    async def _id(self, text: str) -> str:
        """Return the id that is or begins with a text. Raises ValidationError where several do."""
        found = await ids_named(self._tq.queue.backend, text)
        if len(found) > 1:
            raise ValidationError(f"task_id: several ids begin with {text!r}; give more of it")
        return found[0] if found else text  # where there is none, the read of the task says so


def _given(where: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in where.items() if value is not None}


def _json(value: Any) -> Json:
    found: Json = msgspec.to_builtins(value)
    return found


def _waiting(found: Waiting | None) -> Json | None:
    if found is None:
        return None
    told = _json(found) | {"until": to_iso(found.until)}
    if found.limit is not None:
        told["limit"] = _json(limit_view(found.limit))
    return told

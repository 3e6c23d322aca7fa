"""A server of the Model Context Protocol: an assistant reads a store through it; if allowed, it also changes it.

``aiotaskq mcp`` runs it on stdin and stdout. See https://modelcontextprotocol.io/specification for the protocol.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.errors import missing
from aiotaskq.errors import AiotaskqError
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.table import MANY, NONE, Access, Operation, parameters_of, perform, read

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.server.mcpserver.tools import Tool
    from mcp.types import ToolAnnotations
except ImportError:
    raise missing("mcp", "mcp") from None

Json = dict[str, Any]

ACTOR = "mcp"
"""The actor in the audit log."""
ADDS = ("push", "add", "emit", "retry", "rerun", "run_now", "backfill")
"""Verbs that only add: nothing is replaced or taken away."""

READS = """Reads a store of the task queue aiotaskq: what runs, what waits and why, what failed.
Begin with stats_get; tasks_list finds tasks, tasks_get tells all of one, also what a pending one waits for;
failures_list groups what has failed by its errors.
The id of a thing may be shortened to its beginning. Times are UTC, durations seconds."""
WRITES = """
A tool whose name ends with _many changes all that match. It only counts unless dry_run is False; ask the user then."""
HIDDEN = """
Params, results and messages of errors and of progress are hidden: the server was started without --show-args."""


def mcp_server(tq: TaskQ, *, write: bool = False, show_args: bool = False) -> MCPServer[Any]:
    """Return a server with the tools of an open TaskQ.

    Args:
        write: also the tools that change something: tasks, schedules, values, limits, workers … Each change is logged
            and calls the hook ``operated`` with the actor ``mcp``.
        show_args: tools return params, results and messages of errors, which may hold personal data.
    """
    instructions = READS + (WRITES if write else "") + ("" if show_args else HIDDEN)
    version = sys.modules["aiotaskq"].__version__
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    adds = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
    changes = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
    tools: list[Tool] = []
    for operation in OPERATIONS.values():
        if write or not operation.changes:
            hints = reads if not operation.changes else adds if operation.verb.removesuffix(MANY) in ADDS else changes
            made = _Tool.from_function(_tool(operation, tq, show_args), annotations=hints)
            made.parameters["additionalProperties"] = False
            tools.append(made)
    return MCPServer("aiotaskq", version=version, instructions=instructions, tools=tools, log_level="WARNING")


class _Tool(Tool):
    """A tool that refuses unknown arguments: a misspelt filter must not mean every task."""

    async def run(self, arguments: Json, *args: Any, **kwargs: Any) -> Any:
        known = self.parameters["properties"]
        for name in arguments:
            if name not in known:
                said = f"there are {', '.join(known)}" if known else "there are none here"
                raise ToolError(f"{self.name}: unknown argument {name!r:.60}; {said}")
        return await super().run(arguments, *args, **kwargs)


_KINDS = {list: list[str], dict: dict[str, Any], datetime: float | str}


def _tool(operation: Operation, tq: TaskQ, show: bool) -> Callable[..., Awaitable[Json]]:
    """Return the tool of an operation. Its errors reach the assistant as their text, without a traceback in the log."""
    known = parameters_of(operation.params)
    nullable = {each.name for each in known if each.nullable}
    maybe_null = {each.name for each in known if each.required and each.kind is Any}

    async def tool(**given: Any) -> Json:
        values = {name: value for name, value in given.items() if value is not None or name in maybe_null}
        values |= {name: None for name in nullable if values.get(name) == NONE}
        try:
            params = read(operation, values)
            answer = await perform(operation, Access(tq, show), params, "mcp", ACTOR, shortened=True)
        except AiotaskqError as error:
            raise ToolError(str(error)) from error
        found: Json = msgspec.to_builtins(answer)
        return found

    taken = []
    for each in known:
        description = each.description + (f"; {NONE} takes it away" if each.nullable else "")
        kind = _KINDS.get(each.kind, each.kind)
        if each.words:
            word = Literal.__getitem__(each.words)
            kind = list[word] if each.kind is list else word  # type: ignore[valid-type]
        kind = Annotated[kind, Field(ge=each.least, le=each.most)]
        if each.nullable:
            kind = kind | Literal[NONE]
        kind = Annotated[kind if each.required else kind | None, Field(description=description)]
        default: Any = inspect.Parameter.empty if each.required else each.default
        if each.name == "dry_run" and operation.verb.endswith(MANY):
            default = True
        taken.append(inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    tool.__name__ = operation.name.replace(".", "_")
    tool.__doc__ = f"{operation.summary} {operation.description}".strip()
    tool.__signature__ = inspect.Signature(taken, return_annotation=Json)  # type: ignore[attr-defined]
    tool.__annotations__ = {**{each.name: each.annotation for each in taken}, "return": Json}
    return tool

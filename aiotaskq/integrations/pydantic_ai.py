"""Agents of Pydantic AI in tasks: each request to a model and each call of a tool is a durable step.

``Agent(…, name="support", capabilities=[Durability()])``, and ``await agent.run(…)`` in an ``async def`` handler. The
answers of the model and of the tools are stored. A later run of the task, after a crash, a failure or a sleep, gets
them from there. Outside of a task the agent runs as any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Literal, cast

from aiotaskq.core.errors import missing
from aiotaskq.errors import EventTimeout, ValidationError
from aiotaskq.runtime.context import TaskContext
from aiotaskq.runtime.current import current, inside
from aiotaskq.runtime.steps import step, wait_event

try:
    from pydantic import JsonValue
    from pydantic_ai.capabilities import WrapRunHandler
    from pydantic_ai.durable_exec import (
        JSON_CODEC,
        BaseDurabilityCapability,
        DurabilityEngineSpec,
        DurableOperationBackend,
        DurableOperationId,
        ExternalEventError,
        ExternalEventWaiter,
        JournalCallableOperationBackend,
        ModelRequestId,
        RoleBasedOperationConfig,
        ToolsetCallToolId,
        ToolsetValidateToolArgumentsId,
        conversation_id_from_run_id,
        external_event_scope,
    )
    from pydantic_ai.run import AgentRunResult
    from pydantic_ai.tools import AgentDepsT, RunContext
    from pydantic_ai.toolsets import ToolsetTool
except ImportError:
    raise missing("pydantic-ai-slim", "pydantic-ai") from None

__all__ = ["Durability"]

KEY = "aiotaskq"
"""Of a tool's metadata: ``{"aiotaskq": False}`` calls the tool in the handler itself, and stores nothing of it."""


class Durability(BaseDurabilityCapability[AgentDepsT]):
    """Store what an agent's model and tools have answered, in the steps of the task that runs it.

    The agent needs a ``name``: the steps are ``NAME:model`` and ``NAME:tool:TOOL:CALL``. ``models`` are those, by id,
    that ``agent.run(model=…)`` may name; ``event_stream_handler`` is called inside of the steps.

    A model or tool that raises stores nothing, and is asked again by the next run of the task. A tool that is to sleep,
    to wait for an event or to have steps of its own has ``metadata={"aiotaskq": False}``: it is called anew in each run
    of the task. What a tool has changed in ``deps`` is not repeated. An answer that an agent waits for
    (``RequestInput``) is the event of the token that it hands out: ``tq.emit(token, answer)``.

    Raises ValidationError where the agent runs in another event loop than the worker's, as ``run_sync`` in a thread
    does.
    """

    engine_spec = DurabilityEngineSpec(
        engine_name="aiotaskq",
        durable_unit_noun="step",
        durable_container_noun="task",
        codec=JSON_CODEC,
        serialization_failure=lambda error: ValidationError(f"a step of an agent: {error}"),
        wrapped_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        toolset_lifecycles={"function": "enter-always", "mcp": "enter-in-durable-unit", "dynamic": "enter-never"},
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        tool_config_key=KEY,
    )

    @property
    def in_durable_context(self) -> bool:
        """Whether the agent runs in the handler of a task, and not inside of one of its steps."""
        return _context() is not None

    def get_default_run_id(self) -> str | None:
        """Return an id that is the same in each run of the task, for the first, second, … run of the agent in it."""
        context = _context()
        if context is None:
            return None
        return f"{context.task.task_id}:{self.name}:{context.run_steps().number('step', f'{self.name}:run')}"

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """Return an id made from that of the run."""
        return None if _context() is None else conversation_id_from_run_id(run_id)

    async def wrap_run(self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Let a run wait for events of the task's store."""
        context = _context()
        if context is None:
            return await super().wrap_run(ctx, handler=handler)
        with external_event_scope(_Events(f"{ctx.run_id}")):
            return await super().wrap_run(ctx, handler=handler)

    def get_durable_operation_backend(self) -> DurableOperationBackend[dict[str, Any]]:
        """Return what stores the agent's operations as steps."""
        return _Steps(self.name)


class _Steps(JournalCallableOperationBackend[dict[str, Any]]):
    """Runs each operation of an agent as a step of the task."""

    def __init__(self, agent: str) -> None:
        super().__init__(agent_name=agent, config=_CONFIG)
        self._agent = agent

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: dict[str, Any],
    ) -> object:
        """Return what the step of this operation has stored, or run and store it."""
        context = next((each for each in cache_key if isinstance(each, RunContext)), None)
        run = "" if context is None else _suffix(context.run_id, self._agent)
        match operation_id:
            case ModelRequestId():  # whichever model it is: a newer one asks nothing again that an older one answered
                name = f"{self._agent}{run}:model"
            case ToolsetCallToolId() | ToolsetValidateToolArgumentsId() if context is not None:
                # Calls side by side may begin in another order the next time: each is found by its id.
                verb = "tool" if isinstance(operation_id, ToolsetCallToolId) else "check"
                name = f"{self._agent}{run}:{verb}:{context.tool_name}:{context.tool_call_id}"
        return await step(name, body)


class _Events(ExternalEventWaiter):
    """Waits for an event of the task's store; its key is the token."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    async def wait(
        self, name: str, *, ask: Callable[[str], Awaitable[JsonValue]], timeout: timedelta | None
    ) -> JsonValue:
        """Return what ``ask`` answers, else the value of the event of the token that it was given."""
        token = f"{self._run_id}:{name}"

        async def asked() -> JsonValue:
            return await ask(token)

        answer: JsonValue = await step(f"{token}:ask", asked)
        if answer is not None:
            return answer
        try:
            return cast("JsonValue", await wait_event(token, timeout))
        except EventTimeout as error:
            raise ExternalEventError(str(error)) from error


def _context() -> TaskContext | None:
    """Return the context of the task whose handler runs here; None inside of a step of it. Raises ValidationError."""
    context: TaskContext | None = current.get()
    if context is None:
        return None
    scope = inside.get()
    if scope is not None and scope.task_id == context.task.task_id:
        return None
    if asyncio.get_running_loop() is not context.loop:
        raise ValidationError(
            "Durability: the agent runs in another event loop than the worker; "
            "call it by `await agent.run(…)` in an `async def` handler"
        )
    return context


def _suffix(run_id: str | None, agent: str) -> str:
    """Return what tells the steps of the second run of an agent in a task from those of the first."""
    _, found, number = (run_id or "").rpartition(f":{agent}:")
    return f"#{number}" if found and number != "1" else ""


def _of_tool(_: DurableOperationId, tool: object, name: str) -> dict[str, Any] | Literal[False]:
    """Return False for a tool that is to be called in the handler itself."""
    metadata = tool.tool_def.metadata if isinstance(tool, ToolsetTool) else None
    return False if metadata is not None and metadata.get(KEY) is False else {}


_CONFIG = RoleBasedOperationConfig[dict[str, Any]](model={}, event={}, capability={}, tool={}, resolve_tool=_of_tool)

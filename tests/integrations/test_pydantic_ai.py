"""Agents of Pydantic AI: what their models and tools have answered is stored, so that no later run asks again."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from aiotaskq import Status, TaskFailed, current_task, sleep_for, step, wait_event
from aiotaskq.runtime.run_steps import RunSteps, Step
from aiotaskq.testing import Kit, virtual
from tests.support.late import import_late
from tests.support.machine import within
from tests.testing.backoffs import STEADY

if TYPE_CHECKING:
    from pydantic_ai import Agent, ModelRetry, RunContext
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.external_events import wait_for_external_event
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel
    from pydantic_ai.models.test import TestModel

    from aiotaskq.integrations.pydantic_ai import Durability

LATE = {
    "pydantic_ai": ["Agent", "ModelRetry", "RunContext"],
    "pydantic_ai.exceptions": ["UserError"],
    "pydantic_ai.external_events": ["wait_for_external_event"],
    "pydantic_ai.messages": ["ModelMessage", "ModelResponse", "TextPart", "ToolCallPart", "ToolReturnPart"],
    "pydantic_ai.models.function": ["AgentInfo", "FunctionModel"],
    "pydantic_ai.models.test": ["TestModel"],
    "aiotaskq.integrations.pydantic_ai": ["Durability"],
}
STEPS = 6
"""Of the agent below: three requests, and three calls of tools, two of these side by side."""


@pytest.fixture(scope="module", autouse=True)
def _late() -> None:
    import_late(globals(), LATE)


@pytest.fixture
async def kit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kit]:
    url = f"sqlite:///{tmp_path}/kit.db" if getattr(request, "param", None) == "sqlite" else "memory://"
    async with virtual(url=url, scheduler=False, history=False) as made, asyncio.timeout(within(30)):
        yield made


class World:
    """What is outside of the process: it counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.rome = asyncio.Event()
        """Set once the weather of Rome is stored: the second of two calls ends first."""

    def answer(self, name: str) -> None:
        self.asked[name] += 1


class Forecast(BaseModel):
    city: str
    degrees: int


def scripted(world: World) -> FunctionModel:
    """Two calls of tools at once, one more, and an answer that is made of what they returned."""

    def respond(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        world.answer(f"model {turn}")
        match turn:
            case 0:
                cities = [ToolCallPart("weather", {"city": city}, f"call-{city}") for city in ("Oslo", "Rome")]
                return ModelResponse(cities)
            case 1:
                return ModelResponse([ToolCallPart("book", {"city": "Rome"}, "call-book")])
        returned = [part for each in messages for part in each.parts if isinstance(part, ToolReturnPart)]
        return ModelResponse([TextPart("; ".join(part.model_response_str() for part in returned))])

    return FunctionModel(respond)


def travel(world: World) -> Agent[World, str]:
    agent = Agent(scripted(world), deps_type=World, name="travel", capabilities=[Durability()])

    @agent.tool
    async def weather(ctx: RunContext[World], city: str) -> Forecast:
        ctx.deps.answer(f"weather {city}")
        if city == "Oslo" and current_task().task.retry_count == 0:
            await ctx.deps.rome.wait()
        return Forecast(city=city, degrees=len(city))

    @agent.tool_plain
    def book(city: str) -> str:
        world.answer(f"book {city}")
        return f"booked {city}"

    return agent


ANSWER = '{"city":"Oslo","degrees":4}; {"city":"Rome","degrees":4}; booked Rome'
ASKED = {"model 0": 1, "weather Oslo": 1, "weather Rome": 1, "model 1": 1, "book Rome": 1, "model 2": 1}


@pytest.mark.parametrize("kit", ["memory", "sqlite"], indirect=True)
async def test_an_agent_in_a_task(kit: Kit) -> None:
    world = World()
    world.rome.set()
    agent = travel(world)

    @kit.tq.task
    async def plan() -> list[Any]:
        result = await agent.run("where to?", deps=world)
        return [result.output, result.usage.requests, result.usage.tool_calls]

    handle = await plan.push()
    await kit.drain()
    assert await handle.result() == [ANSWER, 3, 3]
    assert world.asked == ASKED
    names = [each.label for each in await kit.tq.steps(handle.task_id)]
    assert sorted(names) == [
        "travel:model",
        "travel:model#2",
        "travel:model#3",
        "travel:tool:book:call-book",
        "travel:tool:weather:call-Oslo",
        "travel:tool:weather:call-Rome",
    ]


@pytest.mark.parametrize("crash_after", range(1, STEPS + 1))
async def test_a_crash_after_any_step_repeats_none(kit: Kit, crash_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    agent = travel(world)
    usage: list[int] = []

    @kit.tq.task(backoff=STEADY)
    async def plan() -> str:
        result = await agent.run("where to?", deps=world)
        usage.append(result.usage.requests)
        return result.output

    stored: list[str] = []
    end = RunSteps.end

    async def crash(self: RunSteps, name: str, *args: Any) -> Step:
        step = await end(self, name, *args)
        stored.append(name)
        if len(stored) == crash_after:
            raise ConnectionError("the process is lost")
        if name == "travel:tool:weather:call-Rome":
            world.rome.set()
        return step

    monkeypatch.setattr(RunSteps, "end", crash)
    handle = await plan.push()
    await kit.drain(delayed=True)
    assert await handle.result() == ANSWER
    # Rome is stored while Oslo is under way: that alone is called again.
    under_way = {"weather Oslo"} if crash_after == 2 else set()
    assert world.asked - Counter(ASKED) == Counter(under_way)
    assert usage == [3], "what is read again counts, too"
    assert (await handle.task()).retry_count == 1


async def test_two_runs_at_once_get_each_its_own_answers(kit: Kit) -> None:
    asked: list[str] = []

    async def respond(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        prompt = str(messages[0].parts[-1].content)  # type: ignore[union-attr]
        # In the first run of the task the second question is answered first, in the other one last.
        for _ in range(5 if prompt == "one" else 1):
            await asyncio.sleep(0)
        asked.append(prompt)
        return ModelResponse([TextPart(prompt.upper())])

    agent = Agent(FunctionModel(respond), name="echo", capabilities=[Durability()])

    @kit.tq.task(backoff=STEADY)
    async def both() -> list[str]:
        results = await asyncio.gather(agent.run("one"), agent.run("two"))
        if current_task().task.retry_count == 0:
            raise ConnectionError("the process is lost")
        return [result.output for result in results]

    handle = await both.push()
    await kit.drain(delayed=True)
    assert await handle.result() == ["ONE", "TWO"]
    assert asked == ["two", "one"]
    assert {each.label for each in await kit.tq.steps(handle.task_id)} == {"echo:model", "echo#2:model"}


async def test_a_model_that_fails_is_asked_again_by_the_next_run(kit: Kit) -> None:
    asked = itertools.count()

    def respond(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        if next(asked) == 1:
            raise ConnectionError("overloaded")
        if len(messages) == 1:
            return ModelResponse([ToolCallPart("dice", {}, "call-1")])
        return ModelResponse([TextPart("done")])

    agent = Agent(FunctionModel(respond), name="player", capabilities=[Durability()])
    thrown: list[int] = []

    @agent.tool_plain
    def dice() -> int:
        thrown.append(6)
        return 6

    @kit.tq.task(backoff=STEADY)
    async def play() -> str:
        return (await agent.run("play")).output

    handle = await play.push()
    await kit.drain(delayed=True)
    assert await handle.result() == "done"
    assert thrown == [6] and next(asked) == 3


async def test_a_tool_that_asks_for_another_try_is_stored_as_that(kit: Kit) -> None:
    tried: list[str] = []

    def respond(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        if turn == 2:
            return ModelResponse([TextPart("done")])
        return ModelResponse([ToolCallPart("find", {"name": ["Jon", "John"][turn]}, f"call-{turn}")])

    agent = Agent(FunctionModel(respond), name="finder", capabilities=[Durability()])

    @agent.tool_plain(retries=2)
    def find(name: str) -> str:
        tried.append(name)
        if name == "Jon":
            raise ModelRetry("nobody has this name; another spelling?")
        return name

    @kit.tq.task(backoff=STEADY)
    async def look() -> str:
        output = (await agent.run("find him")).output
        if current_task().task.retry_count == 0:
            raise ConnectionError("the process is lost")
        return output

    handle = await look.push()
    await kit.drain(delayed=True)
    assert await handle.result() == "done"
    assert tried == ["Jon", "John"]


async def test_a_tool_of_the_handler_sleeps_and_waits(kit: Kit) -> None:
    """It is called in each run of the task, and its own steps once."""
    called: Counter[str] = Counter()
    agent = Agent(TestModel(), name="clerk", capabilities=[Durability()])

    def count(name: str) -> str:
        called[name] += 1
        return name

    @agent.tool_plain(metadata={"aiotaskq": False})
    async def approve() -> str:
        count("approve")
        await step("ask", count, "ask")
        await sleep_for("politeness", hours=1)
        return str(await wait_event("approved"))

    @kit.tq.task
    async def clear() -> str:
        return (await agent.run("clear it")).output

    handle = await clear.push()
    await kit.drain()
    assert (await handle.task()).status is Status.PENDING
    await kit.advance(hours=2)
    await kit.tq.emit("approved", "yes")
    await kit.drain()
    assert await handle.result() == '{"approve":"yes"}'
    assert called == {"approve": 3, "ask": 1}


@pytest.mark.parametrize("answered", [True, False])
async def test_an_agent_waits_for_a_person(kit: Kit, answered: bool) -> None:
    tokens: list[str] = []
    agent = Agent(TestModel(), name="clerk", capabilities=[Durability()])

    @agent.tool_plain(metadata={"aiotaskq": False})
    async def approve() -> str:
        return str(await wait_for_external_event("approval", ask=tokens.append, timeout=timedelta(days=3)))

    @kit.tq.task(max_retries=0)
    async def clear() -> str:
        return (await agent.run("clear it")).output

    handle = await clear.push()
    await kit.drain()
    assert len(tokens) == 1
    if answered:
        await kit.tq.emit(tokens[0], "yes")
        await kit.drain()
        assert await handle.result() == '{"approve":"yes"}'
    else:
        await kit.advance(days=4)
        with pytest.raises(TaskFailed, match="did not come in time"):
            await handle.result()
    assert len(tokens) == 1, "it asks once"


async def test_a_stream_of_an_answer_is_a_step(kit: Kit) -> None:
    seen: list[str] = []

    async def show(_: RunContext[None], events: AsyncIterable[Any]) -> None:
        seen.extend([type(event).__name__ async for event in events])

    agent = Agent(TestModel(), name="writer", capabilities=[Durability(event_stream_handler=show)])

    @kit.tq.task(backoff=STEADY)
    async def write() -> str:
        output = (await agent.run("write")).output
        if current_task().task.retry_count == 0:
            raise ConnectionError("the process is lost")
        return output

    handle = await write.push()
    await kit.drain(delayed=True)
    assert await handle.result() == "success (no tool calls)"
    assert seen.count("PartStartEvent") == 1, "an answer that is stored is not streamed again"


async def test_what_json_cannot_hold_fails_the_step(kit: Kit) -> None:
    agent = Agent(TestModel(), name="clerk", capabilities=[Durability()])

    @agent.tool_plain
    def handle_of() -> Any:
        return object()

    @kit.tq.task(max_retries=0)
    async def ask() -> str:
        return (await agent.run("which?")).output

    handle = await ask.push()
    await kit.drain()
    with pytest.raises(TaskFailed, match="a step of an agent"):
        await handle.result()


async def test_an_agent_outside_of_tasks_and_inside_of_a_step_is_any_other(kit: Kit) -> None:
    agent = Agent(TestModel(), name="clerk", capabilities=[Durability()])
    assert (await agent.run("hello")).output == "success (no tool calls)"

    async def ask() -> str:
        return (await agent.run("hello")).output

    @kit.tq.task
    async def as_a_step() -> str:
        return await step("agent", ask)

    handle = await as_a_step.push()
    await kit.drain()
    assert await handle.result() == "success (no tool calls)"
    assert [each.label for each in await kit.tq.steps(handle.task_id)] == ["agent"]


async def test_an_agent_in_a_thread_is_refused(kit: Kit) -> None:
    agent = Agent(TestModel(), name="clerk", capabilities=[Durability()])

    @kit.tq.task(max_retries=0)
    def ask() -> str:
        return asyncio.run(agent.run("hello")).output

    handle = await ask.push()
    await kit.drain()
    with pytest.raises(TaskFailed, match="async def"):
        await handle.result()


def test_an_agent_needs_a_name() -> None:
    with pytest.raises(UserError, match="name"):
        Agent(TestModel(), capabilities=[Durability()])

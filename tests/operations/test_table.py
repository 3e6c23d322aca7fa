"""The table of operations: what every door is made from, and what is told of a change."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from msgspec import Meta, Struct

from aiotaskq.app.taskq import TaskQ
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.limits import LimitKey
from aiotaskq.operations.table import Access, Operations, parameters, perform, read

things = Operations("things")


class Given(Struct, forbid_unknown_fields=True):
    """A thing, and how many of it."""

    key: LimitKey
    count: Annotated[int, Meta(ge=1, le=9, description="How many")] | None = None


class Answer(Struct):
    """What came of it."""

    count: int


@things(changes=True, thing="key")
async def change(access: Access, given: Given) -> Answer:
    """Change a thing. It has no effect."""
    return Answer(given.count or 0)


@things(changes=True)
async def change_many(access: Access, given: Given) -> Answer:
    """Change things, of which the third fails."""
    access.changed.extend(["a", "b"])
    raise NotFound("c")


@things()
async def get(access: Access, given: Given) -> Answer:
    """Read a thing."""
    return Answer(1)


@pytest.fixture
async def tq() -> AsyncIterator[TaskQ]:
    async with TaskQ("memory://") as made:
        yield made


async def told(tq: TaskQ) -> list[tuple[str, str, str, tuple[str, ...]]]:
    entries = await tq.queue.backend.audit.read(9)
    return [(each.door, each.action, each.actor, each.targets) for each in entries]


async def test_a_change_is_told_of_and_a_read_is_not(tq: TaskQ) -> None:
    given = read(things["change"], {"key": "a", "count": 3})
    assert (await perform(things["change"], Access(tq), given, "api", "mara")).count == 3
    assert (await perform(things["get"], Access(tq), given, "api", "mara")).count == 1
    assert await told(tq) == [("api", "things.change", "mara", ("a",))]


async def test_what_was_done_before_an_error_is_told_of(tq: TaskQ) -> None:
    given = read(things["change_many"], {"key": "a"})
    with pytest.raises(NotFound):
        await perform(things["change_many"], Access(tq), given, "mcp", "mara")
    assert await told(tq) == [("mcp", "things.change_many", "mara", ("a", "b", "stopped by: NotFound"))]


@pytest.mark.parametrize(
    ("values", "strict", "wrong"),
    [
        ({"key": "a", "count": 0}, True, "^count: Expected `int` >= 1$"),
        ({"key": "a", "count": "3"}, True, "^count: Expected `int"),
        ({"key": "a", "count": "x"}, False, "^count: "),
        ({"key": ""}, True, "^key: "),
        ({"count": 1}, True, "`key`"),
        ({"key": "a", "more": 1}, True, "`more`"),
    ],
)
def test_a_wrong_parameter_is_named(values: dict[str, object], strict: bool, wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        read(things["change"], values, strict=strict)
    assert read(things["change"], {"key": "a", "count": "3"}, strict=False).count == 3


def test_a_parameter_is_told_to_each_door() -> None:
    key, count = parameters(things["change"])
    assert (key.name, key.kind, key.required) == ("key", str, True)
    assert (count.kind, count.description, count.least, count.most) == (int, "How many", 1, 9)
    assert (count.required, count.default) == (False, None)
    assert (things["change"].summary, things["change"].noun) == ("Change a thing. It has no effect.", "things")


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_described_and_names_its_thing(name: str) -> None:
    operation = OPERATIONS[name]
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", name)
    assert operation.summary.endswith(".") and operation.answer.__doc__
    known = {each.name: each for each in parameters(operation)}
    assert all(each.description for each in known.values())
    assert operation.thing is None or operation.thing in known

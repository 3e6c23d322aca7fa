"""The table of operations: what every door is made from, and what is told of a change."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta, Struct

from aiotaskq.app.handle import TaskCall
from aiotaskq.app.taskq import TaskQ
from aiotaskq.errors import DatabaseUnavailable, NotFound, ValidationError
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.fields import Instant
from aiotaskq.operations.limits import LimitKey
from aiotaskq.operations.table import (
    Access,
    Counted,
    DryRun,
    Enough,
    Operations,
    only,
    parameters_of,
    perform,
    perform_each,
    read,
)

things = Operations("things")


class Given(Struct, forbid_unknown_fields=True):
    """A thing, and how many of it."""

    key: LimitKey
    count: Annotated[int, Meta(ge=1, le=9, description="How many")] | None = None
    since: Instant | None = None


class Answer(Struct):
    """What came of it."""

    count: int


@things(changes=True, thing="key")
async def change(access: Access, given: Given) -> Answer:
    """Change a thing. It has no effect."""
    return Answer(given.count or 0)


@things(changes=True)
async def spoil(access: Access, given: Given) -> Answer:
    """Change things, of which the third fails."""
    access.changed.extend(["a", "b"])
    raise NotFound("c")


@things(changes=True, thing="key")
async def miss(access: Access, given: Given) -> Answer:
    """Change a thing that is gone when it is read again."""
    access.changed.append(given.key)
    raise NotFound(f"{given.key} is gone")


@things()
async def get(access: Access, given: Given) -> Answer:
    """Read a thing."""
    return Answer(1)


@pytest.fixture
async def tq(tmp_path: Path) -> AsyncIterator[TaskQ]:
    async with TaskQ("memory://", schedules=f"sqlite:///{tmp_path}/schedules.db") as made:
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
    given = read(things["spoil"], {"key": "a"})
    with pytest.raises(NotFound):
        await perform(things["spoil"], Access(tq), given, "mcp", "mara")
    assert await told(tq) == [("mcp", "things.spoil", "mara", ("a", "b", "stopped by: NotFound"))]


async def test_tasks_are_counted_without_a_read_of_each_limit(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.runtime.limits.Limits.list", None)
    operation = OPERATIONS["stats.get"]
    assert (await perform(operation, Access(tq), read(operation, {}), "api", "mara")).ready == 0


async def test_a_change_before_an_error_about_one_thing_is_told_of(tq: TaskQ) -> None:
    found = await perform_each(things["miss"], Access(tq), ["a", "b"], "cli", "mara")
    assert [str(answer) for _, answer in found] == ["a is gone", "b is gone"]
    assert await told(tq) == [("cli", "things.miss", "mara", ("a", "b"))]


async def test_what_changes_nothing_is_not_told_of(tq: TaskQ) -> None:
    await tq.push("a", task_id="a", unique_key="k")
    await tq.cancel("a")
    await tq.push("a", task_id="b", unique_key="k")
    await tq.emit("approved", 1)
    await tq.group([TaskCall("c", {}, {})], group_id="g")
    await tq.schedules.add("s", "a", interval=3600)
    calls = [
        ("tasks.rerun", {"task_id": "a"}, "created"),
        ("events.emit", {"key": "approved", "value": 2}, "emitted"),
        ("groups.retry", {"group_id": "g"}, "retried"),
        ("schedules.backfill", {"schedule": "s", "since": 1, "until": 2}, "pushed"),
    ]
    for name, given, changed in calls:
        operation = OPERATIONS[name]
        answer = await perform(operation, Access(tq), read(operation, given), "api", "mara")
        assert not getattr(answer, changed), name
    assert await told(tq) == []


@pytest.mark.parametrize(
    ("name", "given", "answer"),
    [
        ("tasks.edit", {"task_id": "a", "priority": 1}, "tasks.detail_of"),
        ("tasks.cancel", {"task_id": "a"}, "tasks._state"),
        ("groups.cancel", {"group_id": "g"}, "groups.group_view"),
    ],
)
async def test_a_change_is_told_of_also_if_there_is_no_answer(
    tq: TaskQ, name: str, given: dict[str, str], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise DatabaseUnavailable("the store does not answer")

    await tq.push("a", task_id="a")
    await tq.group([TaskCall("c", {}, {})], group_id="g")
    monkeypatch.setattr(f"aiotaskq.operations.{answer}", fail)
    with pytest.raises(DatabaseUnavailable):
        await perform(OPERATIONS[name], Access(tq), read(OPERATIONS[name], given), "api", "mara")
    thing = next(iter(given.values()))
    assert await told(tq) == [("api", name, "mara", (thing, "stopped by: DatabaseUnavailable"))]


@pytest.mark.parametrize(
    ("values", "strict", "wrong"),
    [
        ({"key": "a", "count": 0}, True, "^count: Expected `int` >= 1$"),
        ({"key": "a", "count": "3"}, True, "^count: Expected `int"),
        ({"key": "a", "count": "x"}, False, "^count: "),
        ({"key": ""}, True, "^key: "),
        ({"count": 1}, True, "`key`"),
        ({"key": "a", "more": 1}, True, "`more`"),
        ({"key": "a", "since": "2026-03-28T12:00:00"}, False, "^since: '2026-03-28T12:00:00' is not a time; write it"),
        ({"key": "a", "since": "2h"}, True, "^since: '2h' is not a time; write it as 2026-03-28T12:00:00Z"),
        ({"key": "a", "since": [1]}, True, r"^since: \[1\] is not a time"),
    ],
)
def test_a_wrong_parameter_is_named(values: dict[str, object], strict: bool, wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        read(things["change"], values, strict=strict)
    assert read(things["change"], {"key": "a", "count": "3"}, strict=False).count == 3


def test_a_parameter_is_told_to_each_door() -> None:
    key, count, since = parameters_of(things["change"].params)
    assert (key.name, key.kind, key.required) == ("key", str, True)
    assert (count.kind, count.description, count.least, count.most) == (int, "How many", 1, 9)
    assert (count.required, count.default, since.kind) == (False, None, datetime)
    assert (things["change"].summary, things["change"].noun) == ("Change a thing. It has no effect.", "things")


class Where(Struct):
    """Touch all that match."""

    color: str | None = None
    size: list[str] | None = None
    dry_run: DryRun = False


async def begins(_tq: TaskQ, text: str) -> str:
    return only(text, [name for name in ("apple", "pear", "peach") if name.startswith(text)])


fruits = Operations("fruits", begins)


class Fruit(Struct, forbid_unknown_fields=True):
    """A fruit."""

    name: str


@fruits(changes=True, thing="name")
async def touch(access: Access, given: Fruit) -> Answer:
    """Touch a fruit."""
    if given.name not in ("apple", "pear"):
        raise NotFound(f"there is no {given.name}")
    return Answer(1)


@fruits.many("touch")
async def touch_all(access: Access, given: Where) -> int:
    if not given.dry_run:
        for number in (1, 2, 3):
            access.progress(number)
    return 3


async def test_many_are_counted_or_changed_and_told_of_by_the_filter(tq: TaskQ) -> None:
    many = fruits["touch_many"]
    assert many is fruits["touch"].many and many.summary == "Touch all that match."
    with pytest.raises(ValidationError, match=r"^fruits.touch: at least one of color, size is needed"):
        await perform(many, Access(tq), read(many, {"dry_run": True}), "api", "mara")
    given = {"color": "red", "size": ["s", "m"]}
    assert await perform(many, Access(tq), read(many, given | {"dry_run": True}), "api", "mara") == Counted(3, True)
    assert await told(tq) == []
    assert await perform(many, Access(tq), read(many, given), "api", "mara") == Counted(3, False)
    assert await told(tq) == [("api", "fruits.touch", "mara", ("filter: color=red size=s,m", "count: 3"))]


async def test_a_door_may_stop_a_change_of_many(tq: TaskQ) -> None:
    def enough(count: int) -> None:
        if count == 2:
            raise Enough

    many = fruits["touch_many"]
    found = await perform(many, Access(tq, progress=enough), read(many, {"color": "red"}), "dashboard", "mara")
    assert found == Counted(2, False)
    assert await told(tq) == [("dashboard", "fruits.touch", "mara", ("filter: color=red", "count: 2"))]


async def test_each_of_several_is_changed_also_after_one_that_is_refused(tq: TaskQ) -> None:
    found = await perform_each(fruits["touch"], Access(tq), ["x", "pe", "app"], "cli", "mara", shortened=True)
    assert [(name, str(answer)) for name, answer in found] == [
        ("x", "there is no x"),
        ("pe", "pe: several ids begin with it: pear, peach; give more of one"),
        ("apple", "Answer(count=1)"),
    ]
    assert await told(tq) == [("cli", "fruits.touch", "mara", ("apple",))]
    ((_, whole),) = await perform_each(fruits["touch"], Access(tq), ["app"], "api", "mara")
    assert str(whole) == "there is no app", "only some doors take shortened names"


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_described_and_names_its_thing(name: str) -> None:
    operation = OPERATIONS[name]
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", name)
    assert operation.summary.endswith(".") and operation.answer.__doc__
    known = {each.name: each for each in parameters_of(operation.params)}
    assert all(each.description for each in known.values())
    assert operation.thing is None or operation.thing in known

"""What ``unique=`` refuses, and what tells calls apart."""

from __future__ import annotations

from typing import Any

import pytest

from aiotaskq import TaskQ, group
from aiotaskq.errors import ValidationError
from aiotaskq.testing import virtual


async def work(order: int, note: str = "") -> None: ...


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique": "ordr"}, r"^unique: the handler has no parameter 'ordr'; did you mean 'order'"),
        ({"unique": ["order", "x"]}, r"^unique: the handler has no parameter 'x'"),
        ({"unique": 5}, r"^unique: True, or names of parameters, are needed \(got 5\)$"),
        ({"unique": []}, r"^unique: True, or names of parameters, are needed \(got \[\]\)$"),
        ({"unique": "order", "unique_while": "hour"}, r"^unique_while: 'hour' is not one of running, pending, day$"),
        (
            {"unique": "order", "unique_while": ["day"]},
            r"^unique_while: \['day'\] is not one of running, pending, day$",
        ),
        ({"unique_while": "day"}, r"^unique_while: it is about unique; give that, too$"),
        ({"unique": "order", "throttle": 5}, r"^unique, throttle: give one of the two$"),
        ({"unique": "order", "key": "order"}, r"^unique, key: give one of the two$"),
        (
            {"unique": "order", "unique_while": "pending", "on": "x"},
            r"^on, unique_while='pending': give one of the two$",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TaskQ("memory://").task(**options)(work)


async def test_calls_are_told_apart_by_the_named_params() -> None:
    tq = TaskQ("memory://")
    by_order = tq.task(name="by_order", unique="order")(work)
    by_all = tq.task(name="by_all", unique=True)(work)
    long = tq.task(name="long", unique=("note", "order"))(work)
    async with virtual(tq):
        await tq.pause()
        assert [(await by_order.push(1, each)).created for each in "ab"] == [True, False]
        assert [(await by_all.push(1, each)).created for each in "aba"] == [True, True, False]
        assert [(await long.push(1, each * 500)).created for each in "aba"] == [True, True, False]
        pushed = await tq.push("by_order", {"order": 1})  # by name as well
        assert not pushed.created
        with pytest.raises(ValidationError, match=r"^params: a dict is needed \(got list\)$"):
            await tq.push("by_order", [1])  # type: ignore[arg-type]
        keys = {task.unique_key for task in await tq.find(type="by_order")}
        assert keys == {"by_order:[1]"}
        with pytest.raises(ValidationError, match=r"^unique_key: a task of a group, and its callback, cannot have it"):
            await tq.start(group([by_order.call(2)]))


async def test_a_task_that_is_unique_while_it_waits_has_no_other_key() -> None:
    tq = TaskQ("memory://")
    waiting = tq.task(unique="order", unique_while="pending")(work)
    async with virtual(tq):
        for options in ({"task_id": "x"}, {"idempotency_key": "x"}):
            with pytest.raises(ValidationError, match=rf"^unique, {min(options)}: give one of the two$"):
                await waiting.options(**options).push(1)  # type: ignore[typeddict-item]
        await tq.pause()
        plain = waiting.options(debounce=None)
        assert [(await plain.push(1)).created for _ in range(2)] == [True, True]


async def test_a_debounced_task_may_keep_its_first_call() -> None:
    tq, got = TaskQ("memory://"), list[str]()

    @tq.task(debounce=5, merge="first", key="order")
    async def mail(order: int, note: str) -> None:
        got.append(note)

    async with virtual(tq) as kit:
        for note in ("a", "b"):
            await mail.push(1, note)
            await kit.advance(3)
        assert got == ["a"]

"""Typed params and results on each store: what the annotations of a handler say is what it gets and gives."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import re
import uuid
from typing import Any, NamedTuple, TypedDict

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.status import Status
from aiotaskq.core.task import new_task
from aiotaskq.errors import ValidationError
from tests.support.backends import Store
from tests.support.kinds import KINDS
from tests.support.machine import within


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Options(TypedDict):
    until: dt.date


@dataclasses.dataclass
class Item:
    price: decimal.Decimal
    sent: frozenset[Point] = frozenset()


class Order(pydantic.BaseModel):
    id: uuid.UUID
    at: dt.datetime
    lines: list[tuple[int, str]] = []


class Report(pydantic.BaseModel):
    order: Order
    took: dt.timedelta


ORDER = Order(id=uuid.UUID(int=7), at=dt.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=dt.UTC), lines=[(1, "ä")])
VALUES: dict[str, Any] = {
    "order": ORDER,
    "items": [Item(decimal.Decimal("1.10"), frozenset({Point(1, 2)}))],
    "colour": Colour.RED,
    "options": {"until": dt.date(2026, 12, 31)},
    "data": b"\x00\xff",
    "home": pathlib.PurePosixPath("/srv/x"),
    "by_day": {dt.date(2026, 1, 1): {1, 2}},
    "note": "plain",
}


def some(values: SearchStrategy[Any]) -> list[Any]:
    """A few values that hypothesis draws."""
    drawn: list[Any] = []

    @settings(max_examples=8, database=None)
    @given(values)
    def draw(value: Any) -> None:
        drawn.append(value)

    draw()
    return drawn


@pytest.fixture
def tq(store: Store) -> TaskQ:
    return TaskQ(store.url, poll_interval=0.05)


async def test_params_and_results_have_the_types_of_the_annotations(tq: TaskQ) -> None:
    got: dict[str, Any] = {}

    @tq.task
    async def send(
        order: Order,
        items: list[Item],
        colour: Colour,
        options: Options,
        data: bytes,
        home: pathlib.PurePosixPath,
        by_day: dict[dt.date, set[int]],
        note: str = "",
    ) -> Report:
        got.update(locals())
        del got["got"]
        return Report(order=order, took=dt.timedelta(seconds=1.5))

    @tq.task
    def bare(at: dt.datetime | None = None, **points: Point) -> dict[str, Point]:
        assert at == ORDER.at
        return points

    async with tq.running(scheduler=False):
        handle = await send.push(**VALUES)
        assert await handle.result(within(30)) == Report(order=ORDER, took=dt.timedelta(seconds=1.5))
        assert got == VALUES
        task = await handle.task()
        assert task.params["order"]["id"] == str(ORDER.id) and task.result["took"] == "PT1.5S"
        # By name and as a dict: in their JSON form, as from the command line or another language.
        for call in (
            lambda: tq.push("send", task.params),
            lambda: tq.push("send", VALUES),
        ):
            got.clear()
            assert (await (await call()).result(within(30))).order == ORDER
            assert got == VALUES
        got.clear()
        task_id = await tq.queue.push_task({"type": "send", "params": {**VALUES, "items": []}})
        assert (await tq.handle(task_id).result(within(30))).order == ORDER
        assert got["items"] == [] and got["order"] == ORDER
        assert await (await bare.push(at=ORDER.at, a=Point(1, 2))).result(within(30)) == {"a": Point(1, 2)}


async def test_values_of_every_kind_survive_the_store(tq: TaskQ) -> None:
    drawn: list[tuple[str, Any]] = []
    for annotation, values in KINDS:

        async def echo(it: Any) -> Any:
            return it

        echo.__annotations__ = {"it": annotation, "return": annotation}
        handler = tq.task(name=str(annotation)[-100:])(echo)

        drawn += [(handler.name, value) for value in some(values)]
    async with tq.running(concurrency=50, scheduler=False):
        handles = await tq.push_many([(name, {"it": value}) for name, value in drawn])
        for handle, (name, value) in zip(handles, drawn, strict=True):
            result = await handle.result(within(60))
            assert result == value and type(result) is type(value), name


async def test_what_does_not_fit_is_refused_by_the_push_and_nothing_is_written(tq: TaskQ) -> None:
    @tq.task
    async def send(order: Order, count: int = 1) -> None: ...

    wrong = {"id": "x", "at": "2026-01-01T00:00:00Z"}
    said = r"^params\.order\.id: Input should be a valid UUID"
    async with tq:
        with pytest.raises(ValidationError, match=said):
            await send.push(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match=said):
            await tq.push("send", {"order": wrong})
        with pytest.raises(ValidationError, match=said):
            await tq.push_many([send.call(ORDER), {"type": "send", "params": {"order": wrong}}])
        with pytest.raises(ValidationError, match=said):
            await tq.queue.push_task({"type": "send", "params": {"order": wrong}})
        with pytest.raises(ValidationError, match=r"^params\.count: Expected `int`, got `set`; the call is of send"):
            await send.push(ORDER, {1})  # type: ignore[arg-type]
        assert await tq.find() == []


async def test_a_plain_type_that_does_not_fit_is_refused_by_the_push(tq: TaskQ) -> None:
    @tq.task
    async def add(
        n: int,
        by: float = 0.5,
        ids: list[int] | None = None,
        note: str = None,  # type: ignore[assignment]  # noqa: RUF013 - users write it
    ) -> None: ...

    async with tq:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"n": "x"}, "params.n: Expected `int`, got `str`; the call is of add()"),
            ({"n": 1, "by": "1"}, "params.by: Expected `float`, got `str`"),
            ({"n": 1, "ids": [1, "2"]}, "params.ids[1]: Expected `int`, got `str`"),
            ({"n": None}, "params.n: Expected `int`, got `null`"),
        ]
        for params, said in wrong:
            with pytest.raises(ValidationError, match=re.escape(said)):
                await tq.push("add", params)
            with pytest.raises(ValidationError, match=re.escape(said)):
                await add.push(**params)
        assert await tq.find() == []
        await add.push(n=True, by=1, note=None, ids=None)  # a bool is an int, an int a float; None is the default


async def test_a_stored_plain_value_that_does_not_fit_is_not_retried(tq: TaskQ) -> None:
    """A process without the handler cannot refuse it at the push; what the handler raises for it is of any class."""

    @tq.task(max_retries=3, backoff=0)
    async def shout(text: str) -> str:
        return text.upper()

    async with tq.running(scheduler=False):
        (pushed,) = await tq.queue.add([new_task("shout", {"text": 1}, now=tq.queue.clock.now(), max_retries=3)])
        task = await tq.queue.wait_for_end(pushed.task_id, within(30))
        assert (task.status, task.retry_count, task.params) == (Status.FAILED, 0, {"text": 1})
        assert str(task.error_message).startswith("invalid_params: params.text: Expected `str`, got `int`")


async def test_a_stored_row_that_does_not_fit_fails_at_once_and_is_kept(tq: TaskQ) -> None:
    @tq.task
    async def send(order: Order) -> None: ...

    wrong = {"order": {"id": "x", "at": "2026-01-01T00:00:00Z"}}
    async with tq.running(scheduler=False):
        (pushed,) = await tq.queue.add([new_task("send", wrong, now=tq.queue.clock.now())])
        task = await tq.queue.wait_for_end(pushed.task_id, within(30))
        assert (task.status, task.retry_count, task.params) == (Status.FAILED, 0, wrong)
        assert str(task.error_message).startswith("invalid_params: params.order.id: Input should be a valid UUID")


async def test_a_result_that_does_not_fit_is_kept_as_it_is(tq: TaskQ) -> None:
    @tq.task
    async def count() -> uuid.UUID:
        return 3  # type: ignore[return-value]

    async with tq.running(scheduler=False):
        handle = await count.push()
        with pytest.raises(ValidationError, match=r"^result: Expected `uuid`, got `int`"):
            await handle.result(within(30))
        assert (await handle.task()).result == 3


@pytest.mark.stores("sqlite", "postgresql", "mysql", "durable fake")
async def test_the_params_of_a_schedule_are_checked_and_converted(tq: TaskQ) -> None:
    ran: list[Order] = []

    @tq.schedule(interval=3600, params={"order": ORDER})
    @tq.task
    async def send(order: Order) -> None:
        ran.append(order)

    with pytest.raises(ValidationError, match=r"^params\.order: "):
        tq.schedule(interval=60, name="other", params={"order": 3})(send)
    async with tq.running():
        (declared,) = await tq.schedules.list()
        added = (await tq.schedules.add("mine", "send", params={"order": ORDER}, interval=3600)).task_id
        with pytest.raises(ValidationError, match=r"^params: send\(\) needs 'order'"):
            await tq.schedules.add("bad", "send", interval=3600)
        with pytest.raises(ValidationError, match=r"^params\.order: "):
            await tq.schedules.update(added, params={"order": 3})
        for schedule_id in (declared.task_id, added):
            await (await tq.schedules.run_now(schedule_id)).result(within(30))
    assert ran == [ORDER, ORDER]

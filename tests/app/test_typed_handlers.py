"""What the registration of a handler with typed params says, and what ``memory://?objects=any`` does instead."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiotaskq import TaskQ, injected
from aiotaskq.core.conversion import storable
from aiotaskq.errors import NotSupported, ValidationError
from aiotaskq.testing import override
from aiotaskq.types import TaskCall, TaskHandle
from tests.support.machine import within

if TYPE_CHECKING:
    from decimal import Decimal


class Client: ...


def test_a_required_parameter_needs_a_type_with_a_json_form() -> None:
    tq = TaskQ("memory://")
    with pytest.raises(ValidationError, match=r"^handler send: parameter 'client': Client has no JSON form; use a dat"):

        @tq.task
        async def send(client: Client) -> None: ...

    @tq.task
    async def fine(client: Client | None = None, other: Client = injected(), *, url: str) -> Client:
        return client or other


def test_a_call_and_a_handle_are_no_results_and_no_parameters() -> None:
    tq = TaskQ("memory://")

    @tq.task
    async def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(ValidationError, match=r"^result: TaskCall has no JSON form$"):
        storable(add.call(1, 2))
    with pytest.raises(ValidationError, match=r"^handler run: parameter 'call': TaskCall has no JSON form; use a dat"):

        @tq.task
        async def run(call: TaskCall[int]) -> None: ...

    with pytest.raises(ValidationError, match=r"^result: TaskHandle has no JSON form$"):
        storable(tq.handle("an id"))
    with pytest.raises(ValidationError, match=r"^handler wait: parameter 'of': TaskHandle has no JSON form; use a dat"):

        @tq.task
        async def wait(of: TaskHandle[int]) -> None: ...


async def test_an_annotation_that_is_no_type_is_let_pass(tmp_path: Path) -> None:
    async with TaskQ(f"sqlite:///{tmp_path}/tasks.db") as tq:

        @tq.task
        async def wait(times: 5 = None) -> None: ...  # type: ignore[valid-type]

        assert (await wait.push("often")).created


def test_a_name_that_exists_for_the_type_checker_only_is_refused() -> None:
    tq = TaskQ("memory://")
    with pytest.raises(ValidationError, match=r"parameter 'price': name 'Decimal' is not defined, .* also at run time"):

        @tq.task
        async def pay(price: Decimal) -> None: ...


async def test_types_that_are_local_where_the_handler_is_registered() -> None:
    tq = TaskQ("memory://")

    @dataclasses.dataclass
    class Here:
        id: uuid.UUID

    @tq.task
    async def work(here: Here) -> Here:
        return here

    @tq.task(name="other", max_retries=0)
    def threaded(here: Here) -> Here:
        return here

    async with tq.running():
        here = Here(uuid.uuid4())
        assert await (await work.push(here)).result(within(30)) == here
        assert await (await threaded.push(here)).result(within(30)) == here


async def test_memory_takes_what_every_other_store_takes() -> None:
    tq = TaskQ("memory://")

    @tq.task
    async def plain(value: Any) -> Any:
        return value

    async with tq.running():
        for bad, said in (
            ({1}, "set is not JSON"),
            (uuid.uuid4(), "UUID is not JSON; use str"),
            ("x" * 300_000, "30"),
        ):
            with pytest.raises(ValidationError, match=said):
                await plain.push(bad)
        assert await (await plain.push([1, {"a": None}])).result(within(30)) == [1, {"a": None}]


async def test_memory_with_objects_passes_them_as_they_are() -> None:
    tq = TaskQ("memory://?objects=any")
    client = Client()

    @tq.task
    async def same(client: Client, ids: set[int]) -> tuple[Client, set[int]]:
        return client, ids

    async with tq.running():
        got, ids = await (await same.push(client, {1})).result(within(30))
        assert got is client and ids == {1}
    with override(tq):
        assert tq.queue.backend.objects


def test_the_option_is_checked() -> None:
    with pytest.raises(ValidationError, match="objects can only be 'any'"):
        TaskQ("memory://?objects=some")
    with pytest.raises(NotSupported, match="the durable fake holds JSON values"):
        TaskQ("memory://durable-fake?objects=any")
    with pytest.raises(ValidationError, match="the option 'object' is unknown; for memory there are keep_ended and ob"):
        TaskQ("memory://?object=any")

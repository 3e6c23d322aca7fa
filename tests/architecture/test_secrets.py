"""Secrets of the application are not in logs, reprs, metrics and traces; control characters are escaped there."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rich.console
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from aiotaskq import TaskQ
from aiotaskq.core.outcome import Completed, Failed
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import new_task
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.integrations.logging import bind_task, loguru_to_standard
from aiotaskq.integrations.opentelemetry import Tracing
from aiotaskq.integrations.prometheus import Metrics
from aiotaskq.log import logger, output
from aiotaskq.types import HookCall, Schedule, Task
from tests.support.machine import within

SECRET = "S3CRET"


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """All that aiotaskq logs without the texts of exceptions, on both sides of the bridge, with every field."""
    got: list[str] = []
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    level = root.level
    root.setLevel(1)
    root.addHandler(handler)
    logger.remove()
    logger.configure(patcher=bind_task)
    logger.add(lambda line: got.append(str(line)), level=0, format="{message} {extra} {exception}", diagnose=False)
    loguru_to_standard()
    output("DEBUG", to="loguru", tracebacks=False)
    yield got
    logger.remove()
    logger.configure(patcher=lambda record: None)
    root.removeHandler(handler)
    root.setLevel(level)
    got.append(stream.getvalue())


async def test_no_secret_is_shown_anywhere(tmp_path: Path, logged: list[str]) -> None:  # J8
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    registry, exporter, provider = CollectorRegistry(), InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    Metrics(tq, registry, sample_interval=0.05)
    Tracing(tq, provider)
    events: list[HookCall] = []
    for name in ("pushed", "started", "completed", "retried", "failed", "timeout", "fired"):
        tq.on(name, events.append)

    @tq.task(max_retries=1, backoff=0.001)
    async def refuse(token: str) -> None:
        raise PermissionError(f"refused: {token}")

    @tq.task
    def echo(token: str) -> str:
        return token

    @tq.task(max_retries=0)
    async def unserializable(token: str) -> Any:
        return {token: object()}

    @tq.schedule(at=0, params={"token": SECRET})
    def scheduled(token: str) -> None: ...

    async with tq.running():
        await tq.values.set_public("cookie", SECRET, ttl=0.01)
        handles = [await each.push(token=SECRET) for each in (refuse, echo, unserializable)]
        rows = [await tq.queue.wait_for_end(handle.task_id, within(20)) for handle in handles]
        schedules = await tq._scheduler.schedules.all()
    assert [row.status for row in rows] == ["failed", "completed", "failed"]
    assert SECRET in (rows[0].error_message or "") and rows[1].result == SECRET, "it is there on request"
    spans = "".join(span.to_json() for span in exporter.get_finished_spans())
    shown = repr([tq, handles, rows, events, schedules, vars(tq.queue), echo, refuse.call(token=SECRET)])
    metrics = generate_latest(registry).decode()
    assert {event.name for event in events} >= {"pushed", "started", "completed", "retried", "failed", "fired"}
    assert "PermissionError" in spans and "refuse" in metrics and rows[0].task_id in shown
    for where in (spans, shown, metrics, *logged):
        assert SECRET not in where


def test_reprs_show_that_a_field_is_set_and_not_its_value() -> None:  # J8
    secret = {"token": SECRET}
    task = new_task("mail", secret, now=7, extra=secret).replace(result=SECRET, error_message=SECRET, progress=secret)
    schedule = new_schedule("n", "mail", "interval", secret, 60, now=0).replace(outbox=(task,))
    console = rich.console.Console(file=(out := io.StringIO()), width=500)
    for value in (task, schedule, Completed(SECRET), Failed(SECRET), HookCall("failed", 0, task), [task]):
        assert SECRET not in repr(value) and SECRET not in f"{value}"
        console.print(value)
    assert SECRET not in out.getvalue()
    assert "type='mail', params=…, error_message=…, run_at=7" in repr(task)
    assert repr(task).endswith("result=…, progress=…, extra=…)")
    assert repr(Completed()) == "Completed()" and "params" not in repr(new_task("x", now=0))
    assert eval(repr(new_task("x", now=0)), {"Task": Task, "Status": Status}).type == "x"
    assert isinstance(schedule, Schedule) and "interval_seconds=60" in repr(schedule)


def test_the_repr_of_a_result_that_cannot_be_compared() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise TypeError("as arrays do")

        __hash__ = None  # type: ignore[assignment]

    assert "result=…" in repr(new_task("x", now=0).replace(result=Odd()))


async def test_a_password_in_a_url_is_masked_in_the_error_of_an_outage(logged: list[str]) -> None:  # J9
    tq = TaskQ(f"postgresql://app:{SECRET}@127.0.0.1:1/app")
    Metrics(tq, CollectorRegistry())
    with pytest.raises(DatabaseUnavailable) as raised:
        await tq.open()
    logger.patch(lambda record: record.update(name="aiotaskq")).opt(exception=raised.value).error("away")
    assert "app:***@127.0.0.1" in str(raised.value)
    for where in (str(raised.value), repr(raised.value), repr(tq), *logged):
        assert SECRET not in where


async def test_names_and_errors_with_control_characters_forge_no_line(tmp_path: Path, logged: list[str]) -> None:  # J12
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    registry = CollectorRegistry()
    Metrics(tq, registry)
    name = "a\u2028b\x9b31m\u202e"
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line).removesuffix("\n")), format="{message} {extra}")

    @tq.task(name=name, queue="q\x85q", timeout=0.01, max_retries=0)
    async def odd() -> None:
        logger.info("inside")
        raise ValueError("x\r\n2026-01-01 ERROR forged \x1b[31m")

    async with tq.running():
        await tq.queue.wait_for_end((await tq.push(name, queue="q\x85q")).task_id, within(20))
    logger.remove(sink)
    told = generate_latest(registry).decode()
    assert r"a\u2028b\x9b31m\u202e" in told.replace("\\\\", "\\") and r"q\x85q" in told.replace("\\\\", "\\")
    assert all(line.isprintable() for line in told.split("\n")) and "forged" not in told
    assert any("inside" in line for line in lines) and all(line.isprintable() for line in lines)

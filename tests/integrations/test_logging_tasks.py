"""What handlers log through loguru or the standard library, in the logs of their tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from loguru import logger

from aiotaskq import TaskQ, current_task
from aiotaskq.integrations.logging import ToTask, loguru_to_tasks, standard_to_tasks
from tests.support.machine import within

APP = logging.getLogger("shop.orders")


@pytest.fixture
def standard() -> Iterator[None]:
    handler, level = standard_to_tasks(), APP.level
    APP.setLevel(logging.DEBUG)
    yield
    APP.setLevel(level)
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def loguru() -> Iterator[None]:
    number = loguru_to_tasks()
    yield
    logger.remove(number)


async def texts(tq: TaskQ) -> list[list[str]]:
    @tq.task(max_retries=0)
    async def coroutine(secret: str) -> None:
        APP.info("rows: %d", 3)
        APP.debug("not this")
        logger.info("loguru {}", "{braces}")
        logger.debug("not this")
        logging.getLogger("aiotaskq").warning("not this")
        try:
            raise ValueError("no")
        except ValueError:
            APP.exception("failed")
            logger.exception("failed as well")

    @tq.task
    def thread() -> None:
        APP.warning("in a thread")
        logger.warning("in a thread, too")

    async with tq.running(), asyncio.timeout(within(20)):
        handles = [await coroutine.push("sesame"), await thread.push()]
        for handle in handles:
            await handle.result()
        APP.info("not this")
        logger.info("not this")
        return [[note.text for note in await handle.log()] for handle in handles]


async def test_the_standard_library(standard: None) -> None:
    (first, failed), in_thread = await texts(TaskQ("memory://"))
    assert (first, in_thread) == ("INFO rows: 3", ["WARNING in a thread"])
    assert failed.startswith("ERROR failed\nTraceback")
    assert failed.endswith("ValueError: no")


async def test_loguru(loguru: None) -> None:
    coroutine, in_thread = await texts(TaskQ("memory://"))
    assert coroutine[0] == "INFO loguru {braces}"
    assert coroutine[1].startswith("ERROR failed as well\nTraceback")
    assert coroutine[1].endswith("ValueError: no")
    assert len(coroutine) == 2 and "sesame" not in coroutine[1]
    assert in_thread == ["WARNING in a thread, too"]


async def test_a_line_that_cannot_be_formatted_does_not_fail_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    tq = TaskQ("memory://")
    wrong_line = logging.makeLogRecord({"name": "shop", "msg": "rows: %d", "args": ("three",)})

    @tq.task(max_retries=0)
    async def wrong() -> str:
        ToTask().handle(wrong_line)
        current_task().log("goes on")
        return "done"

    async with tq.running():
        handle = await wrong.push()
        assert await handle.result(within(20)) == "done"
        assert [note.text for note in await handle.log()] == ["goes on"]
    assert "rows: %d" in capsys.readouterr().err

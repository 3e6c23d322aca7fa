"""The task fields of log lines, and the bridges between loguru and the standard library."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest

from aiotaskq import TaskQ
from aiotaskq.core.task import new_task
from aiotaskq.integrations.logging import (
    TaskFields,
    bind_task,
    loguru_to_standard,
    standard_to_loguru,
    task_fields,
)
from aiotaskq.log import logger
from aiotaskq.runtime.context import TaskContext
from aiotaskq.runtime.current import current
from tests.support.machine import within

FORMAT = "{level}|{name}|{extra[task_id]}|{extra[type]}|{extra[queue]}|{message}"


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What loguru writes, each line with the fields; loguru is as it was afterwards."""
    got: list[str] = []
    logger.remove()
    logger.configure(patcher=bind_task)
    logger.add(lambda message: got.append(message.rstrip("\n")), level=0, format=FORMAT, diagnose=False)
    yield got
    logger.remove()
    logger.configure(patcher=lambda record: None)


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def standard() -> Iterator[Kept]:
    """What the standard library's root logger is given, from every level."""
    root, kept = logging.getLogger(), Kept()
    level, handlers = root.level, list(root.handlers)
    root.setLevel(1)
    root.addHandler(kept)
    yield kept
    root.setLevel(level)
    root.handlers[:] = handlers


async def test_each_line_of_a_handler_names_its_task_and_no_other_line_does(lines: list[str], standard: Kept) -> None:
    standard.addFilter(TaskFields())
    tq = TaskQ("memory://")

    @tq.task(queue="mail")
    async def in_loop() -> None:
        logger.info("one")
        logging.getLogger("app").info("two")

    @tq.task
    def in_thread() -> None:
        logger.info("three")
        logging.getLogger("app").info("four", extra={"queue": "its own"})

    logger.info("before")
    async with tq.running(concurrency=2):
        first, second = await in_loop.push(), await in_thread.push()
        await first.result(within(30))
        await second.result(within(30))
    logger.bind(type="bound").info("after")

    here = __name__
    assert lines == [
        f"INFO|{here}|-|-|-|before",
        f"INFO|{here}|{first.task_id}|in_loop|mail|one",
        f"INFO|{here}|{second.task_id}|in_thread|default|three",
        f"INFO|{here}|-|bound|-|after",
    ]
    told = {record.getMessage(): record for record in standard.records if record.name == "app"}
    assert vars(told["two"]).items() >= {"task_id": first.task_id, "type": "in_loop", "queue": "mail"}.items()
    assert vars(told["four"]).items() >= {"task_id": second.task_id, "type": "in_thread", "queue": "its own"}.items()


async def test_names_from_outside_forge_no_line_and_colour_no_terminal(lines: list[str]) -> None:  # J12
    task = new_task("x", now=0).replace(task_id="id\r\nFAKE", type="a\x1b[31mred\u2028b", queue="q\x9bc")
    token = current.set(TaskContext(task, cast(Any, None)))
    try:
        logger.info("here")
        fields = task_fields()
    finally:
        current.reset(token)
    assert all(value.isprintable() for value in fields.values())
    (line,) = lines
    assert line.isprintable() and r"id\r\nFAKE|a\x1b[31mred\u2028b|q\x9bc|here" in line


def test_each_line_crosses_once_and_none_comes_back(
    lines: list[str], standard: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    handler, sink = standard_to_loguru(), loguru_to_standard()
    try:
        logging.getLogger("app.db").warning("from %s {braces} <red>", "standard")
        logger.bind(order=17).success("from loguru {} %s", "{x}")
        logger.log(7, "an odd level")
        logging.getLogger("app").log(33, "another")
    finally:
        logging.getLogger().removeHandler(handler)
        logger.remove(sink)
    assert capsys.readouterr().err == "", "loguru would tell here of a line that came back while it was written"
    logger.info("not any more")
    logging.getLogger("app").info("nor this")

    said = [line.split("|")[0] + "|" + line.split("|")[-1] for line in lines]
    assert said == [
        "WARNING|from standard {braces} <red>",
        "SUCCESS|from loguru {x} %s",
        "Level 7|an odd level",
        "Level 33|another",
        "INFO|not any more",
    ]
    got = [(record.levelname, record.name, record.getMessage()) for record in standard.records]
    assert got == [
        ("WARNING", "app.db", "from standard {braces} <red>"),
        ("SUCCESS", __name__, "from loguru {x} %s"),
        ("Level 7", __name__, "an odd level"),
        ("Level 33", "app", "another"),
        ("INFO", "app", "nor this"),
    ]
    assert vars(standard.records[1])["order"] == 17
    assert lines[0].split("|")[1] == __name__, "the origin is the caller, not the bridge"


def test_levels_are_kept_to_on_the_other_side(lines: list[str], standard: Kept) -> None:
    quiet = logging.getLogger(__name__)
    quiet.setLevel(logging.ERROR)
    sink = loguru_to_standard()
    try:
        logger.info("too quiet")
        logger.error("loud")
    finally:
        logger.remove(sink)
        quiet.setLevel(logging.NOTSET)
    assert [record.getMessage() for record in standard.records] == ["loud"]


@pytest.mark.parametrize("way", ["to standard", "to loguru"])
def test_a_traceback_crosses_once_and_without_values(lines: list[str], standard: Kept, way: str) -> None:  # J8
    password = "S3CRET"
    try:
        assert password and 1 / 0
    except ZeroDivisionError:
        if way == "to standard":
            sink = loguru_to_standard()
            logger.exception("broken")
            logger.remove(sink)
        else:
            handler = standard_to_loguru()
            logging.getLogger("app").exception("broken")
            logging.getLogger().removeHandler(handler)
    if way == "to standard":
        out = logging.Formatter("%(message)s").format(standard.records[0])
        assert standard.records[0].getMessage() == "broken"
    else:
        out = "\n".join(lines)
    assert out.count("ZeroDivisionError: division by zero") == 1 and out.count("Traceback") == 1
    assert "S3CRET" not in out


async def test_lines_of_aiotaskq_cross_once(lines: list[str], standard: Kept) -> None:
    handler, sink = standard_to_loguru(), loguru_to_standard()
    tq = TaskQ("memory://")

    @tq.on("pushed")
    def broken(event: Any) -> None:
        raise RuntimeError("a listener's own fault")

    try:
        async with tq:
            await tq.push("x")
    finally:
        logging.getLogger().removeHandler(handler)
        logger.remove(sink)
    said = [line for line in lines if "a hook of 'pushed' failed" in line]
    got = [record for record in standard.records if record.name.startswith("aiotaskq")]
    assert len(said) == len(got) == 1
    assert got[0].getMessage().startswith("a hook of 'pushed' failed\n    Traceback")

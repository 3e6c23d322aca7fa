"""The output of log lines: the standard library, loguru, web frameworks, scripts, signal handlers."""

from __future__ import annotations

import io
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient as AiohttpClient
from aiohttp.test_utils import TestServer
from fastapi import FastAPI
from fastapi.testclient import TestClient as FastAPIClient

import aiotaskq.log
import aiotaskq.sync
from aiotaskq import MemoryQueue, TaskQ, injected
from aiotaskq.errors import ValidationError
from aiotaskq.integrations.aiohttp import setup
from aiotaskq.log import logger, output
from tests.log.kept import SECRET, Kept, run_one
from tests.support.machine import within
from tests.support.programs import Program


async def test_a_failing_handler_reaches_the_standard_library_with_its_traceback(standard: Kept) -> None:
    tq = TaskQ("memory://")

    def deeper(token: str) -> None:
        raise PermissionError(f"refused\r\n2026-01-01 ERROR forged \x1b[31m: {len(token)}")

    @tq.task(max_retries=1, backoff=0.001)
    async def mail(token: str) -> None:
        deeper(token)

    task_id = await run_one(tq, mail, token=SECRET)
    assert [record.levelname for record in standard.records] == ["WARNING", "ERROR"]
    assert [record.name for record in standard.records] == ["aiotaskq"] * 2
    retried, failed = standard.written
    head = r"PermissionError: refused"
    assert retried.startswith(f"WARNING aiotaskq task_log retried mail {task_id}: {head}; attempt 1 of 2, next in ")
    assert failed.startswith(f"ERROR aiotaskq task_log failed mail {task_id}: {head}\n    Traceback (most recent")
    for text in (retried, failed):
        first, *rest = text.split("\n")
        assert "forged" not in first and all(line.startswith("    ") and line.isprintable() for line in rest)
        assert next(line for line in rest if "File" in line).endswith(", in mail")
        assert str(Path(aiotaskq.log.__file__).parent) not in text, "our frames"
        assert SECRET not in text
    info = standard.records[0].exc_info
    assert info is not None and info[0] is PermissionError and info[2] is not None
    assert info[2].tb_frame.f_code.co_name == "mail", "what reads the record itself gets the same traceback"


def failing() -> tuple[TaskQ, Callable[[], Awaitable[str]]]:
    """A task queue, and what an endpoint does: push a task that fails, and wait for its end."""
    tq = TaskQ("memory://")

    @tq.task(max_retries=0)
    async def mail() -> None:
        raise ValueError("no")

    async def fail() -> str:
        task_id = (await mail.push()).task_id
        await tq.queue.wait_for_end(task_id, within(30))
        return task_id

    return tq, fail


def test_a_failure_inside_fastapi_is_in_its_log(standard: Kept) -> None:
    tq, fail = failing()
    app = FastAPI(lifespan=tq.lifespan)
    app.get("/")(fail)
    with FastAPIClient(app) as client:
        task_id = client.get("/").json()
    (text,) = standard.written
    assert text.startswith(f"ERROR aiotaskq task_log failed mail {task_id}: ValueError: no\n    Traceback")


async def test_a_failure_inside_aiohttp_is_in_its_log(standard: Kept) -> None:
    tq, fail = failing()
    app = web.Application()
    setup(app, tq)

    async def endpoint(_request: web.Request) -> web.Response:
        return web.Response(text=await fail())

    app.router.add_get("/", endpoint)
    async with AiohttpClient(TestServer(app)) as client, client.get("/") as answer:
        task_id = await answer.text()
    (text,) = standard.written
    assert text.startswith(f"ERROR aiotaskq task_log failed mail {task_id}: ValueError: no\n    Traceback")


@pytest.mark.parametrize("kind", ["thread", "middleware", "injected"])
async def test_tracebacks_have_no_frames_of_the_package(standard: Kept, kind: str) -> None:
    tq = TaskQ("memory://")

    async def mail(n: int) -> None:
        raise ValueError(n)

    def in_thread(n: int) -> None:
        raise ValueError(n)

    if kind == "middleware":

        @tq.middleware
        async def around(task: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
            return await call_next(task)

    @tq.resource
    def client() -> io.StringIO:
        return io.StringIO()

    async def with_resource(n: int, client: io.StringIO = injected()) -> None:
        raise ValueError(n)

    function: Any = {"thread": in_thread, "middleware": mail, "injected": with_resource}[kind]
    handler = tq.task(max_retries=0)(function)
    async with tq.running():
        await tq.queue.wait_for_end((await handler.push(n=1)).task_id, within(30))
    (text,) = standard.written
    frames = [line.strip().rpartition(", in ")[2] for line in text.split("\n") if line.strip().startswith("File")]
    assert frames == {"thread": ["in_thread"], "middleware": ["around", "mail"], "injected": ["with_resource"]}[kind]


async def test_an_application_with_a_sink_of_loguru_gets_the_lines_there(standard: Kept, sink: list[str]) -> None:
    tq = TaskQ("memory://")

    @tq.task(max_retries=1, backoff=0.001)
    async def mail() -> None:
        raise ValueError("no")

    task_id = await run_one(tq, mail)
    assert not standard.records
    assert [line.split("\n")[0].rpartition(";")[0] or line.split("\n")[0] for line in sink] == [
        f"WARNING aiotaskq.runtime.task_log retried mail {task_id}: ValueError: no",
        f"ERROR aiotaskq.runtime.task_log failed mail {task_id}: ValueError: no",
    ]
    assert all("in mail\n" in line and line.count("Traceback") == 1 for line in sink)


async def test_one_call_chooses_what_is_written_and_where(standard: Kept, sink: list[str]) -> None:
    logging.getLogger("aiotaskq").setLevel(logging.DEBUG)
    queue = MemoryQueue()

    async def lines_with(level: str | None, to: Any) -> tuple[int, int]:
        output(level, to=to)
        standard.records.clear()
        sink.clear()
        await queue.push_task({"type": "x"})
        aiotaskq.log.log.info("information")
        aiotaskq.log.log.error("an error")
        return len(standard.records), len(sink)

    assert await lines_with("DEBUG", "logging") == (3, 0)
    assert await lines_with("DEBUG", "loguru") == (0, 3)
    assert await lines_with("DEBUG", "auto") == (0, 3)
    assert await lines_with("INFO", "auto") == (0, 2)
    assert await lines_with("WARNING", "logging") == (1, 0)
    assert await lines_with("ERROR", "logging") == (1, 0)
    assert await lines_with(None, "logging") == (0, 0)
    logger.disable("aiotaskq")
    try:
        assert await lines_with("DEBUG", "loguru") == (0, 0)
    finally:
        logger.enable("aiotaskq")
    logging.getLogger("aiotaskq").setLevel(logging.ERROR)
    assert await lines_with("DEBUG", "logging") == (1, 0)
    assert aiotaskq.log.logger is logger, "asking for it changes nothing that was chosen"
    assert await lines_with("WARNING", "logging") == (1, 0)
    for wrong in ({"level": "LOUD"}, {"to": "paper"}):
        with pytest.raises(ValidationError, match=f"{next(iter(wrong))}: .* needed"):
            output(**wrong)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="nonsense"):
        _ = aiotaskq.log.nonsense


async def test_without_tracebacks_no_text_of_an_exception_is_written(standard: Kept) -> None:
    output("DEBUG", to="logging", tracebacks=False)
    logging.getLogger("aiotaskq").setLevel(logging.DEBUG)
    tq = TaskQ("memory://durable-fake")

    @tq.task(max_retries=0)
    async def mail(token: str) -> None:
        raise PermissionError(token)

    @tq.task(max_retries=0)
    async def odd(token: str) -> Any:
        return {token: object()}

    ids = [await run_one(tq, mail, token=SECRET), await run_one(tq, odd, token=SECRET)]
    failed = [record.getMessage() for record in standard.records if record.levelno == logging.ERROR]
    assert failed == [f"failed mail {ids[0]}: PermissionError", f"failed odd {ids[1]}: result_unserializable"]
    assert SECRET not in "".join(standard.written)


FAILING = """
import asyncio
{first}
from aiotaskq import TaskQ
tq = TaskQ("memory://")

@tq.task(max_retries=0, name="mail")
async def mail():
    raise ValueError("no")

async def main():
    async with tq.running():
        await tq.queue.wait_for_end((await mail.push()).task_id, 30)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("first", "lines"),
    [
        ("", ["failed mail"]),
        ("import logging; logging.basicConfig(format='%(name)s|%(message)s')", ["aiotaskq|failed mail"]),
        (
            "import sys, loguru; loguru.logger.remove(); loguru.logger.add(sys.stderr, format='loguru|{message}')",
            ["loguru|failed mail"],
        ),
        (
            "import sys, aiotaskq.log; aiotaskq.log.logger.remove()\n"
            "aiotaskq.log.logger.add(sys.stderr, format='loguru|{message}')",
            [
                *("loguru|push mail", "loguru|cleanup started", "loguru|worker started", "loguru|start mail"),
                *(
                    "loguru|scheduler started",
                    "loguru|failed mail",
                    "loguru|scheduler stopped",
                    "loguru|cleanup stopped",
                ),
            ],
        ),
        ("import logging; logging.getLogger('aiotaskq').setLevel(logging.CRITICAL)", []),
        ("import aiotaskq.log; aiotaskq.log.output(None)", []),
    ],
)
def test_the_output_of_a_failure_in_an_application(start: Callable[..., Program], first: str, lines: list[str]) -> None:
    program = start(FAILING.format(first=first))
    _, err = program.popen.communicate(timeout=within(40))
    assert program.popen.returncode == 0
    said = [line for line in err.split("\n") if line and not line.startswith("    ")]
    assert sorted(" ".join(line.split(" ")[:2]).rstrip(":") for line in said) == sorted(lines), err
    assert err.count("Traceback") == err.count('raise ValueError("no")') == 0 if not lines else "failed mail" in err


@pytest.mark.parametrize("asked", ["", "from aiotaskq.log import logger", "from aiotaskq.log import output; output()"])
def test_the_facade_writes_every_line_where_the_program_asks_for_it(start: Callable[..., Program], asked: str) -> None:
    script = """
from aiotaskq.sync import get_queue, pop_task, push_task, set_public
push_task({"task_id": "one", "type": "mail"})
pop_task()
get_queue().task_done()
set_public("cookie", "S3CRET")
"""
    program = start(asked + script)
    _, err = program.popen.communicate(timeout=within(40))
    assert program.popen.returncode == 0 and SECRET not in err
    said = [line.partition(" - ")[2] for line in err.splitlines()]
    verbs = ["push mail one", "pop mail one", "task_done mail one", "set cookie"]
    cleanup = "cleanup started: it removes expired values every 60 s"  # of the process-wide queue
    assert said == ([cleanup, *verbs, "cleanup stopped"] if "logger" in asked else []), err


def test_a_push_from_a_signal_handler_that_interrupts_the_log_does_not_hang(start: Callable[..., Program]) -> None:
    script = """
import os, signal, threading, time
from aiotaskq.log import logger
from aiotaskq.sync import get_queue, get_scheduler, push_task
main, said = threading.main_thread(), []

def sink(line):
    said.append(line.strip())
    if "interrupted" in line:
        os.kill(os.getpid(), signal.SIGALRM)
        for _ in range(100):  # the handler runs here, while loguru's lock is held
            time.sleep(0.001)

def on_alarm(number, frame):
    for n in range(3):
        pushed.append(push_task({"task_id": str(n), "type": "x"}))

logger.remove()
logger.add(sink, format="{message}")
pushed = []
signal.signal(signal.SIGALRM, on_alarm)
get_queue()
scheduler = get_scheduler()
scheduler.add_scheduler_task("n", "fired", "interval", interval_seconds=1)
logger.info("interrupted")
assert pushed == ["0", "1", "2"]
scheduler.stop()
push_task({"task_id": "last", "type": "x"})
print([line for line in said if line.startswith("push x")])
"""
    assert start(script).end() == ["['push x 0', 'push x 1', 'push x 2', 'push x last']"]


def test_an_exception_of_a_signal_handler_is_not_caught_by_the_log(start: Callable[..., Program]) -> None:
    script = """
import os, signal, threading, time
from aiotaskq.log import logger
from aiotaskq.sync import MemoryQueue

class Alarm(Exception): ...

def on_alarm(number, frame):
    raise Alarm

def sink(line):  # of a call of the main thread: the alarm comes while its line is written
    if "pop x" in line:
        os.kill(os.getpid(), signal.SIGALRM)
        time.sleep(0.05)

logger.remove()
logger.add(sink)
signal.signal(signal.SIGALRM, on_alarm)
queue = MemoryQueue()
queue.push_task({"task_id": "one", "type": "x"})
try:
    queue.pop_task()
except Alarm:
    logger.remove()
    print("alarm", queue.pop_task(timeout=30)["task_id"])
"""
    assert start(script).end() == ["alarm one"]


def test_the_first_sink_of_an_application_is_not_taken_for_the_default_one(start: Callable[..., Program]) -> None:
    first = """
import os
os.environ["LOGURU_AUTOINIT"] = "False"
import sys, loguru
loguru.logger.add(sys.stderr, format="loguru|{message}")  # number 0
"""
    program = start(FAILING.format(first=first))
    assert program.popen.communicate(timeout=within(40))[1].startswith("loguru|failed mail ")

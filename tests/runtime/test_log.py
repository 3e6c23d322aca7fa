"""What aiotaskq logs: where it goes, what it says, and that it costs nothing where nobody listens."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
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
from aiotaskq import MemoryQueue, Scheduler, TaskQ, injected
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import Completed, Failed, LeaseExpired, TimedOut, marked, settle
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.task import SECOND, Status, new_task
from aiotaskq.errors import ValidationError
from aiotaskq.integrations.aiohttp import setup
from aiotaskq.log import logger, output
from aiotaskq.runtime.task_log import log_outcome
from tests.support.machine import within
from tests.support.programs import Program, programs_in

SECRET = "S3CRET"


class Kept(logging.Handler):
    """Keeps what the standard library's logger `aiotaskq` is given, as it would be written."""

    def __init__(self) -> None:
        super().__init__(0)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(module)s %(message)s"))
        self.written: list[str] = []
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.written.append(self.format(record))


@pytest.fixture
def standard() -> Iterator[Kept]:
    kept, target = Kept(), logging.getLogger("aiotaskq")
    target.addHandler(kept)
    yield kept
    target.removeHandler(kept)
    target.setLevel(logging.NOTSET)


@pytest.fixture
def sink() -> Iterator[list[str]]:
    """A sink that the application has added to loguru."""
    lines: list[str] = []
    number = logger.add(lambda line: lines.append(str(line).rstrip("\n")), level=0, format="{level} {name} {message}")
    yield lines
    logger.remove(number)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    with programs_in(tmp_path) as start:
        yield lambda code: start(code, LOGURU_AUTOINIT="True")


async def run_one(tq: TaskQ, handler: Any, **params: Any) -> str:
    async with tq.running(concurrency=2):
        task_id: str = (await handler.push(**params)).task_id
        await tq.queue.wait_for_end(task_id, within(30))
    return task_id


# ---- where lines go --------------------------------------------------------------------------------------------------


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
async def test_frames_of_ours_are_not_in_the_way(standard: Kept, kind: str) -> None:
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


async def test_who_uses_loguru_gets_the_lines_there_instead(standard: Kept, sink: list[str]) -> None:
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
    tq = TaskQ("memory://rehearsal")

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
            ["loguru|push mail", "loguru|worker started", "loguru|start mail", "loguru|failed mail"],
        ),
        ("import logging; logging.getLogger('aiotaskq').setLevel(logging.CRITICAL)", []),
        ("import aiotaskq.log; aiotaskq.log.output(None)", []),
    ],
)
def test_what_an_application_sees_of_a_failure(start: Callable[..., Program], first: str, lines: list[str]) -> None:
    program = start(FAILING.format(first=first))
    _, err = program.popen.communicate(timeout=within(40))
    assert program.popen.returncode == 0
    said = [line for line in err.split("\n") if line and not line.startswith("    ")]
    assert sorted(" ".join(line.split(" ")[:2]).rstrip(":") for line in said) == sorted(lines), err
    assert err.count("Traceback") == err.count('raise ValueError("no")') == 0 if not lines else "failed mail" in err


@pytest.mark.parametrize("quiet", [False, True])
def test_through_the_facade_every_line_comes_without_further_ado(start: Callable[..., Program], quiet: bool) -> None:
    script = """
from aiotaskq.sync import get_queue, pop_task, push_task, set_public
push_task({"task_id": "one", "type": "mail"})
pop_task()
get_queue().task_done()
set_public("cookie", "S3CRET")
"""
    program = start(("from aiotaskq.log import output; output()" if quiet else "") + script)
    _, err = program.popen.communicate(timeout=within(40))
    assert program.popen.returncode == 0 and SECRET not in err
    said = [line.partition(" - ")[2] for line in err.splitlines()]
    assert said == ([] if quiet else ["push mail one", "pop mail one", "task_done mail one", "set cookie"]), err


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


# ---- what they say ---------------------------------------------------------------------------------------------------


async def test_every_operation_is_one_line_with_its_type_and_id_only(tmp_path: Path, sink: list[str]) -> None:
    output("DEBUG", to="loguru")
    queue = MemoryQueue()
    scheduler = Scheduler(url=f"sqlite:///{tmp_path}/s.db", queue=queue)

    async def said(awaitable: Awaitable[Any]) -> list[str]:
        sink.clear()
        await awaitable
        assert all(line.startswith("DEBUG aiotaskq.") for line in sink), sink
        return [line.split(" ", 2)[2] for line in sink]

    task = {"task_id": "one", "type": "mail", "params": {"token": SECRET}, SECRET: SECRET}
    assert await said(queue.push_task(task)) == ["push mail one"]
    assert await said(queue.push_task(task)) == ["push mail one: it is pending already"]
    assert await said(queue.pop_task()) == ["pop mail one"]
    assert await said(queue.push_task(task)) == ["push mail one"], "the guide's retry"
    assert await said(queue.pop_task(0)) == ["pop mail one"]
    assert await said(queue.task_done()) == ["task_done mail one"]
    assert await said(queue.push_task({**task, "task_id": "two"})) == ["push mail two"]
    assert await said(queue.cancel("two")) == ["cancel mail two"]
    assert await said(queue.retry("two")) == ["retry mail two"]
    assert await said(queue.pause("q\u2028")) == [r"pause queue q\u2028"]
    assert await said(queue.resume("q")) == ["resume queue q"]
    assert await said(queue.cancel("two")) == ["cancel mail two"]
    assert await said(queue.purge()) == ["purge: 2 tasks"]
    assert await said(queue.retry_many()) == ["retry_many: 0 tasks"]
    assert await said(queue.set_public("cookie\x9b31m", SECRET, ttl=0.0)) == [r"set cookie\x9b31m"]
    assert await said(queue.cleanup()) == ["cleanup: 1 expired values"]
    assert await said(queue.get_public("k" * 255)) == ["get " + "k" * 199 + "…"]
    assert await said(queue.delete_public("cookie")) == ["delete cookie"]
    assert await said(queue.clear_store()) == ["clear the public store"]
    add = scheduler.add_scheduler_task("nightly", "mail", "once", {"token": SECRET}, execute_at=1, task_id="s")
    assert await said(add) == ["schedule 'nightly' s added"]
    assert await said(scheduler.update_task("s", description="x")) == ["schedule 'nightly' s changed"]
    assert await said(scheduler.pause_task("s")) == ["schedule 'nightly' s paused"]
    assert await said(scheduler.resume_task("s")) == ["schedule 'nightly' s resumed"]
    fired = await said(scheduler.run_now("s"))
    assert len(fired) == 2 and any(line.startswith("schedule 'nightly' s fired now: mail ") for line in fired)
    sink.clear()
    await scheduler.start()
    async with asyncio.timeout(within(30)):
        for _ in range(2):
            await queue.pop_task()
    await scheduler.stop()
    assert len([line for line in sink if " schedule 'nightly' s fired: mail " in line]) == 1
    await scheduler.start()
    assert await said(scheduler.delete_task("s")) == ["schedule s deleted"]
    await scheduler.stop()
    assert SECRET not in "".join(sink)


async def test_the_lines_of_a_worker(sink: list[str]) -> None:
    output("DEBUG", to="loguru")
    tq = TaskQ("memory://")

    @tq.task
    async def good(token: str) -> str:
        return token

    @tq.task(timeout=0.01, max_retries=0)
    async def slow() -> None:
        await asyncio.sleep(30)

    one = await run_one(tq, good, token=SECRET)
    assert [line.split(" ", 2)[2] for line in sink] == [
        "worker started: 2 slots, every queue",
        f"push good {one}",
        f"start good {one}",
        f"completed good {one}",
    ]
    sink.clear()
    two = await run_one(tq, slow)
    assert sink[-1] == f"ERROR aiotaskq.runtime.task_log failed slow {two}: timed out after 0.01 s"
    assert SECRET not in "".join(sink)


def test_a_lost_lease_and_a_dead_worker_are_warnings(standard: Kept) -> None:
    now = 1_000 * SECOND
    running = new_task("mail", now=now, task_id="one").replace(status=Status.RUNNING, fence=1)
    log_outcome(running, Completed(), None, now)
    dead = settle(running, LeaseExpired(), now)
    log_outcome(running, LeaseExpired(), dead, now)
    poison = settle(marked(running.replace(crashes=2)), LeaseExpired(), now)
    log_outcome(running, LeaseExpired(), poison, now)
    late = TimedOut(3.0)
    log_outcome(running, late, settle(running, late, now), now)
    final = Failed("unknown_task: no worker handles 'S3CRET'", retryable=False)
    log_outcome(running, final, settle(running, final, now), now)
    assert [text.replace("aiotaskq task_log ", "").partition(", next")[0] for text in standard.written] == [
        "WARNING lost mail one: its lease was over, and another worker has taken it",
        "WARNING lost mail one: its lease was over, the worker died or stood still (1 times); it is run again",
        "ERROR failed mail one: its lease was over, the worker died or stood still (3 times)",
        "WARNING retried mail one: timed out after 3 s; attempt 1 of 4",
        "ERROR failed mail one: unknown_task",
    ]


async def test_a_pop_that_was_not_settled_is_told_as_one(standard: Kept) -> None:
    clock = VirtualClock(1_000 * SECOND)
    async with TaskQ("memory://rehearsal", clock=clock) as tq:
        await tq.push("mail", task_id="one", max_retries=1)
        for _ in range(2):
            assert await tq.queue.pop_task(timeout=0, visibility=5) is not None
            clock.step(6)
            await tq.queue.reaper.reap()
    told = [text.replace("aiotaskq task_log ", "") for text in standard.written if "task_log" in text]
    assert told == [
        "WARNING lost mail one: not settled within its visibility timeout; it is run again",
        "ERROR failed mail one: not settled within its visibility timeout",
    ]


async def test_a_dead_worker_is_told_by_the_one_that_finds_its_task(standard: Kept) -> None:
    tq = TaskQ("memory://rehearsal")
    async with tq:
        await tq.push("mail", task_id="one")
        await tq._backend.claim("a worker that has died", tq._clock.now(), 1, lease_until=1)
        await tq.queue.reaper.reap()
    assert [text.split(": ")[0] for text in standard.written] == ["WARNING aiotaskq task_log lost mail one"]


async def test_due_times_that_a_policy_skips_are_information_and_name_the_schedule(
    tmp_path: Path, standard: Kept
) -> None:
    logging.getLogger("aiotaskq").setLevel(logging.INFO)
    scheduler = Scheduler(url=f"sqlite:///{tmp_path}/s.db", queue=MemoryQueue())
    long_ago = new_schedule("nightly", "mail", "interval", None, 60, misfire="skip", task_id="its-id", now=SECOND)
    await scheduler.add([long_ago])
    await scheduler.start()
    async with asyncio.timeout(within(30)):
        while not standard.records:
            await asyncio.sleep(0.01)
    await scheduler.stop()
    (record,) = standard.records
    assert record.levelname == "INFO" and record.getMessage().startswith("schedule 'nightly': ")
    assert "due times skipped" in record.getMessage() and "its-id" not in record.getMessage()


# ---- what they cost --------------------------------------------------------------------------------------------------


async def test_where_nobody_listens_no_line_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = aiotaskq.log._Line

    def counted(level: int, text: str, *rest: Any) -> Any:
        made.append(text)
        return make(level, text, *rest)

    monkeypatch.setattr(aiotaskq.log, "_Line", counted)
    tq = TaskQ("memory://")

    @tq.task
    async def good() -> None: ...

    async def work() -> None:
        async with tq.running():
            await (await good.push()).result(within(30))
        await tq.store.set_public("a", 1)
        await tq.store.get_public("a")
        await tq.store.delete_public("a")

    await work()
    assert made == []
    number = logger.add(io.StringIO(), level="INFO")
    try:
        output("DEBUG", to="loguru")
        for each in list(logger._core.handlers):  # type: ignore[attr-defined]
            if each != number:
                logger.remove(each)
        await work()
        assert made == [], "no sink takes DEBUG"
        logger.add(io.StringIO(), level="DEBUG")
        await work()
        assert {line.split(" ")[0] for line in made} >= {"push", "start", "completed", "set", "get", "delete"}
    finally:
        logger.remove()


def test_a_line_of_a_blocking_call_is_written_before_it_returns(sink: list[str]) -> None:
    output("DEBUG", to="loguru")
    queue = aiotaskq.sync.MemoryQueue()
    for number in range(20):
        queue.push_task({"task_id": str(number), "type": "mail"})
        assert sink[-1].endswith(f"push mail {number}")
    broken = logger.add(lambda line: 1 / 0, catch=False)
    hook, raised = threading.excepthook, []
    threading.excepthook = raised.append  # type: ignore[assignment]
    try:
        queue.push_task({"type": "mail"})
    finally:
        threading.excepthook = hook
        logger.remove(broken)
    assert [each.exc_type for each in raised] == [ZeroDivisionError], "told, and the push is done"
    assert queue.get_queue_size() == 21

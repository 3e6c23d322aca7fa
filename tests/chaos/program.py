"""The processes that are killed: a worker, a producer, a scheduler, as an application would run them.

Started as ``python -m tests.chaos.program '{"role": "worker", …}'`` or forked by ``tests.chaos.nursery``; the options
are those of :class:`Options`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import gc
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine, ExceptionContext, event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.backends.sql.engines import parse_url
from aiotaskq.core.outcome import Completed, Failed, settle
from aiotaskq.core.stopping import ExitCode
from aiotaskq.core.task import Task
from aiotaskq.errors import AiotaskqError, BatchFailed, DatabaseUnavailable, TaskConflict
from aiotaskq.log import logger, output
from aiotaskq.runtime.context import current_batch, current_task
from aiotaskq.runtime.hooks import NAMES, HookCall
from tests.chaos import faults, workflows
from tests.chaos.ledger import Ledger, read

SETTLED = tuple(name for name in NAMES if name in ("completed", "retried", "failed", "cancelled", "released", "lost"))


class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The options of a process; durations in seconds."""

    name: str
    folder: str
    url: str
    role: str = "worker"
    schedules: str | None = None
    lease: float = 2.0
    heartbeat: float = 0.5
    reap: float = 0.5
    poll: float = 0.5
    concurrency: int = 8
    drain: float = 25.0
    grace: float = 5.0
    fault: str = ""
    clock: float = 0.0
    """By how much this process's wall clock is wrong."""
    seed: int = 0
    count: int = 0
    rate: float = 50.0
    batch: int = 1
    """Producer: pushes that are under way at the same time."""
    kinds: dict[str, float] = msgspec.field(default_factory=lambda: {"short": 1.0})
    """Producer: task types and how often each."""
    seconds: tuple[float, float] = (0.02, 0.2)
    max_retries: int = 3
    purge: bool = False
    """Scheduler: delete finished tasks at once."""
    end: str = ""
    """Transactor: how its transaction ends, ``rollback`` or ``kill`` (after the commit, before any event)."""
    quiet: bool = False
    """Worker: no ledger lines for single tasks, so that memory and time are the package's own."""

    @property
    def ledger(self) -> Path:
        return Path(self.folder) / f"{self.name}.ledger"


def main(options: Options) -> int:
    """Run the process that the options describe; return its exit code."""
    if options.clock:
        shift_clock(options.clock)
    faults.install(options.fault)
    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{time:HH:mm:ss.SSS} {level} {message}", diagnose=False)
    output("WARNING", to="loguru")
    # It logs each lost connection with a traceback; here they are lost on purpose.
    logging.getLogger("sqlalchemy.pool").addHandler(logging.NullHandler())
    random.seed(f"{options.seed} {options.name}")
    role = {"worker": work, "producer": produce, "scheduler": schedule, "transactor": transact}[options.role]
    ledger = Ledger(options.ledger)
    watch_errors(ledger)
    code = asyncio.run(role(options, ledger))
    ledger.write("exit", n=code)
    if code == ExitCode.ABANDONED:
        # As `aiotaskq run` does: what does not stop must not keep the process.
        sys.stderr.flush()
        os._exit(code)
    return code


def watch_errors(ledger: Ledger) -> None:
    """Write down each time that SQLite was locked in the middle of a transaction.

    The package tries again, so nothing else shows it; to wait at the beginning of a transaction is correct.
    """

    def failed(context: ExceptionContext) -> None:
        statement = context.statement or ""
        if "database is locked" in str(context.original_exception) and not statement.startswith("BEGIN"):
            ledger.write("locked", how=statement[:100])

    event.listen(Engine, "handle_error", failed)


def shift_clock(seconds: float) -> None:
    """Make the wall clock of this process wrong. CLOCK_MONOTONIC, and so every wait and the ledger, stays right."""
    true_time, true_ns = time.time, time.time_ns
    time.time = lambda: true_time() + seconds
    time.time_ns = lambda: true_ns() + int(seconds * 1_000_000_000)


def make(options: Options) -> TaskQ:
    return TaskQ(
        options.url,
        schedules=options.schedules,
        lease=options.lease,
        heartbeat=options.heartbeat,
        reap_interval=options.reap,
        poll_interval=options.poll,
    )


# ---- worker ---------------------------------------------------------------------------------------------------------


async def work(options: Options, ledger: Ledger) -> int:
    tq = make(options)
    register(tq, options, ledger)
    if options.quiet:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, functools.partial(measure, tq, ledger))
    booting = asyncio.create_task(tell_when_up(tq, ledger))
    code = await tq.run(options.concurrency, scheduler=False, drain=options.drain, grace=options.grace)
    booting.cancel()
    return int(code)


async def tell_when_up(tq: TaskQ, ledger: Ledger) -> None:
    """Write the line when the worker asks for tasks, so that no worker is cut off before it has opened its store."""
    while (worker := tq.worker) is None or not worker.running:
        await asyncio.sleep(0.01)
    ledger.write("boot", owner=worker.owner)


def measure(tq: TaskQ, ledger: Ledger) -> None:
    """Write down what must not grow."""
    gc.collect()
    # Memory that the allocator keeps is no leak: it does not depend on the number of tasks.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    data = {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": threading.active_count(),
        "coroutines": len(asyncio.all_tasks()),
        "files": len(os.listdir("/proc/self/fd")),
        "frames": sum(type(each).__name__ in ("frame", "traceback") for each in gc.get_objects()),
        "busy": len(tq.worker.executions) if tq.worker else 0,
    }
    ledger.write("measure", data=data)


def register(tq: TaskQ, options: Options, ledger: Ledger) -> None:
    """Register the handlers. Each returns the fence of its delivery, so the row shows the delivery of its result."""
    handlers = Handlers(tq, ledger, options)
    for name in ("short", "blocking", "spinning", "killer", "cooperative", "stubborn", "thread", "zombie", "flaky"):
        tq.task(name=name, backoff=0.1)(getattr(handlers, name))
    for name in ("member", "called", "collecting"):
        tq.task(name=name, backoff=0.1)(getattr(handlers, name))
    workflows.register(tq, options.url, ledger, handlers.run)
    tq.task(name="batched", backoff=0.1, batch=10, within=0.1)(handlers.batched)
    tq.task(name="failing", max_retries=0)(failing)
    tq.task(name="nothing")(nothing)
    if not options.quiet:
        for name in SETTLED:
            tq.on(name, handlers.settled)


async def nothing(seconds: float = 0.0) -> None:
    """As short as a task can be."""


async def failing(seconds: float = 0.0) -> None:
    """Fail with a large local variable, which must not be kept."""
    local = bytearray(100_000)
    inner: list[Any] = [local]
    inner.append(inner)  # a cycle: only the collector can free it
    raise ValueError(f"failing as told, with {len(local)} bytes in a local")


class Handlers:
    """What tasks do here; every run is written down before it does anything, and when it is over."""

    def __init__(self, tq: TaskQ, ledger: Ledger, options: Options) -> None:
        self._tq = tq
        self._ledger = ledger
        self._options = options
        self._settling: dict[tuple[str, int], int] = {}

    def settled(self, told: HookCall) -> None:
        if told.task is not None:
            self._ledger.write("settled", id=told.task.task_id, fence=told.task.fence, how=told.name)

    @contextlib.contextmanager
    def run(self, task: Task | None = None) -> Iterator[Task]:
        task = current_task().task if task is None else task
        where = {"id": task.task_id, "fence": task.fence}
        self._ledger.write("start", owner=task.lease_owner or "", **where)
        how = "raised"
        try:
            yield task
            how = "returned"
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        finally:
            self._ledger.write("end", how=how, **where)

    async def short(self, seconds: float = 0.0) -> dict[str, Any]:
        with self.run() as task:
            await asyncio.sleep(seconds)
            return {"fence": task.fence}

    async def cooperative(self, seconds: float) -> dict[str, Any]:
        with self.run() as task:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                await asyncio.sleep(min(0.1, left))
            return {"fence": task.fence}

    async def blocking(self, seconds: float) -> dict[str, Any]:
        with self.run() as task:
            time.sleep(seconds)
            return {"fence": task.fence}

    async def spinning(self, seconds: float) -> dict[str, Any]:
        with self.run() as task:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass
            return {"fence": task.fence}

    def thread(self, seconds: float) -> dict[str, Any]:
        with self.run() as task:
            time.sleep(seconds)
            return {"fence": task.fence}

    async def killer(self, seconds: float = 0.0, how: str = "kill") -> None:
        with self.run() as task:
            await asyncio.sleep(seconds)
            self._ledger.write("suicide", id=task.task_id, fence=task.fence, how=how)
            if how == "exit":
                os._exit(1)
            os.kill(os.getpid(), signal.SIGKILL)

    async def stubborn(self, seconds: float) -> dict[str, Any]:
        with self.run() as task:
            await self._sleep_on(seconds)
            return {"fence": task.fence}

    async def flaky(self, seconds: float) -> dict[str, Any]:
        """Fail the first time."""
        with self.run() as task:
            await asyncio.sleep(seconds)
            if task.retry_count == 0:
                raise ValueError("failing the first time")
            return {"fence": task.fence}

    async def member(self, every: float, fails: bool = False) -> dict[str, Any]:
        """End together with all others that run, whatever their process: at the next multiple of ``every`` seconds."""
        with self.run() as task:
            await asyncio.sleep(every - time.monotonic() % every)
            if fails:
                raise ValueError("failing as told")
            return {"fence": task.fence}

    async def called(self, group: str, kind: str) -> dict[str, Any]:
        """Write down that a group has called back."""
        with self.run() as task:
            self._ledger.write("called", id=task.task_id, fence=task.fence, how=group, data={"kind": kind})
            return {"fence": task.fence}

    async def collecting(self, calls: list[str], seconds: float) -> dict[str, Any]:
        """Write down which calls a debounced task has joined, when it is done."""
        with self.run() as task:
            await asyncio.sleep(seconds)
            self._ledger.write("joined", id=task.task_id, fence=task.fence, data={"calls": calls})
            return {"fence": task.fence}

    async def batched(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run a batch of which some items fail the first time."""
        tasks = [context.task for context in current_batch()]
        with contextlib.ExitStack() as stack:
            for task in tasks:
                stack.enter_context(self.run(task))
            await asyncio.sleep(max(item["seconds"] for item in items))
        results = [{"fence": task.fence} for task in tasks]
        fails = {n: ValueError("failing the first time") for n, item in enumerate(items) if item["fails"]}
        fails = {n: error for n, error in fails.items() if tasks[n].retry_count == 0}
        if fails:
            raise BatchFailed(fails, results)
        return results

    async def zombie(self, seconds: float) -> dict[str, Any]:
        """Stubborn; and if the process was paused for longer than its lease, write whatever can be written."""
        with self.run() as task:
            longest = await self._sleep_on(seconds)
            if longest > self._options.lease:
                writing = asyncio.ensure_future(self._write_all(task))
                while not writing.done():  # its worker cancels it as soon as it learns that the lease is lost
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.shield(writing)
                writing.result()
            return {"fence": task.fence}

    async def _sleep_on(self, seconds: float) -> float:
        """Sleep through cancellations; return the longest time that a moment took."""
        longest, before = 0.0, time.monotonic()
        end = before + seconds
        while (now := time.monotonic()) < end:
            longest, before = max(longest, now - before), now
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)
        return max(longest, time.monotonic() - before)

    async def _write_all(self, task: Task) -> None:
        backend = self._tq.queue.backend
        now = self._tq.queue.clock.now()
        self._say(task, "mark", (await backend.update([Change(task, task)]))[0])
        self._say(task, "report", (await backend.report([(task.task_id, task.fence, {"done": 1})]))[0])
        for how, outcome in (("retry", Failed("zombie")), ("complete", Completed({"fence": task.fence}))):
            after = settle(task, outcome, now)
            self._say(task, how, await self._tq.queue.settle(task, outcome) is not None and after is not None)

    def _say(self, task: Task, how: str, held: bool) -> None:
        self._ledger.write("write", id=task.task_id, fence=task.fence, how=how, held=held)


# ---- producer -------------------------------------------------------------------------------------------------------


async def produce(options: Options, ledger: Ledger) -> int:
    """Push ``count`` tasks, each until its push has returned; go on where an earlier life of this process stopped.

    A push whose outcome is unknown (this process was killed in it, the connection broke) is repeated with its id.
    """
    acked = {line.id for line in read(options.ledger) if line.what == "ack"}
    chance = random.Random(f"{options.seed} {options.name}")
    plan = []
    for number in range(options.count):
        (kind,) = chance.choices(list(options.kinds), list(options.kinds.values()))
        plan.append((f"{options.name}-{number:06d}", kind, round(chance.uniform(*options.seconds), 4)))
    left = [each for each in plan if each[0] not in acked]
    tq = make(options)
    ledger.write("boot")
    begin = time.monotonic()
    slots = asyncio.Semaphore(options.batch)

    async def push(task_id: str, kind: str, seconds: float) -> None:
        async with slots:
            ledger.write("intent", id=task_id)
            await persistently(
                functools.partial(tq.push, kind, {"seconds": seconds}, task_id=task_id, max_retries=options.max_retries)
            )
            ledger.write("ack", id=task_id)

    async with stopping() as stop, tq, asyncio.TaskGroup() as group:
        for number, each in enumerate(left):
            if stop.is_set():
                break
            group.create_task(push(*each))
            await asyncio.sleep(max(0.0, begin + number / options.rate - time.monotonic()))
    return 0


async def persistently(push: Callable[[], Any]) -> None:
    """Push until it returns, as a caller with patience does."""
    while True:
        try:
            await push()
            return
        except DatabaseUnavailable:
            await asyncio.sleep(random.uniform(0.02, 0.1))
        except TaskConflict:
            return  # an earlier push of this id was stored, and its task has ended
        except AiotaskqError:
            logger.exception("a push was refused")
            raise


# ---- scheduler ------------------------------------------------------------------------------------------------------


async def schedule(options: Options, ledger: Ledger) -> int:
    """Fire what is due, and nothing else."""
    tq = make(options)
    async with stopping() as stop, tq:
        await tq._scheduler.start()
        ledger.write("boot")
        while not stop.is_set():
            if options.purge:
                await tq.purge(status=["completed", "failed"])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await stop.wait()
        await tq._scheduler.stop()
    return 0


# ---- transactor -----------------------------------------------------------------------------------------------------


async def transact(options: Options, ledger: Ledger) -> int:
    """Push one task in a transaction of its own making, hold it for a while, and end it as the options say."""
    engine = create_async_engine(parse_url(options.url))
    tq = make(options)
    task_id = f"{options.name}-0"
    async with tq, AsyncSession(engine) as session:
        if options.end == "kill":
            # Registered before the push registers its own listener, so called before it, too.
            event.listen(session.sync_session, "after_commit", lambda _session: die(ledger, task_id))
        await tq.push("short", {"seconds": 0.0}, task_id=task_id, session=session)
        ledger.write("intent", id=task_id, how=options.end)
        await asyncio.sleep(random.uniform(*options.seconds))
        ledger.write("ack" if options.end == "kill" else "rolled", id=task_id)
        await (session.commit() if options.end == "kill" else session.rollback())
    await engine.dispose()
    return 0


def die(ledger: Ledger, task_id: str) -> None:
    ledger.write("suicide", id=task_id)
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.asynccontextmanager
async def stopping() -> AsyncIterator[asyncio.Event]:
    """Give the event that SIGTERM sets."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    yield stop


if __name__ == "__main__":
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=Options)))

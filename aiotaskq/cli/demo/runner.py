"""The demo: begins or continues a run, pushes, runs the tasks, opens the database again, and checks every claim."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import os
import shlex
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.url import scheme_of
from aiotaskq.cli.demo import files, report, shop
from aiotaskq.cli.demo.files import FILE, FILES, OTHERS, File
from aiotaskq.cli.demo.report import Check, Numbers
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.output import ProgressBar, echo, echo_json, echo_stderr, say
from aiotaskq.cli.shutdown import Deadline, Signals
from aiotaskq.cli.web import Port, serving
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.ids import new_id
from aiotaskq.core.masking import mask
from aiotaskq.core.status import Status, StatusName
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import AiotaskqError, NotSupported
from aiotaskq.operations.fields import about
from aiotaskq.sync.taskq import TaskQ as BlockingTaskQ

RUN = "demo.run"  # the public value that says which run this database is about, and whether it has ended
COOKIE = "demo.cookie"
COOKIE_TTL = 1.5  # seconds
REPORTS = 3  # that are waited for, however soon the files are done
SCRIPTED = 5  # tasks of the blocking script
PATIENCE = 60.0  # seconds without a file done, after which the demo gives up: the checks say what is missing
DRAIN, GRACE = 5.0, 1.0  # seconds
STOPPED = 130  # exit code
SAMPLE = 3  # files that are hashed a second time
ALL = 100_000  # more tasks than a demo ever has
UNENDED: tuple[StatusName, ...] = ("pending", "running")


class DemoOptions(Struct, frozen=True):
    """The options of ``demo``."""

    db: Annotated[
        str | None, about("The database; default a SQLite file in your cache folder, one for each FOLDER.")
    ] = None
    max_files: (
        Annotated[int, about("Maximum number of files; default 2,000, with --web 100.", ge=1, le=50_000)] | None
    ) = None
    max_mb: Annotated[int, about("Maximum size of all files, in megabytes.", ge=1)] = 512
    concurrency: Annotated[int, about("Number of tasks that run concurrently.", ge=1, le=1_000)] = 32
    pause: Annotated[float, about("Extra seconds for each file, as time to press Ctrl-C.", ge=0, le=60)] = 0.0
    fresh: Annotated[bool, about("Start anew instead of continuing a stopped run.")] = False
    web: Annotated[bool, about("Open the dashboard on a busy shop as well, until Ctrl-C.")] = False
    port: Port = 8765


class Demo:
    """One process of the demo. A run may take several processes: each continues where the last was stopped."""

    def __init__(self, folder: Path, options: DemoOptions, *, as_json: bool) -> None:
        """Raise MissingExtra where the dashboard is wanted."""
        self._folder = folder.resolve()
        self._options = options
        self._url = options.db or files.default_url(self._folder)
        self._as_json = as_json
        again = [f"--pause {options.pause:g}"] * bool(options.pause)
        again += [f"--db {shlex.quote(self._url)}"] * (options.db is not None)
        self._again = report.again(folder, *again)
        self._given_folder = folder
        self._clock = SystemClock()
        self._bar = ProgressBar(tr("files"), 0, quiet=as_json, to_stderr=False)
        self._files: list[File] = []
        self._left: int | None = None
        """Tasks of files that have not ended; None before the push."""
        self._reported = ""
        self._run = ""
        self._completed_before: dict[str, int] = {}
        if options.web:  # a missing package is reported before the demo begins
            importlib.import_module("aiotaskq.web.server")
        self._serving = False

    async def run(self) -> int:
        """Run the demo; return the exit code: 0 if every check held, 1 if one did not, 130 after a signal."""
        body = asyncio.create_task(self._run_all())
        signals = Signals(Deadline(self._end_now), DRAIN, GRACE)

        def stop() -> None:
            self._bar.line(tr("stopping: waiting for running tasks (Ctrl-C again does not wait)"))
            body.cancel()

        signals.attach(stop, lambda: self._end_now(STOPPED))
        code = STOPPED
        try:
            code = await body
        except asyncio.CancelledError:
            if not signals.asked:
                raise
            if self._serving:
                code = 0
            else:
                self._report_stop()
        finally:
            signals.detach(code)
        return code

    def _end_now(self, code: int) -> None:
        self._bar.close()
        os._exit(code)  # the leases of running tasks expire after three seconds

    def _report_stop(self) -> None:
        total = len(self._files)
        done = 0 if self._left is None else total - self._left
        if self._as_json:
            echo_json({"ok": False, "stopped": True, "database": mask(self._url), "files": total, "done": done})
        elif self._left is None:
            say("stopped before anything was pushed")
        else:
            values = {"done": done, "files": report.count_of_files(total)}
            say("stopped: {done} of {files} are done. To continue:", **values)
            echo(f"     {self._again}")

    async def _run_all(self) -> int:
        if scheme_of(self._url) == "memory":
            said = tr("db: the demo closes its database and opens it again; name a file, as sqlite:///x.db")
            raise NotSupported(said)
        most, own = self._options, files.database_files(self._url)
        # Beside thousands of files the charts would show nothing of the shop.
        count = most.max_files or (100 if most.web else 2_000)
        self._files, left_out = await asyncio.to_thread(
            files.walk, self._folder, max_files=count, max_bytes=most.max_mb * 1_000_000, without=own
        )
        if not self._as_json:
            report.introduce(self._folder, self._url, self._files, left_out)
        tq = TaskQ(self._url, lease=3, poll_interval=0.2)
        async with contextlib.AsyncExitStack() as stack:
            try:
                await tq.open()
                resumed = await self._begin(tq)
                if most.web:
                    if not resumed:
                        await shop.fill(self._url, self._clock.now())
                    await stack.enter_async_context(self._dashboard())
                ok = await self._run_checked(tq, left_out, resumed=resumed)
            finally:
                if self._left is not None:  # more tasks have ended in the drain
                    await tq.open()
                    self._left = await tq.queue.count(status=UNENDED, queue=FILES)
                await tq.close()
            if most.web:
                await self._stay_busy()
        return int(not ok)

    async def _run_checked(self, tq: TaskQ, left_out: Counter[str], *, resumed: bool) -> bool:
        """Push and run the tasks, open the database again, and tell whether every claim holds on what it has."""
        numbers = Numbers(tq, self._clock.now())
        dead_letter = await self._push(tq, numbers, resumed)
        with self._bar:
            scripted, cookie = await self._work(tq, numbers)
        counts = (await tq.stats()).counts
        await tq.close()
        async with TaskQ(self._url) as again:  # as another process does
            checks = await self._check(again, counts, scripted, cookie)
            for name in ("every-second", "two-seconds"):
                # On the dashboard they would ask for attention.
                end = again.schedules.delete if self._options.web else again.schedules.pause
                await end(f"{self._run}-{name}")
            await self._save(again, "finished")
        ok = all(held for held, *_ in checks)
        if self._as_json:
            echo_json(
                {
                    "ok": ok,
                    "database": mask(self._url),
                    "run": self._run,
                    "resumed_after": len(self._completed_before),
                    "files": len(self._files),
                    "left_out": left_out,
                    "numbers": numbers.as_dict(),
                    "checks": [{"name": claim.format(**values), "held": held} for held, claim, values in checks],
                    "dead_letter": dead_letter,
                }
            )
        else:
            report.show(numbers, checks)
            report.say_next(self._given_folder, self._url, dead_letter)
        return ok

    @contextlib.asynccontextmanager
    async def _dashboard(self) -> AsyncIterator[None]:
        """Print the address of the dashboard, and serve it meanwhile. Raises what the server raises."""
        stop, begun = asyncio.Event(), asyncio.Event()

        def started(url: str) -> None:
            say = echo_stderr if self._as_json else echo
            say(tr("dashboard: {url} (Ctrl-C ends the demo)", url=f"{url}/dashboard/"))
            begun.set()

        served = {"port": self._options.port, "show_args": True, "started": started}
        async with serving(TaskQ(self._url), served, stop):
            waits = [asyncio.create_task(each.wait()) for each in (begun, stop)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if begun.is_set():
                yield

    async def _stay_busy(self) -> None:
        """Run the shop until it is cancelled."""
        tq = TaskQ(self._url, lease=10, poll_interval=0.2, version=shop.NOW)
        files.register(tq, self._folder, self._options.pause, report=lambda: None)
        shop.register(tq)
        if not self._as_json:
            echo()
            say("The shop of the dashboard is open until Ctrl-C.")
        self._serving = True
        async with tq.running(8):
            await shop.add_traffic(tq)
            try:
                await asyncio.Event().wait()
            finally:
                await tq.schedules.pause(shop.TRAFFIC)

    async def _begin(self, tq: TaskQ) -> bool:
        """Go on with the run that was stopped, and return True; or forget what was and begin one."""
        schedules = await tq.schedules.list()
        queues = {schedule.queue for schedule in schedules} | (await tq.stats()).queues.keys()
        if not queues <= {FILES, OTHERS, *shop.QUEUES}:
            raise AiotaskqError(tr("db: it holds tasks of another application; the demo needs a database of its own"))
        state = await tq.values.get_public(RUN)
        if isinstance(state, dict) and state.get("state") == "running" and not self._options.fresh:
            if state["folder"] != str(self._folder):
                said = marked(
                    "db: it holds a stopped run on {folder}; continue it with that folder, or start anew with --fresh"
                )
                raise AiotaskqError(tr(said, folder=state["folder"]))
            self._run = state["id"]
            ended = await tq.find(status="completed", limit=ALL)
            self._completed_before = {task.idempotency_key: task.fence for task in ended if task.idempotency_key}
            return True
        self._run = new_id()[-8:]
        await asyncio.gather(*(tq.cancel(task.task_id) for task in await tq.find(status=UNENDED, limit=ALL)))
        await tq.purge()
        for schedule in schedules:
            await tq.schedules.delete(schedule.task_id)
        await self._save(tq, "running")
        return False

    async def _save(self, tq: TaskQ, state: str) -> None:
        await tq.values.set_public(RUN, {"id": self._run, "folder": str(self._folder), "state": state})

    async def _push(self, tq: TaskQ, numbers: Numbers, resumed: bool) -> str:
        """Push what is not there yet, add the schedules; return the id of the task that fails always."""
        run, total = self._run, len(self._files)
        files.register(tq, self._folder, self._options.pause, report=lambda: self._report(numbers))
        began = self._clock.ticks()
        # What an earlier process of this run has pushed has the same key, so it is not pushed again.
        tasks: list[dict[str, Any]] = [
            {"type": files.BROKEN, "idempotency_key": f"{run}-fails-always"},
            {"type": files.FLAKY, "idempotency_key": f"{run}-fails-twice"},
        ]
        tasks += [
            {"type": FILE, "params": {"path": file.path}, "idempotency_key": file.key(run)} for file in self._files
        ]
        handles = await tq.push_many(tasks)
        self._left = await tq.queue.count(status=UNENDED, queue=FILES)
        if not self._as_json and resumed:
            values = {"done": total - self._left, "files": report.count_of_files(total)}
            say("continuing the stopped run: {done} of {files} done", **values)
        elif not self._as_json:
            values = {"count": len(tasks), "seconds": f"{(self._clock.ticks() - began) / SECOND:.2f}"}
            say("pushed {count} tasks in one transaction, on disk after {seconds} s", **values)

        async def add(name: str, type: str, **timing: Any) -> None:
            # Before the files in the queue, or the report of the first second would come after the last file.
            options = {"queue": OTHERS, "priority": -1, "schedule_id": f"{run}-{name}", **timing}
            await tq.schedules.add(f"demo {name}", type, **options)

        await add("every-second", files.REPORT, interval=1)
        await add("two-seconds", files.TICK, cron="*/2 * * * * *")
        await add("once", files.TICK, at=self._clock.now() / SECOND + 1)
        return handles[0].task_id

    def _report(self, numbers: Numbers) -> None:
        total = len(self._files)
        values = {"files": report.count_of_files(total), "rate": report.rate_of(numbers)}
        line = tr("  scheduled report: {done} of {files}, {rate}", done=total - (self._left or 0), **values)
        if line != self._reported:
            self._reported = line
            self._bar.line(line)

    async def _work(self, tq: TaskQ, numbers: Numbers) -> tuple[list[str], tuple[Any, Any]]:
        """Run the tasks; return the keys of the script's, and the cookie at once and after its time to live."""
        await tq.values.set_public(COOKIE, "session=abc", ttl=COOKIE_TTL)
        set_at = self._clock.ticks()
        cookie = await tq.values.get_public(COOKIE)
        async with tq.running(self._options.concurrency, queues=[FILES, OTHERS], drain=DRAIN, grace=GRACE):
            scripted = await asyncio.to_thread(push_blocking, self._url, self._run, SCRIPTED)
            await self._until_ended(tq, numbers)
            await self._clock.sleep(max(0.0, COOKIE_TTL - (self._clock.ticks() - set_at) / SECOND))
        await tq.open()
        return scripted, (cookie, await tq.values.get_public(COOKIE))

    async def _until_ended(self, tq: TaskQ, numbers: Numbers) -> None:
        """Wait until no task is left, and the first reports were fired.

        The database says so, for a second demo on the same folder does its share.
        """
        total, moved, left_then = len(self._files), self._clock.ticks(), -1
        while self._clock.ticks() - moved < PATIENCE * SECOND:
            self._left = left = await tq.queue.count(status=UNENDED, queue=FILES)
            fired = (await tq.schedules.get(f"{self._run}-every-second")).run_count
            if not left and fired >= REPORTS and not await tq.queue.count(status=UNENDED, queue=OTHERS):
                return
            self._bar.update(total - left, total, report.rate_of(numbers) if left else tr("waiting for the schedules"))
            if left != left_then:
                left_then, moved = left, self._clock.ticks()
            await self._clock.sleep(0.1)

    async def _check(
        self, tq: TaskQ, counts: dict[str, int], scripted: list[str], cookie: tuple[Any, Any]
    ) -> list[Check]:
        """Check every claim on what the reopened database holds; return whether each held."""
        found = await tq.find(limit=ALL)
        tasks = {task.idempotency_key or task.task_id: task for task in found}
        completed = {key: task for key, task in tasks.items() if task.status is Status.COMPLETED}
        schedules = {schedule.task_id: schedule for schedule in await tq.schedules.list()}
        run, checks = self._run, list[Check]()

        def check(claim: str, held: bool, **values: object) -> None:
            checks.append((held, claim, values))

        done, total = sum(file.key(run) in completed for file in self._files), len(self._files)
        check("one task per file, each completed: {done:,} of {total:,}", done == total, done=done, total=total)
        hashed = await asyncio.to_thread(self._hash_again, completed)
        right = {"right": sum(hashed), "looked": len(hashed)}
        check("stored results are right: {right} of {looked} files that were hashed again", all(hashed), **right)
        task = completed.get(f"{run}-fails-twice")
        retried = task is not None and task.retry_count == 2
        check("a task that fails twice is retried twice, and succeeds", retried)
        task = tasks.get(f"{run}-fails-always")
        kept = task is not None and task.status is Status.FAILED and "on purpose" in (task.error_message or "")
        check("a task that always fails is kept as a dead letter, with its error", kept)
        for name, least, claim in (
            ("every-second", REPORTS, marked("interval of 1 s: one task for each due time, {tasks} for {runs}")),
            ("two-seconds", 1, marked("cron with seconds: one task for each due time, {tasks} for {runs}")),
        ):
            runs = schedules[f"{run}-{name}"].run_count
            fired = sum(task.scheduler_task_id == f"{run}-{name}" for task in found)
            check(claim, runs == fired >= least, tasks=fired, runs=runs)
        once = schedules[f"{run}-once"]
        check("once: fired once, then disabled", once.run_count == 1 and not once.enabled)
        expired = cookie == ("session=abc", None)
        check("a public value with a time to live is readable until it expires", expired)
        results = [completed[key].result if key in completed else None for key in scripted]
        squares = [number * number for number in range(1, len(scripted) + 1)]
        pushed = {"total": len(scripted), "done": len(scripted) - results.count(None)}
        check("a script without asyncio pushed {total} tasks from a thread: {done} done", results == squares, **pushed)
        claim = marked("closed and reopened, the database still holds {tasks:,} tasks and {results:,} results")
        stored = {"tasks": len(found), "results": sum(task.result is not None for task in found)}
        check(claim, (await tq.stats()).counts == counts, **stored)
        if before := self._completed_before:
            again = sum(key not in tasks or tasks[key].fence != fence for key, fence in before.items())
            claim = marked("{done:,} tasks were completed before this run continued; {again} of them ran again")
            check(claim, not again, done=len(before), again=again)
        return checks

    def _hash_again(self, completed: dict[str, Task]) -> list[bool]:
        """Hash some files that have not changed since; return whether the stored results are the same."""
        same = []
        for file in self._files[:: max(1, len(self._files) // SAMPLE)][:SAMPLE]:
            path = self._folder / file.path
            with contextlib.suppress(OSError):  # deleted since
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if path.stat().st_mtime_ns == file.mtime_ns and file.key(self._run) in completed:
                    same.append(completed[file.key(self._run)].result.get("sha256") == digest)
        return same


def push_blocking(url: str, run: str, count: int) -> list[str]:
    """Push tasks as a script without asyncio does; return their idempotency keys."""
    keys = [f"{run}-square-{number}" for number in range(1, count + 1)]
    with BlockingTaskQ(url) as tq:
        for number, key in enumerate(keys, 1):
            tq.push(files.SQUARE, {"number": number}, queue=OTHERS, idempotency_key=key)
    return keys

"""The course of the demo: begin or go on, push, run, stop, open the database again, look whether all is there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.url import scheme_of
from aiotaskq.cli.demo import show
from aiotaskq.cli.demo.checks import Check, Seen, look
from aiotaskq.cli.demo.files import Found, walk
from aiotaskq.cli.demo.numbers import Numbers
from aiotaskq.cli.demo.options import Options
from aiotaskq.cli.demo.place import default_url, own_files
from aiotaskq.cli.demo.work import BROKEN, FLAKY, ONCE, QUEUE, REPORT, TWO_SECONDS, Handlers, push_as_before
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.output import Bar
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.ids import new_id
from aiotaskq.core.task import FINAL, SECOND, Task
from aiotaskq.errors import NotSupported, ValidationError
from aiotaskq.runtime.events import Event

RUN = "demo.run"  # the public value that says which run this database is about, and whether it has ended
COOKIE = "demo.cookie"
COOKIE_TTL = 1.5
REPORTS = 3  # that are waited for, however soon the files are done
LEGACY_TASKS = 5
PATIENCE = 60.0  # seconds without any task ending, after which the demo gives up
ALL = 100_000  # more than a demo ever has


def run_demo(options: Options) -> int:
    """Run the demo and return the exit code: 0 if every check held, 1 if one did not, 130 after Ctrl-C."""
    try:
        return asyncio.run(_until_signal(options))
    except KeyboardInterrupt:
        return 130


async def _until_signal(options: Options) -> int:
    play = Play(options)
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()
    first = 0.0

    def on_signal(number: int) -> None:
        nonlocal first
        if stop.done():
            if loop.time() - first < 0.5:
                return  # some programs that start others pass on a Ctrl-C that has reached us already
            play.bar.close()
            os._exit(128 + number)  # what runs is not waited for; its lease of three seconds ends by itself
        first = loop.time()
        stop.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    body = asyncio.create_task(play.run())
    await asyncio.wait({body, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not body.done():
        play.stopping()
        body.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            return await body
        play.stopped()
        return 128 + stop.result()
    return body.result()


class Play:
    """One run of the process; a run of the demo may take several, each going on where the last was stopped."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = options.folder.resolve()
        self.url = options.url or default_url(self.folder)
        self.found = Found([], {})
        self.run_id = ""
        self.resumed = False
        self.before: dict[str, Task] = {}
        self.files_left: set[str] = set()
        self.others_left: set[str] = set()
        self.reports = 0
        self.bar = Bar(tr("files"), 0, quiet=options.as_json)
        self._clock = SystemClock()
        self._changed = asyncio.Event()
        self._cookie: tuple[Any, Any] = (None, None)
        self.pushed = False

    async def run(self) -> int:
        """Play it all; return 0 if every check held."""
        if scheme_of(self.url) == "memory":
            said = tr("db: the demo closes its database and opens it again; name a file, as in sqlite:///x.db")
            raise NotSupported(said)
        self.found = await asyncio.to_thread(
            walk,
            self.folder,
            max_files=self.options.max_files,
            max_bytes=self.options.max_bytes,
            without=own_files(self.url),
        )
        if not self.options.as_json:
            show.introduce(self.folder, self.url, self.found)
        tq = TaskQ(self.url, lease=3, poll_interval=0.2)
        try:
            await tq.open()
            await self._begin(tq)
            numbers = Numbers(tq, self._clock.now(), f"{QUEUE}.file")
            await self._push(tq, numbers)
            self.bar.total(len(self.found.files))
            with self.bar:
                await self._work(tq, numbers)
            counts = (await tq.stats()).counts
            schedules = len(await tq.scheduler.list())
        finally:
            await tq.close()
        checks = await self._look_again(counts, schedules)
        show.report(self.options, self.url, self.found, numbers, checks, self.run_id, len(self._done_before()))
        return 0 if all(check.held for check in checks) else 1

    # ---- beginning ----

    async def _begin(self, tq: TaskQ) -> None:
        """Go on with the run that was stopped, or forget what was and begin one."""
        schedules = await tq.scheduler.list()
        others = set((await tq.stats()).queues) | {schedule.queue for schedule in schedules}
        if others - {QUEUE}:
            raise ValidationError(tr("db: tasks of somebody else are in there; the demo needs a database of its own"))
        state = await tq.store.get_public(RUN)
        if isinstance(state, dict) and state.get("state") == "running" and not self.options.fresh:
            if state.get("folder") != str(self.folder):
                raise ValidationError(
                    tr(
                        "db: it holds a run over {folder} that was stopped; go on with that folder, "
                        "or forget it with --fresh",
                        folder=state.get("folder"),
                    )
                )
            self.run_id, self.resumed = str(state["id"]), True
        else:
            waiting = await tq.find(status=("pending", "running"), queue=QUEUE, limit=ALL)
            await asyncio.gather(*(tq.cancel(task.task_id) for task in waiting))
            await tq.purge(queue=QUEUE)
            for schedule in schedules:
                await tq.scheduler.delete_task(schedule.task_id)
            self.run_id = new_id()[-8:]
        await self._save(tq, "running")

    async def _save(self, tq: TaskQ, state: str) -> None:
        await tq.store.set_public(RUN, {"id": self.run_id, "folder": str(self.folder), "state": state})

    async def _push(self, tq: TaskQ, numbers: Numbers) -> None:
        run = self.run_id
        handlers = Handlers(tq, self.folder, self.options.pause, lambda: self._report(numbers))
        for status in FINAL:
            tq.on(status, self._ended)
        self.before = {task.task_id: task for task in await tq.find(queue=QUEUE, limit=ALL)}
        extras = {FLAKY: f"{run}-fails-twice", BROKEN: f"{run}-fails-always"}
        self.files_left = {file.task_id(run) for file in self.found.files} - self._done_before()
        self.others_left = set(extras.values()) - self._done_before()
        # The ids are made of the run and the file: what an earlier process has pushed is not pushed again, and what has
        # ended must not be.
        calls = [
            handlers.fails_twice.options(task_id=extras[FLAKY]).call(),
            handlers.fails_always.options(task_id=extras[BROKEN]).call(),
            *(handlers.file.options(task_id=file.task_id(run)).call(path=file.path) for file in self.found.files),
        ]
        began = self._clock.ticks()
        ended = self._done_before()
        handles = await tq.push_many(call for call in calls if call.options["task_id"] not in ended)
        self.pushed = True
        if not self.options.as_json:
            created = sum(handle.created for handle in handles)
            done = len(self.found.files) - len(self.files_left)
            show.pushed(created, (self._clock.ticks() - began) / SECOND, self.resumed, done, len(self.found.files))
        for name, kind, task_type, timing in (
            ("every-second", "interval", REPORT, {"interval_seconds": 1}),
            ("two-seconds", "cron", TWO_SECONDS, {"cron_expression": "*/2 * * * * *"}),
            ("once", "once", ONCE, {"execute_at": self._clock.now() / SECOND + 1}),
        ):
            schedule_id = f"{run}-{name}"
            await tq.scheduler.add_scheduler_task(
                f"demo {name}", task_type, kind, **timing, queue=QUEUE, priority=-1, task_id=schedule_id
            )
            if self.resumed and kind != "once":  # it may have been stopped just after the pause at the end
                await tq.scheduler.resume_task(schedule_id)

    def _done_before(self) -> set[str]:
        return {task_id for task_id, task in self.before.items() if task.final and task_id.startswith(self.run_id)}

    # ---- running ----

    async def _work(self, tq: TaskQ, numbers: Numbers) -> None:
        await tq.store.set_public(COOKIE, "session=abc", ttl=COOKIE_TTL)
        set_at = self._clock.ticks()
        fresh = await tq.store.get_public(COOKIE)
        async with tq.running(self.options.concurrency, queues=[QUEUE], drain=5, grace=1):
            await self._push_from_thread()
            await self._until_done(tq, numbers)
            await self._clock.sleep(max(0.0, COOKIE_TTL - (self._clock.ticks() - set_at) / SECOND))
            self._cookie = (fresh, await tq.store.get_public(COOKIE))
            for name in ("every-second", "two-seconds"):
                await tq.scheduler.pause_task(f"{self.run_id}-{name}")
            for _ in range(50):
                if not await tq.find(status=("pending", "running"), queue=QUEUE, limit=1):
                    break
                await self._clock.sleep(0.1)
        await tq.open()

    async def _push_from_thread(self) -> None:
        """Push through the blocking facade, from a thread that knows nothing of asyncio."""
        loop = asyncio.get_running_loop()
        pushed: asyncio.Future[list[str]] = loop.create_future()

        def settle(ids: list[str] | None, error: BaseException | None) -> None:
            if pushed.done():
                return
            if ids is not None:
                pushed.set_result(ids)
            else:
                pushed.set_exception(error or RuntimeError("no ids"))

        def old_script() -> None:
            ids, error = None, None
            try:
                ids = push_as_before(self.url, self.run_id, LEGACY_TASKS)
            except BaseException as caught:
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, ids, error)

        threading.Thread(target=old_script, name="old-script", daemon=True).start()
        self.others_left |= set(await pushed) - self._done_before()

    async def _until_done(self, tq: TaskQ, numbers: Numbers) -> None:
        moved, left_then, looked = self._clock.ticks(), -1, self._clock.ticks()
        while self.files_left or self.others_left or self.reports < REPORTS:
            self._changed.clear()
            await self._clock.wait(self._changed, 0.25)
            await self._clock.sleep(0.05)  # a bar that moves twenty times a second is enough
            done = len(self.found.files) - len(self.files_left)
            self.bar.update(done, show.speed(numbers) if self.files_left else tr("waiting for the schedules"))
            left, now = len(self.files_left) + len(self.others_left), self._clock.ticks()
            if left != left_then:
                moved = looked = now
                left_then = left
            elif now - looked > SECOND:
                looked = now
                await self._ask(tq)
            if now - moved > PATIENCE * SECOND:
                break  # the checks tell what is missing

    async def _ask(self, tq: TaskQ) -> None:
        """Ask the database what is done: a second demo on the same folder takes its share, and tells us no events."""
        for task in await tq.find(status=FINAL, queue=QUEUE, limit=ALL):
            self._forget(task.task_id)
        schedule = await tq.scheduler.get(f"{self.run_id}-every-second")
        self.reports = max(self.reports, schedule.run_count)

    def _ended(self, event: Event) -> None:
        if event.task is not None:
            self._forget(event.task.task_id)
            self._changed.set()

    def _forget(self, task_id: str) -> None:
        self.files_left.discard(task_id)
        self.others_left.discard(task_id)

    def _report(self, numbers: Numbers) -> None:
        self.reports += 1
        done, total = len(self.found.files) - len(self.files_left), len(self.found.files)
        self.bar.line(show.every_second(self.reports, done, total, numbers))

    # ---- ending ----

    async def _look_again(self, counts: dict[str, int], schedules: int) -> list[Check]:
        """Open the database anew, as another process would, and check what it holds."""
        async with TaskQ(self.url) as again:
            seen = Seen(
                run=self.run_id,
                folder=self.folder,
                files=self.found.files,
                tasks={task.task_id: task for task in await again.find(queue=QUEUE, limit=ALL)},
                schedules={each.task_id: each for each in await again.scheduler.list()},
                before={task_id: self.before[task_id] for task_id in self._done_before()},
                cookie=self._cookie,
                counts=(counts, (await again.stats()).counts),
                schedules_then=schedules,
                run_value=await again.store.get_public(RUN),
            )
            checks = await asyncio.to_thread(look, seen)
            await self._save(again, "finished")
        return checks

    def stopping(self) -> None:
        """Say that what runs is waited for."""
        self.bar.line(tr("stopping: what runs may end (Ctrl-C again does not wait for it)"))

    def stopped(self) -> None:
        """Say how to go on."""
        total = len(self.found.files) if self.pushed else 0
        show.stopped(self.options, self.url, total - len(self.files_left), total)

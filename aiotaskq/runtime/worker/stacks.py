"""Where the handlers of a worker stand: the places of their frames in the code, and no values of variables."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.worker_info import RunStack, WorkerStack
from aiotaskq.log import BETWEEN, PACKAGE, printable
from aiotaskq.runtime.current import batch, current
from aiotaskq.runtime.worker.execution import Execution
from aiotaskq.runtime.worker.executors import CALLER
from aiotaskq.runtime.worker.runner import Runner

MOST_LINES, MOST_CHARACTERS = 50, 300  # of a task, and of a line
MOST_TEXT = 200_000  # characters of an answer
LEFT_OFF = "…"
OPAQUE = ("FutureIter", "async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper")
"""Awaitables of the interpreter that do not tell what they await."""


class Stacks:
    """Reads the stacks of what runs in one worker, from any thread: also while its event loop stands still."""

    def __init__(self, runner: Runner, clock: Clock) -> None:
        self._runner, self._clock = runner, clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0  # in which the loop runs

    def bind(self) -> None:
        """Belong to the running loop."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def look(self, asked: int = 0) -> WorkerStack:
        """Return where the handlers stand now. What runs goes on meanwhile, so tasks may be seen at different times."""
        threads = sys._current_frames()
        try:
            started = self._started()
            runs: list[RunStack] = []
            size, executions = 0, list(self._runner.executions.values())
            for execution in executions:
                run = self._run(execution, threads, started.get(execution.task.task_id, []))
                size += sum(map(len, run.lines))
                if size > MOST_TEXT:
                    break
                runs.append(run)
        finally:
            threads.clear()  # a frame of this call is in it
        return WorkerStack(asked, self._clock.now(), tuple(runs), len(executions) - len(runs))

    def _started(self) -> dict[str, list[asyncio.Task[Any]]]:
        """Return what runs for a task in the loop, by task id: its handler has started it. Known since Python 3.12."""
        found: dict[str, list[asyncio.Task[Any]]] = {}
        if self._loop is None or sys.version_info < (3, 12):
            return found
        for each in asyncio.all_tasks(self._loop):
            context = each.get_context()
            for known in context.get(batch) or (context.get(current),):
                if known is not None:
                    found.setdefault(known.task.task_id, []).append(each)
        return found

    def _run(self, execution: Execution, threads: dict[int, FrameType], started: list[asyncio.Task[Any]]) -> RunStack:
        task, lines = execution.task, list[str]()
        handler = execution.handler or self._runner.handlers.get(task.type)
        executor = "loop" if handler is None else handler.executor
        if (thread := self._runner.executors.threads.get(task.task_id)) in threads:
            lines = _lines(_inside_of_call(_called(threads[thread])))
        elif executor in ("loop", "thread"):
            first = self._runner.batches.call_of(task) or execution.coroutine
            seen: set[asyncio.Task[Any] | None] = {None} if first is execution.coroutine else {execution.coroutine}
            for each in (first, *started):
                if each is not None and each not in seen:
                    seen.add(each)
                    lines += ["asyncio task:"] if lines else []
                    lines += _lines(self._frames(each, threads, seen))
        return RunStack(
            task.task_id,
            task.type,
            task.began_at,
            task.retry_count + 1,
            executor,
            tuple(lines[:MOST_LINES]),
            self._runner.executors.pids if executor == "process" else (),
        )

    def _frames(
        self, task: asyncio.Task[Any], threads: dict[int, FrameType], seen: set[asyncio.Task[Any] | None]
    ) -> Iterable[FrameType]:
        coroutine: Any = task.get_coro()
        if self._loop is not None and asyncio.current_task(self._loop) is task and self._thread in threads:
            called = _called(threads[self._thread])
            if (outer := getattr(coroutine, "cr_frame", None)) in called:
                return called[called.index(outer) :]
        return _awaited(coroutine, seen)


def _called(frame: FrameType | None) -> list[FrameType]:
    """Return the frames of a thread, the latest call last."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _inside_of_call(frames: list[FrameType]) -> list[FrameType]:
    """Return the frames of a handler in a thread, without those of the thread."""
    inner = [place for place, frame in enumerate(frames) if frame.f_code is CALLER]
    return frames[inner[0] + 1 :] if inner else frames


def _awaited(awaited: Any, seen: set[asyncio.Task[Any] | None]) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine, and of what it awaits, the latest call last."""
    while awaited is not None:
        kind = next((each for each in ("cr", "ag", "gi") if hasattr(awaited, f"{each}_frame")), None)
        if kind is not None:
            if (frame := getattr(awaited, f"{kind}_frame")) is None:
                return
            yield frame
            awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
        elif isinstance(awaited, asyncio.Task):
            if awaited in seen:
                return
            seen.add(awaited)
            awaited = awaited.get_coro()
        elif type(awaited).__name__ in OPAQUE:
            awaited = next((each for each in gc.get_referents(awaited) if not isinstance(each, type)), None)
        else:
            return


def _lines(frames: Iterable[FrameType]) -> list[str]:
    """Return the places of frames, without those of aiotaskq that called the application's code."""
    every = list(frames)
    own = [place for place, frame in enumerate(every) if not frame.f_code.co_filename.startswith(PACKAGE)]
    kept = [frame for frame in every[own[0] :] if frame.f_code.co_filename not in BETWEEN] if own else every
    lines = [
        printable(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}", MOST_CHARACTERS)
        for frame in kept
    ]
    return lines if len(lines) <= MOST_LINES else [LEFT_OFF, *lines[1 - MOST_LINES :]]

"""What the programs for the rows of the page "From other libraries" share: the table of them, and workers."""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from aiotaskq.testing import Kit, virtual
from tests.support.command import Cli, prepared, wait_for
from tests.support.machine import within

Program: TypeAlias = Callable[..., Any]
"""A function, or a coroutine function, with a parameter ``kit``, ``cli`` or ``tmp_path``, or none."""
P = TypeVar("P", bound=Program)

ROWS: dict[tuple[str, str], Program] = {}
"""By the library, and the first span of code in the row."""

APP = """
from aiotaskq import TaskQ

tq = TaskQ("sqlite:///app.db")

import tasks
"""
TASKS = """
from app import tq


@tq.task
def say(text: str) -> None:
    print("said", text, flush=True)
"""
PROGRAM = """
import asyncio

from app import tq

asyncio.run(tq.run())
"""


def row(library: str, theirs: str) -> Callable[[P], P]:
    """Register the program for a row; it uses each word of ours that the row has."""

    def register(program: P) -> P:
        assert (library, theirs) not in ROWS
        ROWS[library, theirs] = program
        return program

    return register


def run(program: Program, cli: Cli, tmp_path: Path) -> None:
    """Run a program, in virtual time if it takes a ``kit``."""
    wanted = inspect.signature(program).parameters
    given = {name: value for name, value in {"cli": cli, "tmp_path": tmp_path}.items() if name in wanted}

    async def in_virtual_time() -> None:
        async with virtual() as kit:
            await program(kit)

    if inspect.iscoroutinefunction(program):
        asyncio.run(in_virtual_time() if "kit" in wanted else program(**given))
    else:
        program(**given)


async def ended(kit: Kit, handle: Any) -> Any:
    """Let time pass until nothing is left to do; return the result of a task or a group."""
    await kit.drain(delayed=True)
    return await handle.result(timeout=0)


def served(cli: Cli, *command: str, queue: str = "default", decorator: str = "@tq.task") -> None:
    """Let workers run one task, then stop them.

    Args:
        cli: whose folder gets an application, ``app:tq``, with a module of tasks.
        command: a verb of the command line with its arguments; nothing for a program that calls ``tq.run()``.
        queue: of the task.
        decorator: of its handler.
    """
    files = {"app.py": APP, "tasks.py": TASKS.replace("@tq.task", decorator), "program.py": PROGRAM}
    for name, text in files.items():
        (cli.home / name).write_text(text, encoding="utf-8")
    prepared(cli.home / "app.db")
    cli.out("push", "say", '{"text": "hello"}', "--queue", queue, "--db", cli.url)
    words = ["-m", "aiotaskq", *command] if command else ["program.py"]
    with cli.started(sys.executable, *words) as (process, lines):
        wait_for(lines, "said hello")
        process.send_signal(signal.SIGTERM)
        assert process.wait(within(40)) == 0, lines

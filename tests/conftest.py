"""Fixtures and hooks of all tests: a test without its server is skipped, and in CI the run fails for it."""

from __future__ import annotations

import functools
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from aiotaskq.log import output
from aiotaskq.testing import Kit
from tests.support.installed import Unavailable, bare
from tests.support.machine import MACHINE, VARIABLE, within
from tests.support.promises import Proofs
from tests.support.rewriting import rewrite_share

# The same examples in each run, at any speed; with AIOTASKQ_SOAK, which asks for more of them, others each time.
settings.register_profile(
    "steady",
    derandomize="AIOTASKQ_SOAK" not in os.environ,
    database=None,
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

collect_ignore = ["apps"]  # tests of other projects, which tests/integrations/test_apps.py runs

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
PROOFS = Proofs()
UNAVAILABLE: set[str] = set()
"""What the tests could not have on this machine, and why."""


def patient(drain: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Scale the real time that a drain may take by default."""

    @functools.wraps(drain)
    async def scaled(kit: Kit, timeout: float | None = None, **options: Any) -> None:
        await drain(kit, within(10) if timeout is None else timeout, **options)

    return scaled


Kit.drain = patient(Kit.drain)  # type: ignore[method-assign,assignment]


LAST = {"architecture": 1, "core": 2, "concurrency": 3, "docs": 4}
"""The folders of short files, in the order in which they end a run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure no coverage in property tests: their many examples run the same lines. Put short files last.

    With a long file last, the other processes of a run would have nothing to do.
    """
    for item in items:
        if item.get_closest_marker("hypothesis"):
            item.add_marker(pytest.mark.no_cover)
    items.sort(key=lambda item: LAST.get(item.nodeid.partition("/")[2].partition("/")[0], 0))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measure the machine between two tests, and scale the timeout of the next one."""
    MACHINE.look()
    mark = item.get_closest_marker("timeout")
    seconds = float(mark.args[0] if mark is not None else item.config.getini("timeout"))
    item.add_marker(pytest.mark.timeout(within(seconds)), append=False)
    return (yield)


def pytest_report_header() -> str:
    return f"this machine is {MACHINE.slowness:.1f} times as slow as a quiet one: bounds of time are as much longer"


def pytest_sessionstart(session: pytest.Session) -> None:
    rewrite_share(session.config)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage among modules and tests, which stay to the end: now, or whenever a test makes some."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure() -> None:
    if VARIABLE not in os.environ:  # the first process of the run
        MACHINE.calibrate()
    # A shell without job control starts background processes with SIGINT ignored, and their children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _skipped_without_server(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _skipped_without_server(item))


def _skipped_without_server(item: pytest.Item) -> Generator[None, object, object]:
    """Skip a test that needs a server that cannot be started here; such skips are told in one line for each server."""
    try:
        return (yield)
    except Unavailable as error:
        item.user_properties.append(("unavailable", str(error)))
        pytest.skip(str(error))  # told with this place, not with the test's: pytest adds up what is skipped at one


@pytest.fixture(autouse=True)
def _default_log() -> None:
    """Reset the output of the log to its default."""
    output()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    report = yield
    if report.when == "setup":
        for mark in item.iter_markers("promise"):
            item.user_properties.append(("promise", [mark.args[0], item.callspec.params["store"]]))  # type: ignore[attr-defined]
    report.user_properties = item.user_properties
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the report in the one process that sees all reports."""
    skipped = {str(value) for name, value in report.user_properties if name == "unavailable"}
    UNAVAILABLE.update(skipped)
    for name, value in report.user_properties:
        if name == "promise" and report.when == "teardown" and not skipped:
            PROOFS.tried.add(tuple(value))  # type: ignore[arg-type]
        elif name == "promise" and report.when == "call" and report.passed:
            PROOFS.proved.add(tuple(value))  # type: ignore[arg-type]


def _untested() -> list[str]:
    """What this run was to test and has not, a line each. In CI every server must be there, but where it is hidden."""
    promises = [f"PROMISED, NOT PROVED: {row!r} on {backend}" for row, backend in PROOFS.missing()]
    return promises + [f"NOT TESTED: {each}" for each in sorted(UNAVAILABLE) if IN_CI and not bare()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _untested():
        terminalreporter.write_line(line, red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run in CI for what was not tested; with several processes the first one decides."""
    if IN_CI and _untested() and not hasattr(session.config, "workeroutput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

"""What every test shares: the record of backends that could not be started, told at the end and fatal in CI."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

from tests.promises import Proofs

# Name of the backend to the reason. Filled through the fixture: an import of this module might get a second copy.
UNAVAILABLE: dict[str, str] = {}


@pytest.fixture(scope="session")
def unavailable() -> dict[str, str]:
    """Where a fixture that cannot start its backend writes why, before it skips."""
    return UNAVAILABLE


PROOFS = Proofs()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    report = yield
    for mark in item.iter_markers("promise"):
        proof = (mark.args[0], item.callspec.params["store"])  # type: ignore[attr-defined]
        PROOFS.tried.add(proof)
        if report.when == "call" and report.passed:
            PROOFS.proved.add(proof)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, reason in sorted(UNAVAILABLE.items()):
        terminalreporter.write_line(f"NOT TESTED: backend {name} could not be started: {reason}", red=True)
    for row, backend in PROOFS.missing():
        terminalreporter.write_line(f"PROMISED, NOT PROVED: {row!r} on {backend}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a backend that was not tested is a failure: a skip must not look like a pass."""
    if (UNAVAILABLE or PROOFS.missing()) and os.environ.get("CI", "").lower() in {"1", "true"}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

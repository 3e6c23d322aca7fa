"""What every test shares: the record of backends that could not be started, told at the end and fatal in CI."""

from __future__ import annotations

import os

import pytest

# Name of the backend to the reason. Filled through the fixture: an import of this module might get a second copy.
UNAVAILABLE: dict[str, str] = {}


@pytest.fixture(scope="session")
def unavailable() -> dict[str, str]:
    """Where a fixture that cannot start its backend writes why, before it skips."""
    return UNAVAILABLE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, reason in sorted(UNAVAILABLE.items()):
        terminalreporter.write_line(f"NOT TESTED: backend {name} could not be started: {reason}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a backend that was not tested is a failure: a skip must not look like a pass."""
    if UNAVAILABLE and os.environ.get("CI", "").lower() in {"1", "true"}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

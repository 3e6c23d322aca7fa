"""The second marker of the chaos tests, and the tables of their results at the end of the run."""

from __future__ import annotations

import pytest

from tests.chaos.harness import REPORTS, SEED


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos_quick: the chaos scenarios in small, two minutes for all stores")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if REPORTS:
        terminalreporter.section(f"chaos, AIOTASKQ_CHAOS_SEED={SEED}")
        for report in REPORTS:
            terminalreporter.write_line(report.table())

"""The running event loop, asked for by code that may run in none."""

from __future__ import annotations

import asyncio

import pytest

from aiotaskq.concurrency.loop_bound import NoRunningLoop, running_loop


async def test_it_is_the_loop_that_runs_the_caller() -> None:
    assert running_loop() is asyncio.get_running_loop()


def test_without_a_loop_an_error_of_its_own_is_raised() -> None:
    with pytest.raises(NoRunningLoop, match=r"^no running event loop$"):
        running_loop()

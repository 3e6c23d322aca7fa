"""Requests generated from the OpenAPI document: every response is a documented one."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from aiotaskq import TaskQ
from aiotaskq.web.endpoint import Endpoint
from aiotaskq.web.endpoints import ENDPOINTS
from aiotaskq.web.server import serve_until
from tests.support.machine import within

CASES = [(each, right) for each in ENDPOINTS for right in (True, False) if right or each.query or each.body]
"""Each operation with right and wrong requests; a path alone cannot be wrong."""


def checks() -> list[Any]:
    # Imported where it runs: each process of a run collects this file.
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    conforms = [checks.status_code_conformance, checks.content_type_conformance]
    return [not_a_server_error, *conforms, checks.response_schema_conformance, checks.response_headers_conformance]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of a server that runs in a thread, with workers beside it."""
    import schemathesis

    url = f"sqlite:///{tmp_path_factory.mktemp('fuzz') / 'tasks.db'}"
    told: queue.Queue[Any] = queue.Queue()

    async def main() -> None:
        stop = asyncio.Event()
        tq = TaskQ(url)

        @tq.task(max_retries=0)
        async def send_mail(to: str = "") -> str:
            return to

        tq.elsewhere("report")
        async with tq.running():
            for number in range(3):
                await tq.push("send_mail", {"to": "you"}, task_id=str(number), delay=number * 3600)
                await tq.schedules.add("s", "report", interval=3600, schedule_id=str(number))
                await tq.values.set_public(str(number), number)
            loop = asyncio.get_running_loop()

            def started(place: str) -> None:
                told.put((place, lambda: loop.call_soon_threadsafe(stop.set)))

            await serve_until(stop, tq, port=0, show_args=True, started=started)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    place, stop = told.get(timeout=within(30))
    try:
        yield schemathesis.openapi.from_url(f"{place}/openapi.json")
    finally:
        stop()
        thread.join(within(30))
        assert not thread.is_alive()


@pytest.mark.no_cover  # many times the same lines
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # schemathesis does
@pytest.mark.parametrize(
    ("operation", "right"), CASES, ids=[f"{each.name}-{'right' if right else 'wrong'}" for each, right in CASES]
)
def test_every_response_is_documented_and_no_request_crashes(  # J6, J7, J14
    api: Any, operation: Endpoint, right: bool
) -> None:
    from schemathesis import GenerationMode

    described, allowed = api[operation.path][operation.method], checks()
    mode = GenerationMode.POSITIVE if right else GenerationMode.NEGATIVE
    seen = set()

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=described.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        seen.add(case.call_and_validate(checks=allowed, timeout=within(20)).status_code)

    ask()
    assert seen

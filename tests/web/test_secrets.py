"""The operations API shows no parameters, results or hosts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ
from tests.support.logs import logged
from tests.support.machine import within
from tests.web.applications import SECRET, in_starlette, refused


async def test_params_results_and_error_texts_are_not_listed(door: Any, tq: TaskQ) -> None:  # J8
    async with tq.running():
        good = await tq.push("greet", {"name": SECRET})
        bad = await tq.push("greet", {"name": "nobody"}, unique_key="u")
        assert await good.result(within(30)) == f"Hello, {SECRET}!"
        with pytest.raises(RuntimeError):
            await bad.result(within(30))
    await tq.schedules.add("s", "greet", params={"name": SECRET}, interval=60)
    async with door(tq) as ask:
        for path in ("tasks", "schedules", "stats", "values", f"tasks/{good.task_id}"):
            answer = await ask.get(path)
            assert answer.status_code == 200 and SECRET not in answer.text, path
        errors = [task["error"] for task in (await ask.get("tasks?status=failed")).json()["tasks"]]
        assert errors == ["RuntimeError"]
        for path in ("tasks?params=true", f"tasks/{good.task_id}?params=true", "schedules?params=true"):
            refused(await ask.get(path), 403, "NotShown", "show_args=True")
        shown = await ask.get(f"tasks/{bad.task_id}")
        assert shown.json()["error"] == "RuntimeError" and SECRET not in shown.text
    async with door(tq, show_args=True) as ask:
        assert SECRET not in (await ask.get("tasks?status=completed")).text + (await ask.get("schedules")).text
        (task,) = (await ask.get("tasks?params=true&status=completed")).json()["tasks"]
        assert (task["params"], task["result"]) == ({"name": SECRET}, f"Hello, {SECRET}!")
        assert (await ask.get("schedules?params=true")).json()["schedules"][0]["params"] == {"name": SECRET}
        assert (await ask.get(f"tasks/{good.task_id}?params=true")).json()["params"] == {"name": SECRET}
        whole = (await ask.get(f"tasks/{bad.task_id}")).json()["error"]
        assert whole.startswith(f"RuntimeError: no {SECRET}")


async def test_an_application_that_logs_everything_logs_no_params(  # J8
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # as `python -m aiohttp.web` and some debug modes have it
    async with TaskQ(f"sqlite:///{tmp_path / 'log.db'}") as tq, in_starlette(tq, show_args=True) as ask:
        await ask.post("tasks", json={"type": "x", "params": {"name": SECRET}, "task_id": "t"})
        await ask.put("values/k", json={"value": SECRET})
        assert SECRET in (await ask.get("tasks/t?params=true")).text + (await ask.get("values/k")).text
    assert caplog.records and SECRET not in caplog.text


async def test_objects_in_memory_are_shown_as_json(door: Any) -> None:
    async with TaskQ("memory://?objects=any") as tq:
        await tq.push("odd", {"where": object(), "n": 1})
        await tq.push("nan", {"x": {1, 2}})
        async with door(tq, show_args=True) as ask:
            shown = (await ask.get("tasks?params=true")).json()["tasks"]
    assert [task["params"] for task in shown] == [{"x": [1, 2]}, "<dict>"]


async def test_an_unavailable_store_is_a_503_without_host_names(door: Any, tmp_path: Path) -> None:  # J9
    with logged("DEBUG") as lines:
        tq = TaskQ(f"postgresql://someone:{SECRET}@127.0.0.1:1/db")
        async with door(tq) as ask:
            for method, path in (
                ("GET", "tasks"),
                ("POST", "queues/q/pause"),
                ("GET", "schedules"),
                ("GET", "stats"),
            ):
                answer = await ask.request(method, path)
                refused(answer, 503, "DatabaseUnavailable", "try again later")
                assert "127.0.0.1" not in answer.text and SECRET not in answer.text
            ready = await ask.get("readyz")
            assert (ready.status_code, ready.json()) == (503, {"status": "failing", "parts": {"store": "failing"}})
            assert (await ask.get("healthz")).status_code == 200
        await tq.close()
    assert lines and not any(SECRET in line for line in lines)

"""``aiotaskq events``, ``tasks steps``, and what ``tasks get`` says a task waits for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aiotaskq import EventTimeout, TaskQ, sleep_for, step, wait_event
from aiotaskq.testing import virtual
from tests.support.command import Cli, prepared


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = Cli(tmp_path, monkeypatch, capsys)
    prepared(tmp_path / "app.db")
    monkeypatch.setenv("AIOTASKQ_DATABASE_URL", made.url)
    return made


def order(cli: Cli, wait: float | None) -> str:
    """Run a task until it waits for an event."""

    async def run() -> str:
        tq = TaskQ(cli.url)

        @tq.task
        async def order() -> None:
            for _ in range(2):
                await step("charge", lambda: {"secret": 5})
            try:
                await wait_event("never", timeout=0)
            except EventTimeout:
                await sleep_for("nag", minutes=2)
            await wait_event("approved:17", timeout=wait)

        async with virtual(tq, cli.url, history=False, retention=None) as kit:
            handle = await order.push()
            await kit.advance(minutes=3)
            return handle.task_id

    return asyncio.run(run())


def test_events_are_emitted_listed_and_shown(cli: Cli) -> None:
    assert cli.out("events", "list") == "no events\n"
    assert cli.out("events", "emit", "approved:17", '{"by": "é"}') == "emitted approved:17\n"
    assert cli.json("events", "emit", "b", "--expires", "60") == {"key": "b", "emitted": True}
    again = cli.fails("events", "emit", "approved:17", "2")
    assert "there is an event approved:17 already; its value stays" in again
    assert cli.json("events", "get", "approved:17")["value"] == {"by": "é"}
    assert cli.out("events", "get", "b") == "null\n"
    assert "there is no event none" in cli.fails("events", "get", "none")
    assert [each["key"] for each in cli.json("events", "list")["events"]] == ["approved:17", "b"]
    assert [each["key"] for each in cli.json("events", "list", "--prefix", "a")["events"]] == ["approved:17"]
    head, first, second = cli.out("events", "list").splitlines()
    assert head.split() == ["KEY", "AT", "EXPIRES"]
    assert first.startswith("approved:17 ") and second.startswith("b ")


def test_the_steps_of_a_task(cli: Cli) -> None:
    task_id = order(cli, None)
    lines = cli.out("tasks", "steps", task_id, "--utc").splitlines()
    assert [line.split()[2:] for line in lines[1:]] == [
        ["step", "charge"],
        ["step", "charge#2"],
        ["event", "never", "did", "not", "come", "in", "time"],
        ["sleep", "nag", "until", "2026-01-01", "00:02:00Z"],
        ["wait", "approved:17", "no", "timeout"],
    ]
    assert '{"secret": 5}' in cli.out("tasks", "steps", task_id, "--params")
    found = cli.json("tasks", "steps", task_id)["steps"]
    assert found[0] == {"kind": "step", "name": "charge", "number": 1, "at": "2026-01-01T00:00:00Z"}
    assert (found[2]["timed_out"], found[3]["until"], found[4].get("until")) == (True, "2026-01-01T00:02:00Z", None)
    assert cli.json("tasks", "steps", task_id, "--params")["steps"][1]["value"] == {"secret": 5}
    assert "event approved:17" in cli.out("tasks", "get", task_id)
    assert " by an event\n" in cli.out("tasks", "list")


def test_a_sleep_is_ended_early(cli: Cli) -> None:
    async def nap() -> str:
        tq = TaskQ(cli.url)

        @tq.task
        async def nap() -> None:
            await sleep_for("long", days=3_000)

        async with virtual(tq, cli.url, history=False, retention=None) as kit:
            handle = await nap.push()
            await kit.advance(minutes=1)
            return handle.task_id

    task_id = asyncio.run(nap())
    assert cli.out("tasks", "run-now", task_id) == f"{task_id}  due now\n"
    assert cli.out("tasks", "steps", task_id).splitlines()[-1].split()[2:] == ["wake", "long", "ended", "early"]
    assert {"kind", "name", "number", "at"} == cli.json("tasks", "steps", task_id, "--params")["steps"][-1].keys()
    assert "is due already" in cli.fails("tasks", "run-now", task_id)


def test_what_a_task_waits_for(cli: Cli) -> None:
    shown = cli.out("tasks", "get", order(cli, 1e8), "--utc")
    assert "event approved:17, until 2029-03-03" in shown

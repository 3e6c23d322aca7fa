"""``aiotaskq limits``, and what ``tasks get`` says a task waits for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aiotaskq import Workflow
from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.limits import Limit, Rate
from tests.support.command import Cli, prepared, waits_for


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = Cli(tmp_path, monkeypatch, capsys)
    prepared(tmp_path / "app.db")
    monkeypatch.setenv("AIOTASKQ_DATABASE_URL", made.url)
    return made


def pushed(cli: Cli) -> list[str]:
    """Push two exports of a tenant, a call, a second one that waits for the rate, and one of a paused queue."""

    async def push() -> list[str]:
        tq = TaskQ(cli.url)

        @tq.task(limit=Limit(1, key="tenant", max_waiting=9))
        async def export(tenant: int) -> None: ...

        @tq.task(rate=Rate(1, per=3600, name="api"))
        async def call() -> None: ...

        async with tq:
            handles = [await export.push(42) for _ in range(2)] + [await call.push() for _ in range(2)]
            handles.append(await call.options(delay=7200).push())
            handles.append(await call.options(queue="quiet").push())
            await tq.pause("quiet")
            return [handle.task_id for handle in handles]

    return asyncio.run(push())


def test_stats_say_how_many_wait_at_limits(cli: Cli) -> None:
    assert "wait at limits" not in cli.out("stats")
    pushed(cli)
    waiting = sum(row["waiting"] for row in cli.json("limits", "list")["limits"])
    assert waiting > 1
    assert f", {waiting} wait at limits" in cli.out("stats")


def test_a_list_of_limits_says_that_there_are_more(cli: Cli) -> None:
    pushed(cli)
    cut = "the first 1 by their keys; for more: --limit"
    assert cut in cli.out("limits", "list", "--limit", "1")
    assert len(cli.json("limits", "list", "--limit", "1")["limits"]) == 1
    assert "for more" not in cli.out("limits", "list", "--limit", "2"), "there are two"


def test_limits_are_listed_and_changed(cli: Cli) -> None:
    assert cli.out("limits", "list") == "no limits\n"
    pushed(cli)
    rows = {row["key"]: row for row in cli.json("limits", "list")["limits"]}
    assert (rows["tenant:42"]["cap"], rows["tenant:42"]["held"], rows["tenant:42"]["waiting"]) == (1, 1, 1)
    table = cli.out("limits", "list").splitlines()
    assert table[0].split() == ["KEY", "LIMIT", "HELD", "WAITING", "STATE"]
    assert table[2].split(maxsplit=1)[1].split("  ")[0] == "1 at a time, 9 may wait"
    assert cli.out("limits", "set", "tenant:42", "20") == "tenant:42: 20 at a time, 9 may wait, set by hand\n"
    assert cli.json("limits", "set", "api", "--rate", "50", "--per", "10", "--burst", "3")["rate"] == 5
    assert cli.out("limits", "pause", "api", "3600").startswith("api: 5 per second, burst 3, paused for ")
    for verb in ("pause", "resume", "reset"):
        said = cli.fails("limits", verb, "apii")
        guess = "(limits list shows those in use; limits set makes one); did you mean 'api'?"
        assert f"limit 'apii': no handler declares it, and no task has passed it {guess}" in said
    assert cli.json("limits", "pause", "api")["state"] == "paused"
    assert cli.json("limits", "resume", "api")["state"] == "open"
    assert cli.json("limits", "reset", "api")["fixed"] is False
    wanted = "set: name what to set: cap, rate, window or max_waiting"
    assert wanted in cli.fails("limits", "set", "api", code=2)
    assert "cap: a whole number is needed, or none (got zz)" in cli.fails("limits", "set", "api", "zz", code=2)


def test_a_task_of_a_workflow_shows_for_how_many_others_it_waits(cli: Cli) -> None:
    async def push() -> tuple[str, str]:
        tq = TaskQ(cli.url)

        @tq.task
        async def step() -> None: ...

        async with tq:
            order = Workflow("order")
            order.add("pay", step.call())
            order.add("pack", step.call())
            order.add("send", step.call(), after=["pay", "pack"])
            group = await tq.start(order)
            return (await group.task("send")).task_id, group.group_id

    task_id, group_id = asyncio.run(push())
    shown = cli.out("tasks", "get", task_id).splitlines()
    assert [line.split(maxsplit=1) for line in shown if line.startswith("waits")] == [
        ["waits_for", "tasks that have to end before it: 2"]
    ]
    assert ["group", group_id] in [line.split() for line in shown]
    assert "after 2 others" in cli.out("tasks", "list")


def test_a_task_shows_what_it_waits_for(cli: Cli) -> None:
    ids = pushed(cli)
    waits = [waits_for(cli, task_id) for task_id in ids]
    idle = "no worker claims from queue default"
    assert waits[:3] == [idle, "tenant:42: 1 of 1 are taken, 1 wait", idle]
    assert waits[3].startswith("api: its rate, next in ")
    assert waits[4].startswith("delayed, due in ")
    assert waits[5] == "queue quiet is paused"
    cli.run("limits", "pause", "tenant:42")
    assert "waits_for" in (shown := cli.out("tasks", "get", ids[1])) and "tenant:42: paused until resumed" in shown
    assert "46116860" not in shown
    assert "at tenant:42" in cli.out("tasks", "list")
    assert cli.json("tasks", "get", ids[1])["run_at"] < "2100"

"""``aiotaskq workers`` and ``aiotaskq history``: what workers there are, what they are asked for, and what they did."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.history import MINUTE, Sums, begin_of
from aiotaskq.core.task import SECOND
from aiotaskq.core.worker_info import RunStack, WorkerStack
from tests.support.command import Cli, prepared
from tests.support.rows import worker_info


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = Cli(tmp_path, monkeypatch, capsys)
    prepared(tmp_path / "app.db")
    monkeypatch.setenv("AIOTASKQ_DATABASE_URL", made.url)
    return made


def with_tq(cli: Cli, work: Callable[[TaskQ], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with TaskQ(cli.url) as tq:
            return await work(tq)

    return asyncio.run(run())


def registered(cli: Cli) -> str:
    """Register two workers, of which the first runs one task, and return the id of the task."""

    async def write(tq: TaskQ) -> str:
        registry, now = tq.queue.backend.workers, tq.queue.clock.now()
        assert registry is not None
        for owner in ("worker-a-1", "worker-b-2"):
            times = {"started_at": now, "seen_at": now, "lease_until": now + 60 * SECOND}
            await registry.register(worker_info(owner, concurrency=4, version="2.4.1", **times))
        handle = await tq.push("mail")
        await tq.queue.backend.claim("worker-a-1", tq.queue.clock.now(), 1)
        return handle.task_id

    return str(with_tq(cli, write))


def test_a_worker_is_shown_with_what_it_runs(cli: Cli) -> None:
    task_id = registered(cli)
    shown = cli.json("workers", "get", "worker-a")
    assert (shown["id"], shown["tasks"], shown["task_types"], shown["quiet"]) == ("worker-a-1", 1, ["mail"], False)
    assert [(run["task_id"], run["type"]) for run in shown["running"]] == [(task_id, "mail")]
    assert task_id in cli.out("workers", "get", "worker-a-1")
    assert cli.json("workers", "get", "worker-b")["running"] == []


def test_a_worker_tells_where_its_handlers_stand(cli: Cli) -> None:
    registered(cli)
    late = 4_000_000_000 * SECOND  # after it is asked

    def answered(*runs: RunStack, left_off: int = 0) -> str:
        async def write(tq: TaskQ) -> None:
            assert tq.queue.backend.workers is not None
            await tq.queue.backend.workers.answer("worker-a-1", WorkerStack(late, late, runs, left_off))

        with_tq(cli, write)
        return cli.out("workers", "stack", "worker-a")

    assert answered() == "worker worker-a-1 runs nothing now\n"
    loop = RunStack("t1", "mail", late, 2, "loop", ("/srv/shop.py:7 mail", "/srv/smtp.py:9 send"))
    shown = answered(loop, RunStack("t2", "pay", None, 1, "process", (), (41, 42)), left_off=3)
    assert "t1    mail  " in shown and "    /srv/shop.py:7 mail\n    /srv/smtp.py:9 send\n" in shown
    assert "one of 41, 42; py-spy" in shown and shown.endswith("and 3 more tasks\n")
    assert "has not answered within 0.01 s" in cli.fails("workers", "stack", "worker-b", "--within", "0.01")


def test_workers_are_quieted_woken_and_resized(cli: Cli) -> None:
    registered(cli)
    assert cli.out("workers", "quiet", "worker-a") == "worker-a-1  asked to be quiet\n"
    assert cli.json("workers", "resize", "worker-b", "9")["wanted_concurrency"] == 9
    rows = {row["id"]: row for row in cli.json("workers", "list")["workers"]}
    assert [(rows[name]["quiet"], rows[name]["wanted_concurrency"]) for name in sorted(rows)] == [
        (True, None),
        (False, 9),
    ]
    listed = cli.out("workers", "list")
    assert "quiet" in listed and "4 → 9" in listed and listed.count("2.4.1") == 2
    assert cli.out("workers", "quiet", "--dry-run") == "workers that match: 2\n"
    assert cli.json("workers", "quiet", "--all") == {"count": 2, "dry_run": False}
    assert cli.out("workers", "wake", "--all") == "asked to claim again: 2\n"
    assert "quiet" not in cli.out("workers", "list")
    assert cli.out("workers", "resize", "worker-b-2", "3").startswith("worker-b-2: 3 slots")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("quiet",), "which ones? name them, or choose them by options"),
        (("wake", "worker-a", "--all"), "name things, or choose them by options, not both"),
        (("wake", "worker-a", "--dry-run"), "--dry-run counts what options choose; leave out the names"),
        (("quiet", "nobody"), "there is no worker nobody"),
        (("get", "worker-"), "worker-a-1"),
        (("resize", "worker-", "3"), "several ids begin with it"),
    ],
)
def test_a_worker_that_is_not_named_is_refused(cli: Cli, words: tuple[str, ...], message: str) -> None:
    registered(cli)
    code, _, error = cli.run("workers", *words)
    assert code in (1, 2)
    assert message in error


def test_the_history_is_a_table_with_a_line_of_the_counts(cli: Cli) -> None:
    assert cli.out("history").startswith("nothing has ended since then")

    async def write(tq: TaskQ) -> None:
        now = tq.queue.clock.now()
        for minutes, count in ((1, 1), (30, 8), (50, 4)):
            sums = Sums()
            sums.add_runs([250_000] * count, [10_000] * count)
            at = begin_of(now - minutes * MINUTE * SECOND, MINUTE)
            await tq.queue.backend.history.add([sums.period((at, MINUTE, "default", "mail", "completed", ""))])

    with_tq(cli, write)
    header, line = cli.out("history").splitlines()
    assert header.split() == [
        "QUEUE",
        "TYPE",
        "OUTCOME",
        "COUNT",
        "RUN",
        "P50",
        "RUN",
        "P95",
        "RUN",
        "P99",
        "WAIT",
        "P95",
        "OVER",
        "TIME",
    ]
    assert line.split()[:4] == ["default", "mail", "completed", "13"]
    bars = [bar for bar in line if bar in "▁▂▃▄▅▆▇█"]
    assert bars == ["▄", "█", "▁"], "4, 8 and 1, the latest at the right"
    rows = cli.json("history", "--since", "40m", "--type", "mail")["periods"]
    assert [row["n"] for row in rows] == [8, 1]
    assert rows[0]["run_p95"] == pytest.approx(0.25, rel=1 / 16)
    assert cli.json("history", "--queue", "other")["periods"] == []


def test_the_shortest_duration_of_the_history_has_its_unit_in_chinese(cli: Cli) -> None:
    async def write(tq: TaskQ) -> None:
        sums = Sums()
        sums.add_runs([250_000], [10])
        at = begin_of(tq.queue.clock.now(), MINUTE)
        await tq.queue.backend.history.add([sums.period((at, MINUTE, "default", "mail", "completed", ""))])

    with_tq(cli, write)
    assert "< 1ms" in cli.out("history")
    cli.monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert "< 1毫秒" in cli.out("history")

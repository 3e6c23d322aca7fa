"""``db copy``: the target equals the source, also after kills and repeats, and nothing is overwritten."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Backend, Change
from aiotaskq.cli.store_access import opened
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Attempt, Task, TaskFilter
from aiotaskq.errors import TaskConflict
from aiotaskq.runtime.copy import close_gates, copy
from tests.support import nursery
from tests.support.command import Cli, prepared
from tests.support.machine import within
from tests.support.servers import Server, mariadb, postgresql, valkey

_made = [0]


def fresh(server: Server) -> str:
    """The URL of an empty database of its own."""
    _made[0] += 1
    return server.create(f"copy_{_made[0]}")


NOW = SystemClock().now()


def tasks(count: int, **fields: Any) -> list[Task]:
    made = []
    for number in range(count):
        given: dict[str, Any] = {
            "params": {"n": number, "text": "é\n你好"},
            "seq": NOW + number,
            "run_at": NOW + number,
        }
        made.append(Task(task_id=f"task-{number:06}", type="t", created_at=NOW // SECOND, **{**given, **fields}))
    return made


LIVES = [
    {"priority": -5, "unique_key": "one", "expires_at": NOW + 2**50, "timeout": 2.5, "extra": {"own": [1]}},
    {"status": Status.COMPLETED, "started_at": 5, "completed_at": 9, "fence": 3, "result": {"a": [1.5, None]}},
    {
        "status": Status.FAILED,
        "completed_at": 9,
        "retry_count": 3,
        "error_message": "E: 'x'\n\ttrace",
        "crashes": 2,
        "attempts": (Attempt(number=4, began_at=5, ended_at=6, outcome="failed", error="E: 'x'"),),
    },
    {"status": Status.CANCELLED, "completed_at": 9, "unique_key": "one", "idempotency_key": "once", "queue": "slow"},
    {"status": Status.EXPIRED, "completed_at": 9, "on_success": "next", "on_failure": "other", "progress": {"done": 1}},
    {"scheduler_task_id": "s-1", "max_retries": 0},
]


def fill(url: str, rows: list[Task], schedules: bool = True) -> None:
    async def main() -> None:
        async with TaskQ(url) as tq:
            await tq.queue.backend.push(rows)
            if schedules:
                made = [
                    new_schedule("a", "t", "cron", {"k": 1}, None, "0 2 * * *", timezone="Asia/Shanghai",
                                 task_id="s-1", overlap="skip", now=NOW),
                    new_schedule("b", "t", "interval", None, 7, task_id="s-2", max_runs=3, now=NOW + SECOND),
                    new_schedule("c", "t", "once", None, None, None, 4_000_000_000, task_id="s-3", now=NOW + SECOND),
                ]  # fmt: skip
                await tq._scheduler.add(made)
                await tq.schedules.pause("s-2")
            await tq.pause("slow")

    asyncio.run(main())


def lives() -> list[Task]:
    return [row.replace(**fields) for row, fields in zip(tasks(len(LIVES)), LIVES, strict=True)]


def table(path: Path, name: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as connection:
        found = connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
    connection.close()
    return found


TABLES = ("task_queue", "scheduler_task", "aiotaskq_queue")


@pytest.mark.parametrize("kind", [postgresql, mariadb, valkey], ids=["postgresql", "mysql", "redis"])
def test_a_copy_of_a_copy_is_equal_to_the_source(cli: Cli, kind: Callable[..., Server]) -> None:
    server = fresh(kind(durable=False))
    here, back = prepared(cli.home / "here.db"), prepared(cli.home / "back.db")
    fill(here, lives())
    before = {name: table(cli.home / "here.db", name) for name in TABLES}
    assert len(before["task_queue"]) == len(LIVES) and len(before["scheduler_task"]) == 3
    for source, target in ((here, server), (server, back)):
        code, out, err = cli.run("db", "copy", source, target)
        assert (code, out) == (0, "copied: tasks 6, schedules 3; there already: tasks 0, schedules 0\n"), err
        code, out, err = cli.run("db", "copy", source, target)  # harmless
        assert (code, out) == (0, "copied: tasks 0, schedules 0; there already: tasks 6, schedules 3\n"), err
    assert {name: table(cli.home / "back.db", name) for name in TABLES} == before
    assert {name: table(cli.home / "here.db", name) for name in TABLES} == before


def test_a_killed_copy_continues(cli: Cli) -> None:
    server = postgresql(durable=False)
    target = fresh(server)
    source = prepared(cli.home / "here.db")
    count = 4_000
    fill(source, tasks(count))

    async def make() -> None:
        async with TaskQ(target):
            pass

    asyncio.run(make())
    database = target.rpartition("/")[2]

    def copied() -> int:
        return int(server.execute("SELECT count(*) FROM task_queue", database)[0][0])

    command = [sys.executable, "-m", "aiotaskq", "db", "copy", source, target]
    process = nursery.Popen(command, cwd=cli.home, env=cli.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + within(30)
    while not copied():
        assert time.monotonic() < end and process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = copied()
    assert 0 < there < count, "it was not killed in the middle"
    found = cli.json("db", "copy", source, target)
    assert (found["tasks_there"], found["tasks"]) == (there, count - there) and found["schedules"] == 3
    back = prepared(cli.home / "back.db")
    cli.json("db", "copy", target, back)
    for name in TABLES:
        assert table(cli.home / "back.db", name) == table(cli.home / "here.db", name)


def test_tasks_that_have_changed_in_the_target_are_left_alone(cli: Cli) -> None:
    here, there = prepared(cli.home / "here.db"), prepared(cli.home / "there.db")
    fill(here, tasks(2))
    cli.json("db", "copy", here, there)
    cli.json("tasks", "cancel", "task-000000", "--db", there)
    cli.json("schedules", "pause", "s-1", "--db", there)
    found = cli.json("db", "copy", here, there)
    assert (found["tasks_there"], found["schedules_there"]) == (2, 3)
    assert cli.json("tasks", "get", "task-000000", "--db", there)["status"] == "cancelled"


@pytest.mark.parametrize("way", ["id", "idempotency_key", "unique_key", "schedule"])
def test_conflicting_rows_are_refused_before_anything_is_written(cli: Cli, way: str) -> None:
    here, there = prepared(cli.home / "here.db"), prepared(cli.home / "there.db")
    fields: dict[str, Any] = {} if way in ("id", "schedule") else {way: "k"}
    fill(here, [*tasks(1, **fields), *(row.replace(task_id=f"x{row.task_id}") for row in tasks(3))])

    async def other() -> None:
        async with TaskQ(there) as tq:
            if way == "schedule":
                await tq.schedules.add("other", "t", interval=9, schedule_id="s-1")
            else:
                name = "task-000000" if way == "id" else "mine"
                await tq.push("other", {}, task_id=name, **fields)

    asyncio.run(other())
    said = cli.fails("db", "copy", here, there)
    named = {"id": "task task-000000", "schedule": "schedule s-1"}.get(way, "the key of task mine")
    assert f"in the way: {named}; nothing was written" in said
    assert len(table(cli.home / "there.db", "task_queue")) == (0 if way == "schedule" else 1)


def test_running_tasks_are_refused_or_released(cli: Cli) -> None:
    here, there = prepared(cli.home / "here.db"), prepared(cli.home / "there.db")
    lease = {"status": Status.RUNNING, "lease_owner": "w", "lease_until": NOW + 2**50, "fence": 4, "started_at": 5}
    asked = tasks(2)[1].replace(**lease, cancel_requested=True)
    fill(here, [*tasks(1, **lease), asked])
    assert "tasks that still run: 2; stop the workers" in cli.fails("db", "copy", here, there)
    assert table(cli.home / "there.db", "task_queue") == []
    found = cli.json("db", "copy", here, there, "--running-as-pending")
    assert (found["tasks"], found["released"]) == (2, 2)
    row = cli.json("tasks", "get", "task-000000", "--db", there)
    assert (row["status"], row["fence"], row["lease_owner"], row["retry_count"]) == ("pending", 4, None, 0)
    assert cli.json("tasks", "get", "task-000001", "--db", there)["status"] == "cancelled"  # as was asked for
    assert cli.json("tasks", "get", "task-000000", "--db", here)["status"] == "running"


def test_rows_that_cannot_be_copied_are_reported_and_the_others_are_copied(cli: Cli) -> None:
    server = fresh(postgresql(durable=False))
    source = prepared(cli.home / "here.db")
    fill(source, tasks(20))
    with sqlite3.connect(cli.home / "here.db") as connection:
        connection.execute("UPDATE task_queue SET params = '{bad' WHERE task_id = 'task-000003'")
        connection.execute("UPDATE task_queue SET error_message = 'a' || char(0) WHERE task_id = 'task-000004'")
        # Nothing here sees that this is too long for the column there.
        connection.execute("UPDATE task_queue SET lease_owner = ? WHERE task_id = 'task-000005'", ("x" * 10_000,))
    connection.close()
    code, out, err = cli.run("db", "copy", source, server, "--json")
    found = json.loads(out)
    assert (code, found["tasks"], err) == (1, 17, "")
    problems = {row["id"]: row["problem"] for row in found["uncopied"]}
    assert problems.keys() == {"task-000003", "task-000004", "task-000005"}
    assert "params is not JSON" in problems["task-000003"] and "NUL" in problems["task-000004"]
    assert "the target refuses it" in problems["task-000005"]
    code, out, _ = cli.run("db", "copy", source, server)
    assert code == 1 and "not copied: 3\n" in out and "there already: tasks 17, schedules 3" in out


async def test_a_task_in_an_outbox_is_copied_as_a_task(tmp_path: Path) -> None:
    waiting = tasks(1)[0]
    async with TaskQ(prepared(tmp_path / "a.db")) as here, TaskQ(prepared(tmp_path / "b.db")) as there:
        schedule = new_schedule("a", "t", "interval", None, 7, task_id="s-1", now=NOW).replace(outbox=(waiting,))
        await here._scheduler.add([schedule])
        done = await copy(here.queue.backend, there.queue.backend, NOW)
        assert (done.tasks, done.schedules, done.uncopied) == (1, 1, [])
        assert await there.get(waiting.task_id) == waiting
        assert (await there.queue.backend.schedules.get(["s-1"]))[0] == schedule.replace(outbox=())


async def test_tasks_that_are_deleted_during_a_copy_do_not_make_it_endless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotaskq.runtime.copy.CHUNK", 2)
    async with TaskQ(prepared(tmp_path / "a.db")) as here, TaskQ(prepared(tmp_path / "b.db")) as there:
        await here.queue.backend.push(tasks(6))
        find = here.queue.backend.find

        async def find_and_lose(*args: Any) -> list[Task]:
            found = await find(*args)
            await here.queue.backend.delete([found[-1].task_id])
            return found

        monkeypatch.setattr(here.queue.backend, "find", find_and_lose)
        with pytest.raises(ValueError, match="deleted from it meanwhile"):
            await copy(here.queue.backend, there.queue.backend, NOW)


def test_wrong_arguments_of_copy(cli: Cli) -> None:
    here = prepared(cli.home / "here.db")
    assert "the same store" in cli.fails("db", "copy", here, here, code=2)
    assert "memory://" in cli.fails("db", "copy", here, "memory://")
    assert "there is no file" in cli.fails("db", "copy", "sqlite:///nowhere.db", here)


GATES = (("g", Bounds(cap=1, max_waiting=1)),)


async def fill_flow(backend: Backend) -> list[str]:
    """A workflow of which the first task has completed, tasks at a gate with one slot, and a closed gate."""
    nodes = tuple(
        Node(name, task, {"a": "cancel"} if name == "b" else {}) for name, task in zip("ab", tasks(2), strict=True)
    )
    then = tasks(1)[0].replace(type="then")
    await backend.groups.push(plan(Outline(group_id="inner", nodes=nodes, name="night", named=True, then=then), NOW))
    (first,) = await backend.claim("w", NOW + SECOND, 1, lease_until=NOW + 2**40)
    await backend.update([Change(first, settle(first, Completed(1), NOW + SECOND))])
    ids = ["x", "y"]
    for number, task_id in enumerate(ids):
        made = Task(task_id=task_id, type="t", seq=NOW + number, run_at=NOW + number, flow=Flow(gates=GATES))
        await backend.push([parked(made, made.run_at)])
    await backend.gates.change("closed", GateChange(bounds={"cap": 3}, closed_until=NOW + 2**40), NOW)
    await backend.gates.change("paced", GateChange(bounds={"interval": SECOND, "burst": 4}, charge=3), NOW)
    await backend.gates.change("paced", GateChange(declared=True), NOW)
    return ids


async def flow_of(backend: Backend) -> tuple[Any, ...]:
    return (
        await backend.groups.find(9),
        [await backend.groups.members(group_id, 9) for group_id in ("inner",)],
        # What started before the copy is in the tokens that the copy takes from the rate.
        [replace(each, gate=replace(each.gate, charged_until=0)) for each in await backend.gates.find()],
        await backend.find(TaskFilter(), 9),
    )


@pytest.mark.parametrize("kind", [None, postgresql, mariadb, valkey], ids=["sqlite", "postgresql", "mysql", "redis"])
async def test_groups_edges_and_gates_are_copied_with_their_state(
    tmp_path: Path, kind: Callable[..., Server] | None
) -> None:
    there = f"sqlite:///{tmp_path / 'there.db'}" if kind is None else fresh(kind(durable=False))
    urls = f"sqlite:///{tmp_path / 'here.db'}", there, f"sqlite:///{tmp_path / 'back.db'}"
    async with opened(*urls) as (here, middle, back):
        await fill_flow(here)
        before = await flow_of(here)
        assert [(g.gate.key, g.held, g.waiting) for g in before[2]] == [("closed", 0, 0), ("g", 1, 1), ("paced", 0, 0)]
        for source, target in ((here, middle), (middle, back)):
            done = await copy(source, target, NOW + SECOND)
            assert (done.tasks, done.groups, done.limits, done.uncopied) == (4, 1, 3, [])
            again = await copy(source, target, NOW + SECOND)
            assert (again.tasks, again.groups, again.groups_there, again.limits, again.uncopied) == (0, 0, 1, 0, [])
        after = await flow_of(back)
        assert after == before
        # What is copied goes on: the last end calls back, and the slot is handed on.
        ready = {task.type for task in await back.claim("w", NOW + 2 * SECOND, 9, lease_until=NOW + 2**40)}
        assert ready == {"t"}
        rows = await back.find(TaskFilter(status=(Status.RUNNING,)), 9)
        await back.update([Change(row, settle(row, Completed(1), NOW + 2 * SECOND)) for row in rows])
        left = await back.claim("w", NOW + 3 * SECOND, 9, lease_until=NOW + 2**40)
        assert sorted(task.type for task in left) == ["t", "then"]


async def test_a_group_that_cannot_be_read_is_reported_with_its_tasks(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'here.db'}", f"sqlite:///{tmp_path / 'there.db'}") as (here, there):
        await fill_flow(here)
        with sqlite3.connect(tmp_path / "here.db") as connection:
            connection.execute("UPDATE aiotaskq_group SET then_task = '{' WHERE group_id = 'inner'")
        connection.close()
        done = await copy(here, there, NOW + SECOND)
        assert (done.tasks, done.groups) == (3, 0)
        assert [(row.kind, row.id) for row in done.uncopied] == [("groups", "inner"), ("task", "task-000001")]


async def test_a_copy_that_was_interrupted_leaves_gates_closed(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'here.db'}", f"sqlite:///{tmp_path / 'there.db'}") as (here, there):
        await fill_flow(here)
        await close_gates(here, there, NOW)
        await there.push([row for row in await here.find(TaskFilter(), 9) if row.task_id == "y"])
        assert await there.claim("w", NOW + SECOND, 9, lease_until=NOW + 2**40) == []
        assert (await copy(here, there, NOW + SECOND)).limits == 3
        assert await flow_of(there) == await flow_of(here)


async def test_another_group_with_the_same_id_is_refused(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'here.db'}", f"sqlite:///{tmp_path / 'there.db'}") as (here, there):
        for backend, at in ((here, NOW), (there, NOW + 1)):
            await backend.groups.push(plan(Outline(group_id="g", nodes=()), at))
        with pytest.raises(TaskConflict, match="group g; nothing was written"):
            await copy(here, there, NOW)

"""Tasks named by the beginning of their id, schedules by their name, tasks chosen by filters; rerun and workers."""

from __future__ import annotations

import asyncio
import io
import json
import re
from typing import Any

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from tests.support.command import Cli, prepared, waits_for
from tests.support.rows import worker_info

IDS = [f"0{number:07d}-0000-7000-a000-{number:012d}" for number in range(3)]
TWINS = ["01aaaaaa-1111-7000-a000-000000000001", "01aaaaaa-1111-7000-a000-000000000002"]


@pytest.fixture
def cli(cli: Cli) -> Cli:
    prepared(cli.home / "app.db")
    cli.monkeypatch.setenv("AIOTASKQ_DATABASE_URL", cli.url)
    return cli


def task(task_id: str, **fields: object) -> Task:
    return Task(task_id=task_id, **{"type": "mail", "run_at": 1, "seq": 1, **fields})  # type: ignore[arg-type]


def dead(count: int, **fields: Any) -> list[Task]:
    given = {"type": "mail", "status": Status.FAILED, "completed_at": 9, **fields}
    return [Task(task_id=f"{given['type']}-{number}", seq=number, **given) for number in range(count)]


# ---- naming ----


def test_every_command_takes_the_beginning_of_a_task_id(cli: Cli) -> None:
    now = SystemClock().now()
    cli.store(*[task(task_id, seq=now + n, created_at=now // SECOND) for n, task_id in enumerate(IDS)])
    first, _, third = (task_id[:8] for task_id in IDS)
    assert cli.json("tasks", "get", first)["task_id"] == IDS[0]
    assert [row["task_id"] for row in cli.json("tasks", "list", "--cursor", IDS[1])["tasks"]] == [IDS[0]]
    assert cli.json("tasks", "cancel", first, third) == [
        {"task_id": IDS[0], "status": "cancelled", "cancel_requested": False},
        {"task_id": IDS[2], "status": "cancelled", "cancel_requested": False},
    ]
    assert cli.out("tasks", "retry", first) == f"{IDS[0]}  pending again\n"
    assert cli.json("tasks", "rerun", third)["rerun_of"] == IDS[2]
    assert "there is no task 9" in cli.fails("tasks", "get", "9")
    assert "task_id: " in cli.fails("tasks", "get", "", code=2)


def test_an_ambiguous_prefix_lists_its_matches_and_changes_nothing(cli: Cli) -> None:
    cli.store(*map(task, [*TWINS, "01aaaaaa"]))
    for command in (["get"], ["cancel"], ["retry"], ["rerun"]):
        said = cli.fails("tasks", *command, "01aaaaaa-1")
        assert "01aaaaaa-1: several ids begin with it: " + ", ".join(TWINS) in said
    assert cli.json("stats")["counts"]["pending"] == 3
    assert cli.json("tasks", "get", "01aaaaaa")["task_id"] == "01aaaaaa", "a whole id is not the beginning of others"
    cli.store(*[task(f"02-{number:02d}") for number in range(12)])
    said = cli.fails("tasks", "get", "02")
    assert "02-04" in said and "02-05" not in said and said.endswith(" …; give more of one\n")
    cli.monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert "02：有多个编号以此开头：" in cli.fails("tasks", "get", "02")


def test_schedules_by_name_and_by_the_beginning_of_their_id(cli: Cli) -> None:
    for name, schedule_id in (("nightly", "0123-a"), ("0123", "0456-b"), ("twice", "c-1"), ("twice", "c-2")):
        cli.out("schedules", "add", name, "mail", "--interval", "90", "--schedule-id", schedule_id)
    assert cli.json("schedules", "get", "nightly")["task_id"] == "0123-a"
    assert cli.json("schedules", "get", "0123")["task_id"] == "0456-b", "a name comes before the beginning of an id"
    assert cli.json("schedules", "get", "0123-")["task_id"] == "0123-a"
    assert "several have the name twice; use an id: c-1, c-2" in cli.fails("schedules", "pause", "twice")
    assert "several ids begin with it: c-1, c-2" in cli.fails("schedules", "delete", "c-", "--yes")
    assert cli.out("schedules", "pause", "nightly") == "nightly  paused\n"
    assert cli.out("schedules", "resume", "nightly").startswith("nightly  next ")
    assert cli.out("schedules", "run-now", "04").startswith("0456-b  fired ")
    assert cli.json("schedules", "delete", "nightly", "--yes") == [{"schedule": "nightly", "schedule_id": "0123-a"}]
    assert "there is no schedule nightly" in cli.fails("schedules", "get", "nightly")


def test_a_schedule_is_shown_without_its_params(cli: Cli) -> None:
    cli.out("schedules", "add", "nightly", "mail", '{"to": "sw0rdfish"}', "--cron", "0 2 * * *", "--timezone", "UTC")
    shown = cli.out("schedules", "get", "nightly")
    assert "sw0rdfish" not in shown and "cron_expression" in shown
    assert '{"to": "sw0rdfish"}' in cli.out("schedules", "get", "nightly", "--params")
    assert "params" not in cli.json("schedules", "get", "nightly")
    assert cli.json("schedules", "get", "nightly", "--params")["params"] == {"to": "sw0rdfish"}
    assert '{"to": "sw0rdfish"}' in cli.out("schedules", "list", "--params")


# ---- filters ----


def test_tasks_by_age_and_by_error(cli: Cli) -> None:
    now = SystemClock().now() // SECOND
    failed = dead(2, created_at=now - 7_000, error_message="ValueError: no disk\nmore")
    late = dead(1, type="late", created_at=now - 60, error_message="ValueError: no luck")
    cli.store(*failed, *late)
    assert [row["type"] for row in cli.json("tasks", "list", "--since", "1h")["tasks"]] == ["late"]
    assert (
        len(cli.json("tasks", "list", "--since", "2h")["tasks"]) == 3
        and len(cli.json("tasks", "list", "--since", "1970-02-01")["tasks"]) == 3
    )
    assert len(cli.json("tasks", "list", "--error", "disk")["tasks"]) == 2
    assert cli.json("tasks", "list", "--error", "Disk")["tasks"] == []
    assert "--since" in cli.fails("tasks", "list", "--since", "soon", code=2)
    assert "error: Expected `str` of length >= 1" in cli.fails("tasks", "list", "--error", "", code=2)
    assert cli.json("tasks", "retry", "--error", "disk", "--dry-run") == {"count": 2, "dry_run": True}
    assert cli.json("tasks", "retry", "--error", "disk", "--yes") == {"count": 2, "dry_run": False}
    assert cli.out("tasks", "delete", "--since", "1h", "--dry-run") == "tasks that match: 1\n"
    assert cli.out("tasks", "delete", "--error", "luck", "--yes") == "tasks deleted: 1\n"


def test_tasks_are_listed_with_their_params_if_asked(cli: Cli) -> None:
    cli.store(task("a", params={"to": "sw0rdfish"}))
    assert "sw0rdfish" not in cli.out("tasks", "list") and "PARAMS" not in cli.out("tasks", "list")
    assert '{"to": "sw0rdfish"}' in cli.out("tasks", "list", "--params")
    assert cli.json("tasks", "list", "--params")["tasks"][0]["params"] == {"to": "sw0rdfish"}


def test_cancel_by_filter(cli: Cli) -> None:
    now = SystemClock().now()
    running = {"status": Status.RUNNING, "lease_owner": "w", "lease_until": now + 900 * SECOND, "seq": 9}
    cli.store(task("m-1"), task("m-2", queue="slow"), task("r", **running), task("a", type="audio"), *dead(1))
    assert "which ones?" in cli.fails("tasks", "cancel", code=2)
    assert "not both" in cli.fails("tasks", "cancel", "m-1", "--type", "mail", code=2)
    assert "status: 'failed' is unknown; use pending, running" in cli.fails(
        "tasks", "cancel", "--status", "failed", code=2
    )
    assert "'x' is unknown" in cli.fails("tasks", "cancel", "--status", "x", code=2)
    assert "use --yes" in cli.fails("tasks", "cancel", "--type", "mail", code=2)
    assert cli.json("tasks", "cancel", "--type", "mail", "--dry-run") == {"count": 3, "dry_run": True}
    assert cli.json("stats")["counts"]["cancelled"] == 0
    assert cli.json("tasks", "cancel", "--queue", "slow", "--yes") == {"count": 1, "dry_run": False}
    assert cli.out("tasks", "cancel", "--type", "mail", "--yes") == "tasks cancelled, or asked to stop: 2\n"
    assert cli.json("tasks", "get", "r")["cancel_requested"]
    assert cli.out("tasks", "cancel", "--since", "1h") == "tasks cancelled, or asked to stop: 0\n"
    counts = cli.json("stats")["counts"]
    assert (counts["cancelled"], counts["running"], counts["pending"], counts["failed"]) == (2, 1, 1, 1)


# ---- rerun ----


def test_rerun_pushes_an_ended_task_as_a_new_one(cli: Cli) -> None:
    fields = {"queue": "slow", "priority": 3, "max_retries": 7, "timeout": 5.0, "unique_key": "k", "params": {"n": 1}}
    old, *_ = dead(1, retry_count=7, **fields)
    cli.store(old, task("waiting"))
    new_id = cli.out("tasks", "rerun", "mail-0").strip()
    new = cli.json("tasks", "get", new_id, "--params")
    assert new["task_id"] != "mail-0" and (new["type"], new["status"], new["retry_count"]) == ("mail", "pending", 0)
    assert {name: new[name] for name in fields} == fields
    assert cli.json("tasks", "get", "mail-0")["status"] == "failed"
    code, out, err = cli.run("tasks", "rerun", "mail-0")
    assert (code, out) == (0, f"{new_id}\n") and "not pushed: a task with this key exists" in err
    cli.out("tasks", "cancel", new_id)
    answer = cli.json("tasks", "rerun", "mail-0", "--params", '{"n": 2}')
    assert cli.json("tasks", "get", answer["task_id"], "--params")["params"] == {"n": 2}
    cli.out("tasks", "cancel", answer["task_id"])
    cli.monkeypatch.setattr("sys.stdin", io.StringIO('{"n": 3}'))
    answer = cli.json("tasks", "rerun", "mail-0", "--params", "-")
    assert cli.json("tasks", "get", answer["task_id"], "--params")["params"] == {"n": 3}
    assert "task 'waiting' is pending; only ended tasks are rerun" in cli.fails("tasks", "rerun", "waiting")
    assert "not valid JSON" in cli.fails("tasks", "rerun", "mail-0", "--params", "{", code=2)


def test_rerun_without_the_application_keeps_the_gates(cli: Cli) -> None:
    gates = (("tenant:7", Bounds(cap=1)), ("mail", Bounds(interval=1, burst=9)))
    with_budget = (("budget:gone", Bounds()), *gates)  # the new task is in no group
    (old,) = dead(1, params={"n": 1}, flow=Flow(gates=with_budget, weight=3, weights=(("mail", 2),), group="gone"))
    cli.store(old)
    ids = [cli.json("tasks", "rerun", "mail-0", "--params", '{"n": 1}') for _ in range(2)]
    assert all(answer["created"] for answer in ids)
    waits = [waits_for(cli, answer["task_id"]) for answer in ids]
    assert waits[1] == "tenant:7: 1 of 1 are taken, 1 wait"

    async def flows() -> list[Flow | None]:
        async with TaskQ(cli.url) as tq:
            return [(await tq.get(answer["task_id"])).flow for answer in ids]

    assert asyncio.run(flows()) == [Flow(gates=gates, weight=3, weights=(("mail", 2),))] * 2
    said = cli.fails("tasks", "rerun", "mail-0", "--params", '{"n": 2}', code=2)
    assert "so those of the new params are not known" in said


def test_rerun_checks_params_by_the_handlers_of_an_application(cli: Cli) -> None:
    (cli.home / "rerun_app.py").write_text(
        "from aiotaskq import TaskQ\n"
        f"tq = TaskQ({cli.url!r})\n"
        "@tq.task(name='mail')\n"
        "async def mail(n: int) -> None: ...\n"
    )
    cli.store(*dead(1, params={"n": 1}))
    said = cli.fails("tasks", "rerun", "mail-0", "--params", '{"m": 1}', "--app", "rerun_app:tq", code=2)
    assert "mail() has no parameter 'm'" in said
    assert cli.json("tasks", "rerun", "mail-0", "--app", "rerun_app:tq")["created"]


# ---- workers ----


def test_workers_are_the_owners_of_running_tasks(cli: Cli) -> None:
    now = SystemClock().now()

    def running(task_id: str, owner: str | None, age: int, **fields: object) -> Task:
        began = now - age * SECOND
        given = {"status": Status.RUNNING, "lease_owner": owner, "lease_until": now + 60 * SECOND, "began_at": began}
        return task(task_id, **{**given, **fields})

    one = "worker-web-1-4242-0123456789ab-ba9876543210"
    assert cli.out("workers", "list") == "no workers and no running tasks\n"
    assert cli.json("workers", "list") == {"workers": []}
    cli.store(
        running("a", one, 30),
        running("b", one + "!alone", 90, type="audio"),
        running("c", "pop-me-7-0-ba9876543210", 10, lease_until=now - 5_400 * SECOND),
        running("d", "by hand", 5, lease_until=None),
        *dead(1),
        task("e"),
    )
    found = cli.json("workers", "list")["workers"]
    assert [(each["id"], each["kind"], each["host"], each["pid"], each["tasks"]) for each in found] == [
        (one, "worker", "web-1", 4242, 2),
        ("pop-me-7-0-ba9876543210", "pop", "me", 7, 1),
        ("by hand", None, None, None, 1),
    ]
    assert found[0]["task_types"] == ["audio", "mail"]
    lines = [line.split() for line in cli.out("workers", "list").splitlines()]
    assert lines[0] == ["HOST", "PID", "TASKS", "SLOTS", "OLDEST", "LEASE", "TYPES", "OWNER"]
    assert lines[1][:4] == ["web-1", "4242", "2", "1m"] and lines[2][:3] == ["me", "7", "1"]
    assert "over for 1h 30m" in " ".join(lines[2]) and lines[3][:2] == ["by", "hand"]


def test_workers_of_the_registry_are_listed_though_they_wait(cli: Cli) -> None:
    now = SystemClock().now()
    until = now + 60 * SECOND
    busy = worker_info("w", host="web-1", pid=7, started_at=now, seen_at=now, lease_until=until, concurrency=20)
    idle = worker_info("idle", host="web-2", queues=("mail",), lease_until=now - 5_400 * SECOND)
    rows = [
        task(f"t-{n}", status=Status.RUNNING, lease_owner=owner) for n, owner in enumerate(("w", "w!alone", "gone"))
    ]
    cli.store(*rows, workers=[idle, busy])
    found = {each["id"]: each for each in cli.json("workers", "list")["workers"]}
    assert {owner: (each["kind"], each["tasks"], each["concurrency"]) for owner, each in found.items()} == {
        "w": ("worker", 2, 20),
        "gone": (None, 1, None),
        "idle": ("worker", 0, 10),
    }
    assert (found["w"]["host"], found["w"]["pid"], found["w"]["queues"]) == ("web-1", 7, None)
    assert found["idle"]["queues"] == ["mail"] and found["gone"]["lease_until"] is None
    assert found["w"]["lease_until"] is not None and found["w"]["seen_at"] == found["w"]["started_at"] is not None
    lines = cli.out("workers", "list").splitlines()
    assert len(lines) == 4 and lines[3].startswith("web-2") and "over for 1h 30m" in lines[3]


def test_more_running_tasks_than_one_page(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.operations.workers.PAGE", 3)
    rows = [task(f"t-{n}", seq=n, status=Status.RUNNING, lease_owner="w") for n in range(7)]
    cli.store(*rows)
    assert [(each["id"], each["tasks"]) for each in cli.json("workers", "list")["workers"]] == [("w", 7)]


# ---- help, and wrong usage ----


def test_help_shows_no_python_types(cli: Cli) -> None:
    from aiotaskq.cli.commands import COMMANDS, GROUPS, app_for

    words = [[name] for name in COMMANDS]
    for group in app_for(None).registered_groups:
        assert group.name in GROUPS and group.typer_instance is not None
        words += [[group.name, str(command.name)] for command in group.typer_instance.registered_commands]
    for command in words:
        page = cli.out(*command, "--help")
        assert not re.search(r"<[a-z]|RANGE|INTEGER|\b(str|int|float)\b", page), command


@pytest.mark.parametrize(
    "words",
    [
        *(["tasks", "list", "--nonsense"], ["tasks", "get"], ["tasks", "nonsense"], ["nonsense"], ["stats", "extra"]),
        *(["tasks", "list", "--status", "x"], ["tasks", "list", "--limit", "0"], ["tasks", "list", "--since", "x"]),
        *(["push", "a", "[]"], ["push", ""], ["push", "a", "--delay", "x"], ["values", "set", "k", "{"]),
        *(
            ["schedules", "add", "a", "b"],
            ["schedules", "add", "a", "b", "--cron", "x"],
            ["db", "copy", "x://", "y://"],
        ),
        *(["schedules", "preview", "--cron", "0 0 * * *", "--timezone", "Mars"], ["stats", "--db", "nonsense"]),
        *(["workers", "list", "--since"], ["queues", "pause", "--db"], ["run"], ["run", "app"], ["web", "--port", "x"]),
    ],
)
def test_wrong_usage_is_exit_code_2(cli: Cli, words: list[str]) -> None:
    assert cli.fails(*words, code=2).startswith("error: ")


def test_an_option_before_its_command_is_told_where_it_stands(cli: Cli) -> None:
    said = "an option of a command stands behind its name: "
    assert f"{said}aiotaskq COMMAND --app\n" in cli.fails("--app", "app:tq", "push", "work", code=2)
    assert f"{said}aiotaskq limits COMMAND --db\n" in cli.fails("limits", "--db", "x", "list", code=2)
    assert said not in cli.fails("--halp", code=2)
    assert said not in cli.fails("push", "--porx", code=2)


@pytest.mark.parametrize(
    "words",
    [
        *(
            ["tasks", "get", "nobody"],
            ["tasks", "cancel", "nobody"],
            ["schedules", "get", "nobody"],
            ["values", "get", "k"],
        ),
        *(["stats", "--db", "sqlite:///nowhere.db"], ["stats", "--db", "memory://"]),
    ],
)
def test_what_fails_at_run_time_is_exit_code_1(cli: Cli, words: list[str]) -> None:
    assert cli.fails(*words).startswith("error: ")


def test_checks_say_that_tasks_wait_and_no_worker_works(cli: Cli) -> None:
    cli.store(task("a", run_at=SystemClock().now() - 60 * SECOND))
    asyncio.run(_pause(cli.url))
    said = "no worker works on them, the oldest has waited for 1m"
    assert said in cli.out("check") and said in cli.out("doctor")
    assert "paused queues: slow" in cli.out("check") and "paused queues: slow" in cli.out("doctor")
    assert json.loads(cli.out("check", "--json"))["paused"] == ["slow"]


async def _pause(url: str) -> None:
    async with TaskQ(url) as tq:
        await tq.pause("slow")

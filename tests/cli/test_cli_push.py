"""Pushes from the command line: checks against the application's handlers, and the output of failures."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aiotaskq import Status, TaskQ
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import from_iso, to_iso
from aiotaskq.core.task import SECOND
from aiotaskq.types import Task
from tests.support.command import Cli, prepared, wait_for
from tests.support.machine import within
from tests.support.rows import worker_info

APP = """
from aiotaskq import TaskQ
tq = TaskQ("sqlite:///app.db", poll_interval=0.05)

@tq.task(queue="letters", max_retries=7, priority=-2)
async def greet(name: str) -> str:
    return "hello " + name

@tq.task(max_retries=0)
async def broken() -> None:
    raise ValueError("first line\\nsecond \\x1b[31mline")

@tq.task(debounce=60)
async def gather(names: list[str]) -> None: ...

tq.elsewhere("audio")
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = Cli(tmp_path, monkeypatch, capsys)
    (tmp_path / "shop.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    prepared(tmp_path / "app.db")
    prepared(tmp_path / "aiotaskq.db")
    return made


APP_DB = ("--db", "sqlite:///app.db")


def in_store(url: str, body: Callable[[TaskQ], Awaitable[object]]) -> None:
    async def main() -> None:
        async with TaskQ(url) as tq:
            await body(tq)

    asyncio.run(main())


# ---- --app ----


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("gret", '{"name": "x"}'), ": no handler is registered for 'gret'; did you mean 'greet'?"),
        (("greet", '{"nmae": "x"}'), "params: greet() has no parameter 'nmae'; did you mean 'name'?"),
        (("greet",), "params: greet() needs 'name'"),
    ],
)
@pytest.mark.parametrize("command", ["push", "schedules"])
def test_a_misspelt_type_or_parameter_is_refused(cli: Cli, command: str, args: tuple[str, ...], said: str) -> None:
    words = ("push", *args) if command == "push" else ("schedules", "add", "s", *args, "--interval", "60")
    assert said in cli.fails(*words, "--app", "shop:tq", code=2)
    assert cli.json("stats", *APP_DB)["counts"].get("pending", 0) == 0
    assert cli.json("schedules", "list", *APP_DB)["schedules"] == []


def test_a_push_of_a_debounced_type_says_that_the_waiting_task_was_changed(cli: Cli) -> None:
    words = ("push", "gather", '{"names": ["x"]}', "--app", "shop:tq")
    first = cli.out(*words)
    code, out, err = cli.run(*words)
    assert (code, out) == (0, first) and "the task that waits was changed" in err
    assert cli.json(*words, "--throttle", "100000000")["created"] is True
    assert "a task with this key exists" in cli.run(*words, "--throttle", "100000000")[2]


def test_a_task_is_due_and_expires_later_than_now(cli: Cli) -> None:
    begin = SystemClock().now()

    def times(task_id: str) -> list[float | None]:
        row = cli.json("tasks", "get", task_id)
        found = (row["run_at"], row["expires_at"])
        return [None if each is None else (from_iso(each) - begin) / SECOND for each in found]

    def near(*hours: float) -> object:
        return pytest.approx([each * 3600 for each in hours], abs=within(60))

    task_id = cli.out("push", "a", "--at", "2h", "--expires", "1h30m").strip()
    assert times(task_id) == near(2, 3.5)
    assert cli.json("tasks", "edit", task_id, "--at", "1d12h")["task_id"] == task_id
    assert times(task_id)[:1] == near(36)
    assert times(cli.out("push", "a", "--delay", "3600", "--expires", "60").strip()) == near(1, 1 + 1 / 60)
    assert cli.json("tasks", "get", cli.out("push", "a", "--at", "4000000000").strip())["run_at"] == to_iso(4 * 10**15)


def test_a_push_uses_the_store_and_defaults_of_the_application(cli: Cli) -> None:
    Path("talks.py").write_text("print('imported')\nfrom shop import tq\n")
    code, out, err = cli.run("push", "greet", '{"name": "x"}', "--app", "talks:tq")
    assert (code, err) == (0, "imported\n")  # what the application prints is not the answer
    row = cli.json("tasks", "get", out.strip(), *APP_DB)
    assert (row["queue"], row["max_retries"], row["priority"]) == ("letters", 7, -2)
    assert "warning" not in cli.run("push", "audio", "--app", "shop:tq")[2]
    (schedule,) = [cli.json("schedules", "add", "s", "greet", '{"name": "x"}', "--interval", "60", "--app", "shop:tq")]
    assert [each["task_id"] for each in cli.json("schedules", "list", *APP_DB)["schedules"]] == [schedule["task_id"]]


@pytest.mark.parametrize(
    "command", [("push", "greet", '{"name": "you"}'), ("schedules", "add", "daily", "broken", "--interval", "60")]
)
def test_what_is_pushed_before_the_first_worker_creates_the_store_of_the_application(
    cli: Cli, command: tuple[str, ...]
) -> None:
    Path("app.db").unlink()
    said = cli.fails(*command, *APP_DB)
    assert said.endswith("or create it with 'aiotaskq db upgrade --db sqlite:///app.db'\n")
    assert "there is no file app.db" in cli.fails("tasks", "rerun", "x", "--app", "shop:tq")
    assert not Path("app.db").exists()
    assert cli.out(*command, "--app", "shop:tq")
    assert Path("app.db").exists()


def test_the_more_explicitly_named_store_has_precedence(cli: Cli) -> None:
    other = prepared(Path("other.db"))

    def stored() -> dict[str, int]:
        urls = ("sqlite:///app.db", other)
        return {url: cli.json("stats", "--db", url)["counts"].get("pending", 0) for url in urls}

    push = ("push", "greet", '{"name": "x"}')
    cli.run(*push, "--app", "shop:tq", "--db", other)
    assert stored() == {"sqlite:///app.db": 0, other: 1}
    cli.monkeypatch.setenv("AIOTASKQ_DATABASE_URL", other)
    cli.run(*push, "--app", "shop:tq")
    assert stored() == {"sqlite:///app.db": 1, other: 1}
    Path("pyproject.toml").write_text('[tool.aiotaskq.run]\napp = "shop:tq"\n')
    cli.run(*push)
    assert stored() == {"sqlite:///app.db": 1, other: 2}
    cli.monkeypatch.delenv("AIOTASKQ_DATABASE_URL")
    cli.run(*push)
    assert stored() == {"sqlite:///app.db": 2, other: 2}
    assert "did you mean 'greet'" in cli.fails("push", "gret", code=2)
    Path("pyproject.toml").write_text(
        f'[tool.aiotaskq]\ndatabase_url = "{other}"\n[tool.aiotaskq.run]\napp = "shop:tq"\n'
    )
    cli.run(*push)
    assert stored() == {"sqlite:///app.db": 2, other: 3}


def test_targets_that_name_no_taskq(cli: Cli) -> None:
    assert "app:tq" in cli.fails("push", "greet", "--app", "shop", code=2)
    assert "there is no module 'nowhere'" in cli.fails("push", "greet", "--app", "nowhere:tq", code=2)
    assert "there is shop:tq" in cli.run("push", "greet", "--app", "shop:app")[2]


# ---- without it ----


def test_a_type_that_no_worker_has_is_warned_of_whatever_runs(cli: Cli) -> None:
    now = SystemClock().now()
    info = worker_info(lease_until=now + 600 * SECOND, queues=("default",), types=("greet",))
    # A worker has just claimed the task that was pushed, and does not know yet that it has no handler for it.
    cli.store(Task(task_id="a", type="gret", status=Status.RUNNING, lease_owner=info.owner), workers=[info])
    for words in (("push", "gret"), ("schedules", "add", "s", "gret", "--interval", "60")):
        assert "warning: no worker has the type 'gret'; did you mean 'greet'?" in cli.run(*words, "--db", cli.url)[2]
    assert cli.run("push", "greet", "--db", cli.url)[2] == ""
    assert "is not known whether" in cli.run("push", "greet", "--queue", "other", "--db", cli.url)[2]


def test_a_type_that_has_not_run_lately_is_warned_of(cli: Cli) -> None:
    code, out, err = cli.run("push", "gret", *APP_DB)
    assert (code, len(out.strip())) == (0, 36)
    assert err == (
        "warning: no task has run in this store yet, so it is not known whether a worker handles 'gret' "
        "(--app MODULE:TQ checks the type)\n"
    )

    async def complete(tq: TaskQ) -> None:
        await tq.queue.push_task({"type": "greet"}, priority=-1)
        assert (await tq.queue.pop_task(0) or {})["type"] == "greet"
        await tq.queue.task_done()

    in_store("sqlite:///app.db", complete)
    for words in (("push", "gret"), ("schedules", "add", "s", "gret", "--interval", "60")):
        code, out, err = cli.run(*words, *APP_DB)
        assert code == 0 and "none of the last 1 tasks was of type 'gret'; did you mean 'greet'?" in err
        code, out, err = cli.run(*words, *APP_DB, "--json")
        assert code == 0 and "did you mean" in err and "did you mean" not in out
    assert cli.run("push", "greet", *APP_DB)[2] == ""
    code, _, err = cli.run("push", "gret", *APP_DB, "--wait", "0.01")
    assert code == 5 and "did you mean 'greet'?" in err


# ---- --wait ----


def test_a_traceback_is_printed_line_by_line(cli: Cli) -> None:
    with cli.running("shop:tq") as (process, lines):
        wait_for(lines, "Ctrl-C")
        code, out, err = cli.run("push", "broken", *APP_DB, "--wait", "30")
        assert (code, out) == (1, "")
        said = err.splitlines()
        at = next(number for number, line in enumerate(said) if line.startswith("error: task "))
        assert said[at].endswith("(broken) failed: ValueError: first line")
        assert said[at + 1] == r"second \x1b[31mline"
        assert "Traceback (most recent call last):" in said[at:]
        assert any(line.lstrip().startswith("File ") and "shop.py" in line for line in said)
        answer = cli.run("push", "broken", *APP_DB, "--wait", "30", "--json")
        assert answer[0] == 1 and len([line for line in answer[2].splitlines() if line.startswith("error: ")]) == 1
        process.terminate()
        assert process.wait(within(40)) == 0

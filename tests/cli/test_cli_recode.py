"""``aiotaskq db recode``: writes all rows with the application's codec."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiotaskq.app.taskq import TaskQ
from tests.support.codecs import Keyed
from tests.support.command import Cli, prepared

APP = """
from aiotaskq import TaskQ
from tests.support.codecs import Keyed

tq = TaskQ("sqlite:///app.db", codec=Keyed("new", "old"))
plain = TaskQ("sqlite:///app.db")
"""


def fill(url: str, key: str) -> str:
    async def main() -> str:
        async with TaskQ(url, codec=Keyed(key)) as tq:
            handles = await tq.push_many([("mail", {"n": n}) for n in range(120)])
            await tq.schedules.add("nightly", "mail", params={"n": 1}, cron="0 2 * * *")
            return handles[20].task_id

    return asyncio.run(main())


def test_rows_are_written_anew(cli: Cli) -> None:
    Path("vault.py").write_text(APP)
    cli.monkeypatch.delitem(sys.modules, "vault", raising=False)
    assert "there is no file" in cli.fails("db", "recode", "vault:tq")
    task_id = fill(prepared(cli.home / "app.db"), "old")
    assert cli.out("db", "recode", "vault:tq") == "written anew: tasks 120, steps 0, groups 0, events 0, schedules 1\n"
    assert cli.json("db", "check", "--db", "sqlite:///app.db")["invalid_rows"] == []
    found = cli.json("db", "recode", "vault:tq", "--after", task_id)
    assert (found["tasks"], found["schedules"], found["undecodable"], found["locked"]) == (20, 1, [], [])

    async def read() -> list[object]:
        async with TaskQ("sqlite:///app.db", codec=Keyed("new")) as tq:
            (schedule,) = await tq.schedules.list()
            return [schedule.params, *sorted(task.params["n"] for task in await tq.find(limit=200))]

    assert asyncio.run(read()) == [{"n": 1}, *range(120)]


def test_a_copy_with_the_codec_of_the_application(cli: Cli) -> None:
    Path("vault.py").write_text(APP)
    cli.monkeypatch.delitem(sys.modules, "vault", raising=False)
    source, target = prepared(cli.home / "app.db"), prepared(cli.home / "other.db")
    fill(source, "old")
    code, out, _ = cli.run("db", "copy", source, target)
    assert code == 1 and "not copied: 121" in out, "without the codec nothing can be read"
    assert cli.json("db", "copy", source, target, "--app", "vault:tq")["tasks"] == 120

    async def read() -> list[object]:
        async with TaskQ(target, codec=Keyed("new")) as tq:
            return sorted(task.params["n"] for task in await tq.find(limit=200))

    assert asyncio.run(read()) == [*range(120)], "the first key has written it"


def test_rows_that_cannot_be_decoded_are_counted(cli: Cli) -> None:
    Path("vault.py").write_text(APP)
    cli.monkeypatch.delitem(sys.modules, "vault", raising=False)
    fill(prepared(cli.home / "app.db"), "lost")
    code, out, _ = cli.run("db", "recode", "vault:tq")
    lines = out.splitlines()
    assert code == 1 and lines[0] == "written anew: tasks 0, steps 0, groups 0, events 0, schedules 0"
    assert lines[1].startswith("not decodable, kept as they are: 121 (") and lines[1].endswith("…)")
    assert "has no codec" in cli.fails("db", "recode", "vault:plain")
    assert "is not MODULE:TQ" in cli.fails("db", "recode", "vault", code=2)
    assert "'./a/vault.py:tq' names a file; write its module, a.vault:tq" in cli.fails(
        "db", "recode", "./a/vault.py:tq", code=2
    )
    shown = cli.json("tasks", "list", "--limit", "1", "--db", "sqlite:///app.db")["tasks"]
    assert shown[0]["error"] == "params: coded, and no codec is set" and "$aiotaskq1$" not in str(shown)
    text = cli.out("tasks", "get", shown[0]["task_id"], "--params", "--db", "sqlite:///app.db")
    assert "coded, and no codec" in text and "$aiotaskq1$" not in text


def test_tasks_are_shown_with_the_codec_of_the_application(cli: Cli) -> None:
    Path("vault.py").write_text(APP)
    cli.monkeypatch.delitem(sys.modules, "vault", raising=False)
    fill(prepared(cli.home / "app.db"), "new")
    (shown,) = cli.json("tasks", "list", "--limit", "1", "--params", "--app", "vault:tq")["tasks"]
    assert shown["error"] is None and shown["params"].keys() == {"n"}
    text = cli.out("tasks", "get", shown["task_id"], "--params", "--app", "vault:tq")
    assert "no codec" not in text and '{"n": ' in text

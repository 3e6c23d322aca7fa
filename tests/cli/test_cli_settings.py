"""The settings of the command line: flags override the environment, which overrides pyproject.toml."""

from __future__ import annotations

import asyncio
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import aiotaskq
from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.web import Site, token_of
from aiotaskq.core.task import Task
from tests.support.command import Cli, prepared, wait_for
from tests.support.machine import within


def made(name: str) -> str:
    """A database with one task of the type ``name``; its URL."""

    async def main() -> None:
        async with TaskQ(url) as tq:
            await tq.push(name, {})

    url = prepared(Path(f"{name}.db"))
    asyncio.run(main())
    return url


def test_precedence_is_flag_then_environment_then_file(cli: Cli) -> None:
    file, environment, flag = made("file"), made("environment"), made("flag")

    def listed(*args: str) -> str:
        (task,) = cli.json("tasks", "list", *args)["tasks"]
        return str(task["type"])

    Path("pyproject.toml").write_text(f'[tool.aiotaskq]\ndatabase_url = "{file}"\n')
    assert listed() == "file"
    cli.monkeypatch.setenv("AIOTASKQ_DATABASE_URL", environment)
    assert listed() == "environment"
    assert listed("--db", flag) == "flag"


def test_the_file_sets_the_store_of_every_command(cli: Cli) -> None:
    Path("pyproject.toml").write_text(f'[tool.aiotaskq]\ndatabase_url = "{made("x")}"\n')
    for command in ("stats", "check", "queues list", "values list", "schedules list", "db check"):
        cli.json(*command.split())


def test_the_file_sets_the_options_of_run(cli: Cli) -> None:
    Path("app.py").write_text("from aiotaskq import TaskQ\ntq = TaskQ('sqlite:///app.db')\n")
    Path("pyproject.toml").write_text(
        '[tool.aiotaskq.run]\napp = "app:tq"\nconcurrency = 7\nqueues = ["a", "b"]\ndrain = 0.1\n'
    )
    with cli.running() as (process, lines):
        wait_for(lines, "concurrency 7; queues a, b")
        process.terminate()
        assert process.wait(within(40)) == 0
    cli.env["AIOTASKQ_CONCURRENCY"] = "8"
    with cli.running("--queues", "c") as (process, lines):
        wait_for(lines, "concurrency 8; queues c")
        process.terminate()
        assert process.wait(within(40)) == 0


def test_processes_in_the_environment_is_an_option_of_the_supervisor_alone(cli: Cli) -> None:
    Path("app.py").write_text("from aiotaskq import TaskQ\ntq = TaskQ('sqlite:///app.db')\n")
    cli.env["AIOTASKQ_PROCESSES"] = "2"
    with cli.running("app:tq") as (process, lines):
        wait_for(lines, "[2] app:tq on sqlite:///app.db")
        process.terminate()
        assert process.wait(within(15)) == 0
    assert len([line for line in lines if "in 2 processes" in line]) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.aiotaskq]\ndatabase = 1", "unknown key 'database'; did you mean database_url?"),
        ("[tool.aiotaskq.run]\nspeed = 1", "unknown key 'speed'; use app, concurrency"),
        ("[tool.aiotaskq]\nrun = 3", "[tool.aiotaskq.run] is not a table"),
        ("[tool.aiotaskq]\ndatabase_url = ['a']", "a single value is needed"),
        ("[tool.aiotaskq", "at end of document"),
    ],
)
def test_mistakes_in_the_file_are_errors_of_one_line(cli: Cli, text: str, said: str) -> None:
    Path("pyproject.toml").write_text(text)
    assert said in cli.fails("stats", code=2)
    cli.out("--help")  # which needs none


def test_a_file_without_our_table_is_ignored(cli: Cli) -> None:
    url = made("x")
    for text in ("not toml at all [", '[tool.other]\nname = "x"', "[project]\nname = 'uses-aiotaskq'\n"):
        Path("pyproject.toml").write_text(text)
        cli.json("stats", "--db", url)


def test_a_wrong_value_in_the_file_is_wrong_usage(cli: Cli) -> None:
    Path("pyproject.toml").write_text('[tool.aiotaskq.run]\nconcurrency = "many"\n')
    assert "concurrency" in cli.fails("run", "app:tq", code=2)


# ---- the operations API's token ----


def test_the_token_is_read_from_the_environment_or_a_file(cli: Cli) -> None:
    cli.monkeypatch.setenv("TOKEN", " abc ")
    Path("token").write_text("def\nmore\n")
    made = Site(port=1, token_env="TOKEN", read_only=True)
    assert made.arguments() == {
        "host": "127.0.0.1",
        "port": 1,
        "token": "abc",
        "read_only": True,
        "show_args": False,
    }
    assert token_of(None, "token") == "def"
    assert token_of(None, None) is None
    assert "abc" not in repr(made)  # J9


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--token-env", "NOT_SET"), "NOT_SET"),
        (("--token-file", "nowhere"), "cannot be read: No such file"),
        (("--token-file", "empty"), "is empty"),
        (("--token-file", "empty", "--token-env", "X"), "give one of the two"),
    ],
)
def test_a_missing_token_is_an_error(cli: Cli, args: tuple[str, ...], said: str) -> None:
    Path("empty").touch()
    assert said in cli.fails("web", "--db", made("x"), *args, code=2)
    assert said in cli.fails("run", "app:tq", "--web", *args, code=2)


def test_the_operations_api_beside_the_workers_and_alone(cli: Cli) -> None:
    Path("app.py").write_text("from aiotaskq import TaskQ\ntq = TaskQ('sqlite:///x.db')\n")
    url = prepared(Path("x.db"))  # without tasks: one that is given back makes another exit code
    Path("token").write_text("a-token-of-enough-characters\n")
    for words in (("run", "app:tq", "--web"), ("web", "--db", url)):
        command = [*words, "--port", "0", "--token-file", "token", "--read-only"]
        with cli.running(*command[1:], verb=command[0]) as (process, lines):
            wait_for(lines, "dashboard and operations API of sqlite:///x.db on http://127.0.0.1:")
            (line,) = [line for line in lines if "operations API" in line]
            place = line.split()[-1]
            with urllib.request.urlopen(f"{place}/healthz", timeout=within(10)) as answer:
                assert answer.status == 200
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{place}/tasks", timeout=within(10))
            process.terminate()
            assert process.wait(within(15)) == 0
        assert "a-token" not in "".join(lines)


def test_a_failed_operations_api_stops_the_workers(cli: Cli) -> None:
    Path("app.py").write_text("from aiotaskq import TaskQ\ntq = TaskQ('sqlite:///x.db')\n")
    code, _, err = cli.process("run", "app:tq", "--web", "--host", "0.0.0.0")
    assert code == 2 and "token" in err.splitlines()[-1] and "Traceback" not in err


def test_web_cannot_be_used_with_processes(cli: Cli) -> None:
    assert "aiotaskq web" in cli.fails("run", "app:tq", "--web", "--processes", "2", code=2)


# ---- doctor and init ----


def test_doctor_masks_what_is_secret(cli: Cli) -> None:  # J9
    cli.monkeypatch.setenv("AIOTASKQ_DATABASE_URL", "postgresql://me:sw0rdfish@127.0.0.1:1/x?password=sw0rdfish")
    cli.monkeypatch.setenv("AIOTASKQ_WEB_TOKEN", "sw0rdfish")
    for form in ((), ("--json",)):
        code, out, err = cli.run("doctor", *form)
        assert code == 1 and "sw0rdfish" not in out + err and "127.0.0.1" in out
        assert "AIOTASKQ_WEB_TOKEN" in out and "sqlalchemy" in out


def test_doctor_prints_versions_store_and_health(cli: Cli) -> None:
    found = cli.json("doctor", "--db", made("x"))
    assert found["problem"] is None and found["store"]["scheme"] == "sqlite"
    assert found["store"]["version"] == found["store"]["newest"]
    assert found["store"]["latency_ms"]["median"] > 0 and found["store"]["clock_ahead_ms"] is None
    assert found["store"]["health"]["ok"] and found["libraries"]["typer"]


def test_doctor_names_other_distributions_of_the_package(cli: Cli, tmp_path: Path) -> None:
    url = made("x")
    assert cli.json("doctor", "--db", url)["other_distributions"] == []
    expected = []
    for name, version in (("aiotaskq", "9.1"), ("some-fork", "2.0")):
        folder = tmp_path / name / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (folder / "RECORD").write_text("aiotaskq/__init__.py,,\n")
        cli.monkeypatch.syspath_prepend(folder.parent)
        expected.append({"name": name, "version": version, "folder": str(folder.parent)})
    assert cli.json("doctor", "--db", url)["other_distributions"] == expected
    said = cli.out("doctor", "--db", url)
    assert f"provides the package aiotaskq: some-fork 2.0 in {tmp_path / 'some-fork'}; uninstall it" in said


def test_doctor_names_what_a_broken_update_left_beside_it(cli: Cli, tmp_path: Path) -> None:
    """Two distributions whose files are those of the running package: the one of another version is left over."""
    (tmp_path / "aiotaskq").symlink_to(Path(aiotaskq.__file__).parent)
    for version in ("0.0.1", aiotaskq.__version__):
        folder = tmp_path / f"aiotaskq-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: aiotaskq\nVersion: {version}\n")
    cli.monkeypatch.setattr(sys, "path", [str(tmp_path)])
    found = cli.json("doctor", "--db", made("x"))["other_distributions"]
    assert found == [{"name": "aiotaskq", "version": "0.0.1", "folder": str(tmp_path)}]


def test_init_writes_a_program_that_runs_and_overwrites_nothing(cli: Cli) -> None:
    told = cli.out("init")
    assert "run app:tq" in told and "--db" not in told
    before = Path("app.py").read_text()
    assert "already" in cli.fails("init")
    assert Path("app.py").read_text() == before
    with cli.running("app:tq") as (process, lines):
        wait_for(lines, "Ctrl-C")
        code, out, err = cli.process("push", "greet", '{"name": "you"}', "--wait", "20")
        assert (code, out) == (0, '"Hello, you!"\n'), err
        wait_for(lines, "Hello, you!")
        assert cli.json("stats")["counts"]["completed"] >= 1  # commands find the program's store without options
        process.terminate()
        assert process.wait(within(40)) == 0
    cli.monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert "已写入 new/app.py" in cli.out("init", "new")
    compile(Path("new/app.py").read_text(), "app.py", "exec")


# ---- completion ----


def test_completion(cli: Cli) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_AIOTASKQ_COMPLETE=complete_" + shell in cli.out("completion", shell)
    assert "tcsh" in cli.fails("completion", "tcsh", code=2)
    code, out, _ = cli.process(
        _AIOTASKQ_COMPLETE="complete_bash", COMP_WORDS="aiotaskq tasks retry --st", COMP_CWORD="3"
    )
    assert (code, out.split()) == (0, ["--status"])


def test_completion_of_the_names_in_a_store(cli: Cli) -> None:
    def completed(line: str, number: int) -> list[str]:
        words = {"_AIOTASKQ_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(number)}
        code, out, err = cli.process(**words, AIOTASKQ_DATABASE_URL=cli.url)
        assert (code, err) == (0, "")
        return out.split()

    assert completed("aiotaskq queues pause ", 3) == [], "there is no store"
    assert not (cli.home / "app.db").exists(), "and none is made"
    prepared(cli.home / "app.db")
    cli.monkeypatch.setenv("AIOTASKQ_DATABASE_URL", cli.url)
    cli.store(*[Task(task_id=kind, type=kind, seq=1, queue=f"{kind}s") for kind in ("mail", "map", "two words")])
    cli.out("schedules", "add", "nightly", "sweep", "--interval", "60")
    cli.out("limits", "set", "tenant:42", "1")
    assert completed("aiotaskq push ma", 2) == ["mail", "map"]
    assert completed("aiotaskq tasks list --type ", 4) == ["mail", "map"], "a shell would make two words of the third"
    assert completed("aiotaskq tasks list --queue mai", 4) == ["mails"]
    assert completed("aiotaskq tasks cancel --status ", 4) == ["pending", "running"]
    assert completed("aiotaskq queues pause ", 3) == ["mails", "maps"]
    assert completed("aiotaskq schedules pause n", 3) == ["nightly"]
    assert completed("aiotaskq limits pause te", 3) == ["tenant:42"]
    prepared(cli.home / "other.db")
    url = f"sqlite:///{cli.home}/other.db"
    assert completed(f"aiotaskq push --db {url} ", 4) == [], "the store of the command line"

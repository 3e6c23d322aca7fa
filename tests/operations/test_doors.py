"""Every operation through every door: the same answer, the same word in the audit log, the same refusals."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import typer

import aiotaskq.sync
from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.commands import app_for
from aiotaskq.cli.door import show_plainly
from aiotaskq.errors import AiotaskqError, NotFound
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.table import MANY, NONE, Access, Operation, parameters_of, read
from aiotaskq.runtime.audit import BY_PROGRAMS
from aiotaskq.web.dashboard.site import actions
from aiotaskq.web.endpoints import ENDPOINTS
from aiotaskq.web.problem_details import status_of
from tests.operations.examples import EXAMPLES, fill
from tests.support.command import Cli, prepared
from tests.support.late import import_late
from tests.web.applications import in_starlette
from tests.web.dashboard import conftest as dashboard

if TYPE_CHECKING:
    from mcp import Client

    from aiotaskq.integrations.mcp import mcp_server

LATE = {"mcp": ["Client"], "aiotaskq.integrations.mcp": ["mcp_server"]}
COMMANDS: Any = typer.main.get_command(app_for(None))
BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}
READS = [name for name, each in OPERATIONS.items() if not each.changes]
CHANGES = [name for name, each in OPERATIONS.items() if each.changes]
THINGS = [name for name, each in EXAMPLES.items() if each.missing is not None]
OF_NOW = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z|[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}")
AGES = ("oldest_age", "ready_age", "ttl", "waited")
_filled: dict[str, bytes] = {}


@pytest.fixture(scope="module", autouse=True)
def _late() -> None:
    import_late(globals(), LATE)


@pytest.fixture
def stores(tmp_path: Path) -> Callable[[str], str]:
    """Return what makes a store with the same things under another name."""

    def made(name: str) -> str:
        if not _filled:
            path = tmp_path / "first.db"
            fill(prepared(path))
            _filled["sqlite"] = path.read_bytes()
        (tmp_path / f"{name}.db").write_bytes(_filled["sqlite"])
        return f"sqlite:///{tmp_path}/{name}.db"

    return made


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def test_every_operation_has_an_example() -> None:
    assert OPERATIONS.keys() == EXAMPLES.keys()
    things = {name for name, each in EXAMPLES.items() if each.missing is not None}
    assert all(OPERATIONS[name].thing for name in things)


# ---- the doors -------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """What a door says instead of an answer, and how it tells programs: a status, or an exit code."""

    def __init__(self, said: str, code: int) -> None:
        super().__init__(said)
        self.said, self.code = said, code


def with_tq(url: str, work: Callable[[TaskQ], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with TaskQ(url) as tq:
            return await work(tq)

    return asyncio.run(main())


def directly(url: str, operation: Operation, given: dict[str, Any]) -> Any:
    params = read(operation, given)
    return msgspec.to_builtins(with_tq(url, lambda tq: operation.run(Access(tq, True), params)))


def by_http(url: str, operation: Operation, given: dict[str, Any], **policy: Any) -> Any:
    endpoint, rest = BY_NAME[operation.name], dict(given)
    path = endpoint.path.lstrip("/")
    if operation.thing is not None:
        path = path.replace(f"{{{operation.thing}}}", str(rest.pop(operation.thing)))

    async def ask(tq: TaskQ) -> Any:
        async with in_starlette(tq, show_args=True, **policy) as client:
            sent: dict[str, Any] = {"json": rest} if endpoint.body is not None else {"params": rest}
            answer = await client.request(endpoint.method, path, **sent)
            if answer.status_code >= 400:
                raise Refused(answer.json()["detail"], answer.status_code)
            return answer.json() if answer.content else None

    return with_tq(url, ask)


def command_of(operation: Operation) -> tuple[list[str], Any]:
    """Return the words of its command, and what typer made of it."""
    node, words = COMMANDS.commands[operation.noun], [operation.noun]
    verb = operation.verb.removesuffix(MANY).replace("_", "-")
    return ([*words, verb], node.commands[verb]) if hasattr(node, "commands") else (words, node)


def takes_several(operation: Operation) -> bool:
    return operation.thing is not None and any(each.name == "things" for each in command_of(operation)[1].params)


def words_of(operation: Operation, given: dict[str, Any]) -> list[str]:
    """Return the words of a command with these parameters."""
    words, node = command_of(operation)
    kinds = {each.name: each for each in parameters_of(operation.params)}
    for param in node.params:
        name = param.name
        if name == "things" and operation.thing is not None:
            name = operation.thing
        if name == "yes" or (name == "all" and operation.verb.endswith(MANY)):
            words.append(param.opts[0])
        if name not in given:
            continue
        value = given[name]
        if kinds[name].kind is Any:
            texts = [json.dumps(value)]
        elif kinds[name].kind is dict:
            texts = [f"{key}={json.dumps(each)}" for key, each in value.items()]
        else:
            texts = ["none" if each is None else str(each) for each in (value if isinstance(value, list) else [value])]
        for text in texts:
            if param.param_type_name == "argument":
                words.append(text)
            elif isinstance(value, bool):
                words += [param.opts[0]] if value else []
            else:
                words += [param.opts[0], text]
    return words


def by_command(url: str, operation: Operation, given: dict[str, Any], cli: Cli) -> Any:
    code, out, err = cli.run(*words_of(operation, given), "--db", url, "--json")
    if code:
        raise Refused(err, code)
    answer = json.loads(out)
    if not takes_several(operation):
        return answer
    (one,) = answer
    thing = str(operation.thing)
    if thing not in operation.answer.__struct_fields__:  # then the command says which it is
        assert one.pop(thing) == given[thing]
    return one


def by_mcp(url: str, operation: Operation, given: dict[str, Any], write: bool = True) -> Any:
    async def ask(tq: TaskQ) -> Any:
        with pytest.MonkeyPatch.context() as patch:  # the other tools would take most of the time
            patch.setattr("aiotaskq.integrations.mcp.OPERATIONS", {operation.name: operation})
            server = mcp_server(tq, write=write, show_args=True)
        async with Client(server) as client:
            sent = {name: NONE if value is None else value for name, value in given.items()}
            answer = await client.call_tool(operation.name.replace(".", "_"), sent)
            return Refused(getattr(answer.content[0], "text", ""), 1) if answer.is_error else answer.structured_content

    answer = with_tq(url, ask)  # a group of tasks would wrap an error
    if isinstance(answer, Refused):
        raise answer
    return answer


def by_program(url: str, operation: Operation, given: dict[str, Any]) -> Any:
    with aiotaskq.sync.TaskQ(url) as tq:
        return msgspec.to_builtins(tq.operate(operation.name, **given))


def by_form(url: str, operation: Operation, given: dict[str, Any], form: dict[str, str], **options: Any) -> None:
    async def ask(tq: TaskQ) -> None:
        async with dashboard.in_starlette(tq, show_args=True, **options) as browse:
            fields = {name: str(value) for name, value in given.items() if value is not None}
            answer = await dashboard.send(browse, operation.name, "queues", **fields | form, sure="yes")
            if answer.status_code >= 400:
                raise Refused(html.unescape(answer.text), answer.status_code)

    with_tq(url, ask)


def told(url: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return what the audit log has beyond what ``fill`` wrote."""
    entries = with_tq(url, lambda tq: tq.queue.backend.audit.read(99))
    return [(each.door, each.action, each.targets) for each in entries[:-1]]


def steady(value: Any) -> Any:
    """Return an answer without what differs from one run to the next."""
    if isinstance(value, dict):
        return {name: "" if name in AGES and each else steady(each) for name, each in value.items()}
    if isinstance(value, list):
        return [steady(each) for each in value]
    return OF_NOW.sub("", value) if isinstance(value, str) else value


# ---- what each says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_door_gives_the_same_answer_and_tells_of_it(name: str, stores: Callable[[str], str], cli: Cli) -> None:
    operation, example = OPERATIONS[name], EXAMPLES[name]
    wanted = steady(directly(stores("direct"), operation, example.given))
    answers = {
        "api": by_http(stores("api"), operation, example.given),
        "cli": by_command(stores("cli"), operation, example.given, cli),
        "mcp": by_mcp(stores("mcp"), operation, example.given),
        "program": by_program(stores("program"), operation, example.given),
    }
    for door, answer in answers.items():
        assert steady(answer) == wanted, door
    if operation.changes:
        if name in actions:
            by_form(stores("dashboard"), operation, example.given, example.form)
            answers["dashboard"] = None
        logs = {door: told(f"sqlite:///{cli.home}/{door}.db") for door in answers}
        if operation.word in BY_PROGRAMS:
            assert logs.pop("api") == logs.pop("cli") == logs.pop("program") == []
        for door, log in logs.items():
            ((told_by, word, targets),) = log
            assert (told_by, word) == (door, operation.word)
            assert steady(list(targets)) == steady(list(logs["mcp"][0][2])), door


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_command_prints_its_answer(name: str, stores: Callable[[str], str], cli: Cli) -> None:
    assert cli.out(*words_of(OPERATIONS[name], EXAMPLES[name].given), "--db", stores("one"))


class Row(msgspec.Struct):
    name: str
    size: int | msgspec.UnsetType = msgspec.UNSET
    ready: bool = False


class Sample(msgspec.Struct):
    count: int
    ready: bool
    note: str | None
    params: dict[str, int] | msgspec.UnsetType
    rows: list[Row]


def test_the_plain_layout_prints_what_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    show_plainly(Sample(0, False, None, msgspec.UNSET, [Row("a"), Row("b", 0)]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["count: 0", "ready: false", "note: -"]
    assert [line.split() for line in lines[3:]] == [["NAME", "SIZE", "READY"], ["a", "false"], ["b", "0", "false"]]


@pytest.mark.parametrize("name", THINGS)
def test_every_door_refuses_what_is_not_there(name: str, stores: Callable[[str], str], cli: Cli) -> None:
    operation, example = OPERATIONS[name], EXAMPLES[name]
    given, url = example.given | {str(operation.thing): example.missing}, stores("one")
    with pytest.raises(AiotaskqError) as wanted:
        directly(url, operation, given)
    with pytest.raises(Refused) as api:
        by_http(url, operation, given)
    with pytest.raises(Refused) as command:
        by_command(url, operation, given, cli)
    with pytest.raises(Refused) as tool:
        by_mcp(url, operation, given)
    with pytest.raises(type(wanted.value), match=re.escape(str(wanted.value))):
        by_program(url, operation, given)
    for refusal in (api, command, tool):
        assert str(wanted.value) in refusal.value.said
    assert (api.value.code, command.value.code) == (status_of(type(wanted.value)), 1)
    if name in actions:
        with pytest.raises(Refused, match=re.escape(str(wanted.value))) as form:
            by_form(url, operation, given, example.form)
        assert form.value.code == api.value.code
    assert told(url) == []


def wrong(operation: Operation) -> dict[str, Any] | None:
    """Return a parameter that no door may accept, None where there is none."""
    for each in parameters_of(operation.params):
        if each.least is not None:
            return {each.name: int(each.least) - 1}
        if each.words:
            return {each.name: ["nonsense"] if each.kind is list else "nonsense"}
    return None if operation.thing is None else {operation.thing: "x" * 300}


@pytest.mark.parametrize("name", [name for name in EXAMPLES if wrong(OPERATIONS[name]) is not None])
def test_every_door_refuses_a_wrong_parameter(name: str, stores: Callable[[str], str], cli: Cli) -> None:
    operation, example, url = OPERATIONS[name], EXAMPLES[name], stores("one")
    given = example.given | (wrong(operation) or {})
    with pytest.raises(AiotaskqError):
        read(operation, given)
    with pytest.raises(Refused) as api:
        by_http(url, operation, given)
    with pytest.raises(Refused) as command:
        by_command(url, operation, given, cli)
    with pytest.raises(Refused):
        by_mcp(url, operation, given)
    with pytest.raises(AiotaskqError):
        by_program(url, operation, given)
    # Where a command takes several things, each is refused by itself.
    assert (api.value.code, command.value.code) == (422, 1 if takes_several(operation) else 2)
    assert told(url) == []


@pytest.mark.parametrize("name", CHANGES)
def test_a_door_that_only_reads_changes_nothing(name: str, stores: Callable[[str], str]) -> None:
    operation, example, url = OPERATIONS[name], EXAMPLES[name], stores("one")
    with pytest.raises(Refused) as api:
        by_http(url, operation, example.given, read_only=True)
    assert api.value.code == 403
    with pytest.raises(Refused, match=operation.name.replace(".", "_")):
        by_mcp(url, operation, example.given, write=False)
    if name in actions:
        with pytest.raises(Refused) as form:
            by_form(url, operation, example.given, example.form, read_only=True)
        assert form.value.code == 403
    assert told(url) == []


def test_a_name_that_no_operation_has(stores: Callable[[str], str]) -> None:
    with (
        aiotaskq.sync.TaskQ(stores("one")) as tq,
        pytest.raises(NotFound, match=r"did you mean 'limits\.set'"),
    ):
        tq.operate("limits.sett", key="a", cap=1)


def test_a_change_is_none_of_the_reads() -> None:
    assert READS and not {name for name in READS if name in actions}

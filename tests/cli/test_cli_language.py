"""The translation catalogue: every English text has a Chinese one with the same values."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from gettext import GNUTranslations
from pathlib import Path

import pytest

from aiotaskq.cli import i18n as language
from aiotaskq.cli.i18n import tr, width, wrapped
from aiotaskq.core.catalogue import FILE, HELP, LIBRARY, SENTENCES, SYSTEM, TYPER, Template, entries, parse, rendered
from aiotaskq.core.firing_record import OUTCOMES, REASONS
from aiotaskq.core.foreign_names import names
from aiotaskq.core.gate import PARKED
from aiotaskq.core.groups import after_parents
from aiotaskq.core.outcome import HandedBack, LeaseExpired, Released, TimedOut, marked, settle
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NewStep, Step
from aiotaskq.core.task import Task
from aiotaskq.errors import ValidationError
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.table import parameters_of, read
from aiotaskq.runtime.run_steps import no_version, why
from tests.support.command import ROOT
from tests.support.error_texts import LIBRARY_ROOMS, literal, raised
from tests.support.machine import within

SAYING = {"tr", "marked", "say", "say_stderr", "Column", "listed", "option", "argument", "about", "check"}
"""Functions whose first argument is a sentence."""
HELPING = {"command": 1, "register": 3}
"""Functions with sentences behind so many other arguments."""


def sentences() -> Iterator[tuple[str, str]]:
    """Where a sentence is said, and the sentence: what is given to the functions that translate it."""
    yield from (("schedules.py", text) for text in (*OUTCOMES, *REASONS))
    for path in sorted((ROOT / "aiotaskq" / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            texts = node.args[:1] if node.func.id in SAYING else node.args[HELPING.get(node.func.id, len(node.args)) :]
            if node.func.id == "map" and ast.unparse(node.args[0]) == "marked":
                assert isinstance(node.args[1], ast.Tuple)
                texts = node.args[1].elts
            texts += [each.value for each in node.keywords if each.arg in ("ask", "done", "more")]
            chosen = [each for text in texts if isinstance(text, ast.IfExp) for each in (text.body, text.orelse)]
            for text in (*texts, *chosen):
                if isinstance(text, ast.Constant) and isinstance(text.value, str) and text.value:
                    yield f"{path.name}:{node.lineno}", text.value


def operated() -> Iterator[tuple[str, str]]:
    """What is said of the operations in the table: as help of commands."""
    for name, operation in OPERATIONS.items():
        yield name, operation.summary
        yield from ((f"{name} {each.name}", each.description) for each in parameters_of(operation.params))


SAID = {sentence: where for where, sentence in [*sentences(), *operated()]}
CHINESE = {english: chinese for (context, english), chinese in entries().items() if context == SENTENCES}
PLACES = re.compile(r"\{(\w*)(?::[^}]*)?\}")


def test_every_sentence_has_a_chinese_entry() -> None:
    assert len(SAID) > 250
    assert {where: sentence for sentence, where in SAID.items() if sentence not in CHINESE} == {}
    assert CHINESE.keys() - SAID.keys() == set(), "said nowhere"
    assert not [english for english, chinese in CHINESE.items() if english == chinese]


def test_entries_have_the_same_values_in_both_languages() -> None:
    for (context, english), chinese in entries().items():
        wanted = {*PLACES.findall(english.replace("{{", ""))}
        found = {*PLACES.findall(chinese.replace("{{", ""))}
        assert found <= wanted, english
        assert found == wanted or context in (SYSTEM, TYPER), english  # what explains no more may be left out


def test_punctuation_and_spacing_are_chinese() -> None:
    chinese = "[\u4e00-\u9fff]"
    odd = re.compile(rf"{chinese}[,;:!?]|[,;!?]{chinese}|{chinese} +{chinese}|[，。；：、？（）] | [，。；：、？（）]")
    assert {text: found.group() for text in entries().values() if (found := odd.search(text))} == {}


def test_the_file_is_read_as_gettext_reads_it(tmp_path: Path) -> None:
    text = 'msgid ""\nmsgstr ""\n"x: y\\n"\n\n# said\nmsgctxt "c"\nmsgid "a "\n"b\\n\\"c\\""\nmsgstr "d"\n'
    assert parse(text) == {("c", 'a b\n"c"'): "d"}
    unfinished = '#, fuzzy\nmsgid "a"\nmsgstr "b"\n\nmsgid "c"\nmsgstr ""\n\n#~ msgid "d"\n#~ msgstr "e"\n'
    assert parse(unfinished) == {}
    if shutil.which("msgfmt") is None:
        pytest.skip("gettext's msgfmt is not installed")
    made = tmp_path / "aiotaskq.mo"
    subprocess.run(["msgfmt", "--check-format", "--output-file", made, FILE], check=True)
    with made.open("rb") as file:
        known = GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    assert len(known) - 1 == len(entries())  # the head
    for (context, english), chinese in entries().items():
        assert (known[f"{context}\x04{english}"] if context else known[english]) == chinese


def test_the_file_may_be_written_by_an_editor_of_gettext_files(tmp_path: Path) -> None:
    if shutil.which("msgcat") is None:
        pytest.skip("gettext's msgcat is not installed")
    written = tmp_path / "aiotaskq.po"  # with lines of 79 characters
    subprocess.run(["msgcat", "--sort-output", "--output-file", written, FILE], check=True)
    assert written.read_text(encoding="utf-8").splitlines() != FILE.read_text(encoding="utf-8").splitlines()
    assert parse(written.read_text(encoding="utf-8")) == entries()


def test_a_finished_text_finds_its_entry() -> None:
    template = Template(("a ", " of ", ""), "{1}的{0}")
    assert template.values("a b of c") == ["b", "c"] and template.values("a b or c") is None
    assert Template(("whole",), "x").values("whole") == [] and Template(("whole",), "x").values("wholes") is None
    assert Template(("ab", "bc"), "x").values("abc") is None
    assert rendered("No such command x.", TYPER) == "没有命令 x"
    assert rendered("No such command x. Did you mean y?", TYPER) == "没有命令 x；是不是 y？"
    assert rendered("what nobody has translated", TYPER) == "what nobody has translated"
    assert rendered("No such command {0}{1}.", TYPER) == "没有命令 {0}{1}"
    assert rendered("there is no schedule a b; did you mean 'a c'?") == "没有定时计划 a b；是不是 'a c'？"


@pytest.mark.parametrize(
    ("values", "chinese"),
    [
        ({}, False),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, False),
        ({"LANG": "de_DE", "LC_MESSAGES": "zh_TW"}, True),
        ({"LC_ALL": "C", "LC_MESSAGES": "zh_TW", "LANG": "zh_CN"}, False),
        ({"LC_ALL": "", "LANG": "zh_CN"}, True),
    ],
)
def test_the_locale_selects_the_language(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], chinese: bool
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert language.chinese() is chinese
    assert (tr("no tasks") == "没有任务") is chinese
    assert tr("queue {queue} is open", queue="{x}") == ("队列 {x} 已开放" if chinese else "queue {x} is open")


def test_chinese_lines_are_wrapped_at_the_width_of_the_terminal() -> None:
    line = "  --option  " + "一二三四五，" * 20 + " AIOTASKQ_DATABASE_URL " + "六" * 10
    lines = wrapped(line, 40)
    assert max(map(width, lines)) <= 41  # a punctuation mark stays with what it follows
    assert all(each.startswith(" " * 12) and not each.strip().startswith("，") for each in lines[1:])
    assert "".join(each.strip() for each in lines).replace(" ", "") == line.replace(" ", "")
    assert wrapped("short", 40) == ["short"] and wrapped("", 40) == [""]


@pytest.mark.parametrize("line", ["a" + "\xa0" * 50_000, "  a" + " " * 50_000], ids=["no-break spaces", "spaces"])
def test_a_line_with_many_blanks_is_wrapped_in_linear_time(line: str) -> None:
    began = time.process_time()
    assert wrapped(line, 40)
    assert time.process_time() - began < within(1)


def test_typers_words_on_help_pages_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    page = "Usage: x\n\nOptions:\n  --y  text  [env var: Y; default: 1]\n  --help  Show this message and exit."
    translated = language.translated_help(page)
    assert "Usage" not in translated and "Options" not in translated and "Show" not in translated
    assert {english for context, english in entries() if context == HELP} >= {"Usage: ", "\nCommands:\n"}


# ---- what the library says -------------------------------------------------------------------------------------------


def sample(pieces: list[str]) -> str:
    """The text with X for each value; one that follows another, or a word, is a hint, which may be empty."""
    text = pieces[0]
    for number, piece in enumerate(pieces[1:], 1):
        before = pieces[number - 1]
        hint = number > 1 and (not before or (before[-1].isalnum() and not piece) or before.endswith(")"))
        text += ("" if hint else "X") + piece
    return text


def test_every_error_of_the_library_has_a_chinese_entry() -> None:
    texts = {sample(pieces): where for where, _, pieces in raised()}
    assert len(texts) > 150
    assert {where: text for text, where in texts.items() if rendered(text) == text} == {}


def reasons() -> Iterator[tuple[str, list[str]]]:
    """Where the library says why a run or a task ended, and the text between its values."""
    for path in LIBRARY_ROOMS:
        tree = ast.parse(path.read_text())
        named = {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ENDS:
                for given in node.args:
                    pieces = literal(named.get(given.id, given) if isinstance(given, ast.Name) else given)
                    if pieces is not None and sum(map(str.isalpha, "".join(pieces))) > 3:
                        yield f"{path.name}:{node.lineno}", pieces


ENDS = {"Released", "Cancelled", "Failed", "_end", "passed_on"}


def test_every_reason_of_an_end_has_a_chinese_entry() -> None:
    texts = {sample(pieces): where for where, pieces in reasons()} | dict.fromkeys(SETTLED, "settle")
    assert len(texts) > 20
    # Of these the part behind the colon is what is translated.
    inside = {"undecodable", "result_unserializable", "invalid_params", "missing_parent", "invalid_step"}
    inside |= {"invalid_results"}
    told = {text: where for text, where in texts.items() if text.partition(":")[0] not in inside}
    assert {where: text for text, where in told.items() if rendered(text) == text} == {}


LOST = Task(task_id="t", type="t", status=Status.RUNNING, lease_owner="worker-1", crashes=2)
SETTLED = [
    *(settle(LOST, outcome, 0).attempts[0].error or "" for outcome in (LeaseExpired(), LeaseExpired(0), TimedOut(2.5))),
    settle(marked(LOST), LeaseExpired(), 0).error_message or "",
    settle(LOST.replace(lease_owner="pop-1"), LeaseExpired(), 0).attempts[0].error or "",
    settle(LOST, HandedBack(LOST), 0).attempts[0].error or "",
    settle(LOST.replace(cancel_requested=True), Released("its worker was stopped"), 0).error_message or "",
    *(
        after_parents(
            Task(task_id="b", type="b", waits=1, run_at=PARKED), [(LOST, LOST.replace(status=status), "cancel")], 0
        ).error_message
        or ""
        for status in (Status.FAILED, Status.CANCELLED, Status.EXPIRED)
    ),
    why([NewStep("t", 0, 0, Step(name=name, kind=kind)) for name, kind in (("a", "sleep"), ("b", "wait"))] * 3),
    no_version(LOST, 2),
]


def test_every_library_entry_is_used_by_the_library() -> None:
    said = set()
    for path in LIBRARY_ROOMS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.add(node.value)  # those in f-strings, too
    said.update(here for table in names().values() for here in table)
    whole = "\n".join(said)
    for context, english in entries():
        if context == LIBRARY:
            text = re.sub(r"\{\d\}", "\n", english).replace("{{", "{").replace("}}", "}")
            for part in re.split(r"[\n,;]", text):  # of two literals that are joined, each
                assert part.strip(" :") in whole, english  # a colon joins what was wrong to where


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("there is no task mail", "没有任务 mail"),
        (
            "type: no handler is registered for 'gret'; did you mean 'greet'?",
            "type：没有注册 'gret' 的处理函数；是不是 'greet'？",
        ),
        ("params: greet() has no parameter 'minute'", "params：greet() 没有参数 'minute'"),  # a value stays as it is
        (
            "cron_expression: minute 61 is not in 0-59 (got '61 * * * *')",
            "cron_expression：分钟 61 不在 0-59 之内（收到 '61 * * * *'）",
        ),
        (
            "cron_expression: day of month 'L' is not supported; L (last day) stands alone, as day of month (got 'x')",
            "cron_expression：日 'L' 不支持；L（最后一天）只能单独用作日（收到 'x'）",
        ),
        (
            "cron_expression: day of week range MON-SUN is reversed; write 1-7, where 7 is Sunday (got 'x y')",
            "cron_expression：星期的范围 MON-SUN 颠倒了；请写 1-7，7 是星期日（收到 'x y'）",
        ),
        ("priority: an int is needed (got str 'a b')", "priority：需要整数（收到 str 'a b'）"),
        ("status: 'x' is unknown; use pending, running", "status：没有状态 'x'；可用：pending、running"),
        (
            "cannot open sqlite:////x/y: No such file or directory; check the folder and its rights",
            "无法打开 sqlite:////x/y：没有这个文件或文件夹；请检查文件夹及其权限",
        ),
        ("redis://h:1/0: [Errno 111] Connect call failed ('h', 1)", "redis://h:1/0：连接被拒绝 ('h', 1)"),
        ("wait: must be at least 0 seconds (got -1)", "wait：应不小于 0 秒（收到 -1）"),
        ("task 7 (mail) failed: ValueError: no", "任务 7（mail）failed：ValueError: no"),
        (
            "its process died, or its lease was not renewed: worker worker-db1-7, last seen 2025-06-15T15:06:40Z",
            "进程已死亡，或其租约未续租：工作进程 worker-db1-7，最后一次心跳 2025-06-15T15:06:40Z",
        ),
        ("sleeps: three days; waits for the event approved:4711", "休眠：three days；等待事件 approved:4711"),
        ("cancelled; its worker was stopped", "已取消；它的工作进程已停止"),
        ("TimeoutError: timed out after 2.5 s", "TimeoutError：2.5 秒后超时"),
        ("postgresql://me:***@host: whatever the driver says", "postgresql://me:***@host: whatever the driver says"),
    ],
)
def test_errors_of_the_library_in_chinese(monkeypatch: pytest.MonkeyPatch, english: str, chinese: str) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert language.translated(english) == chinese
    monkeypatch.setenv("LC_ALL", "C")
    assert language.translated(english) == english


@pytest.mark.parametrize(
    ("name", "values", "chinese"),
    [
        ("values.set", {"key": "k", "value": 1, "ttl": -1}, "ttl：应为大于 0.0 的 `float`"),
        ("tasks.list", {"limit": 0}, "limit：应为不小于 1 的 `int`"),
        ("limits.list", {"limit": 10_001}, "limit：应为不大于 10000 的 `int`"),
        ("tasks.get", {"task_id": ""}, "task_id：应为长度不小于 1 的 `str`"),
        ("tasks.get", {"task_id": "x" * 999}, "task_id：应为长度不大于 36 的 `str`"),
        ("tasks.get", {"task_id": "x", "params": "y"}, "params：应为 `bool`，收到 `str`"),
        ("tasks.rerun", {"task_id": "x", "params": [1]}, "params：应为 `object`，收到 `array`"),
        ("tasks.get", {}, "缺少参数 `task_id`"),
        ("tasks.get", {"task_id": "x", "name": "y"}, "未知的参数 `name`"),
    ],
)
def test_a_wrong_parameter_in_chinese(
    monkeypatch: pytest.MonkeyPatch, name: str, values: dict[str, object], chinese: str
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    with pytest.raises(ValidationError) as error:
        read(OPERATIONS[name], values)
    assert language.translated(error.value) == chinese

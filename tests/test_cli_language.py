"""The catalogue of the command line: every English sentence has its Chinese one, with the same values in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from aiotaskq.cli import language
from aiotaskq.cli.chinese import CHINESE, TYPER
from aiotaskq.cli.language import tr, width, wrapped
from tests.command import ROOT


def sentences() -> Iterator[tuple[str, str]]:
    """Where a sentence is said, and the sentence: what ``tr`` and ``marked`` are given."""
    doors = [path for room in ("cli", "demo") for path in sorted((ROOT / "aiotaskq" / room).rglob("*.py"))]
    for path in doors:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            texts = node.args[:1] if node.func.id in ("tr", "marked") else []
            if node.func.id == "map" and ast.unparse(node.args[0]) == "marked":
                assert isinstance(node.args[1], ast.Tuple)
                texts = node.args[1].elts
            for text in texts:
                if isinstance(text, ast.Constant):
                    yield f"{path.name}:{node.lineno}", text.value


SAID = {sentence: where for where, sentence in sentences()}


def test_every_sentence_has_its_chinese_one() -> None:
    assert len(SAID) > 250
    assert {where: sentence for sentence, where in SAID.items() if sentence not in CHINESE} == {}
    assert CHINESE.keys() - SAID.keys() == set(), "said nowhere"
    assert not [english for english, chinese in CHINESE.items() if english == chinese]


@pytest.mark.parametrize("english", CHINESE)
def test_the_same_values_are_in_both(english: str) -> None:
    names = re.compile(r"\{(\w*)(?::[^}]*)?\}")
    assert sorted(names.findall(CHINESE[english])) == sorted(names.findall(english))


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
def test_the_locale_says_which(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], chinese: bool) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert language.chinese() is chinese
    assert (tr("no tasks") == "没有任务") is chinese
    assert tr("queue {queue} is open", queue="{x}") == ("队列 {x} 已开放" if chinese else "queue {x} is open")


def test_chinese_lines_are_broken_where_the_terminal_ends() -> None:
    line = "  --option  " + "一二三四五，" * 20 + " AIOTASKQ_DATABASE_URL " + "六" * 10
    lines = wrapped(line, 40)
    assert max(map(width, lines)) <= 41  # a punctuation mark stays with what it follows
    assert all(each.startswith(" " * 12) and not each.strip().startswith("，") for each in lines[1:])
    assert "".join(each.strip() for each in lines).replace(" ", "") == line.replace(" ", "")
    assert wrapped("short", 40) == ["short"] and wrapped("", 40) == [""]


def test_what_typer_says_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    page = "Usage: x\n\nOptions:\n  --y  text  [env var: Y; default: 1]\n  --help  Show this message and exit."
    translated = language.translated_help(page)
    assert "Usage" not in translated and "Options" not in translated and "Show" not in translated
    assert set(TYPER) >= {"Usage: ", "\nCommands:\n"}

"""One word for each thing: the glossary, its Chinese words, and the words that are not used."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiotaskq
import aiotaskq.codecs
import aiotaskq.errors
import aiotaskq.types
from tests.support.programs import ROOT

DOCS = ROOT / "aiotaskq" / "docs"
CATALOGUES = sorted((ROOT / "aiotaskq").rglob("*.po"))
TEMPLATES = sorted((ROOT / "aiotaskq" / "web" / "dashboard" / "templates").glob("*.html"))
FOR_DEVELOPERS = {"architecture.md", "contributing.md", "benchmarks.md"}
PAGES = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md") if path.name not in FOR_DEVELOPERS}
CHINESE = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "zh").glob("*.md")}

# What is not written, and what is written in its place.
NOT_USED = {
    r"\bgates?\b": "limit",
    r"\bclon(e|es|ed|ing)\b": "rerun",
    r"\bpush(es|ed)? again\b": "rerun, or push anew",
    r"\btaken for dead\b": "dead worker",
    r"\bg(ive|ives|iven) back\b": "release",
    r"\bpublic store\b": "public values",
    r"\bkey-value store\b": "public values",
    r"\bdurable events?\b": "event",
    r"\blisteners?\b": "hook",
    r"\bcurrent_task\(\)\.emit\b": "stream",
    r"\bhandle\.(events|notes)\b": "stream, log",
    r"\btq\.store\b": "tq.values",
    r"\blimits?\.(close|open)\b": "pause, resume",
}
# Other Chinese words for a term of the glossary.
OTHERS = {
    "slot": ("槽位", "插槽", "并发位"),
    "worker": ("工作者", "工人", "工作协程"),
    "lease": ("租期", "租赁"),
    "dead letter": ("死消息", "死亡信"),
    "schedule": ("定时任务", "调度计划", "计划任务"),
    "fair share": ("公平分享", "公平共享"),
    "public value": ("公共值", "公共存储"),
    "hook": ("监听器", "监听函数", "挂钩"),
    "event": ("持久事件",),
    "rerun": ("再次推送任务", "克隆"),
    "handler": ("处理器", "处理程序"),
    "workflow": ("任务流",),
}
# Words for things that the glossary need not name, and the one that is written; in English in the written pages only.
CHINESE_NOT_USED = {
    "引发": "抛出",
    "堆栈跟踪": "调用栈",
    "回溯": "调用栈",
    "额外依赖": "附加依赖",
    "附加项": "附加依赖",
    "附加包": "附加依赖",
    "睡眠": "休眠",
    "您": "你",
    "操作 API": "运维接口",
}
NOT_WRITTEN = {
    r"\bput(s|ting)? aside\b": "fail",
    r"\bhand(ed|s|ing)? on\b": "pass on",
    r"\bpark(ed|s|ing)?\b": "wait, pending",
    r"\b(told|tells?) of\b": "notify, report",
    r"\bgo(es|ing)? on\b": "continue",
    r"\banew\b": "again",
    r"\belsewhere\b": "another process, another worker",
    r"\b(put|brought|taken) back\b": "retry, release, take over",
}
# Terms whose every use in a text of the program is that of the glossary, and texts where the word is another thing.
STORED = {"gate"}  # a name of a stored field, which programs may read
TERMS = (
    "handler",
    "slot",
    "lease",
    "heartbeat",
    "dead letter",
    "fair share",
    "budget",
    "hook",
    "public value",
)
OTHER_SENSE = ("no worker has a handler of its type", "its budget is used up, so no further task starts")


def glossary(page: str) -> dict[str, str]:
    """Return the terms of a page with their Chinese words."""
    return dict(re.findall(r"^\| ([a-z ]+) \| (\S+) \| ", page, re.MULTILINE))


def translated() -> Iterator[tuple[str, str]]:
    """Yield the texts of the catalogues and their translations."""
    for path in CATALOGUES:
        entry = {"": "", "msgid": "", "msgstr": ""}
        last = ""
        for line in [*path.read_text(encoding="utf-8").splitlines(), "msgid "]:
            if line.startswith("msgid "):
                if entry["msgid"]:
                    yield entry["msgid"], entry["msgstr"]
                entry = {"msgid": "", "msgstr": ""}
            if found := re.match(r'(?:(msg\w+)\S* )?(".*")$', line):
                last = found[1] or last
                entry[last] = entry.get(last, "") + ast.literal_eval(found[2])


def test_both_pages_of_the_glossary_have_the_same_words() -> None:
    english, chinese = glossary(PAGES["glossary.md"]), glossary(CHINESE["glossary.md"])
    assert english == chinese and len(english) >= 20
    assert OTHERS.keys() | set(TERMS) <= english.keys()


@pytest.mark.parametrize("term", OTHERS)
def test_a_term_has_one_chinese_word(term: str) -> None:
    """In the manual, and in the texts of the program."""
    for name, text in CHINESE.items():
        assert [word for word in OTHERS[term] if word in text] == [], name
    for text, translation in translated():
        assert [word for word in OTHERS[term] if word in translation] == [], text


@pytest.mark.parametrize("term", TERMS)
def test_a_text_with_the_term_has_its_chinese_word(term: str) -> None:
    word = glossary(PAGES["glossary.md"])[term]
    use = re.compile(rf"(?<![\w.@'`\"=/-]){term}s?(?![\w:(='\"`.@/_]|\{{)", re.IGNORECASE)
    wrong = [
        text
        for text, translation in translated()
        if use.search(text) and word not in translation and not text.startswith(OTHER_SENSE)
    ]
    assert wrong == []


def public_names() -> Iterator[str]:
    """Yield the public names, those of methods and parameters with them."""
    for module in (aiotaskq, aiotaskq.types, aiotaskq.errors, aiotaskq.codecs):
        for name in module.__all__:
            yield name
            value = getattr(module, name)
            for member, function in inspect.getmembers(value) if inspect.isclass(value) else [(name, value)]:
                if member.startswith("_"):
                    continue
                if member not in STORED:
                    yield member
                if inspect.isfunction(function) or inspect.ismethod(function):
                    yield from inspect.signature(function).parameters


@pytest.mark.parametrize("pattern", NOT_USED)
def test_a_word_that_is_not_used_is_nowhere(pattern: str) -> None:
    """Not in the manual, in the texts of the command line and the dashboard, and in public names."""
    unused = re.compile(pattern, re.IGNORECASE)
    texts = PAGES | {path.name: path.read_text(encoding="utf-8") for path in TEMPLATES}
    texts |= {"README.md": Path(ROOT / "README.md").read_text(encoding="utf-8")}
    lines = [f"{name}: {line.strip()}" for name, page in texts.items() for line in page.splitlines()]
    named = tuple(f"api.md: - `{field}:" for field in STORED)
    found = [line for line in lines if unused.search(line) and not line.startswith(named)]
    found += [text for text, _ in translated() if unused.search(text)]
    found += [name for name in public_names() if unused.search(name.replace("_", " "))]
    assert found == [], f"the word is: {NOT_USED[pattern]}"


@pytest.mark.parametrize("word", CHINESE_NOT_USED)
def test_a_chinese_word_that_is_not_used_is_nowhere(word: str) -> None:
    found = [name for name, text in CHINESE.items() if word in text]
    found += [text for text, translation in translated() if word in translation]
    assert found == [], f"the word is: {CHINESE_NOT_USED[word]}"


@pytest.mark.parametrize("pattern", NOT_WRITTEN)
def test_a_word_of_its_own_dialect_is_not_written(pattern: str) -> None:
    """In the pages that are written by hand; names and texts of the program in spans of code are others' words."""
    written = {name: text for name, text in PAGES.items() if name not in ("api.md", "errors.md")}
    written |= {"README.md": Path(ROOT / "README.md").read_text(encoding="utf-8")}
    found = []
    for name, page in written.items():
        prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", page, flags=re.DOTALL | re.MULTILINE)
        found += [f"{name}: {line}" for line in prose.splitlines() if re.search(pattern, line, re.IGNORECASE)]
    assert found == [], f"the word is: {NOT_WRITTEN[pattern]}"


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda path: path.name)
def test_a_table_begins_with_its_head_and_has_no_gap(path: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    heads = [rows.lstrip().splitlines()[:2] for rows in re.findall(r"(?:^ *\|.*\n?)+", text, re.MULTILINE)]
    assert [head for head in heads if len(head) < 2 or not re.fullmatch(r" *\|[ :|-]+", head[1])] == []

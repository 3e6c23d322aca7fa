"""The README and the manual: every block runs as it stands, and every command is one of the command line."""

from __future__ import annotations

import ast
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from aiotaskq.cli.commands import app_for
from aiotaskq.cli.docs import MANUAL, summaries
from aiotaskq.core.errors import REQUIREMENTS
from benchmarks import published
from tests.support import nursery
from tests.support.machine import within
from tests.support.programs import ROOT
from tests.support.promises import Proofs, table
from tests.support.servers import free_port

DOCS = ROOT / "aiotaskq" / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
}
README = PAGES["README.md"]
TRANSLATIONS = {name: text for name, text in PAGES.items() if "/zh/" in name}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w/]+\.py)\n")
RUN = ("python", "bash")  # what is only shown is in another language; "py" needs what the tests do not install
SHOWN = ("py", "text", "ini", "dockerfile", "yaml", "toml", "json", "sql", "promql", "javascript")


class Block(NamedTuple):
    """A block that runs, and the text block directly after it: what it prints."""

    language: str
    code: str
    printed: str | None


def blocks(text: str) -> list[Block]:
    found = list(BLOCK.finditer(text))
    made = []
    for block, after in itertools.zip_longest(found, found[1:]):
        assert block[1] in (*RUN, *SHOWN), block[1]
        if block[1] in RUN:
            follows = after is not None and after[1] == "text" and not text[block.end() : after.start()].strip()
            made.append(Block(block[1], block[2], after[2] if after is not None and follows else None))
    return made


def test_the_first_two_shell_blocks_are_the_two_commands() -> None:
    assert [block.code.strip() for block in blocks(README) if block.language == "bash"] == [
        "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/aiotaskq demo",
        "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox",
    ]


def test_the_first_program_of_the_readme_is_short() -> None:
    (shortest,) = (block.code for block in blocks(README) if "Hello" in block.code)
    assert len([line for line in shortest.splitlines() if line.strip()]) <= 12


def test_the_readme_names_the_extra_of_each_library_that_a_block_imports() -> None:
    for section in README.split("\n## "):
        for block in blocks(section):
            if block.language == "python":
                wanted = {node.module for node in ast.walk(ast.parse(block.code)) if isinstance(node, ast.ImportFrom)}
                for library in wanted & REQUIREMENTS.keys():
                    assert re.search(rf"-e '\.\[(\w+,)*{library}[,\]]", section.partition("```")[0]), library


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("README.md", "## What else it does"),
        ("aiotaskq/docs/quickstart.md", "## Workers"),
        ("aiotaskq/docs/migration.md", "## From Celery"),
    ],
)
def test_that_tasks_are_retried_is_told_first(name: str, before: str) -> None:
    told = PAGES[name].partition(before)[0]
    assert "runs again, three times by default" in told or "**Retries are on" in told
    assert "max_retries=0" in told


# The two commands of the README are run by .ci/run, where they may install something.
RUNNABLE = [
    pytest.param([block for block in blocks(text) if name != "README.md" or block.language == "python"], id=name)
    for name, text in PAGES.items()
    if name not in TRANSLATIONS and blocks(text)
]


@pytest.mark.parametrize("page", RUNNABLE)
def test_blocks_run_as_they_stand(page: list[Block], tmp_path: Path) -> None:
    """In order, in one folder; a block whose first line names a file is saved there, for the blocks below it.

    A server listens on a free port instead of 8000.
    """
    if any("curl " in block.code for block in page if block.language == "bash") and shutil.which("curl") is None:
        pytest.skip("needs curl, as the reader of this page does")
    port = str(free_port())
    for number, block in enumerate(page):
        named = FILE.match(block.code)
        program = tmp_path / (named[1] if named else f"block_{number}.py")
        command = [sys.executable, str(program)] if block.language == "python" else ["bash", "-euo", "pipefail"]
        if block.language == "python":
            program.parent.mkdir(exist_ok=True)
            program.write_text(block.code, encoding="utf-8")
        done = nursery.run(
            command,
            input=block.code.replace("8000", port) if block.language == "bash" else "",
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=within(50),
        )
        assert done.returncode == 0, (block.code, done.stdout, done.stderr)
        if block.printed is not None:
            assert done.stdout == block.printed, block.code  # beside it, it may log a failure that it shows
        elif block.language == "python":
            assert done.stderr == "", block.code


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if "```py\n" in text])
def test_blocks_that_are_only_shown_can_be_read_by_python(name: str) -> None:
    for language, code in BLOCK.findall(PAGES[name]):
        if language == "py":
            compile(code, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("AIOTASKQ_", "LC_", "LANG"))},
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": str(ROOT),
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}


# A bare verb names a command, as do docstrings; what has placeholders cannot be typed either.
COMMANDS = [
    line
    for name, text in PAGES.items()
    if not name.endswith("api.md")
    for line in re.findall(r"`aiotaskq ([^`\s]+ [^`\n]+)`", text)
    if not re.search(r"[|…]| N\b", line)
]


@pytest.fixture(scope="module")
def program() -> Any:
    return typer.main.get_command(app_for(None))


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_called_as_they_want_to_be(program: Any, line: str) -> None:
    command, words, context = program, shlex.split(line), None
    while True:
        context = command.make_context(line, words, parent=context)  # raises for what it does not take
        if not hasattr(command, "resolve_command"):
            return
        _, command, words = command.resolve_command(context, context._protected_args + context.args)


def named(text: str, groups: dict[str, set[str]], program: str = "") -> set[tuple[str, str]]:
    """Return the groups of commands and their commands that spans of code name, several as ``a | b``."""
    spans = re.findall(rf"`{program}({'|'.join(groups)}) ([^`\n]+)`", text)
    return {(group, part.split()[0]) for group, rest in spans for part in re.split(r"\\?\|", rest) if part.strip()}


@pytest.mark.parametrize("name", PAGES)
def test_commands_that_are_named_exist(name: str, program: Any) -> None:
    groups = {group: set(node.commands) for group, node in program.commands.items() if hasattr(node, "commands")}
    known = {(group, verb) for group, verbs in groups.items() for verb in verbs}
    assert named(PAGES[name], groups, "aiotaskq ") - known == set()
    if name.endswith("command-line.md"):
        assert named(PAGES[name], groups) == known
        rows = re.findall(r"^\| `.*", PAGES[name], re.MULTILINE)
        assert set(program.commands) - {word for row in rows for word in re.findall(r"`([a-z]+)[ `]", row)} == set()


def test_the_index_name_is_never_recommended() -> None:
    assert not [name for name, text in PAGES.items() if "pip install aiotaskq" in text]


def test_each_promise_has_a_test_in_the_contract_suite() -> None:
    """That it passes on every backend whose cell promises something is checked at the end of the run."""
    contract = ROOT / "tests" / "contract"
    marked = {
        name for file in contract.glob("test_*.py") for name in re.findall(r'promise\("(.+?)"\)', file.read_text())
    }
    rows = table()
    assert len(rows) >= 8
    assert marked == set(rows)


def test_a_promise_that_is_tried_and_not_proved_is_found() -> None:
    proofs = Proofs()
    assert proofs.missing() == []
    row = "survives kill -9 of the process"
    proofs.tried |= {(row, "memory"), (row, "sqlite"), (row, "redis")}
    proofs.proved.add((row, "redis"))
    assert proofs.missing() == [(row, "sqlite")]


@pytest.mark.parametrize("name", PAGES)
def test_links_between_the_pages_lead_somewhere(name: str) -> None:
    """To a file that exists, and to a heading of it."""
    wrong = []
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", BLOCK.sub("", PAGES[name])):
        path = (ROOT / name).parent / link if link else ROOT / name
        page = PAGES.get(os.path.relpath(path, ROOT), "")
        if not path.exists() or (anchor and anchor not in anchors(page)):
            wrong.append(f"{link}#{anchor}")
    assert wrong == []


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# ---- the manual as a whole ------------------------------------------------------------------------------------------

TOPICS = sorted(path.stem for path in DOCS.glob("*.md"))


def test_the_index_and_llms_txt_list_every_page() -> None:
    listed = list(summaries())
    assert sorted([*listed, "index"]) == TOPICS
    titles = {topic: PAGES[f"aiotaskq/docs/{topic}.md"].partition("\n")[0].removeprefix("# ") for topic in listed}
    lines = [f"- [{titles[topic]}]({topic}.md): {summary}" for topic, summary in summaries().items()]
    llms = (DOCS / "llms.txt").read_text(encoding="utf-8")
    assert re.findall(r"^- .*$", llms, re.MULTILINE) == lines
    for topic in listed:
        assert f"- [{titles[topic]}]({topic}.md): " in PAGES["aiotaskq/docs/index.md"]


def test_the_manual_is_in_the_wheel() -> None:
    """The wheel contains every file below the package that git does not ignore."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["packages"] == ["aiotaskq"] and "exclude" not in build["targets"]["wheel"]
    assert MANUAL == DOCS
    names = [path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*") if path.is_file()]
    ignored = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout == ""


# ---- translations ---------------------------------------------------------------------------------------------------

ENGLISH_ONLY = {"architecture", "contributing", "api"}
"""What a user of the package need not read."""


def test_every_page_is_translated() -> None:
    translated = {path.stem for path in (DOCS / "zh").glob("*.md")}
    assert translated == {*TOPICS, "README.zh-CN"} - ENGLISH_ONLY


def page_of(name: str) -> str:
    """Return the English text of a translation."""
    return README if name.endswith("README.zh-CN.md") else PAGES[name.replace("/zh/", "/")]


def headings(text: str) -> list[int]:
    """Return the levels of the headings."""
    return [len(marks) for marks in re.findall(r"^(#+) ", BLOCK.sub("", text), re.MULTILINE)]


@pytest.mark.parametrize("name", TRANSLATIONS)
def test_a_translation_has_the_headings_and_the_code_of_its_page(name: str) -> None:
    text, page = TRANSLATIONS[name], page_of(name)
    assert headings(text) == headings(page)
    assert BLOCK.findall(text) == BLOCK.findall(page)
    assert len(re.findall("[\u4e00-\u9fff]", text)) > 60


def spans(text: str) -> Counter[str]:
    """Return the spans of code outside of the blocks and of published figures, and how often each is there."""
    written = published.parts(text)[::2] if published.BEGIN in text else [text]
    shown = re.sub("<!--.*?-->", "", BLOCK.sub("", "".join(written)))
    found = re.findall(r"(`+)(.+?)\1", shown, re.DOTALL)
    return Counter(" ".join(span.split()) for _, span in found)


@pytest.mark.parametrize("name", TRANSLATIONS)
def test_a_translation_has_the_spans_of_code_of_its_page(name: str) -> None:
    translated, english = spans(TRANSLATIONS[name]), spans(page_of(name))
    assert {"missing": english - translated, "added": translated - english} == {"missing": {}, "added": {}}


def test_a_translation_does_not_link_to_a_page_that_is_translated_itself() -> None:
    there = {path.stem for path in (DOCS / "zh").glob("*.md")}
    for name, text in TRANSLATIONS.items():
        assert [link for link in re.findall(r"\]\(\.\./([\w-]+)\.md", text) if link in there] == [], name

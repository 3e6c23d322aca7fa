"""``aiotaskq docs``: the manual in a terminal and in a pipe."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from aiotaskq.cli import docs
from aiotaskq.cli.docs import MANUAL, Section, sections
from tests.support.command import Cli, Terminal
from tests.support.machine import within


def test_pages_are_listed_with_what_they_are_about(cli: Cli) -> None:
    lines = cli.out("docs").splitlines()
    assert lines[0].split() == ["topic", "contents"]
    assert [line.split()[0] for line in lines[1:3]] == ["tutorial", "concepts"]
    assert "memory, SQLite, PostgreSQL" in next(line for line in lines if line.startswith("stores "))


def test_a_page_in_a_pipe_is_its_markdown(cli: Cli) -> None:
    assert cli.out("docs", "stores") == (MANUAL / "stores.md").read_text(encoding="utf-8")


def test_the_language_is_that_of_the_locale_and_english_where_there_is_no_translation(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert cli.out("docs", "quickstart") == (MANUAL / "zh" / "quickstart.md").read_text(encoding="utf-8")
    assert cli.out("docs", "architecture") == (MANUAL / "architecture.md").read_text(encoding="utf-8")
    assert "主题" in cli.out("docs").splitlines()[0] and "任务有哪些状态" in cli.out("docs")
    assert cli.out("docs", "quickstart", "--path").endswith("/docs/zh/quickstart.md\n")
    assert "错误：手册中没有 'queues' 这一页" in cli.fails("docs", "queues", code=2)


def test_an_unknown_page_is_refused(cli: Cli) -> None:
    assert "the manual has no page 'store'; did you mean 'stores'?" in cli.fails("docs", "store", code=2)
    said = cli.fails("docs", "../../pyproject", code=2)
    assert "'aiotaskq docs' lists the pages, and 'aiotaskq docs --search WORDS' finds sections" in said


def test_the_path_is_that_of_a_file_or_of_the_folder(cli: Cli) -> None:
    assert Path(cli.out("docs", "--path").strip()) == MANUAL
    assert Path(cli.out("docs", "stores", "--path").strip()) == MANUAL / "stores.md"


def test_sections_that_contain_all_words_are_found(cli: Cli) -> None:
    found = cli.out("docs", "--search", "POISON lease")
    assert "guarantees: Leases and crashes\n" in found and "poison" in found.casefold()
    assert "testing: " not in found
    assert cli.out("docs", "quickstart", "--search", "priority").startswith("quickstart: ")
    assert "no section of the manual contains 'xyzzy'" in cli.fails("docs", "--search", "xyzzy")
    assert "at least one word" in cli.fails("docs", "--search", " ", code=2)


def test_sections_that_are_about_the_words_come_first_and_pages_that_list_everything_last(cli: Cli) -> None:
    lines = cli.out("docs", "--search", "schedules").splitlines()
    topics = [line.partition(": ")[0] for line in lines if not line.startswith("  ")]
    assert topics[0] == "schedules"
    last = [docs.LISTS.index(topic) + 1 if topic in docs.LISTS else 0 for topic in topics]
    assert last == sorted(last) and last[0] == 0 and topics[-1] == "api"


def test_a_section_that_opens_with_the_phrase_comes_before_one_that_has_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "MANUAL", tmp_path)
    (tmp_path / "a.md").write_text("# Words\nsaid once at least\n", encoding="utf-8")
    (tmp_path / "b.md").write_text("# Delivery\nis at least once\n\nand so on\n", encoding="utf-8")
    (tmp_path / "c.md").write_text("# At last\nand once\n\nsaid at least once\n", encoding="utf-8")
    (tmp_path / "d.md").write_text("# At least once\n\nelse\n", encoding="utf-8")
    found = docs.found_in(["a", "b", "c", "d"], ["at", "least", "once"])
    assert [section.topic for section in found] == ["d", "b", "c", "a"]


def test_a_row_of_a_table_comes_before_a_mention_and_a_short_heading_before_a_long_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "MANUAL", tmp_path)
    table = "| theirs | ours |\n|---|---|\n| `eta` | `at` |\n"
    (tmp_path / "a.md").write_text("# Mention\nx\n\nits eta, eta\n", encoding="utf-8")
    (tmp_path / "b.md").write_text(f"# Of a library and another\n{table}", encoding="utf-8")
    (tmp_path / "c.md").write_text(f"# Of a library\n{table}", encoding="utf-8")
    assert [section.topic for section in docs.found_in(["a", "b", "c"], ["eta"])] == ["c", "b", "a"]


def test_a_call_that_is_typed_is_searched_for_by_its_names(cli: Cli) -> None:
    found = cli.out("docs", "--search", "self.retry(countdown=120)")
    assert found == cli.out("docs", "--search", "self.retry countdown") and "raise Retry(after=60)" in found
    assert cli.out("docs", "--search", "max_retries=0") != cli.out("docs", "--search", "max_retries")


def test_the_lines_with_the_most_words_are_shown_but_for_those_of_the_heading(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "MANUAL", tmp_path)
    (tmp_path / "a.md").write_text("# Retries\nof retries\na pause\na long pause\n", encoding="utf-8")
    assert cli.out("docs", "--search", "long pause") == "a: Retries\n  a long pause\n"
    assert cli.out("docs", "--search", "retries long") == "a: Retries\n  a long pause\n"
    assert cli.out("docs", "--search", "retries") == "a: Retries\n  of retries\n"


def test_a_name_of_another_library_that_no_page_has_is_found_in_the_table_of_names(cli: Cli) -> None:
    assert cli.out("docs", "--search", "retry_kwargs={}") == "tasks: retry_kwargs\n  retry_kwargs: max_retries=3\n"


def test_without_a_section_that_has_all_words_those_with_the_most_are_found(cli: Cli) -> None:
    assert cli.out("docs", "--search", "poison lease xyzzy") == cli.out("docs", "--search", "poison lease")


def test_a_comment_in_a_code_block_is_no_heading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "MANUAL", tmp_path)
    (tmp_path / "x.md").write_text("# X\na\n```bash\n# no heading\n```\n## Y\nb\n", encoding="utf-8")
    assert list(sections("x")) == [
        Section("x", "x", ""),
        Section("x", "X", "a\n```bash\n# no heading\n```"),
        Section("x", "Y", "b"),
    ]


def test_a_terminal_gets_a_formatted_page(cli: Cli) -> None:
    screen = Terminal(cli, "docs", "stores", PAGER="cat")
    try:
        assert screen.end() == 0
    finally:
        screen.close()
    assert "\x1b[" in screen.drawn and "## Ended tasks" not in screen.drawn and "Ended tasks" in screen.drawn


def test_a_long_line_of_code_is_not_wrapped(cli: Cli) -> None:
    """The terminal wraps it, and copies it as one line."""
    screen = Terminal(cli, "docs", "testing", PAGER="cat", NO_COLOR="1")
    try:
        assert screen.end() == 0
    finally:
        screen.close()
    lines = [line.rstrip() for line in screen.drawn.splitlines()]
    code = re.findall(r"```python\n(.*?)\n```", docs.page("testing").read_text(encoding="utf-8"), re.DOTALL)[0]
    assert max(map(len, code.splitlines())) > 80 and code in "\n".join(lines)


def test_a_terminal_shows_a_page_in_the_pager(cli: Cli) -> None:
    screen = Terminal(cli, "docs", "stores", PAGER="head -n 4")
    try:
        assert screen.end() == 0
    finally:
        screen.close()
    assert "Stores" in screen.drawn and screen.drawn.count("\n") == 4


@pytest.mark.parametrize("words", ["1" * 50_000, "1." * 25_000])
def test_a_long_number_is_searched_for_names_in_linear_time(words: str) -> None:
    began = time.process_time()
    assert docs.NAME.findall(f"{words} self.retry 5") == ["self.retry"]
    assert time.process_time() - began < within(1)

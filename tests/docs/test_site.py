"""The site of the manual, without building it: its navigation, the links of its pages, and what its check finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiotaskq.cli.docs import summaries
from tests.docs.site import (
    DOCS,
    LANGUAGES,
    OUTSIDE,
    ROOT,
    adapted,
    moved,
    navigation,
    offer_versions,
    pages,
    problems,
)

SOURCES = [(language, path) for language in LANGUAGES for path in pages(language)]


def listed(language: str) -> list[str]:
    """Return the names of the pages in the order of the navigation."""
    first, *sections = navigation(language)
    entries = [first, *(entry for section in sections for links in section.values() for entry in links)]
    return [name.removesuffix(".md") for entry in entries for name in entry.values()]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_navigation_has_every_page_once_in_the_order_of_the_index(language: str) -> None:
    assert listed(language) == ["index", *summaries(), *OUTSIDE[language].values()]
    assert sorted(listed(language)) == sorted(pages(language).values())


def test_the_navigation_has_the_headings_and_titles_of_the_index() -> None:
    assert navigation("en")[1]["Begin"][0] == {"Tutorial: a shop": "tutorial.md"}
    assert navigation("zh")[1]["入门"][0] == {"教程：一家商店": "tutorial.md"}
    assert len(navigation("en")) == len(navigation("zh"))


@pytest.mark.parametrize(("language", "path"), SOURCES, ids=lambda each: Path(each).name)
def test_the_site_has_what_a_page_links_to(language: str, path: Path) -> None:
    text = adapted(path, language)
    assert "<picture>" not in text
    assert "](../images" not in text


@pytest.mark.parametrize(
    ("source", "language", "target", "expected"),
    [
        ("README.md", "en", "aiotaskq/docs/tasks.md#retries", "tasks.md#retries"),
        ("README.md", "en", "aiotaskq/docs/zh/README.zh-CN.md", "zh/readme.html"),
        ("aiotaskq/docs/zh/README.zh-CN.md", "zh", "../../../README.md#how-fast", "../readme.html#how-fast"),
        ("aiotaskq/docs/zh/README.zh-CN.md", "zh", "../../../CHANGELOG.md", "changelog.md"),
        ("aiotaskq/docs/zh/tasks.md", "zh", "../api.md#task", "api.md#task"),
        ("aiotaskq/docs/api.md", "zh", "tasks.md", "../tasks.html"),
        ("aiotaskq/docs/zh/tutorial.md", "zh", "../images/lease.svg", "images/lease.svg"),
        ("aiotaskq/docs/tasks.md", "en", "#retries", "#retries"),
        ("aiotaskq/docs/tasks.md", "en", "https://example.com/a.md", "https://example.com/a.md"),
    ],
)
def test_a_link_stays_in_its_language_where_it_can(source: str, language: str, target: str, expected: str) -> None:
    assert moved(target, ROOT / source, language) == expected


def test_a_link_to_a_file_that_the_site_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"aiotaskq/docs/tasks\.md links to \.\./app\.py"):
        moved("../app.py", DOCS / "tasks.md", "en")


def test_a_line_break_within_chinese_text_is_no_space(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("任务，\n并保存。\n\n```text\n一\n二\n```\n- a\n- b\n", encoding="utf-8")
    assert adapted(page, "zh") == "任务，并保存。\n\n```text\n一\n二\n```\n- a\n- b\n"


def test_the_check_of_a_site_finds_broken_links_anchors_and_other_hosts(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="b.html#there">b</a><a href="b.html#gone">b</a><a href="c.html">c</a>'
        '<a href="https://example.com/">a link may lead out</a><script src="https://example.com/x.js"></script>'
    )
    (tmp_path / "b.html").write_text('<h1 id="there"></h1><a href="a.html#top">a</a><img src="no.png">')
    (tmp_path / "a.css").write_text('@font-face { src: url("//example.com/font.woff2"); }')
    assert sorted(problems(tmp_path)) == [
        "a.css loads a file of another host",
        "a.html links to b.html#gone",
        "a.html links to c.html",
        "a.html loads https://example.com/x.js",
        "b.html links to no.png",
    ]


def test_every_version_in_the_site_is_offered_the_newest_first(tmp_path: Path) -> None:
    for version in ("0.9.0", "0.10.0"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "index.html").touch()
    offer_versions(tmp_path)
    assert 'const VERSIONS = ["0.10.0", "0.9.0"];' in (tmp_path / "versions.js").read_text()
    assert "url=0.10.0/index.html" in (tmp_path / "index.html").read_text()
    assert list(problems(tmp_path)) == []

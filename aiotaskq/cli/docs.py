"""``aiotaskq docs``: shows a page of the manual, finds words in it, or prints where its files are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from aiotaskq.cli.i18n import chinese, tr
from aiotaskq.cli.options import argument, command, option
from aiotaskq.cli.output import Column, echo, echo_markdown, echo_table, echo_title, say
from aiotaskq.core.foreign_names import everywhere
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.log import printable

MANUAL = Path(__file__).parents[1] / "docs"
INDEX = "index"
LISTS = (INDEX, "comparison", "errors", "architecture", "contributing", "benchmarks", "api")
"""Pages that name everything, or that users of the package need not read: they come last in a search."""
SYNONYMS = {"定时任务": "定时计划", "计划任务": "定时计划"}
"""Words of readers for which the manual has another one."""
NAME = re.compile(r"(?<![\w.-])(?=[\w.-]*?[^\W\d])[\w.-]++")
"""A name or an option in code that a reader has typed, such as ``self.retry`` and ``countdown`` of a call."""
_TOPIC = re.compile(r"^- \[[^\]]+\]\((?:\.\./)?([\w-]+)\.md\)(?:: |：)(.+)$", re.MULTILINE)


class Section(NamedTuple):
    """A part of a page: its heading, and the text below it up to the next heading."""

    topic: str
    heading: str
    text: str

    @property
    def whole(self) -> str:
        return f"{self.heading}\n{self.text}"


@command(
    "docs",
    "Show a page of the manual; without a topic, list the pages. A terminal shows it formatted, a pipe gets Markdown.",
)
def docs(
    topic: Annotated[str | None, argument("The name of a page.", "TOPIC")] = None,
    search: Annotated[
        str | None,
        option("List the sections that contain all of these words, or the most of them.", "--search", metavar="WORDS"),
    ] = None,
    path: Annotated[bool, option("Print the path of the page, or of the manual's folder.", "--path")] = False,
) -> None:
    if topic is not None:
        _check(topic)
    if path:
        echo(str(MANUAL if topic is None else page(topic)))
    elif search is not None:
        _search(search, topic)
    elif topic is not None:
        echo_markdown(page(topic).read_text(encoding="utf-8"))
    else:
        echo_table(list(summaries().items()), (Column("topic", 0), Column("contents", 1, least=20)))
        echo()
        say("aiotaskq docs TOPIC shows a page, aiotaskq docs --search WORDS finds sections.")


def topics() -> list[str]:
    return sorted(path.stem for path in MANUAL.glob("*.md"))


def page(topic: str) -> Path:
    """Return the file of a page in the user's language; the English one if there is no other."""
    translation = MANUAL / "zh" / f"{topic}.md"
    return translation if chinese() and translation.is_file() else MANUAL / f"{topic}.md"


def summaries() -> dict[str, str]:
    """Return what each page is about, in the order of the index."""
    return _listed(MANUAL / f"{INDEX}.md") | _listed(page(INDEX))


def _listed(index: Path) -> dict[str, str]:
    return {found[1]: found[2] for found in _TOPIC.finditer(index.read_text(encoding="utf-8"))}


def sections(topic: str) -> Iterator[Section]:
    """Yield the sections of a page in the user's language; a line in a code block is no heading."""
    heading, lines, fence = topic, list[str](), ""
    for line in page(topic).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fence = "" if fence else line
        if line.startswith("#") and not fence:
            yield Section(topic, heading, "\n".join(lines))
            heading, lines = line.lstrip("# "), []
        else:
            lines.append(line)
    yield Section(topic, heading, "\n".join(lines))


def _check(topic: str) -> None:
    known = topics()
    if topic in known:
        return
    close = difflib.get_close_matches(topic, known, 1)
    if close:
        hint = tr("; did you mean {name}?", name=repr(close[0]))
    else:
        hint = tr("; 'aiotaskq docs' lists the pages, and 'aiotaskq docs --search WORDS' finds sections")
    said = tr("the manual has no page {topic}", topic=repr(printable(topic)))
    raise ValidationError(said + hint)


def _search(words: str, topic: str | None) -> None:
    wanted = words_of(words)
    if not wanted:
        raise typer.BadParameter(tr("at least one word is needed"), param_hint="--search")
    pages = [topic] if topic is not None else topics()
    found = found_in(pages, wanted)
    names = NAME.findall(words)
    if names and (not found or contained(wanted, found[0].whole) < len(wanted)):
        wanted = words_of(" ".join(names))
        found = found_in(pages, wanted)
    if not found and topic is None:
        found = [Section(here.page, name, f"{name}: {here.here}") for name in names for here in everywhere(name)]
    if not found:
        raise NotFound(tr("no section of the manual contains {words}", words=repr(printable(words))))
    for section in found:
        echo_title(f"{section.topic}{tr(': ')}{section.heading}")
        for line in _telling(section, wanted):
            echo(f"  {line}")


def _telling(section: Section, words: Sequence[str]) -> list[str]:
    """Return the lines with the most of the words; words of the heading count only if it has all."""
    wanted = [word for word in words if not contained([word], section.heading)] or words
    lines = [(contained(wanted, line), line.strip()) for line in section.text.splitlines()]
    most = max((count for count, _ in lines), default=0)
    return [line for count, line in lines if count == most > 0]


def words_of(query: str) -> list[str]:
    """Return the words of a query, casefolded, in the terms of the manual."""
    return [SYNONYMS.get(word, word) for word in query.casefold().split()]


def found_in(names: Iterable[str], words: Sequence[str]) -> list[Section]:
    """Return the sections with all of the words, or with the most of them if none has all; the best ones first.

    Better is a section whose heading is the phrase, then one with the phrase in its heading or in a first paragraph
    that is no table, then with more of the words in the name of its page and its heading, then with a row of a table
    about the phrase, then with it more often, then with a shorter heading. ``LISTS`` come last, in their order.
    """
    counted = [(contained(words, each.whole), each) for name in names for each in sections(name)]
    most = max((count for count, _ in counted), default=0)
    best = [section for count, section in counted if count == most > 0]
    phrase = " ".join(words)

    def rank(section: Section) -> tuple[int, bool, bool, int, bool, int, int]:
        last = LISTS.index(section.topic) + 1 if section.topic in LISTS else 0
        heading, text = section.heading.casefold(), section.text.strip().casefold()
        paragraph, _, _ = text.partition("\n\n")
        opening = heading if paragraph.startswith("|") else f"{heading}\n{paragraph}"
        named = contained(words, f"{section.topic} {heading}")
        listed = re.search(rf"^\|[^|]*{re.escape(phrase)}", text, re.MULTILINE) is not None
        return last, heading != phrase, phrase not in opening, -named, not listed, -text.count(phrase), len(heading)

    return sorted(best, key=rank)


def contained(words: Sequence[str], text: str) -> int:
    """Return how many of the words, which are casefolded, the text contains."""
    folded = text.casefold()
    return sum(word in folded for word in words)

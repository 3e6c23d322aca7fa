"""Translation of what the command line prints: English, or Chinese where the locale asks for it.

The English sentence is the key of the catalogue, which is read only for a Chinese locale. JSON is always in English,
because programs match it.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from typing import Any

from aiotaskq.core.catalogue import HELP, TYPER, entries, rendered, sentence


def chinese() -> bool:
    """Whether the locale asks for Chinese: the first of LC_ALL, LC_MESSAGES and LANG that is set (POSIX, 8.2)."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return value.lower().startswith("zh")
    return False


class _Count(int):
    def __format__(self, spec: str) -> str:
        return super().__format__(spec or ",")


def tr(message: str, **values: object) -> str:
    """Return the sentence in the user's language, with the values in place of its ``{names}``; 1000 as 1,000."""
    text = sentence(message) if chinese() else message
    counts = {name: _Count(value) for name, value in values.items() if type(value) is int}
    return text.format(**values | counts) if values else text


def marked(message: str) -> str:
    """Return the sentence as it is; marks one that must be in the catalogue, because ``tr`` gets it later."""
    return message


def translated_help(text: str) -> str:
    """Return a help page with typer's own words in the user's language."""
    if not chinese():
        return text
    for (context, english), other in entries().items():
        if context == HELP:
            text = text.replace(english, other)
    room = min(shutil.get_terminal_size().columns, 80)
    return "\n".join(piece for line in text.splitlines() for piece in wrapped(line, room))


UNWRAPPED = 10_000
# A Chinese character breaks after itself and the punctuation behind it.
_WORD = re.compile(r"[\u2e80-\u9fff\uff00-\uffef][，。；：、？）]*|[!-~]+ ?|\s+|.")
_COLUMNS = re.compile(r"  \S.*?(?<!\s)\s{2,}+(?=\S)|\s*")


def wrapped(line: str, room: int) -> list[str]:
    """Break a line that is wider than ``room`` columns; the rest is aligned with the second column of its text."""
    indent = _COLUMNS.match(line)
    assert indent is not None  # it also matches an empty text
    before = "" if indent.end() > room // 2 else " " * width(indent.group())
    lines, now = [], indent.group()
    for word in _WORD.findall(line[indent.end() :]):
        if width(now + word.rstrip()) > room and now.strip():
            lines.append(now.rstrip())
            now = before
        now += word
    return [*lines, now.rstrip()]


def width(text: str) -> int:
    """Return how many columns a text takes: Chinese characters take two (Unicode, annex 11)."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def usage_error(error: Any) -> str:
    """Return the text of one of typer's usage errors, in one line, in the user's language.

    The class is told by its name, because typer has moved its classes between releases.
    """
    kind, said = type(error).__name__, error.format_message()
    if kind == "BadParameter" and not (error.param or error.param_hint):
        return str(error.message)  # raised by the command line itself, about no single option
    if not chinese():
        return str(said)
    if kind == "NoSuchOption":
        guess = f"；是不是 {'、'.join(error.possibilities)}？" if error.possibilities else ""
        return f"没有选项 {error.option_name}{guess}"
    if kind in ("MissingParameter", "BadParameter") and (error.param or error.param_hint):
        words = [error.param_hint] if error.param_hint else error.param.opts
        if not error.param_hint and error.param.param_type_name == "argument":
            words = [error.param.metavar or error.param.name]
        hint = " / ".join(words)
        return f"缺少 {hint}" if kind == "MissingParameter" else f"{hint} 的值不对：{_typer(error.message)}"
    known = _typer(said)
    return known if known != said else f"用法不对：{said}"


def _typer(said: str) -> str:
    # Without the quotes around names, which the Chinese text does not have.
    plain = said.replace("'", "")
    known = rendered(plain, TYPER)
    return said if known == plain else known


def translated(error: object) -> str:
    """Return the text of an error or a finding of the library in the user's language."""
    return rendered(str(error)) if chinese() else str(error)

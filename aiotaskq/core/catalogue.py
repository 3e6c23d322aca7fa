"""The Chinese catalogue, ``locale/zh/LC_MESSAGES/aiotaskq.po``, and how a finished text finds its entry in it.

The command line looks its own sentences up by their English text. An error of the library has its values in it already:
it is compared with the entries in the context ``library``, whose ``{0}``, ``{1}`` … stand for values. For that the
entries must be listed, which the standard library's ``gettext`` does not offer. So the file itself is read, and needs
no compilation: edit it with Poedit or any editor.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["HELP", "LIBRARY", "SENTENCES", "SYSTEM", "TYPER", "entries", "parse", "rendered", "sentence"]

FILE = Path(__file__).parent / "locale" / "zh" / "LC_MESSAGES" / "aiotaskq.po"
SENTENCES = ""
LIBRARY = "library"
SYSTEM = "system"
TYPER = "typer"
HELP = "help"
"""The contexts: sentences of the command line, texts of the library, those of the operating system, of drivers
and of msgspec, typer's errors about a command line, and typer's words on a help page."""

_PLACE = re.compile(r"\{\d+\}")
# What is compared with all entries is bounded: errors of handlers may have any text.
LONGEST = 2_000
"""Characters of a text beyond which it is no error of the library."""
LEVELS = 4
"""How many texts may be in each other: a file, what is wrong there, the value that is, and a guess."""
_FEW = 3  # letters; a template with fewer would fit any text


class Template(NamedTuple):
    """An entry with places for values: the text between these places, and the translation."""

    pieces: tuple[str, ...]
    translation: str

    def values(self, text: str) -> list[str] | None:
        """Return the values of a text that fits this template, else None."""
        first, *rest = self.pieces
        if not rest:
            return [] if text == first else None
        if not text.startswith(first) or not text.endswith(rest[-1]):
            return None
        latest, end = [], len(text)  # where each piece begins at the latest
        for piece in reversed(rest):
            end = text.rfind(piece, len(first), end)
            if end < 0:
                return None
            latest.append(end)
        found, at = [], len(first)
        for number, (piece, begin) in enumerate(zip(rest, reversed(latest), strict=True), 1):
            # A value before a blank may have blanks itself: "day of month 3 is not …".
            if piece.strip() and number < len(rest):
                begin = text.find(piece, at)
            found.append(text[at:begin])
            at = begin + len(piece)
        return found


def parse(text: str) -> dict[tuple[str, str], str]:
    """Return the entries of a gettext file, by context and English text.

    As in a compiled catalogue, entries that are marked as fuzzy or have no translation are left out. Plural forms are
    not supported.
    """
    found: dict[tuple[str, str], str] = {}
    for block in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#"):
                if line.startswith("#,") and "fuzzy" in line:
                    break
                continue  # a comment, or an obsolete entry
            if not line.startswith('"'):
                name, _, line = line.partition(" ")
            fields[name] = fields.get(name, "") + json.loads(line)  # the escapes of gettext are those of JSON
        else:
            if fields.get("msgid") and fields.get("msgstr"):
                found[fields.get("msgctxt", SENTENCES), fields["msgid"]] = fields["msgstr"]
    return found


@functools.cache
def entries() -> dict[tuple[str, str], str]:
    """Return the Chinese entries, by context and English text."""
    return parse(FILE.read_text(encoding="utf-8"))


def sentence(english: str) -> str:
    """Return the Chinese sentence for an English one of the command line, or the English one if there is none."""
    return entries().get((SENTENCES, english), english)


@functools.cache
def _templates(context: str) -> list[Template]:
    made = [
        Template(tuple(piece.replace("{{", "{").replace("}}", "}") for piece in _PLACE.split(english)), chinese)
        for (where, english), chinese in entries().items()
        if where == context
    ]
    return [each for each in made if sum(map(str.isalpha, "".join(each.pieces))) >= _FEW]


class _Value(str):
    """A value in a text. ``{0:t}`` is a place for a text that is translated, too, ``{0:l}`` one for a list."""

    levels = 0

    def __format__(self, how: str) -> str:
        if how == "t":
            return rendered(self, levels=self.levels)
        return self.replace(", ", "、") if how == "l" else str(self)


def rendered(text: str, context: str = LIBRARY, levels: int = LEVELS) -> str:
    """Return the translation of a finished English text, or the text itself if no entry fits or it is too long.

    Of several entries that fit, the one that leaves the least English is used. ``levels`` is how many texts may be in
    each other.
    """
    if not levels or len(text) > LONGEST:
        return text
    contexts = (LIBRARY, SYSTEM) if context == LIBRARY else (context,)
    fitting = [(each, each.values(text)) for where in contexts for each in _templates(where)]
    rendered_in = functools.partial(rendered, context=context, levels=levels - 1)
    found = [each.translation.format(*_values(values, levels - 1)) for each, values in fitting if values is not None]
    where, colon, what = text.partition(": ")  # a URL or a file, and what is wrong with it
    if colon and (known := rendered_in(what)) != what:
        found.append(f"{where}：{known}")
    said, with_guess, guessed = text.rpartition("; did you mean ")  # see core.guess
    if with_guess and (known := rendered_in(said)) != said:
        found.append(f"{known}；{rendered_in(f'did you mean {guessed}')}")
    return min(found, key=_english, default=text)


def _values(texts: Iterable[str], levels: int) -> list[_Value]:
    values = [_Value(text) for text in texts]
    for value in values:
        value.levels = levels
    return values


def _english(text: str) -> int:
    return sum(char.isascii() and char.isalpha() for char in text)

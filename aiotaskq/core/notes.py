"""Notes: what handlers write beside their results while they run, as log lines and as JSON data; and their bounds."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from aiotaskq.core.errors import check_json, clip
from aiotaskq.core.instants import utc
from aiotaskq.core.usage import Usage

MAX_NOTES = 1_000
"""Notes that one task keeps; the oldest go."""
MAX_SIZE = 256 * 1024
"""Bytes of the texts of those, in UTF-8; the oldest go."""
MAX_NOTE = 4 * 1024
"""Bytes of the text of one note: a longer line of a log is cut, and longer data is refused."""

Kind = Literal["log", "data", "end"]


class LogEntry(msgspec.Struct, frozen=True):
    """An entry of the log of a task: a line of its log, or data of its stream."""

    n: int
    """It rises with each entry of the task, also over its attempts: the ``after`` of the next read."""
    at: int
    """Microseconds UTC."""
    kind: Kind
    """``log`` or ``data``; ``end`` is the last one of ``stream()``, and is stored nowhere."""
    text: str
    """The line of a log, the JSON of data, or the status with which the task has ended."""

    time = utc("at")

    @property
    def data(self) -> Any:
        """What ``stream`` was given; of another kind of entry the text."""
        return msgspec.json.decode(self.text) if self.kind == "data" else self.text


class NewNote(msgspec.Struct, frozen=True, gc=False):
    """A note that is not stored yet, and has no number."""

    at: int
    kind: Kind
    text: str

    @property
    def size(self) -> int:
        """Bytes of its text."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())


class NewNotes(msgspec.Struct, frozen=True):
    """Notes of one run of a task, in their order, and what it has used up."""

    task_id: str
    fence: int
    notes: tuple[NewNote, ...]
    usage: Usage | None = None
    """What the task has used up in all, if that has changed."""


def log_note(at: int, text: Any, fields: dict[str, Any]) -> NewNote:
    """Return a line of a log; fields follow the text as ``name=value``, and what is too long is cut."""
    line = str(text)
    for name, value in fields.items():
        line += f" {name}={_shown(value)}"
    return NewNote(at, "log", clip(line, MAX_NOTE))


def _shown(value: Any) -> str:
    text = str(value)[:MAX_NOTE]
    return f'"{text}"' if not text or any(character.isspace() for character in text) else text


def data_note(at: int, value: Any) -> NewNote:
    """Return a note of data. Raises ValidationError for a value that JSON cannot hold, or that is too long."""
    return NewNote(at, "data", check_json("stream", value, MAX_NOTE).decode())

"""The notes of a task as server-sent events, and the ids by which a browser goes on after a lost connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any

import msgspec

from aiotaskq.app.handle import TaskHandle
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import to_iso
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.task import SECOND
from aiotaskq.core.validation import INT64
from aiotaskq.errors import DatabaseUnavailable, NotFound

EVENT_STREAM = "text/event-stream"
BEAT = 1.0  # seconds after which a comment is sent: proxies keep the connection, and a stop of the server is noticed
LONGEST = 300.0  # seconds of one response: then the browser connects again, and is let in again or not
RETRY = b"retry: 1000\n\n"  # milliseconds after which a browser connects again
_ENDED = ".end"


class EventsQuery(msgspec.Struct):
    """From where a task is followed."""

    after: Annotated[
        int, msgspec.Meta(ge=0, le=2**31 - 1, description="The number of the last event that is known")
    ] = 0


class Seen(msgspec.Struct, frozen=True):
    """The last event that a browser has had."""

    n: int
    ended: bool


def last_event(text: str) -> Seen | None:
    """Return what ``Last-Event-ID`` says; None for an id that is not one of ours."""
    number, ended = text.removesuffix(_ENDED), text.endswith(_ENDED)
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        return None
    return Seen(min(int(number), INT64), ended)


async def event_stream(handle: TaskHandle[Any], after: int, is_stopping: Callable[[], bool]) -> AsyncGenerator[bytes]:
    """Yield the notes of a task, and its end, as events.

    It stops early where the store cannot be reached, and where ``is_stopping`` says that the server waits for its end.
    """
    clock = SystemClock()
    until = clock.ticks() + int(LONGEST * SECOND)
    yield RETRY
    while (left := until - clock.ticks()) > 0 and not is_stopping():
        try:
            notes = await handle.next_log(after, timeout=min(BEAT, left / SECOND))
        except NotFound:
            yield _event(f"{after}{_ENDED}", "end", b'{"status":null}')
            return
        except DatabaseUnavailable:
            return  # the browser connects again
        yield b"".join(map(_event_of, notes)) or b": \n\n"
        for note in notes:
            if note.kind == "end":
                return
            after = note.n


def _event_of(note: LogEntry) -> bytes:
    match note.kind:
        case "data":
            return _event(str(note.n), None, note.text.encode())
        case "end":
            return _event(f"{note.n}{_ENDED}", "end", msgspec.json.encode({"status": note.text}))
        case _:
            return _event(str(note.n), "log", msgspec.json.encode({"at": to_iso(note.at), "text": note.text}))


def _event(id: str, name: str | None, data: bytes) -> bytes:
    # JSON of one line; data that cannot be decoded any more may be anything. Each of these ends a line of an event.
    for end in (b"\r\n", b"\r"):
        data = data.replace(end, b"\n")
    kind = b"" if name is None else b"event: " + name.encode() + b"\n"
    return b"id: " + id.encode() + b"\n" + kind + b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"

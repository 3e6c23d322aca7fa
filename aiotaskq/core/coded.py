"""Values as a codec makes them: which columns of a task are coded, and how the text is marked.

A coded value is stored as text with a prefix that no JSON has. So plain and coded rows are told apart, and rows that
were written before there was a codec can still be read. A row with a text that cannot be decoded keeps that text.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from aiotaskq.core.errors import NotSupported, ValidationError
from aiotaskq.core.status import COMPLETED
from aiotaskq.core.tags import TAGS, with_tags
from aiotaskq.core.task import UNREAD, Attempt, Task, is_unread

if TYPE_CHECKING:
    from aiotaskq.core.codec import Codec

PREFIX = "$aiotaskq1$"
NO_CODEC = "coded, and no codec is set"
NO_BLOBS = "in a blob, and no blobs are set"
STATE = ("result", "attempts")
"""The coded columns that change in a task's life; the others change only with a push."""
COLUMNS = ("params", "extra", "progress", *STATE)

_PREFIX = PREFIX.encode()
_BLOB = b"\x00bl"
"""The beginning of a reference to a blob, in place of what a codec has made: four characters of base64."""
_BLOB_TEXT = PREFIX + base64.b64encode(_BLOB).decode()
_encode = msgspec.json.encode
_object = msgspec.json.Decoder(dict[str, Any]).decode
_EMPTY = Task(task_id="", type="")
_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "params": _object,
    "extra": _object,
    "progress": _object,
    "result": msgspec.json.Decoder().decode,
    "attempts": msgspec.json.Decoder(tuple[Attempt, ...]).decode,
}


class BlobError(Exception):
    """A value whose blob cannot be decoded; the text says why."""


def reference(name: str) -> bytes:
    """Return what stands for a blob in place of what a codec has made."""
    return _BLOB + name.encode()


def blob_of(data: str | bytes) -> str | None:
    """Return the name of the blob for which the data of a codec stands, or a stored text; None if it is none."""
    if isinstance(data, str):
        data = base64.b64decode(data[len(PREFIX) :]) if data.startswith(_BLOB_TEXT) else b""
    return data[len(_BLOB) :].decode("ascii", "replace") if data.startswith(_BLOB) else None


def lazy(codec: Codec | None) -> Codec | None:
    """Return a codec that decodes as this one, but reads no blobs."""
    return getattr(codec, "lazy", codec)


def problem_of(task: Task) -> str | None:
    """Return the error of a task, or why it cannot be read; None for neither."""
    return task.error_message or (None if is_unread(task) else task.undecodable)


def no_codec() -> NotSupported:
    """Return the error of ``recode`` where there is no codec."""
    return NotSupported("recode: this store has no codec; give the TaskQ one, on a durable store")


def without_codec(coded: Mapping[str, str]) -> str:
    """Return why these columns cannot be read without a codec."""
    return f"{', '.join(coded)}: {NO_BLOBS if any(map(blob_of, coded.values())) else NO_CODEC}"


def to_stored(data: bytes, codec: Codec) -> bytes:
    """Return JSON as it is stored: the same bytes if the codec leaves them as they are, else coded with the prefix."""
    made = codec.encode(data)
    return data if made == data else _PREFIX + base64.b64encode(made)


def from_stored(text: str, codec: Codec | None) -> bytes:
    """Return the JSON of a coded text. Raises any exception if the codec cannot decode it."""
    if codec is None:
        raise ValueError(NO_CODEC)
    return codec.decode(base64.b64decode(text[len(PREFIX) :], validate=True))


def is_coded(text: object) -> bool:
    """Whether a stored text, or its bytes, is a coded one."""
    return text.startswith(PREFIX) if isinstance(text, str) else isinstance(text, bytes) and text.startswith(_PREFIX)


def stored_text(text: str, codec: Codec | None) -> str:
    """Return a text as it is stored; one that is coded still, since it could not be decoded, stays as it is."""
    return text if codec is None or not text or is_coded(text) else to_stored(text.encode(), codec).decode()


def plain_text(text: str, codec: Codec | None) -> tuple[str, str | None]:
    """Return a stored text as it was given; if it cannot be decoded, as it is stored, with the type of the error."""
    if not is_coded(text):
        return text, None
    try:
        return from_stored(text, codec).decode(), None
    except Exception as error:  # the codec is the application's, and may raise anything
        return text, type(error).__name__


def encoded(task: Task, codec: Codec, names: Iterable[str] = COLUMNS) -> Task:
    """Return the task with the texts of these columns in ``coded`` and not in their fields.

    A column that the codec leaves as it is stays in its field, and so does an empty one except params. ``extra`` keeps
    the tags, which are stored beside the row as they are. A task that was encoded before is returned as it is.
    """
    coded = dict(task.coded or ())
    fields: dict[str, Any] = {}
    for name in names:
        value = getattr(task, name)
        if value is None or (name != "result" and not value and (name != "params" or name in coded)):
            continue
        if name == "extra" and name in coded and value.keys() <= {TAGS}:
            continue
        stored = to_stored(_encode(value), codec)
        if stored.startswith(_PREFIX):
            coded[name] = stored.decode()
            fields[name] = with_tags({}, task.tags) if name == "extra" else copy.copy(getattr(_EMPTY, name))
    return replace(task, **fields, coded=coded) if fields else task


def encoded_all(tasks: Sequence[Task], codec: Codec | None) -> Sequence[Task]:
    """Return tasks, each encoded, where there is a codec."""
    return tasks if codec is None else [encoded(task, codec) for task in tasks]


def decoded(task: Task, codec: Codec | None) -> Task:
    """Return the task with its coded columns in their fields; those that cannot be decoded stay in ``coded``.

    ``undecodable`` then says which one, and why.
    """
    fields: dict[str, Any] = {}
    left: dict[str, str] = {}
    problem: str | None = None
    for name, text in (task.coded or {}).items():
        try:
            fields[name] = _DECODERS[name](from_stored(text, codec))
        except Exception as error:  # the codec is the application's, and may raise anything
            left[name] = text
            why = f"{name} cannot be decoded ({type(error).__name__}): the codec or its key is another"
            why = f"{name}: {error}" if isinstance(error, BlobError) else why
            # What is only not read says less than any other problem.
            problem = why if problem is None or problem.endswith(UNREAD) else problem
    other = (
        None
        if task.undecodable is None or task.undecodable.endswith((NO_CODEC, NO_BLOBS, UNREAD))
        else task.undecodable
    )
    if codec is None and left:
        problem = without_codec(left)
    return replace(task, **fields, coded=left or None, undecodable=other or problem)


def readable_result(task: Task) -> Any:
    """Return the result of a task, None if it has not completed. Raises ValidationError if it cannot be decoded."""
    # Which part of the row is damaged is not known where nothing in it is coded.
    damaged = task.coded is None and task.undecodable is not None and task.result is None
    if task.status is COMPLETED and (damaged or "result" in (task.coded or ())):
        raise ValidationError(f"the result of task {task.task_id} cannot be read: {task.undecodable}")
    return task.result


def anew(task: Task, codec: Codec) -> Task | None:
    """Return the task with its coded columns written anew with the codec; None if one of them cannot be decoded."""
    plain = decoded(task, codec)
    return None if plain.coded else encoded(plain, codec)


def verbatim(task: Task) -> Task:
    """Return the task with its coded texts in their fields, as raw JSON that an encoder writes as it is."""
    texts = {name: msgspec.Raw(text.encode()) for name, text in (task.coded or {}).items()}
    return replace(task, **texts, coded=None)

"""Tasks to rows in Redis and back: the layout of a row.

A row has a body, which its push writes, a state, which every change writes, and perhaps progress. Body and state are
parts of one JSON object, so that one decoder reads a whole row; scripts never decode that JSON. A state begins with a
head: words for the scripts, with numbers as decimal text, since a number in Lua is exact only up to 2**53; behind them
are the lane, the keys as a JSON list, and the ``Place``. A script answers a row as four words: its id, body, state with
what is in the head as JSON, and progress.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from aiotaskq.backends.change import Claim
from aiotaskq.core.coded import NO_CODEC, STATE, is_coded, without_codec
from aiotaskq.core.outcome import ALONE
from aiotaskq.core.parking import any_flow
from aiotaskq.core.status import RUNNING, Status
from aiotaskq.core.task import SECOND, Task, any_tags
from aiotaskq.errors import ValidationError

if TYPE_CHECKING:
    from aiotaskq.backends.change import Change

HEAD = re.compile(rb"(\S+) (-?\d+) ([01]) (\S+) (\S+) (-?\d+) (-?\d+) (\S+) (\d+) (\d+) (\d+) ").match
"""Matches the words of a head, as ``lua/include/base.lua`` does; the last ones are the lengths of what is behind."""

NO_CLAIM = Claim("", 0, 0)

PLAIN_ROWS = 1_000  # in one list of a push: half as many words as Lua may pass to a command
BYTES_PER_ARGUMENT = 512 * 1024  # but for a row that is larger by itself

_CHANGING: tuple[str, ...] = ("seq", "queue", "priority", "retry_count", "max_retries", "started_at")
_CHANGING += ("completed_at", "began_at", "ended_at", "error_message", "expires_at", "crashes", "lease_owner")
_CHANGING += ("due_at", "gate", "attempts", "result")
_HEAD = ("status", "fence", "cancel_requested", "lease_until", "run_at", "flow", "waits")
_OBJECTS = ("progress", "usage", "params", "extra")  # params and extra last: if they are damaged, the rest can be read
_ELSEWHERE = {*_CHANGING, *_HEAD, *_OBJECTS, "coded", "undecodable"}
_WRITTEN_ONCE = (*(name for name in Task.__struct_fields__ if name not in _ELSEWHERE), *_OBJECTS)
_DEFAULTS: dict[str, Any] = {
    field.name: None if field.default is msgspec.NODEFAULT else field.default for field in msgspec.structs.fields(Task)
} | {"params": {}, "extra": {}, "seq": None}  # a state has at least its seq


def _part(name: str, columns: Sequence[str], coded: str) -> Any:
    """Return the class of a part of a row: these columns unless they have their defaults, and what is ``coded``.

    ``undecodable`` is NO_CODEC where there is something coded: what a reader without a codec is to say.
    """
    fields = [(column, Any, _DEFAULTS[column]) for column in columns]
    return msgspec.defstruct(name, [*fields, ("undecodable", Any, None), (coded, Any, None)], omit_defaults=True)


_State = _part("_State", _CHANGING, "coded_state")
_Body = _part("_Body", _WRITTEN_ONCE, "coded_body")  # its progress and usage: what is reported later overrides them
_once = attrgetter(*_WRITTEN_ONCE)


class Place(msgspec.Struct, omit_defaults=True):
    """Where a task with a flow is: the part of a row that changes when it passes a gate."""

    waits: int = 0  # scripts look whether it is there, at the beginning
    due_at: int | None = None
    gate: str | None = None
    flow: msgspec.Raw = msgspec.Raw()
    """Read as JSON, since most tasks at a gate have the same."""
    began_at: int | None = None
    """Read of what is behind the place."""


class _Coded(msgspec.Struct):
    """The texts of a codec in a row."""

    coded_body: dict[str, str] = {}
    coded_state: dict[str, str] = {}
    coded_progress: str | None = None


_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_task = msgspec.json.Decoder(Task).decode
_decode_coded = msgspec.json.Decoder(_Coded).decode
pack = msgspec.msgpack.Encoder().encode
"""Encode a list for a script, whose text is bytes: it has no decoder for MessagePack's own bytes."""

_TYPES = {field.name: field.type for field in msgspec.structs.fields(Task)}
del _TYPES["undecodable"], _TYPES["coded"]
_BODY = ("params", "extra", "progress")
_STATUSES = {str(status): status for status in Status}
DAMAGED = (msgspec.DecodeError, ValueError, TypeError, RecursionError)
"""What decoders raise."""


def _body(task: Task) -> str:
    return json_of(_Body(*_once(task), *(() if task.coded is None else _texts(task, _BODY))))[:-1]


def _texts(task: Task, names: Iterable[str]) -> tuple[str | None, dict[str, str] | None]:
    """Return ``undecodable`` and the coded texts of these columns, for a body or a state."""
    texts = {name: text for name, text in (task.coded or {}).items() if name in names}
    return (NO_CODEC, texts) if texts else (None, None)


def members(piece: msgspec.Struct) -> str:
    """Return the members of an object as JSON, each after a comma."""
    return f",{json_of(piece)[1:-1]}"


def _state(task: Task) -> str:
    # In the order of _CHANGING. An attrgetter costs more than all else here.
    first = (task.seq, task.queue, task.priority, task.retry_count, task.max_retries, task.started_at)
    then = (task.completed_at, task.began_at, task.ended_at, task.error_message, task.expires_at, task.crashes)
    state = _State(*first, *then, task.lease_owner, task.due_at, task.gate, task.attempts, task.result)
    if task.coded is not None:
        state.undecodable, state.coded_state = _texts(task, STATE)
    if task.flow is not None:
        state.due_at = state.gate = None  # its place has them
    return head(task) + members(state)


def row_words(task: Task) -> tuple[str, str, str]:
    """Return id, body and state of a new row. Raises ValidationError for a task that no row can hold."""
    return task.task_id, _body(task), _state(task)


def pushed_rows(tasks: Sequence[Task], plain: bool = True) -> tuple[list[int], list[bytes | str | int]]:
    """Return the arguments of a push of these tasks without a flow, and the positions of those that are no plain rows.

    Plain rows are pending, with an id of their own, no keys and no expiry. Those of a lane are sent as the words of the
    commands that write them, so that the script handles no row by itself; without ``plain`` it does so with all. Raises
    ValidationError as ``row_words``.
    """
    lanes: dict[str, list[Task]] = {}
    others: list[int] = []
    plain = plain and (len(tasks) == 1 or len({task.task_id for task in tasks}) == len(tasks))
    for at, task in enumerate(tasks):
        if plain and task.status is Status.PENDING and task.expires_at is None and not keys_of(task):
            lanes.setdefault(f"{task.priority}:{task.queue}", []).append(task)
        else:
            others.append(at)
    words: list[bytes | str | int] = []
    count = 0
    for lane, rows in lanes.items():
        for start in range(0, len(rows), PLAIN_ROWS):
            words += _plain(lane, rows[start : start + PLAIN_ROWS])
            count += 1
    return others, [count, *words, *packed(row_words(tasks[at]) for at in others)]


def _plain(lane: str, tasks: Sequence[Task]) -> list[str | int]:
    """Return a list of plain rows of one lane."""
    ids: list[str | int] = []
    states: list[str] = []
    bodies: list[str] = []
    live: list[str | int] = []
    due: list[str | int] = []
    for task in tasks:
        task_id, run_at = task.task_id, task.run_at
        stamp = f"{task.seq:020d}{task_id}"
        ids.append(task_id)
        states += (task_id, _state(task))
        bodies += (task_id, _body(task))
        live += (0, stamp)
        due += (run_at, stamp)
    return [len(tasks), lane, min(task.run_at for task in tasks), *ids, *states, *bodies, *live, *due]


def has_flow(changes: Iterable[Change]) -> bool:
    """Whether these changes are written in a transaction, since a task has gates or a group, or a new one has tags.

    A row may have a flow of which the reader does not know: it was damaged, or deleted and pushed again. A script tells
    that before it writes.
    """
    return any(
        change.before.flow is not None
        or change.after.flow is not None
        or (change.then and (any_flow(change.then) or any_tags(change.then)))
        for change in changes
    )


def packed(rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """Return the words of these rows in packed lists for a script."""
    words: list[Any] = []
    size = 0
    for row in rows:
        length = sum(len(word) for word in row if type(word) is str)
        if type(row[-1]) is dict:  # what else a change writes
            length += len(row[-1].get("body", "")) + sum(map(len, row[-1].get("follow_ups", ())))
        if words and size + length > BYTES_PER_ARGUMENT:
            yield pack(words)
            words, size = [], 0
        words += row
        size += length
    if words:
        yield pack(words)


def changed_words(change: Change) -> tuple[Any, ...]:
    """Return the words of a guarded write for a script. Raises ValidationError for a task that no row can hold."""
    before, after = change.before, change.after
    final = after.final
    cancel = "" if final else "1" if before.cancel_requested else "0"
    return before.task_id, str(before.status), str(before.fence), cancel, _state(after), _more(change, final)


def _more(change: Change, final: bool) -> dict[str, Any] | str | bool:
    before, after = change.before, change.after
    more: dict[str, Any] = {}
    if change.lease_over:
        more["lease"] = lease_word(before.lease_owner if before.status is RUNNING else None, before.lease_until)
    if not final and before.final:
        more["revived"] = True
    if before.undecodable is not None:
        more["undecodable"] = True
    freed = after.unique_key is None and before.unique_key is not None
    if freed or after.params is not before.params or after.extra is not before.extra:
        more["body"] = _body(after)
    if change.then:
        more["follow_ups"] = [word for task in change.then for word in (task.task_id, _body(task), _state(task))]
    if (
        not more
        and final
        and after.seq == before.seq
        and (after.queue, after.priority) == (before.queue, before.priority)
        and not keys_of(after)
    ):
        return "+inf" if after.completed_at is None else str(after.completed_at)
    return more or False


def progress_json(value: Any) -> str:
    """Return reported progress as JSON; coded progress as members that a row is read with."""
    if type(value) is msgspec.Raw and is_coded(text := bytes(value).decode()):
        return f'null,"undecodable":{json_of(NO_CODEC)},"coded_progress":{json_of(text)}'
    return _encode(value).decode()


def to_tasks(words: Sequence[bytes]) -> list[Task]:
    """Return the tasks of rows. Fields that cannot be read have their defaults, and ``undecodable`` says so."""
    pieces = iter(words)
    return [_to_task(*row) for row in zip(pieces, pieces, pieces, pieces, strict=True)]


def to_tasks_or_none(words: Sequence[bytes], with_head: bool = False) -> list[Task | None]:
    """Return the tasks of rows, None for those without a state, or ``with_head`` also where its head cannot be read."""
    pieces, begin = iter(words), b"," if with_head else b""
    rows = zip(pieces, pieces, pieces, pieces, strict=True)
    return [_to_task(*row) if row[2] and row[2].startswith(begin) else None for row in rows]


def _to_task(task_id: bytes, body: bytes, state: bytes, progress: bytes) -> Task:
    try:
        task = _decode_task(b"%b%b%b}" % (body, state, progress))
    except DAMAGED:
        return _damaged_task(task_id, body, state, progress)
    return task if task.undecodable is None else _with_coded(task, _decode_coded(b"%b%b%b}" % (body, state, progress)))


def _with_coded(task: Task, found: _Coded, problem: str | None = None) -> Task:
    """Return the task with its coded texts, and what else cannot be read of it."""
    coded = {**found.coded_body, **found.coded_state}
    if found.coded_progress is not None:
        coded["progress"] = found.coded_progress
    return task.replace(coded=coded or None, undecodable=problem or without_codec(coded))


def read_object(text: bytes) -> tuple[dict[str, Any], str]:
    """Return a JSON object, or {} and the error message."""
    try:
        return _decode_object(text), ""
    except DAMAGED as error:
        return {}, str(error)


def _damaged_task(task_id: bytes, body: bytes, state: bytes, progress: bytes) -> Task:
    """Read a damaged row part by part; of a damaged part, read what is before its nested values."""
    fields: dict[str, Any] = {}
    problems: list[str] = []
    coded: dict[str, Any] = {}
    pieces = (
        ("body", body[1:], body[1:].partition(b',"params":')[0]),
        ("state", state[1:], state[state.rfind(b',"status":') + 1 :]),
        ("progress", progress[1:], b""),
    )
    for piece, whole, rest in pieces:
        found, problem = read_object(b"{%b}" % whole)
        if problem:
            found, again = read_object(b"{%b}" % rest)
            at = "params" if piece == "body" and not again else piece
            problems.append(f"{at} cannot be read: {problem}")
        for name, value in found.items():
            if name in _Coded.__struct_fields__:
                coded[name] = value
            if name not in _TYPES:
                continue  # of a newer version
            try:
                fields[name] = value if name == "status" else msgspec.convert(value, _TYPES[name])
            except DAMAGED as error:
                problems.append(f"{name} cannot be read: {error}")
    status = fields.get("status", Status.PENDING)
    fields["status"] = _STATUSES.get(status, status)
    if "type" not in fields:
        problems.append("type is missing")
        fields["type"] = ""
    fields["task_id"] = to_text(task_id)
    task = Task(undecodable=problems[0] if problems else None, **fields)
    return _with_coded(task, msgspec.convert(coded, _Coded), task.undecodable) if coded else task


def to_text(word: bytes) -> str:
    """Return a name or a text as it was stored; what is no UTF-8, since another program wrote it, is escaped."""
    return word.decode(errors="backslashreplace")


def number(score: bytes | None) -> int | None:
    """Return a sorted set's score as microseconds; exact until the year 2255."""
    return None if score is None else int(float(score))


def json_of(piece: Any) -> str:
    """Return a value as JSON. Raises ValidationError for one that has none."""
    try:
        return _encode(piece).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"task: {error}") from None


def keys_of(task: Task) -> tuple[str | None, ...]:
    """Return the keys by which scripts look for a row; ``()`` if it has none."""
    keys = task.unique_key, task.idempotency_key, task.scheduler_task_id
    return () if keys == (None, None, None) else keys


@functools.lru_cache(maxsize=100)
def owner_word(owner: str) -> str:
    """Return the id of a worker as one word without a blank, and with no other ``!`` than that of a mark."""
    base = owner.removesuffix(ALONE)
    return quote(base) + owner[len(base) :]


def lease_word(owner: str | None, lease_until: int | None) -> str:
    """Return how a running row is held: by a lease of its own, by its worker (after ``@``), or not at all (``-``)."""
    if lease_until is not None:
        return str(lease_until)
    return f"@{owner_word(owner)}" if owner else "-"


def packed_names(queues: Sequence[str] | None) -> bytes:
    """Return the names of queues for a script; an empty text for all."""
    return b"" if queues is None else pack(list(queues))


def claim_words(wanted: Claim) -> tuple[bytes | int | str, ...]:
    """Return the arguments of a claim for a script."""
    owner, now, limit, queues, lease_until = wanted
    return json_of(owner), now, limit, lease_word(owner, lease_until), now // SECOND, packed_names(queues)


def head(task: Task) -> str:
    """Return the head of the state of a task. Raises ValidationError for a task that no row can hold."""
    fence, seq, run_at, priority = task.fence, task.seq, task.run_at, task.priority
    if not (type(fence) is type(seq) is type(run_at) is type(priority) is int):
        raise ValidationError(f"fence, seq, run_at, priority: ints are needed (got {(fence, seq, run_at, priority)!r})")
    if not (type(task.task_id) is type(task.type) is type(task.queue) is str):
        raise ValidationError(
            f"task_id, type, queue: strings are needed (got {(task.task_id, task.type, task.queue)!r})"
        )
    expires, completed = task.expires_at, task.completed_at
    lease = lease_word(task.lease_owner if task.status is RUNNING else None, task.lease_until)
    keys = keys_of(task)
    lane, names, place = f"{priority}:{task.queue}", json_of(keys) if keys else "", ""
    if task.flow is not None:
        place = members(Place(task.waits, task.due_at, task.gate, msgspec.Raw(json_of(task.flow))))
    return (
        f"{task.status} {fence} {1 if task.cancel_requested else 0} {lease} {'-' if expires is None else expires} "
        f"{seq:020d} {run_at} {'-' if completed is None else completed} "
        f"{len(lane.encode())} {len(names.encode())} {len(place.encode())} {lane}{names}{place}"
    )

"""Rows of the tables and the values they are: the only place that knows which column holds what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from aiotaskq.core.coded import is_coded, verbatim, without_codec
from aiotaskq.core.gate import PARKED, Flow
from aiotaskq.core.parking import any_flow, is_later
from aiotaskq.core.status import Status
from aiotaskq.core.task import Attempt, Task
from aiotaskq.core.usage import Usage
from aiotaskq.core.usage import decode as decode_usage
from aiotaskq.models import GateRow, GroupRow, MemberRow, SlotRow, TaskQueue

TASKS: Any = TaskQueue.__table__  # a Table; the declarative stubs say only FromClause
GATES: Any = GateRow.__table__
SLOTS: Any = SlotRow.__table__
GROUPS: Any = GroupRow.__table__
MEMBERS: Any = MemberRow.__table__
LIVE = (Status.PENDING, Status.RUNNING)

_decode = msgspec.json.Decoder().decode
decode_flow = msgspec.json.Decoder(Flow).decode
_decode_attempts = msgspec.json.Decoder(tuple[Attempt, ...]).decode
_STATUS: dict[object, Any] = {str(status): status for status in Status} | {None: Status.PENDING}


def column_of(field: str) -> str:
    """Return the column of a field of a task."""
    return "task_type" if field == "type" else field


def json_text(value: Any) -> str:
    """Return JSON text."""
    return msgspec.json.encode(value).decode()


_STATE = (
    *("priority", "retry_count", "max_retries", "started_at", "completed_at", "began_at", "ended_at", "error_message"),
    *("queue", "run_at", "due_at", "seq", "expires_at", "crashes", "lease_owner", "lease_until", "cancel_requested"),
)
STATE = (*_STATE, "status", "fence", "unique_key", "live_key", "result", "attempts")
FLOW = ("flow", "gate", "live_gate", "waits")
_OWN = ("task_id", "idempotency_key", "progress", "usage")
_CODED = ("task_type", "params", "extra")
_CONTENT = tuple(each.name for each in TASKS.columns if each.name not in {*_OWN, *_CODED, *STATE, *FLOW})
CONTENT = (*_CONTENT, *_CODED)
_content_of = attrgetter(*_CONTENT)
_state_of = attrgetter(*_STATE)


def content(task: Task) -> tuple[Any, ...]:
    """Return the columns that only a push sets: a first one, or one of an id that runs or has ended."""
    if task.coded is not None:
        task = verbatim(task)
    extra = json_text(task.extra) if task.extra else None
    return (*_content_of(task), task.type, json_text(task.params), extra)


def stored_run_at(task: Task) -> int:
    """Return the column ``run_at`` of a task.

    Of one that waits at a gate and was not due when it was pushed, it is ``PARKED`` and the due time together: so the
    index of the gate has these behind all others, in the order of time, until ``Transaction.release``.
    """
    if task.parked and task.gate is not None and is_later(task):
        return PARKED + (task.due_at or 0)
    return task.run_at


def read_run_at(stored: int) -> int:
    """Return the ``run_at`` of a task from its column."""
    return min(stored, PARKED)


def state(task: Task) -> tuple[Any, ...]:
    """Return the columns that change in a task's life."""
    if task.coded is not None:
        task = verbatim(task)
    if task.run_at == PARKED:
        task = task.replace(run_at=stored_run_at(task))
    return (
        *_state_of(task),
        task.status.value,
        task.fence,
        task.unique_key,
        task.unique_key if task.unique_key is not None and task.status in LIVE else None,
        None if task.result is None else json_text(task.result),
        json_text(task.attempts) if task.attempts else None,
    )


def flow_columns(task: Task) -> tuple[Any, ...]:
    """Return the columns of gates and groups. They are left out of the writes of tasks that have no flow."""
    flow = None if task.flow is None else json_text(task.flow)
    return flow, task.gate, task.gate if task.status in LIVE else None, task.waits or None


DEFAULTS = {"queue": "default", "fence": 0, "crashes": 0, "cancel_requested": False}
"""What added columns are that are left out; a table of the documented columns may have other defaults for these."""
NEW = (*_OWN, *CONTENT, *STATE)


def new_rows(tasks: Sequence[Task]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return the columns of new tasks: their names, and their values by task."""
    rows = [new_row(task) for task in tasks]
    if not any_flow(tasks):
        return NEW, rows
    return (*NEW, *FLOW), [row + flow_columns(task) for row, task in zip(rows, tasks, strict=True)]


def new_row(task: Task) -> tuple[Any, ...]:
    """Return the columns of a task without its flow, in the order of ``NEW``."""
    if task.coded is not None:
        task = verbatim(task)
    progress = None if task.progress is None else json_text(task.progress)
    usage = json_text(task.usage) if task.usage else None  # of a copy of a row of another store
    own = (task.task_id, task.idempotency_key, progress, usage)
    return own + content(task) + state(task)


CLAIM = (
    *("task_id", "task_type", "params", "priority", "retry_count", "max_retries", "created_at", "queue", "run_at"),
    *("seq", "timeout", "scheduler_task_id", "extra", "flow", "fence"),
)
"""The columns of a task that can be claimed and has nothing in the others; most have not."""
_RUN = (
    *("status", "started_at", "began_at", "lease_owner", "lease_until", "crashes", "cancel_requested", "live_key"),
    *("gate", "live_gate", "waits"),
)
OTHERS = tuple(each.name for each in TASKS.columns if each.name not in {*CLAIM, *_RUN})
"""What else a pending task may have, beside ``crashes`` and ``cancel_requested``."""


def claimed(rows: Sequence[Sequence[Any]], run: Task) -> list[Task]:
    """Return the tasks of rows of the columns of ``CLAIM``, the others empty; ``run`` is what the claim writes."""
    # By flow, of which the tasks of a gate often have one: what the claim writes, and why the flow cannot be read.
    runs: dict[str | None, tuple[Task, str | None]] = {None: (run, None)}
    tasks = []
    # fmt: off
    for (
        task_id, task_type, params, priority, retry_count, max_retries, created_at, queue, run_at, seq, timeout,
        scheduler_task_id, extra, flow, fence, *_,
    ) in rows:
        # fmt: on
        decoded, problem = read_object("params", params)
        if flow not in runs:
            found, unknown = read_flow(flow)
            # It has passed all of its gates.
            gate = found.gates[-1][0] if found is not None and found.gates else None
            runs[flow] = replace(run, flow=found, gate=gate), unknown
        own, unknown = runs[flow]
        # Not with more: of 15 keyword arguments CPython makes a dict first, at each call.
        task = replace(
            own,
            task_id=task_id,
            type=task_type,
            params=decoded,
            priority=priority if type(priority) is int else 0,
            retry_count=retry_count if type(retry_count) is int else 0,
            max_retries=max_retries if type(max_retries) is int else 3,
            created_at=created_at if type(created_at) is int else 0,
            scheduler_task_id=scheduler_task_id,
            queue=queue,
            run_at=run_at,
            seq=seq,
            timeout=timeout,
            fence=fence,
        )
        if extra is not None or problem is not None or unknown is not None:
            more, unread = read_object("extra", extra)
            task = replace(task, extra=more, undecodable=problem or unread or unknown)
            if task.undecodable is not None:
                task = _with_coded(task, {"params": params, "extra": extra}, {"params": problem, "extra": unread})
        tasks.append(task)
    return tasks


_TASK_FIELDS = tuple("type" if column.name == "task_type" else column.name for column in TASKS.columns)
_TEXTS = ("params", "extra", "attempts", "progress", "result")
# SQLite stores text in an INT column if another program writes it.
_NUMBERS = (("priority", 0), ("retry_count", 0), ("max_retries", 3), ("created_at", 0))


def to_task(row: Sequence[Any]) -> Task:
    """Return the task of a full row of ``task_queue``; ``undecodable`` says what cannot be read."""
    values = dict(zip(_TASK_FIELDS, row, strict=True))
    del values["live_key"], values["live_gate"]
    values["usage"] = read_usage(values["usage"])
    texts = {name: values[name] for name in _TEXTS}
    problems: dict[str, str | None] = {}
    for name in ("params", "extra"):
        values[name], problems[name] = read_object(name, texts[name])
    values["attempts"], problems["attempts"] = read_json("attempts", texts["attempts"], _decode_attempts, ())
    values["progress"], _ = read_json("progress", texts["progress"])
    values["result"], problems["result"] = read_json("result", texts["result"])
    values["flow"], unknown = read_flow(values["flow"])
    for name, default in _NUMBERS:
        if type(values[name]) is not int:
            values[name] = default
    values["status"] = _STATUS.get(values["status"], values["status"])
    if type(values["run_at"]) is int:
        values["run_at"] = read_run_at(values["run_at"])
    values["cancel_requested"] = bool(values["cancel_requested"])
    values["waits"] = values["waits"] or 0
    undecodable = problems["params"] or problems["extra"] or problems["attempts"] or unknown or problems["result"]
    task = Task(**values, undecodable=undecodable)
    unread = any(values[name] is None and texts[name] is not None for name in ("progress", "result"))
    return _with_coded(task, texts, problems) if unread or undecodable is not None else task


def _with_coded(task: Task, texts: dict[str, Any], problems: dict[str, str | None]) -> Task:
    """Return the task with the texts that a codec made in ``coded``; they were not readable as JSON."""
    coded = {name: text for name, text in texts.items() if is_coded(text)}
    if not coded:
        return task
    others = [problem for name, problem in problems.items() if problem is not None and name not in coded]
    return task.replace(coded=coded, undecodable=others[0] if others else without_codec(coded))


def value_of(task: Task, name: str) -> Any:
    """Return a field of a task, or the text that a codec made of it."""
    value = getattr(task, name)
    return value if task.coded is None else task.coded.get(name, value)


def read_object(column: str, text: str | None) -> tuple[dict[str, Any], str | None]:
    """Return the JSON object of a column, or why it cannot be read."""
    if not text:  # NULL, or the empty text, which the documented system read as no params, too
        return {}, None
    value, problem = read_json(column, text, empty={})
    if type(value) is not dict:
        return {}, f"{column} is not a JSON object but {type(value).__name__}"
    return value, problem


def read_json(
    column: str, text: str | None, decode: Callable[[str], Any] = _decode, empty: Any = None
) -> tuple[Any, str | None]:
    """Return the value of a column, or ``empty`` and why it cannot be read; the text stays in the row."""
    try:
        return (empty if text is None else decode(text)), None
    except (msgspec.DecodeError, TypeError, UnicodeError, RecursionError) as error:
        return empty, f"{column} {'is not JSON' if decode is _decode else 'cannot be read'}: {error}"


def read_usage(text: str | None) -> Usage | None:
    """Return what a task or a group has used up; None for a text that another program wrote."""
    return cast("Usage | None", read_json("usage", text, decode_usage)[0])


def read_flow(text: str | None) -> tuple[Flow | None, str | None]:
    """Return a flow, or why it cannot be read."""
    return read_json("flow", text, decode_flow)

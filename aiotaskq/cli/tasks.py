"""``aiotaskq tasks`` and ``push``: pushes, lists, shows, retries, cancels and purges tasks."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.application import knows, load_quietly
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.output import LONG, bar_of, note, say, say_error, say_json, say_table
from aiotaskq.cli.store_access import age, each, hidden, instant, read_params, with_tq
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.masking import without_passwords
from aiotaskq.core.task import FINAL, SECOND, Status, Task
from aiotaskq.errors import ResultTimeout, TaskFailed
from aiotaskq.log import printable

LISTED = tuple(map(marked, ("TASK_ID", "TYPE", "STATUS", "RETRIES", "AGE", "QUEUE", "ERROR")))
PLAIN = ("default", "")
"""A last column in which every row says one of these is left out: a terminal is narrow."""
NOT_IN_TIME = 5  # exit code
LOOK = 200  # tasks among which a type is looked for
SECRET = ("params", "result", "extra")
"""What a handler was given and gave back: shown only when it is asked for (J8)."""


def push_task(
    url: str | None,
    name: str,
    params: str,
    options: Mapping[str, Any],
    *,
    target: str | None,
    wait: float | None,
    as_json: bool,
) -> int:
    """Push one task; with ``wait`` print its result; return the exit code.

    With a ``target``, MODULE:TQ, its handlers check the type and the params; its store is meant where ``url`` is None.
    """
    values = read_params(params)
    given: Any = {key: value for key, value in options.items() if value is not None}
    app = None if target is None else load_quietly(target)

    async def work(tq: TaskQ) -> tuple[int, dict[str, Any], str | None]:
        known = knows(tq, name, values)
        handle = await tq.push(name, values, **given)
        answer: dict[str, Any] = {"task_id": handle.task_id, "created": handle.created}
        if not as_json:  # now: it may take long
            say(handle.task_id) if wait is None else note(handle.task_id)
            if not handle.created:
                note(tr("it was there already: a task with this key"))
        if wait is None:
            if not known:
                await warn_of_unknown(tq, name)
            return 0, answer, None
        try:
            return 0, {**answer, "status": "completed", "result": await handle.result(wait)}, None
        except ResultTimeout as error:
            if not known:
                await warn_of_unknown(tq, name)
            return NOT_IN_TIME, {**answer, "status": str(await handle.status())}, str(error)
        except TaskFailed as error:
            return 1, {**answer, "status": str(error.task.status), "error": error.error}, str(error)

    code, answer, problem = with_tq(url, work, app=app)
    if as_json:
        say_json(answer)
    elif problem is None and wait is not None:
        say_json(answer["result"])
    if problem is not None:
        said, _, rest = problem.partition("\n")
        say_error(said)
        for line in [] if as_json else without_passwords(rest.strip("\n")).splitlines():  # a traceback
            note(printable(line, LONG))
    return code


async def warn_of_unknown(tq: TaskQ, name: str) -> None:
    """Say so where no task of this type is among the last that ran: its name may be misspelt."""
    ran = await tq.find(status=[Status.RUNNING, Status.COMPLETED, Status.FAILED], limit=LOOK)
    handled = {task.type for task in ran if not (task.error_message or "").startswith("unknown_task")}
    if name in handled:
        return
    if not ran:
        said = tr("no task has run in this store yet, so whether anybody handles {type} is not known", type=repr(name))
    else:
        said = tr("nobody has handled {type} among the last {count} tasks", type=repr(name), count=len(ran))
    if close := difflib.get_close_matches(name, handled, 1):
        said += tr("; did you mean {name}?", name=repr(close[0]))
    note(printable(tr("warning: {said}; --app MODULE:TQ checks it before the push", said=said), LONG))


def list_tasks(
    url: str,
    *,
    status: Sequence[str] | None,
    type: str | None,
    queue: str | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """Print tasks, the newest first."""
    tasks = with_tq(
        url, lambda tq: tq.find(status=status or None, type=type, queue=queue, limit=limit + 1, after=after)
    )
    more, tasks = len(tasks) > limit, tasks[:limit]
    if as_json:
        say_json([_as_dict(task, params=False) for task in tasks])
        return
    if not tasks:
        say(tr("no tasks"))
        return
    now = SystemClock().now() // SECOND
    rows: list[list[object]] = [
        [
            task.task_id,
            task.type,
            task.status,
            f"{task.retry_count}/{task.max_retries}",
            age(now - task.created_at),
            task.queue,
            _first_line(task.error_message),
        ]
        for task in tasks
    ]
    headers = list(LISTED)
    for column in (6, 5):
        if all(row[column] in PLAIN for row in rows):
            del headers[column]
            for row in rows:
                del row[column]
    say_table(headers, rows, cut_last=headers[-1] == "ERROR")
    if more:
        say(tr("there are more: --after {task_id}", task_id=printable(tasks[-1].task_id)))


def show_task(url: str, task_id: str, *, params: bool, as_json: bool) -> None:
    """Print all that is known of one task; params, result and the caller's own keys only if asked for."""
    task = with_tq(url, lambda tq: tq.get(task_id))
    values = _as_dict(task, params=params)
    if as_json:
        say_json(values)
        return
    if not params:
        values.update({name: hidden(getattr(task, name)) for name in SECRET if getattr(task, name) not in ({}, None)})
    width = max(len(name) for name in values)
    for name, value in values.items():
        if value is None or value == {} or value is False:
            continue
        shown = json.dumps(value, ensure_ascii=False, default=str) if params and name in SECRET else str(value)
        # An error has many lines; each is made harmless by itself.
        for number, line in enumerate(without_passwords(shown).splitlines() or [""]):
            say(f"{name if not number else '':<{width}}  {printable(line, 20_000)}".rstrip())


def retry_tasks(url: str, ids: Sequence[str], *, as_json: bool) -> int:
    """Put ended tasks back; return the exit code."""

    async def retry(tq: TaskQ, task_id: str) -> str:
        await tq.retry(task_id)
        return "pending again" if as_json else tr("pending again")

    return each(url, ids, retry, as_json=as_json)


def cancel_tasks(url: str, ids: Sequence[str], *, as_json: bool) -> int:
    """Cancel tasks; return the exit code."""

    async def cancel(tq: TaskQ, task_id: str) -> str:
        ended = not await tq.cancel(task_id)
        status = await tq.handle(task_id).status()
        if ended:
            said = marked("has ended already: {status}")
        else:
            said = marked("cancelled") if status is Status.CANCELLED else marked("asked to stop")
        return said.format(status=status) if as_json else tr(said, status=status)

    return each(url, ids, cancel, as_json=as_json)


def ended(status: Sequence[str] | None) -> list[str]:
    """Return the statuses that a purge means."""
    return list(status) if status else [str(each) for each in Status if each in FINAL]


def count_tasks(
    url: str,
    *,
    status: Sequence[str],
    type: str | None,
    queue: str | None,
    older_than: float | None = None,
) -> int:
    """Count the tasks that match."""
    return with_tq(url, lambda tq: tq.queue.count(status=status, type=type, queue=queue, older_than=older_than))


def retry_matching(
    url: str, *, status: Sequence[str], type: str | None, queue: str | None, total: int, as_json: bool
) -> None:
    """Put the ended tasks that match back."""
    bar, moved = bar_of(tr("retry"), total, quiet=as_json)
    with bar:
        count = with_tq(url, lambda tq: tq.queue.retry_many(status=status, type=type, queue=queue, progress=moved))
    say_json({"retried": count}) if as_json else say(tr("tasks put back: {count}", count=f"{count:,}"))


def purge_tasks(
    url: str,
    *,
    status: Sequence[str] | None,
    type: str | None,
    queue: str | None,
    older_than: float | None,
    total: int,
    as_json: bool,
) -> None:
    """Delete ended tasks that match."""
    bar, moved = bar_of(tr("purge"), total, quiet=as_json)
    with bar:
        count = with_tq(
            url,
            lambda tq: tq.queue.purge(
                status=status or None, type=type, queue=queue, older_than=older_than, progress=moved
            ),
        )
    say_json({"deleted": count}) if as_json else say(tr("tasks deleted: {count}", count=f"{count:,}"))


def _as_dict(task: Task, *, params: bool) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(task, enc_hook=str)
    values.pop("seq")
    if task.error_message is not None:
        values["error_message"] = without_passwords(task.error_message)
    if not params:
        for name in SECRET:
            values.pop(name)
    for name in ("run_at", "lease_until", "expires_at"):
        values[name] = instant(values[name])
    for name in ("created_at", "started_at", "completed_at"):
        values[name] = instant(None if values[name] is None else values[name] * SECOND)
    return values


def _first_line(error: str | None) -> str:
    lines = (error or "").strip().splitlines()
    return lines[0] if lines else ""

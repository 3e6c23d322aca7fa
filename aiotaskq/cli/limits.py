"""``aiotaskq limits``: lists the gates of limits, rates and fair shares; sets, closes and opens them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
import typer
from msgspec import UNSET

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli import names
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.noted import noted
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, group, option
from aiotaskq.cli.output import echo, echo_json, echo_table
from aiotaskq.cli.store_access import instant, with_tq
from aiotaskq.cli.times import duration, local
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.limits import Rate
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.limits import MOST_LISTED, LimitState
from aiotaskq.runtime.waiting import ENDLESS, waiting

app = group()
Key = Annotated[
    str,
    typer.Argument(metavar="KEY", help=tr("As limits list shows it: tenant:42, openai."), autocompletion=names.limits),
]


@app.command("list", cls=Command, help=tr("List limits, rates and fair shares, and how many tasks wait for them."))
def list_limits(
    db: Db = DEFAULT_DB,
    limit: Annotated[int, option(min=1, max=MOST_LISTED, metavar="N", help=tr("Maximum number of limits."))] = 1_000,
    json: Json = False,
) -> None:
    more = with_tq(db, lambda tq: tq.limits.list(min(limit + 1, MOST_LISTED)))
    found = more[:limit]
    if json:
        echo_json([_as_dict(each) for each in found])
        return
    if not found:
        echo(tr("no limits"))
        return
    now = SystemClock().now()
    rows = [[each.key, bounds_text(each), each.held, each.waiting, _state(each, now)] for each in found]
    headers = [marked("KEY"), marked("LIMIT"), marked("HELD"), marked("WAITING"), marked("STATE")]
    echo_table(columns_of(headers, rows, key=16))
    if len(more) > limit:
        echo(tr("the first {count} by their keys; for more: --limit", count=limit))


@app.command("set", cls=Command, help=tr("Set a limit in all processes, whatever pushes declare, until reset."))
def set_limit(
    key: Key,
    cap: Annotated[int | None, typer.Argument(metavar="N", help=tr("The most tasks at a time; 0 is none."))] = None,
    rate: Annotated[int | None, option(min=1, metavar="N", help=tr("The most tokens in --per seconds."))] = None,
    per: Annotated[float, option(min=0.001, metavar="SECONDS", help=tr("The seconds of --rate."))] = 1.0,
    burst: Annotated[int | None, option(min=1, metavar="N", help=tr("The most saved tokens of --rate."))] = None,
    window: Annotated[int | None, option(min=1, metavar="N", help=tr("The window of a fair share."))] = None,
    max_waiting: Annotated[
        int | None, option(min=0, metavar="N", help=tr("The most tasks that may wait; a push of more fails."))
    ] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    if cap is rate is window is max_waiting is None:
        raise ValidationError(tr("name what to set: N, --rate, --window or --max-waiting"))
    paced = UNSET if rate is None else Rate(rate, per, burst=burst)
    given = {"cap": cap, "window": window, "max_waiting": max_waiting}
    options: dict[str, Any] = {name: UNSET if value is None else value for name, value in given.items()}
    _change("set-limit", key, db, json, lambda tq: tq.limits.set(key, rate=paced, **options))


@app.command("close", cls=Command, help=tr("Let no more tasks pass, for some seconds or until open. Others go on."))
def close(
    key: Key,
    seconds: Annotated[float | None, typer.Argument(metavar="SECONDS", min=0)] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    _change("close-limit", key, db, json, lambda tq: tq.limits.close(key, seconds))


@app.command("open", cls=Command, help=tr("Open a closed limit."))
def open_limit(key: Key, db: Db = DEFAULT_DB, json: Json = False) -> None:
    _change("open-limit", key, db, json, lambda tq: tq.limits.open(key))


@app.command("reset", cls=Command, help=tr("Take what pushes declare again."))
def reset(key: Key, db: Db = DEFAULT_DB, json: Json = False) -> None:
    _change("reset-limit", key, db, json, lambda tq: tq.limits.reset(key))


def _change(action: str, key: str, db: str, as_json: bool, change: Callable[[TaskQ], Awaitable[LimitState]]) -> None:
    async def work(tq: TaskQ) -> LimitState:
        after = await change(tq)
        await noted(tq, action, key)
        return after

    after = with_tq(db, work)
    if as_json:
        echo_json(_as_dict(after))
        return
    bounds = bounds_text(after) or tr("no bounds; no push has declared it")
    echo(printable(tr("{key}: {state}", key=after.key, state=_joined([bounds, _state(after, SystemClock().now())]))))


def _as_dict(state: LimitState) -> dict[str, Any]:
    known: dict[str, Any] = msgspec.to_builtins(state)
    return known | {name: instant(known[name]) for name in ("closed_until", "next_at")}


def bounds_text(state: LimitState) -> str:
    """Return the bounds of a gate in few words."""
    if state.budget_of is not None:
        return tr("budget of group {group}", group=state.budget_of)
    parts = [] if state.cap is None else [tr("{count} at a time", count=state.cap)]
    if state.window is not None:
        parts.append(tr("fair share {count}", count=state.window))
    if state.rate is not None:
        parts.append(tr("{rate} per second, burst {burst}", rate=f"{state.rate:.4g}", burst=state.burst))
    if state.max_waiting is not None:
        parts.append(tr("{count} may wait", count=state.max_waiting))
    return _joined(parts)


def _joined(parts: list[str]) -> str:
    return tr(", ").join(part for part in parts if part)


def _state(state: LimitState, now: int) -> str:
    parts = []
    if state.used_up:
        parts.append(tr("used up"))
    elif state.closed_until is not None:
        left = state.closed_until - now
        parts.append(tr("closed until opened") if left > ENDLESS else tr("closed for {time}", time=duration(left)))
    if state.fixed:
        parts.append(tr("set by hand"))
    return _joined(parts)


async def waits_for(tq: TaskQ, task: Task, utc: bool) -> str | None:
    """Return in words what a pending task waits for; None if a worker may claim it, and for any other task."""
    found = await waiting(tq.queue, task)
    if found is None:
        return None
    left = 0 if found.until is None else max(SECOND // 1000, found.until - SystemClock().now())
    gate = found.gate
    match found.reason:
        case "paused":
            return tr("queue {queue} is paused", queue=task.queue)
        case "delayed" | "retry":
            return tr("delayed, due in {time}", time=duration(left))
        case "sleeping":
            return tr("its handler sleeps, until {time}", time=local(found.until, utc))
        case "event" if found.until is None:
            return tr("event {key}", key=found.event)
        case "event":
            return tr("event {key}, until {time}", key=found.event, time=local(found.until, utc))
        case "unknown_type" if found.version is not None:
            return tr(
                "no worker has version {version} of {type}; it is tried again in {time}",
                version=found.version,
                type=task.type,
                time=duration(left),
            )
        case "unknown_type":
            return tr("no worker has a handler of its type; it is tried again in {time}", time=duration(left))
        case "parents":
            return tr("tasks before it in its workflow: {count}", count=len(found.parents))
        case "ready":
            return None if found.workers != 0 else tr("no worker claims from queue {queue}", queue=task.queue)
    if gate is None:
        return None
    if found.reason == "budget":
        return tr("the budget of group {group} is used up", group=found.group)
    if found.reason == "closed" and found.until is None:
        return tr("{key}: closed until opened", key=gate.key)
    if found.reason == "closed":
        return tr("{key}: closed until {time}", key=gate.key, time=local(found.until, utc))
    if found.reason == "rate":
        return tr("{key}: its rate, next in {time}", key=gate.key, time=duration(left))
    if found.reason == "full":
        most = min(each for each in (gate.cap, gate.window) if each is not None)
        return tr(
            "{key}: {held} of {most} are taken, {count} wait",
            key=gate.key,
            held=gate.held,
            most=most,
            count=gate.waiting,
        )
    return tr("{key}: it is about to pass", key=gate.key)

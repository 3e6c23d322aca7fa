"""How the answers of operations are shown, except those on tasks and schedules."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import msgspec

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.door import command_of, command_of_several, listed, time_of
from aiotaskq.cli.i18n import marked, tr, wrapped
from aiotaskq.cli.options import DEFAULT_DB, Db, Json, command, option
from aiotaskq.cli.output import (
    Column,
    echo,
    echo_error,
    echo_json,
    echo_table,
    json_text,
    live_text,
    plain_lines,
    say,
    width_of_output,
)
from aiotaskq.cli.store_access import with_tq
from aiotaskq.cli.times import ago, duration
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import from_iso
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import SECOND
from aiotaskq.log import printable
from aiotaskq.operations.audit import AuditView
from aiotaskq.operations.events import Emitted, EventView
from aiotaskq.operations.groups import GroupDetail, GroupView, MemberView
from aiotaskq.operations.history import HistoryPage, TotalView
from aiotaskq.operations.limits import LimitView
from aiotaskq.operations.queues import QueueState, StatsView, get
from aiotaskq.operations.scale import ScaleView
from aiotaskq.operations.table import Access
from aiotaskq.operations.values import KeyPage
from aiotaskq.operations.workers import StackList, Steered, WorkerDetail, WorkerView
from aiotaskq.runtime.limits import MOST_LISTED

# ---- the audit log --------------------------------------------------------------------------------------------------

SHOWN = 3
"""Targets of a change that are printed."""


def _targets(change: AuditView) -> str:
    more = tr("and {count} more", count=change.count - SHOWN) if change.count > SHOWN else ""
    return f"{', '.join(change.targets[:SHOWN])} {more}".rstrip()


def _change(change: AuditView) -> str:
    return change.action if change.undecodable is None else tr("an entry that cannot be read")


CHANGES = (
    Column("AT", time_of("at")),
    Column("CHANGE", _change, least=12),
    Column("TARGETS", _targets, least=16),
    Column("ACTOR", lambda change: change.actor or "-"),
    Column("BY", "door"),
)
command_of("audit.list", listed("no changes", *CHANGES), name="audit", arguments=["target"], utc=True)

# ---- queues ---------------------------------------------------------------------------------------------------------


def _queue_state(queue: QueueState) -> None:
    say("queue {queue} is paused" if queue.paused else "queue {queue} is open", queue=queue.queue)


QUEUES = (
    Column("QUEUE", "queue", least=10),
    Column("STATE", lambda queue: tr("paused") if queue.paused else tr("open")),
    Column("PENDING", "pending"),
    Column("RUNNING", "running"),
)
command_of("queues.list", listed("no queues", *QUEUES))
command_of("queues.pause", _queue_state)
command_of("queues.resume", _queue_state)

# ---- workers that are needed ----------------------------------------------------------------------------------------


def ready_parts(found: ScaleView) -> list[str]:
    """Return what is ready, for how long, and in how long it will be done."""
    parts = [tr("{count} ready to run", count=found.ready)]
    if found.ready:
        parts.append(tr("the oldest for {time}", time=duration(int(found.ready_age * SECOND))))
    if found.run_seconds is not None:
        parts.append(tr("a run takes {time}", time=duration(int(found.run_seconds * SECOND))))
    if found.ready and found.drain_seconds is not None:
        parts.append(tr("done in {time}", time=duration(int(found.drain_seconds * SECOND))))
    return parts


def _wanted(found: ScaleView) -> None:
    say("workers that are needed: {count}", count=found.wanted_workers)
    echo(tr(", ").join(ready_parts(found)))
    said = marked("workers: {workers} with {slots} slots; tasks that run: {running}")
    say(said, workers=found.workers, slots=found.slots, running=found.running)


command_of("scale.get", _wanted, name="scale")

# ---- public values --------------------------------------------------------------------------------------------------


def _keys(page: KeyPage) -> None:
    for key in page.keys or [tr("no values")]:
        echo(printable(key, 1_000))


command_of("values.list", _keys)
command_of("values.get", lambda found: echo_json(found.value))
command_of("values.set", lambda found: say("stored {key}", key=found.key), arguments=["value"])
command_of("values.delete", lambda found: say("deleted {key}", key=found.key))

# ---- events ---------------------------------------------------------------------------------------------------------


def _event(event: EventView) -> None:
    if event.undecodable is not None:
        echo_error(event.undecodable)
    else:
        echo_json(event.value)


def _emitted(found: Emitted) -> None:
    if found.emitted:
        say("emitted {key}", key=found.key)
    else:
        echo_error(tr("there is an event {key} already; its value stays", key=found.key))


EVENTS = Column("KEY", "key", least=16), Column("AT", time_of("at")), Column("EXPIRES", time_of("expires_at"))
command_of("events.list", listed("no events", *EVENTS), utc=True)
command_of("events.get", _event, code=lambda event: int(event.undecodable is not None))
command_of("events.emit", _emitted, arguments=["value"], code=lambda found: int(not found.emitted))

# ---- limits ---------------------------------------------------------------------------------------------------------


def _bounds(limit: LimitView) -> str:
    if limit.budget_of is not None:
        return tr("budget of group {group}", group=limit.budget_of)
    parts = [] if limit.cap is None else [tr("{count} at a time", count=limit.cap)]
    if limit.window is not None:
        parts.append(tr("fair share {count}", count=limit.window))
    if limit.rate is not None:
        parts.append(tr("{rate} per second, burst {burst}", rate=f"{limit.rate:.4g}", burst=limit.burst))
    if limit.max_waiting is not None:
        parts.append(tr("{count} may wait", count=limit.max_waiting))
    return tr(", ").join(parts)


def _limit_state(limit: LimitView) -> str:
    parts = []
    if limit.state == "used_up":
        parts.append(tr("used up"))
    elif limit.paused_until is not None:
        parts.append(tr("paused for {time}", time=duration(from_iso(limit.paused_until) - SystemClock().now())))
    elif limit.state == "paused":
        parts.append(tr("paused until resumed"))
    if limit.fixed:
        parts.append(tr("set by hand"))
    return tr(", ").join(parts)


def _limit(limit: LimitView) -> None:
    parts = _bounds(limit) or tr("no bounds; no push has declared it"), _limit_state(limit)
    say("{key}: {state}", key=limit.key, state=tr(", ").join(filter(None, parts)))


LIMITS = (
    Column("KEY", "key", least=16),
    Column("LIMIT", _bounds),
    Column("HELD", "held"),
    Column("WAITING", "waiting"),
    Column("STATE", _limit_state),
)
command_of("limits.list", listed("no limits", *LIMITS, more="the first {count} by their keys; for more: --limit"))
command_of("limits.get", _limit)
command_of("limits.set", _limit, arguments=["cap"])
command_of("limits.pause", _limit, arguments=["seconds"])
command_of("limits.resume", _limit)
command_of("limits.reset", _limit)

# ---- groups ---------------------------------------------------------------------------------------------------------


def _sum(group: GroupView, name: str) -> str:
    text = f"{printable(name)} {json_text(group.usage.get(name, 0))}"
    return f"{text} / {json_text(group.budget[name])}" if name in group.budget else text


def _budget(group: GroupView) -> str:
    if group.used_up and group.ended_at is None:
        return tr("used up")
    return ", ".join(_sum(group, name) for name in sorted(group.budget))


def _group(found: GroupDetail) -> None:
    counts = {name: getattr(found, name) for name in ("status", "completed", "total", "failed", "cancelled")}
    said = marked("group {group} is {status}: {completed} of {total} completed, {failed} failed, {cancelled} cancelled")
    say(said, group=found.group_id, **counts)
    if found.usage or found.budget:
        sums = sorted({*found.usage, *found.budget})
        say("used up: {sums}", sums=", ".join(_sum(found, name) for name in sums))
    if found.used_up and found.ended_at is None:
        said = marked("its budget is used up, so no further task starts: aiotaskq groups budget {group} NAME=NUMBER")
        say(said, group=found.group_id)
    names = {each.task_id: each.name or str(each.position) for each in found.members}

    def after(member: MemberView) -> str:
        return ", ".join(names.get(task_id, task_id) for task_id in member.parents)

    member = Column("STATUS", lambda each: tr("deleted") if each.status is None else each.status)
    callback = Column("STATUS", lambda each: tr("not pushed") if each.status is None else each.status)
    task_id, kind = Column("TASK_ID", "task_id"), Column("TYPE", "type", least=12)
    name, afters = Column("NAME", "name", least=10), Column("AFTER", after, rank=1, least=10)
    if found.members:
        echo_table(found.members, (task_id, name, kind, member, afters))
    if found.callbacks:
        echo_table(found.callbacks, (task_id, Column("CALLBACK", "kind"), kind, callback))


def _new_budget(group: GroupView) -> None:
    if group.ended_at is not None:
        say("the budget of group {group} is set; its tasks have ended already", group=group.group_id)
    elif group.used_up:
        say("the new budget of group {group} is used up already", group=group.group_id)
    else:
        say("the tasks of group {group} go on", group=group.group_id)


GROUPS = (
    Column("GROUP_ID", "group_id"),
    Column("NAME", "name", least=10),
    Column("STATUS", "status"),
    Column("TOTAL", "total"),
    Column("COMPLETED", "completed", rank=3),
    Column("FAILED", "failed"),
    Column("CANCELLED", "cancelled", rank=4),
    Column("BUDGET", _budget, rank=1, least=10),
)
command_of("groups.list", listed("no groups", *GROUPS))
command_of("groups.get", _group)
command_of("groups.cancel", lambda group: say("group {group} is cancelled", group=group.group_id))
command_of("groups.budget", _new_budget, arguments=["budget"])
command_of("groups.retry", lambda found: say("tasks retried: {count}", count=found.retried))
command_of("groups.mend", lambda found: say("counts mended: {count}", count=found.mended))

# ---- workers --------------------------------------------------------------------------------------------------------


def _slots(worker: WorkerView) -> str:
    if worker.wanted_concurrency in (None, worker.concurrency):
        return "" if worker.concurrency is None else str(worker.concurrency)
    return f"{worker.concurrency} → {worker.wanted_concurrency}"


def _lease(worker: WorkerView) -> str:
    if worker.lease_until is None:
        return "-"
    left = from_iso(worker.lease_until) - SystemClock().now()
    return tr("over for {time}", time=duration(-left)) if left <= 0 else duration(left)


def _style(lease: object) -> str:
    return "bold red" if str(lease).startswith(tr("over for {time}", time="").rstrip()) else ""


def _worker(worker: WorkerDetail) -> None:
    echo_table([worker], WORKERS)
    if worker.running:
        echo()
        since = Column("SINCE", lambda run: ago(run.began_at))
        echo_table(worker.running, (Column("TASK", "task_id"), Column("TYPE", "type"), since))


def _stack(found: StackList) -> None:
    if not found.runs:
        say("worker {owner} runs nothing now", owner=found.id)
    for run in found.runs:
        echo_table([run], STACK)
        for line in run.lines:
            echo(f"    {line}")
        if run.pids:
            pids = ", ".join(map(str, run.pids))
            say("    in a child process, one of {pids}; py-spy dump --pid PID shows more", pids=pids)
    if found.left_off:
        say("and {count} more tasks", count=found.left_off)


def _resized(worker: WorkerView) -> None:
    count = worker.wanted_concurrency
    say("{owner}: {count} slots, within a few seconds", owner=worker.id, count=count)


def _asked(asked: Steered) -> str:
    return tr("asked to be quiet") if asked.quiet else tr("asked to claim again")


WORKERS = (
    Column("HOST", lambda worker: worker.host or worker.id or "-", least=12),
    Column("PID", lambda worker: "" if worker.pid is None else str(worker.pid)),
    Column("TASKS", "tasks"),
    Column("SLOTS", _slots),
    Column("STATE", lambda worker: tr("quiet") if worker.quiet else None, rank=1),
    Column("VERSION", "version", rank=2),
    Column("OLDEST", lambda worker: ago(worker.oldest)),
    Column("LEASE", _lease, style=_style),
    Column("TYPES", lambda worker: ", ".join(worker.task_types), rank=1, least=16),
    Column("OWNER", "id", rank=2),
)
command_of("workers.list", listed("no workers and no running tasks", *WORKERS))
STACK = (
    Column("TASK", "task_id"),
    Column("TYPE", "type"),
    Column("SINCE", lambda run: ago(run.began_at)),
    Column("ATTEMPT", "attempt"),
    Column("RUNS IN", "executor"),
)
command_of("workers.get", _worker)
command_of("workers.stack", _stack)
command_of_several("workers.quiet", _asked, done="asked to be quiet: {count}")
command_of_several("workers.wake", _asked, done="asked to claim again: {count}")
command_of("workers.resize", _resized, arguments=["concurrency"])

# ---- what workers did -----------------------------------------------------------------------------------------------

BARS = "▁▂▃▄▅▆▇█"
POINTS = 24  # columns of the line of counts


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"< {duration(1000)}" if seconds < 0.001 else duration(int(seconds * SECOND))


def _used(total: TotalView) -> str:
    return ", ".join(f"{name} {json_text(amount)}" for name, amount in sorted(total.usage.items()))


def _history(page: HistoryPage) -> None:
    if not page.totals:
        say("nothing has ended since then, or it was not written yet: workers write once a minute")
        return
    lines = dict(zip(map(_key, page.totals), _lines(page), strict=True))
    echo_table(page.totals, (*HISTORY, Column("OVER TIME", lambda total: lines[_key(total)], rank=3)))


def _lines(page: HistoryPage) -> Sequence[str]:
    """Return the counts over time, the latest at the right, each as a bar; a line for each total."""
    now = SystemClock().now()
    ages = [now - from_iso(each.at) for each in page.periods]
    step = max(max(each.seconds for each in page.periods), math.ceil(max(ages) / SECOND / POINTS))
    counts = {_key(total): [0] * POINTS for total in page.totals}
    for period, age in zip(page.periods, ages, strict=True):
        counts[_key(period)][max(0, POINTS - 1 - age // (step * SECOND))] += period.n
    return list(map(_bars, counts.values()))


def _bars(counts: Sequence[int]) -> str:
    return "".join(" " if not n else BARS[(len(BARS) - 1) * n // max(counts)] for n in counts)


def _key(total: TotalView) -> tuple[str, str, str, str]:
    return total.queue, total.type, total.kind, total.tag


HISTORY = (
    Column("QUEUE", "queue", least=8, rank=1),
    Column("TYPE", "type", least=12),
    Column("TAG", "tag", least=8, rank=1),
    Column("OUTCOME", "kind"),
    Column("COUNT", "n"),
    Column("RUN P50", lambda total: _seconds(total.run_p50)),
    Column("RUN P95", lambda total: _seconds(total.run_p95)),
    Column("RUN P99", lambda total: _seconds(total.run_p99), rank=2),
    Column("WAIT P95", lambda total: _seconds(total.wait_p95)),
    Column("USED UP", _used, rank=1),
)
command_of("history.list", _history, name="history", utc=True)

# ---- failed tasks by error ------------------------------------------------------------------------------------------

FAILURES = (
    Column("COUNT", "count"),
    Column("TYPE", "type", least=12, good=20),
    Column("ERROR", "error", least=20, good=40),
    Column("FIRST", lambda failure: ago(failure.first_at), rank=4),
    Column("LAST", lambda failure: ago(failure.last_at), rank=1),
    Column("OVER TIME", lambda failure: _bars(failure.periods), rank=3),
    Column("TASK_ID", "task_id", rank=2),
)
NEWEST = marked("of the newest {read} failed tasks; for more: --limit")
command_of("failures.list", listed("no task has failed", *FAILURES, more=NEWEST), name="failures")

# ---- counts ---------------------------------------------------------------------------------------------------------

INTERVAL = 1.0  # seconds between two refreshes
HEADERS = tuple(map(marked, ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED")))
STATS = (
    Column("QUEUE", 0, least=10),
    Column("STATE", 1, rank=1),
    *(Column(header, place) for place, header in enumerate(HEADERS, 2)),
)


@command("stats", "Count tasks by queue and status.")
def stats(
    db: Db = DEFAULT_DB,
    watch: Annotated[bool, option("Refresh every second, until Ctrl-C.", "--watch")] = False,
    count: Annotated[
        int | None, option("With --watch: end after N refreshes.", min=1, metavar="N", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    if watch:
        with_tq(db, lambda tq: _watch(tq, count, json))
        return
    found, waiting = with_tq(db, lambda tq: _read(tq, json))
    if json:
        echo_json(msgspec.to_builtins(found))
        return
    echo_table(_rows(found), STATS)
    for line in _below(found, waiting):
        echo(line)


async def _read(tq: TaskQ, as_json: bool) -> tuple[StatsView, int]:
    """Count the tasks; for a table also those of them that wait at limits, which reads each limit."""
    waiting = 0 if as_json else sum(each.waiting for each in await tq.limits.list(MOST_LISTED))
    return await get(Access(tq)), waiting


async def _watch(tq: TaskQ, count: int | None, as_json: bool) -> None:
    clock = SystemClock()
    before: tuple[int, StatsView] | None = None
    with live_text() as show:
        for number in itertools.count(1):
            (found, waiting), at = await _read(tq, as_json), clock.ticks()
            if as_json:
                echo(json_text(msgspec.to_builtins(found)))
            else:
                lines = plain_lines(_rows(found), STATS, width_of_output())
                show([*lines, *_below(found, waiting, _speed(before, at, found))])
            if number == count:
                return
            before = at, found
            await asyncio.sleep(INTERVAL)


def _speed(before: tuple[int, StatsView] | None, at: int, now: StatsView) -> str | None:
    if before is None or at <= before[0]:
        return None
    ended = [sum(stats.counts.get(str(status), 0) for status in FINAL) for stats in (before[1], now)]
    rate = max(0.0, (ended[1] - ended[0]) * 1_000_000 / (at - before[0]))  # a purge makes fewer
    return tr("{rate} ended per second", rate=f"{rate:,.0f}")


def _rows(found: StatsView) -> list[list[object]]:
    states = {name: tr("paused") for name in found.paused}
    named = [(name, states.get(name), counts) for name, counts in sorted(found.queues.items())]
    counted = [*named, (tr("all queues"), None, found.counts)]
    return [[name, state, *(counts.get(status, 0) for status in Status)] for name, state, counts in counted]


def _below(found: StatsView, waiting: int, speed: str | None = None) -> list[str]:
    parts = [tr("{count} ready to run", count=found.ready)]
    if found.oldest_age is not None:
        parts.append(tr("the oldest for {time}", time=duration(int(found.oldest_age * SECOND))))
    if waiting:
        parts.append(tr("{count} wait at limits", count=waiting))
    if speed is not None:
        parts.append(speed)
    lines = [tr(", ").join(parts)]
    if other := [queue for queue in found.paused if queue not in found.queues]:
        lines.append(tr("paused, and empty: {queues}", queues=printable(", ".join(other))))
    room = width_of_output()
    return lines if room is None else [piece for line in lines for piece in wrapped(line, room)]

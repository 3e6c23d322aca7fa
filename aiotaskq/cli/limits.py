"""``aiotaskq limits``: how limits are shown, and what a task waits for."""

from __future__ import annotations

from aiotaskq.cli.door import command
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.options import group
from aiotaskq.cli.output import echo, echo_table
from aiotaskq.cli.times import duration
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import from_iso
from aiotaskq.log import printable
from aiotaskq.operations.limits import LimitPage, LimitView, limits

app = group()


def _show_all(page: LimitPage) -> None:
    if not page.limits:
        echo(tr("no limits"))
        return
    rows = [[each.key, bounds_text(each), each.held, each.waiting, _state(each)] for each in page.limits]
    headers = [marked("KEY"), marked("LIMIT"), marked("HELD"), marked("WAITING"), marked("STATE")]
    echo_table(columns_of(headers, rows, key=16))
    if page.more:
        echo(tr("the first {count} by their keys; for more: --limit", count=len(page.limits)))


def _show(limit: LimitView) -> None:
    bounds = bounds_text(limit) or tr("no bounds; no push has declared it")
    echo(printable(tr("{key}: {state}", key=limit.key, state=_joined([bounds, _state(limit)]))))


command(app, limits["list"], _show_all)
command(app, limits["get"], _show)
command(app, limits["set"], _show, arguments=["cap"], some=True)
command(app, limits["pause"], _show, arguments=["seconds"])
command(app, limits["resume"], _show)
command(app, limits["reset"], _show)


def bounds_text(state: LimitView) -> str:
    """Return the bounds of a limit in few words."""
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


def _state(limit: LimitView) -> str:
    parts = []
    if limit.state == "used_up":
        parts.append(tr("used up"))
    elif limit.state == "paused" and limit.paused_until is None:
        parts.append(tr("paused until resumed"))
    elif limit.paused_until is not None:
        left = from_iso(limit.paused_until) - SystemClock().now()
        parts.append(tr("paused for {time}", time=duration(left)))
    if limit.fixed:
        parts.append(tr("set by hand"))
    return _joined(parts)

"""How the steps of a task are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.output import echo, echo_json, echo_table
from aiotaskq.cli.store_access import instant
from aiotaskq.cli.times import local
from aiotaskq.core.steps import NEVER, Step
from aiotaskq.log import printable


def show_steps(found: Sequence[Step], values: bool, utc: bool, as_json: bool) -> None:
    """Print steps in their order, with what they returned only if ``values``."""
    if as_json:
        echo_json([_as_dict(step, values) for step in found])
        return
    if not found:
        echo(tr("no steps"))
        return
    headers = [marked("AT"), marked("KIND"), marked("NAME"), marked("VALUE")]
    rows = [
        [local(step.at, utc, short=True), _kind(step), printable(step.label), _value(step, values, utc)]
        for step in found
    ]
    echo_table(columns_of(headers, rows, name=16, value=16))


def _kind(step: Step) -> str:
    kinds = {"step": tr("step"), "sleep": tr("sleep"), "wake": tr("wake"), "wait": tr("wait"), "event": tr("event")}
    return kinds[step.kind]


def _value(step: Step, values: bool, utc: bool) -> str:
    if step.undecodable is not None:
        return tr("not decodable: {error}", error=step.undecodable)
    if step.timed_out:
        return tr("did not come in time")
    if step.kind == "wake":
        return tr("ended early")
    if step.kind in ("sleep", "wait"):
        if step.until >= NEVER:
            return tr("no timeout")
        return tr("until {time}", time=local(step.until, utc, short=True))
    return printable(step.text, 1_000) if values else ""


def _as_dict(step: Step, values: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"kind": step.kind, "name": step.name, "number": step.number, "at": instant(step.at)}
    if step.undecodable is not None:
        known["undecodable"] = step.undecodable
    elif step.kind in ("sleep", "wait"):
        known["until"] = None if step.until >= NEVER else instant(step.until)
    elif step.timed_out:
        known["timed_out"] = True
    elif values and step.kind != "wake":
        known["value"] = step.value
    if step.version != 1:
        known["version"] = step.version
    return known

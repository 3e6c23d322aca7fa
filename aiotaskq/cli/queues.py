"""``aiotaskq queues``: how queues are shown."""

from __future__ import annotations

from aiotaskq.cli.door import command
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.options import group
from aiotaskq.cli.output import echo, echo_table
from aiotaskq.log import printable
from aiotaskq.operations.queues import QueueList, QueueState, queues

app = group()


def _show_all(found: QueueList) -> None:
    if not found.queues:
        echo(tr("no queues"))
        return
    rows = [
        [each.queue, tr("paused") if each.paused else tr("open"), each.pending, each.running] for each in found.queues
    ]
    echo_table(columns_of([marked("QUEUE"), marked("STATE"), "PENDING", "RUNNING"], rows, queue=10))


def _show(state: QueueState) -> None:
    said = (
        tr("queue {queue} is paused", queue=printable(state.queue))
        if state.paused
        else tr("queue {queue} is open", queue=printable(state.queue))
    )
    echo(said)


command(app, queues["list"], _show_all)
command(app, queues["pause"], _show)
command(app, queues["resume"], _show)

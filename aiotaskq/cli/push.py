"""``aiotaskq push``: pushes one task by the name of its type, and waits for its result if asked to."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.application import is_handled, load_quietly, warn_of_unknown
from aiotaskq.cli.door import keyword, options_of, register, values_of, with_target
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.layout import LONG
from aiotaskq.cli.options import Json, option, store_of
from aiotaskq.cli.output import echo, echo_error, echo_json, echo_stderr
from aiotaskq.cli.store_access import actor, with_tq
from aiotaskq.core.masking import without_passwords
from aiotaskq.errors import ResultTimeout, TaskFailed
from aiotaskq.log import printable
from aiotaskq.operations.table import Access, perform, read
from aiotaskq.operations.tasks import PushBody, Pushed, tasks

app = typer.Typer()
NOT_IN_TIME = 5  # exit code
HELP = tr(
    "Push one task by the name of its type; prints its id. With --app the type and the params are checked by your "
    "handlers, whose defaults apply; the store is that of your TaskQ unless --db is given."
)
Wait = Annotated[
    float | None,
    option(
        "--wait",
        min=0.0,
        metavar="SECONDS",
        help=tr("Wait at most so long for the task to end, and print its result."),
    ),
]


def add_push(app: typer.Typer) -> None:
    """Register the command."""
    taken = [*options_of(tasks["push"], ["type", "params"]), *with_target()]
    register(app, "push", _push, [*taken, keyword("wait", Wait, None), keyword("json", Json, False)], HELP)


def _push(context: typer.Context, db: str, target: str | None, wait: float | None, json: bool, **given: Any) -> None:
    params: PushBody = read(tasks["push"], values_of(tasks["push"], given, False))
    name, queue = params.type, params.queue or "default"
    url = store_of(context, db, target)
    app = None if target is None else load_quietly(target)

    async def work(tq: TaskQ) -> tuple[int, dict[str, Any], str | None]:
        known = is_handled(tq, name, params.params)
        pushed: Pushed = await perform(tasks["push"], Access(tq, True), params, "cli", actor())
        handle, answer = tq.handle(pushed.task_id), msgspec.to_builtins(pushed)
        if not json:  # now: it may take long
            echo(handle.task_id) if wait is None else echo_stderr(handle.task_id)
            if not pushed.created:
                handler = tq._registered.handlers.get(name)
                declared = {} if handler is None or params.throttle is not None else handler.pushed
                waits = params.debounce is not None or declared.get("debounce") is not None
                echo_stderr(
                    tr("the task that waits was changed") if waits else tr("not pushed: a task with this key exists")
                )
        if wait is None:
            if not known:
                await warn_of_unknown(tq, name, queue)
            return 0, answer, None
        try:
            return 0, {**answer, "status": "completed", "result": await handle.result(wait)}, None
        except ResultTimeout as error:
            if not known:
                await warn_of_unknown(tq, name, queue)
            return NOT_IN_TIME, {**answer, "status": str(await handle.status())}, str(error)
        except TaskFailed as error:
            return 1, {**answer, "status": str(error.task.status), "error": error.error}, str(error)

    code, answer, problem = with_tq(url, work, app=app, adds=True)
    if json:
        echo_json(answer)
    elif problem is None and wait is not None:
        echo_json(answer["result"])
    if problem is not None:
        said, _, rest = problem.partition("\n")
        echo_error(said)
        for line in [] if json else without_passwords(rest.strip("\n")).splitlines():  # a traceback
            echo_stderr(printable(line, LONG))
    raise typer.Exit(code)


add_push(app)

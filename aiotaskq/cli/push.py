"""``aiotaskq push``: pushes one task by the name of its type, and waits for its result if asked to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli import names
from aiotaskq.cli.application import is_handled, load_quietly, warn_of_unknown
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.layout import LONG
from aiotaskq.cli.options import DEFAULT_DB, App, Command, Db, Json, option, store_of
from aiotaskq.cli.output import echo, echo_error, echo_json, echo_stderr
from aiotaskq.cli.store_access import read_params, with_tq
from aiotaskq.core.masking import without_passwords
from aiotaskq.errors import ResultTimeout, TaskFailed
from aiotaskq.log import printable

app = typer.Typer()
NOT_IN_TIME = 5  # exit code


@app.command(
    "push",
    cls=Command,
    help=tr(
        "Push one task by the name of its type; prints its id. With --app the type and the params are checked by your "
        "handlers, whose defaults apply; the store is that of your TaskQ unless --db is given."
    ),
)
def push(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help=tr("The task type."), show_default=False, autocompletion=names.types)
    ],
    params: Annotated[
        str,
        typer.Argument(
            metavar="JSON",
            help=tr(
                "Its params as a JSON object; - reads them from standard input, which keeps them out of the "
                "shell's history."
            ),
            show_default=False,
        ),
    ] = "{}",
    db: Db = DEFAULT_DB,
    target: App = None,
    delay: Annotated[
        float | None, option(min=0.0, metavar="SECONDS", help=tr("Delay before the task may run."))
    ] = None,
    priority: Annotated[int | None, option(help=tr("Priority: smaller numbers run first; default 0."))] = None,
    queue: Annotated[str | None, option(help=tr("Queue; default 'default'."), autocompletion=names.queues)] = None,
    unique_key: Annotated[
        str | None, option(help=tr("Push nothing if a pending or running task has this key."))
    ] = None,
    idempotency_key: Annotated[str | None, option(help=tr("Push nothing if any stored task has this key."))] = None,
    debounce: Annotated[
        float | None,
        option(
            min=0.0,
            metavar="SECONDS",
            help=tr("Run it so long after the last of such calls; each of them changes the task that waits."),
        ),
    ] = None,
    max_wait: Annotated[
        float | None,
        option(min=0.0, metavar="SECONDS", help=tr("With --debounce: run it at most so long after the first call.")),
    ] = None,
    merge: Annotated[
        str | None,
        option(
            metavar="last|list",
            help=tr("With --debounce: take the params of the last call, or join those that are lists."),
        ),
    ] = None,
    throttle: Annotated[
        float | None,
        option(min=0.0, metavar="SECONDS", help=tr("Push nothing if there was such a call in this period already.")),
    ] = None,
    key: Annotated[
        str | None, option(help=tr("What tells the calls of --debounce or --throttle apart; default the params."))
    ] = None,
    max_retries: Annotated[int | None, option(min=0, help=tr("Maximum number of retries; default 3."))] = None,
    timeout: Annotated[float | None, option(min=0.0, metavar="SECONDS", help=tr("Time limit of each run."))] = None,
    wait: Annotated[
        float | None,
        option(min=0.0, metavar="SECONDS", help=tr("Wait at most so long for the task to end, and print its result.")),
    ] = None,
    json: Json = False,
) -> None:
    values = read_params(params)
    given: dict[str, Any] = {
        "delay": delay,
        "priority": priority,
        "queue": queue,
        "unique_key": unique_key,
        "idempotency_key": idempotency_key,
        "debounce": debounce,
        "max_wait": max_wait,
        "merge": merge,
        "throttle": throttle,
        "key": key,
        "max_retries": max_retries,
        "timeout": timeout,
    }
    options = {key: value for key, value in given.items() if value is not None}
    url = store_of(context, db, target)
    app = None if target is None else load_quietly(target)

    async def work(tq: TaskQ) -> tuple[int, dict[str, Any], str | None]:
        known = is_handled(tq, name, values)
        handle = await tq.push(name, values, **options)
        answer: dict[str, Any] = {"task_id": handle.task_id, "created": handle.created}
        if not json:  # now: it may take long
            echo(handle.task_id) if wait is None else echo_stderr(handle.task_id)
            if not handle.created:
                handler = tq.registered.handlers.get(name)
                declared = {} if handler is None or throttle is not None else handler.pushed
                waits = debounce is not None or declared.get("debounce") is not None
                echo_stderr(
                    tr("the task that waits was changed") if waits else tr("not pushed: a task with this key exists")
                )
        if wait is None:
            if not known:
                await warn_of_unknown(tq, name, queue or "default")
            return 0, answer, None
        try:
            return 0, {**answer, "status": "completed", "result": await handle.result(wait)}, None
        except ResultTimeout as error:
            if not known:
                await warn_of_unknown(tq, name, queue or "default")
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

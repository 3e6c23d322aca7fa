"""``aiotaskq init``: writes a starter application that runs as it is, and overwrites nothing."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from aiotaskq.cli.i18n import tr, translated
from aiotaskq.cli.options import DEFAULT_DB, Command
from aiotaskq.cli.output import echo, program
from aiotaskq.errors import ValidationError
from aiotaskq.log import printable

app = typer.Typer()
NAME = "app.py"


@app.command(
    "init",
    cls=Command,
    help=tr("Write a starter application into a folder; it runs as it is, and no file is overwritten."),
)
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help=tr("The folder; default the current one."), show_default=False)
    ] = Path(),
) -> None:
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(application())
    except FileExistsError:
        raise ValidationError(tr("{path} exists already; nothing was written", path=printable(path))) from None
    except OSError as error:
        said = tr("{path} cannot be written: {why}", path=printable(path), why=translated(error.strerror))
        raise ValidationError(said) from None
    me = program()
    echo(tr("wrote {path}; try:", path=printable(path)))
    if folder != Path():
        echo(f"  cd {shlex.quote(os.fspath(folder))}")
    echo(f"  {me} run app:tq")
    echo("  " + tr("and in another terminal:"))
    echo(f'  {me} push greet \'{{"name": "you"}}\' --app app:tq --wait 10')
    echo(f"  {me} stats --watch")


def application() -> str:
    """Return the text of the program, its comments in the user's language."""
    return f'''"""{tr("A task queue with one task and one schedule.")}"""

import asyncio

from aiotaskq import TaskQ, current_task

tq = TaskQ("{DEFAULT_DB}")  # {tr("a file beside this program; or postgresql://…, mysql://…, redis://…")}


@tq.task(max_retries=3, timeout=30)
async def greet(name: str) -> str:
    await current_task().progress(1, 1, "greeting")
    print(f"Hello, {{name}}!", flush=True)
    return f"Hello, {{name}}!"


@tq.schedule(interval=10)  # {tr('or cron="0 2 * * *", timezone="Asia/Shanghai"')}
async def tick() -> None:
    print("tick", flush=True)


async def main() -> None:
    # {tr("Workers inside the program itself; 'aiotaskq run app:tq' runs them in a process of their own.")}
    async with tq.running(concurrency=10):
        handle = await greet.push(name="world")
        print(await handle.result(timeout=10))


if __name__ == "__main__":
    asyncio.run(main())
'''

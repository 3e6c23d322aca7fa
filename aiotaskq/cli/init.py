"""``aiotaskq init``: writes a starter application or an example that runs as it is, and overwrites nothing."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from aiotaskq.cli.docs import page
from aiotaskq.cli.i18n import tr, translated
from aiotaskq.cli.options import DEFAULT_DB, argument, command, option, program
from aiotaskq.cli.output import Column, echo, echo_table, say
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.log import printable

NAME = "app.py"
EXAMPLES = Path(__file__).parents[1] / "examples"


@command(
    "init", "Write a starter application or an example into a folder; it runs as it is, and no file is overwritten."
)
def init(
    folder: Annotated[Path, argument("The folder; default the current one.", "FOLDER")] = Path(),
    example: Annotated[
        str | None,
        option("Write this example instead; --list names them.", "--example", metavar="NAME"),
    ] = None,
    listed: Annotated[bool, option("List the examples.", "--list")] = False,
) -> None:
    if listed:
        echo_table(list(summaries().items()), (Column("name", 0), Column("contents", 1, least=20)))
    elif example is None:
        _write(folder, {NAME: application()})
        _say_how_to_start(folder)
    else:
        if example not in examples():
            known = ", ".join(examples())
            raise ValidationError(tr("there is no example {name}; use {known}", name=repr(example), known=known))
        files = {path.name: path.read_text(encoding="utf-8") for path in sorted((EXAMPLES / example).glob("*.py"))}
        _write(folder, files)
        names = tr(", ").join(printable(folder / name) for name in files)
        say("wrote {names}; the first lines of {main} say how to run it", names=names, main=NAME)


def examples() -> list[str]:
    return sorted(path.parent.name for path in EXAMPLES.glob(f"*/{NAME}"))


def summaries() -> dict[str, str]:
    """Return what each example shows, in the user's language: the table of the manual's page."""
    return dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page("examples").read_text(encoding="utf-8"), re.MULTILINE))


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files into the folder. Raises AiotaskqError, and writes none of them, if one is there already."""
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder / name for name in files):
            if path.exists():
                raise FileExistsError
        for name, text in files.items():
            path = folder / name
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError:
        raise AiotaskqError(tr("{path} exists already; nothing was written", path=printable(path))) from None
    except OSError as error:
        said = tr("{path} cannot be written: {why}", path=printable(path), why=translated(error.strerror))
        raise AiotaskqError(said) from None


def _say_how_to_start(folder: Path) -> None:
    path, me = folder / NAME, program()
    say("wrote {path}; try:", path=path)
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

"""``aiotaskq completion``: prints the script with which a shell completes this command's words."""

from __future__ import annotations

from typing import Annotated

import typer

from aiotaskq.cli.i18n import tr
from aiotaskq.cli.options import COMPLETE, Command

app = typer.Typer()
SHELLS = ("bash", "zsh", "fish")


@app.command(
    "completion",
    cls=Command,
    help=tr("Print the shell completion script, to be used as: source <(aiotaskq completion bash)."),
)
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help=tr("Your shell."), show_default=False)],
) -> None:
    if shell not in SHELLS:
        wrong = tr("use {names} (got {shell})", names=", ".join(SHELLS), shell=repr(shell))
        raise typer.BadParameter(wrong, param_hint="SHELL")
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    print(get_completion_script(prog_name="aiotaskq", complete_var=COMPLETE, shell=shell))

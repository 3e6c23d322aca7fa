"""``aiotaskq completion``: the script for the shell; ``aiotaskq bench``: the benchmarks of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from aiotaskq.cli.i18n import tr
from aiotaskq.cli.options import COMPLETE, argument, command
from aiotaskq.cli.output import echo_error

SHELLS = ("bash", "zsh", "fish")


@command("completion", "Print the shell completion script, to be used as: source <(aiotaskq completion bash).")
def completion(shell: Annotated[str, argument("Your shell.", "bash|zsh|fish")]) -> None:
    if shell not in SHELLS:
        wrong = tr("use {names} (got {shell})", names=", ".join(SHELLS), shell=repr(shell))
        raise typer.BadParameter(wrong, param_hint="SHELL")
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    print(get_completion_script(prog_name="aiotaskq", complete_var=COMPLETE, shell=shell))


CHECKOUT = Path(__file__).parents[2]


@command(
    "bench",
    "Run the benchmarks of the checkout that aiotaskq was installed from. All options are passed on to them.",
    # All that follows goes to the benchmarks, --help too.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(context: typer.Context) -> None:
    raise typer.Exit(run_benchmarks(context.args))


def run_benchmarks(arguments: Sequence[str], checkout: Path = CHECKOUT) -> int:
    """Run ``python -m benchmarks`` of a checkout with these arguments; return its exit code, 1 if there is none."""
    if not (checkout / "benchmarks" / "__main__.py").is_file():
        echo_error(tr("the benchmarks are not part of the package; install aiotaskq from a checkout to run them"))
        return 1
    path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    # -P: the user's own folder, where the report is left, may have benchmarks, too.
    command = [sys.executable, "-P", "-m", "benchmarks", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode  # noqa: S603 - what the user typed

"""The command ``bench``: runs the benchmarks of the checkout that the package was installed from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from aiotaskq.cli.i18n import tr
from aiotaskq.cli.output import say_error

CHECKOUT = Path(__file__).parents[2]


def bench(arguments: Sequence[str], checkout: Path = CHECKOUT) -> int:
    """Run ``python -m benchmarks`` from there with these arguments; return its exit code, 1 where there is none."""
    if not (checkout / "benchmarks" / "__main__.py").is_file():
        say_error(tr("the benchmarks are in the checkout of aiotaskq, not in its package; run this command from one"))
        return 1
    path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    # -P: the user's own folder, where the report is left, may have benchmarks, too.
    command = [sys.executable, "-P", "-m", "benchmarks", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode  # noqa: S603 - what the user typed

"""``aiotaskq demo``: shows on the files of a folder what the package does, and checks every claim it makes."""

from __future__ import annotations

from aiotaskq.cli.demo.options import Options
from aiotaskq.cli.demo.play import run_demo

__all__ = ["Options", "run_demo"]

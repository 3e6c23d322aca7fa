"""Imports of libraries that take long and that one file alone needs: each process of a run collects every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


def import_late(namespace: dict[str, Any], names: Mapping[str, Sequence[str]]) -> None:
    """Put names of modules into the globals of a test file, for a fixture of its module that each test uses."""
    for module, wanted in names.items():
        imported = import_module(module)
        namespace.update({name: getattr(imported, name) for name in wanted})

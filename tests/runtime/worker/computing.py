"""Handlers for other interpreters: nothing here imports aiotaskq, which cannot be loaded there."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.machine import within


def interpreter() -> int:
    from concurrent import interpreters  # type: ignore[import-not-found, unused-ignore]  # since Python 3.14

    return int(interpreters.get_current().id)


def double(number: int) -> int:
    return 2 * number


def fails(kind: str) -> None:
    raise {"ValueError": ValueError, "SystemExit": SystemExit, "StopIteration": StopIteration}[kind]("as asked")


def odd() -> object:
    return Path(__file__).open()


def hold(folder: str) -> None:
    (Path(folder) / f"began-{interpreter()}-{time.monotonic_ns()}").touch()
    end = time.monotonic() + within(60)
    while not (Path(folder) / "release").exists() and time.monotonic() < end:
        time.sleep(0.01)

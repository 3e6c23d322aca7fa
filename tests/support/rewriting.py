"""Divides the rewriting of asserts among the processes of a run, each of which would rewrite those of every file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

TESTS = Path(__file__).parent.parent
NEEDED = ("PYC_TAIL", "_read_pyc", "_rewrite_test", "_write_pyc", "assertstate_key", "get_cache_dir")
"""None of it is public: with a pytest that lacks one, each process does the whole as ever."""


def rewrite_share(config: pytest.Config) -> None:
    """Rewrite the asserts of this process's share of the files into pytest's cache, where the others find them.

    pytest checks each file of the cache against its source, so one that is missing or old is merely rewritten again.
    """
    given = getattr(config, "workerinput", None)
    if given is None or config.option.file_or_dir or sys.dont_write_bytecode:
        return
    if not all(hasattr(rewrite, name) for name in NEEDED):
        return
    number, count = int(given["workerid"].removeprefix("gw")), given["workercount"]
    state = config.stash[rewrite.assertstate_key]
    for path in sorted(TESTS.rglob("test_*.py"))[number::count]:
        cached = rewrite.get_cache_dir(path) / (path.stem + rewrite.PYC_TAIL)
        if rewrite._read_pyc(path, cached) is None:
            stat, code = rewrite._rewrite_test(path, config)
            cached.parent.mkdir(exist_ok=True)
            rewrite._write_pyc(state, code, stat, cached)

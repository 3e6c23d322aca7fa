"""Runs the tests of a file without pytest, as in ``python tests/test_message_queue.py``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping

from loguru import logger


def run(names: Mapping[str, object]) -> int:
    """Call each ``test_`` function among these names, and print what passed; return the exit code."""
    tests = [value for name, value in names.items() if name.startswith("test_") and callable(value)]
    logger.remove()  # a line for each operation would bury what passed
    failed = 0
    for test in tests:
        title = (test.__doc__ or test.__name__).strip().partition("\n")[0]
        try:
            test()
        except Exception:
            failed += 1
            traceback.print_exc()
            sys.stdout.write(f"FAILED  {title}\n")
        else:
            sys.stdout.write(f"passed  {title}\n")
    sys.stdout.write(f"{len(tests) - failed} of {len(tests)} passed\n")
    return 1 if failed else 0

"""A process that runs the cases of one contestant: orders come as lines of JSON on standard input, samples go back so.

What a contestant prints goes to standard error, which the runner keeps in a file.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import sys
import traceback
from dataclasses import asdict
from typing import IO, Any

from aiotaskq.log import output
from benchmarks.case import Run, Sample, load


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Run the case that the order names; return its sample, or the error in one line."""
    case = load()[order["id"]].cases[order["who"]]
    gc.collect()
    # What was imported is no part of any case: a pass of the collector over all of it, 30 to 45 ms, came into some
    # samples and not into others. For 4,000 tasks from SQLite that was the difference between 0.6 and 1.0 of the rate.
    gc.freeze()
    try:
        result = case.function(Run(**order["run"]))
        sample = asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result
        assert isinstance(sample, Sample)
    except (Exception, asyncio.CancelledError) as error:  # of whatever kind the contestant raises; the rest goes on
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}".partition("\n")[0]}
    return asdict(sample)


async def _awaited(result: Any) -> Any:
    return await result


def answers() -> IO[str]:
    """Return where answers go; what is printed from now on goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def main() -> None:
    out = answers()
    output()  # else the facade writes each of its operations to standard error, which is what would be measured
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()

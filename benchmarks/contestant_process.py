"""A process that runs the cases of one contestant: it reads orders as lines of JSON, and writes samples as such lines.

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
    # A pass of the garbage collector over all imported objects takes long, and would fall into some samples only.
    gc.freeze()
    try:
        result = case.function(Run(**order["run"]))
        sample = asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result
        assert isinstance(sample, Sample)
    except (Exception, asyncio.CancelledError) as error:  # a contestant may raise anything; the other cases follow
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
    output()  # otherwise the log that the facade writes to standard error would be measured
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()

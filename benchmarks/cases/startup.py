"""What a user waits for before anything happens: imports, the help text, the first task of a new process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.case import AIOTASKQ, LIMIT, Run, Sample, Unit, scenario

TOOK = {"ms": Unit("ms", less=True)}
IMPORT = scenario("startup", "import", "import", TOOK, size=5)
HELP = scenario("startup", "help", "its command's --help", TOOK, size=5)
FIRST = scenario("startup", "first", "from nothing to the first task's result, in memory", TOOK, size=5)
FIRST_SQLITE = scenario("startup", "first.sqlite", "… in a new SQLite file", TOOK, size=5, place="file")
PEERS = ("apscheduler", "arq", "dramatiq", "huey", "pgqueuer", "procrastinate", "saq", "taskiq")
COMMANDS = {
    "arq": "from arq.cli import cli; cli()",
    "dramatiq": "from dramatiq.cli import main; main()",
    "pgqueuer": "from pgqueuer.adapters.cli.cli import app; app()",
    "procrastinate": "from procrastinate.cli import main; main()",
    "saq": "from saq.__main__ import main; main()",
    "taskiq": "from taskiq.__main__ import main; main()",
}
PROGRAM = """
import asyncio, sys
from aiotaskq import TaskQ

tq = TaskQ(sys.argv[1])

@tq.task
async def add(a: int, b: int) -> int:
    return a + b

async def main() -> None:
    async with tq.running():
        assert await (await add.push(a=1, b=2)).result(timeout=30) == 3

asyncio.run(main())
"""


def python(code: str, *arguments: str) -> Callable[[Run], Sample]:
    """Return the case of a new interpreter that runs the code, from its start to its end."""

    def case(run: Run) -> Sample:
        return timed(run, [sys.executable, "-c", code, *(word.format(place=run.place) for word in arguments)])

    return case


def timed(run: Run, command: Sequence[str]) -> Sample:
    """Run a command so often; return the median of what it took. An installed package has its bytecode compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    took = []
    for _ in range(run.n):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        took.append((time.perf_counter() - start) * 1000)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return Sample({"ms": statistics.median(took)})


IMPORT.by(LIMIT)(python("pass"))
IMPORT.by(AIOTASKQ)(python("from aiotaskq import TaskQ"))  # the package alone imports none of its modules
IMPORT.by("aiotaskq.sync")(python("import aiotaskq.sync"))
HELP.by(LIMIT)(python("pass"))
HELP.by(AIOTASKQ)(python("from aiotaskq.cli import main; main()", "--help"))
FIRST.by(AIOTASKQ)(python(PROGRAM, "memory://"))
FIRST_SQLITE.by(AIOTASKQ)(python(PROGRAM, "sqlite:///{place}"))
for _peer in PEERS:
    IMPORT.by(_peer, _peer)(python(f"import {_peer}"))
for _peer, _code in COMMANDS.items():
    HELP.by(_peer, _peer)(python(_code, "--help"))

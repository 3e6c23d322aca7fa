"""``python -m benchmarks.million``: a million durable tasks are pushed, run and finished, and every effect is counted.

One process pushes 500 tasks in a call while worker processes run them, two on PostgreSQL, else one. Each task writes
its number into a ledger outside the store. At the end each number must be there once; a second time is explained only
by a run that was interrupted, which the task's row tells. The memory of each process is sampled until the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiotaskq import TaskQ
from benchmarks import kept, machine
from benchmarks.effects import TASK, Checked, Worker, check, create, params, working
from benchmarks.stores import Stores
from benchmarks.system import BATCH

PLACES = {"sqlite": "file", "postgresql": "postgresql", "redis": "redis"}
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "redis": "Valkey"}
PROCESSES = {"sqlite": 1, "postgresql": 2, "redis": 1}
EVERY = 0.5  # seconds between two looks at the processes
STALLED = 60.0  # seconds without an effect after which a run is given up
SHOWN = 200  # samples of a process that are kept in the result
MIB = 2**20

Result = dict[str, Any]


class Samples:
    """The memory of processes, in bytes, again and again."""

    def __init__(self, processes: dict[str, int]) -> None:
        import psutil

        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self.taken: dict[str, list[int]] = {name: [] for name in processes}

    def take(self) -> None:
        """Look at each process once."""
        for name, process in self._processes.items():
            self.taken[name].append(process.memory_info().rss)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return for each process how much it had in the second and in the last quarter of the time."""
        return {name: _summary(values) for name, values in self.taken.items()}


def _summary(values: Sequence[int]) -> dict[str, Any]:
    quarter = max(1, len(values) // 4)
    second = statistics.median(values[quarter : 2 * quarter] or values)
    last = statistics.median(values[-quarter:])
    step = -(-len(values) // SHOWN)
    return {
        "second_quarter_mib": round(second / MIB, 1),
        "last_quarter_mib": round(last / MIB, 1),
        "growth_percent": round(100 * (last / second - 1), 1),
        "most_mib": round(max(values) / MIB, 1),
        "samples_mib": [round(value / MIB, 1) for value in values[::step]],
    }


async def run(url: str, tasks: int, workers: Sequence[Worker], samples: Samples) -> Result:
    """Push while the workers work; return when every task has ended."""
    async with TaskQ(url) as tq:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            pushing = group.create_task(_push(tq, tasks))
            group.create_task(_watch(tasks, workers, samples))
        pushed = pushing.result() - start
        counts = await _written(tq)
        seconds = time.perf_counter() - start
        samples.take()
    return {
        "seconds": round(seconds, 1),
        "push_seconds": round(pushed, 1),
        "rate": round(tasks / seconds, 1),
        "counts": {status: count for status, count in counts.items() if count},
    }


async def _push(tq: TaskQ, tasks: int) -> float:
    for first in range(0, tasks, BATCH):
        await tq.push_many(params(range(first, min(first + BATCH, tasks))))
    return time.perf_counter()


async def _watch(tasks: int, workers: Sequence[Worker], samples: Samples) -> None:
    """Take samples until so many effects are there. Raises TimeoutError when nothing happens any more."""
    seen, changed = 0, time.monotonic()
    while seen < tasks:
        samples.take()
        await asyncio.sleep(EVERY)
        effects = sum(worker.effects for worker in workers)
        if effects > seen:
            seen, changed = effects, time.monotonic()
        elif time.monotonic() - changed > STALLED:
            raise TimeoutError(f"{seen} of {tasks} tasks, and no more for {STALLED:g} s")


async def _written(tq: TaskQ) -> dict[str, int]:
    """Wait until no task is unfinished; return how many there are of each status."""
    async with asyncio.timeout(STALLED):
        while True:
            counts: dict[str, int] = dict((await tq.stats()).counts)
            if not counts.get("pending") and not counts.get("running"):
                return counts
            await asyncio.sleep(0.05)


async def unexplained(url: str, checked: Checked) -> list[int]:
    """Return the tasks that had their effect twice, and whose row tells of no interrupted run."""
    if not checked.repeated:
        return []
    wanted, left = set(checked.repeated), set(checked.repeated)
    async with TaskQ(url) as tq:
        async for task in _each(tq):
            if (number := task.params["number"]) in wanted and (task.crashes or task.retry_count or task.fence > 1):
                left.discard(number)
    return sorted(left)


async def _each(tq: TaskQ) -> Any:
    cursor = None
    while True:
        page = await tq.find(type=TASK, limit=BATCH, after=cursor)
        for task in page:
            yield task
        if not page:
            return
        cursor = page[-1].task_id


def measure(store: str, tasks: int, stores: Stores, words: Sequence[str] = ()) -> Result:
    """Return the result of one run, ready for JSON."""
    where = machine.describe(stores, [])
    where["command"] = " ".join(["python -m benchmarks.million", *words])
    with stores.empty(PLACES[store]) as place:
        if not place:
            raise SystemExit(f"{store}: {stores.unavailable.get(PLACES[store], 'cannot be used here')}")
        url = f"sqlite:///{place}" if store == "sqlite" else place
        asyncio.run(create(url))
        folder = stores.folder / "ledgers"
        folder.mkdir()
        with working(url, folder, PROCESSES[store]) as workers:
            processes = {"producer": os.getpid()}
            processes |= {f"worker {number}": worker.pid for number, worker in enumerate(workers, 1)}
            samples = Samples(processes)
            figures = asyncio.run(run(url, tasks, workers, samples))
        checked = check((worker.ledger for worker in workers), tasks)
        wrong = asyncio.run(unexplained(url, checked))
        where["servers"] = machine.servers(stores)
    return {
        "store": store,
        "machine": where,
        "tasks": tasks,
        "workers": len(workers),
        **figures,
        "ledger": {**asdict(checked), "unexplained": wrong},
        "memory": samples.summary(),
    }


def problems(result: Result) -> list[str]:
    """Return what is wrong with a run, one sentence each; nothing where every task was run and written once."""
    ledger, tasks = result["ledger"], result["tasks"]
    found = [
        f"{len(numbers)} {text}, the first is {numbers[0]}"
        for text, numbers in (
            ("tasks had no effect", ledger["lost"]),
            ("tasks had their effect twice, and nothing tells why", ledger["unexplained"]),
            ("numbers were never pushed", ledger["unknown"]),
        )
        if numbers
    ]
    if result["counts"] != {"completed": tasks}:
        found.append(f"the store tells of {result['counts']} instead of {tasks} completed tasks")
    return found


def row(result: Result) -> str:
    """Return a run as a line of the manual's table."""
    ledger = result["ledger"]
    grown = max(each["growth_percent"] for each in result["memory"].values())
    most = sum(each["most_mib"] for each in result["memory"].values())
    cells = (
        f"{NAMES[result['store']]}, {result['workers']} + 1",
        f"{result['tasks']:,}",
        f"{result['seconds']:,.0f} s",
        f"{result['rate']:,.0f}",
        f"{len(ledger['lost'])} / {len(ledger['repeated'])}",
        f"{most:,.0f} MiB, {grown:+.1f} %",
    )
    return f"| {' | '.join(cells)} |"


def rows(root: Path = kept.ROOT) -> list[str]:
    """Return the lines of the manual's table, of the results that are kept."""
    return [row(made) for store in PLACES if (made := kept.read(f"million-{store}", root)) is not None]


def main(arguments: Sequence[str], *, said: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.million", description="Run a million durable tasks.")
    parser.add_argument("--store", choices=list(PLACES), required=True)
    parser.add_argument("--tasks", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--jit", action="store_true", help="PostgreSQL of the system, 17 or earlier, with JIT")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="FOLDER")
    parser.add_argument(
        "--keep", action="store_true", help="keep the result in benchmarks/results, and write it into the manual"
    )
    options = parser.parse_args(arguments)
    words = [f"--store {options.store}", *([f"--tasks {options.tasks}"] if options.tasks != 1_000_000 else [])]
    stores = Stores(options.out.resolve(), jit=options.jit)
    try:
        result = measure(options.store, options.tasks, stores, [*words, *(["--jit"] if options.jit else [])])
    finally:
        stores.close()
    name = f"million-{options.store}"
    kept.write(options.out, name, result)
    wrong = problems(result)
    if options.keep and not wrong:
        kept.write(kept.ROOT / kept.RESULTS, name, result)
        kept.show({"a million tasks": rows()})
    said(row(result))
    for name, each in result["memory"].items():
        said(f"{name}: {each['second_quarter_mib']} MiB, then {each['last_quarter_mib']} MiB in the last quarter")
    for each in wrong:
        said(each)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

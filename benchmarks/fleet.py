"""``python -m benchmarks.fleet``: how many worker processes a PostgreSQL of so many cores carries, on paper.

One, two and four worker processes drain a queue here. Taken are the time of a core that a task costs the server and the
worker, its write-ahead log, and the connections of a process. From one and two processes the model takes its figures,
so that four are the proof: what it says for them and what was measured is its error. The same figures then say what a
server carries whose workers run elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aiotaskq import TaskQ
from benchmarks import kept, machine
from benchmarks.effects import Worker, create, params, working
from benchmarks.report import short
from benchmarks.sql import footprint
from benchmarks.stores import Stores
from benchmarks.system import BATCH
from tests.support.servers import Server

PROCESSES = (1, 2, 4)
CORES = (2, 4, 8)
USED = 0.7  # the part of a server's cores that may be busy: above it, latency rises
PATIENCE = 120.0
MOST = 1_000  # processes
MB = 1_000_000

Result = dict[str, Any]


@dataclass(frozen=True)
class Costs:
    """What one task takes, and one worker process."""

    push: float
    """Seconds of the server's cores for a push, 500 in a call."""
    server: float
    """… to claim the task and to write its end."""
    client: float
    """Seconds of a core in the worker process, the handler left out."""
    wal: float
    """Bytes of write-ahead log, with the push."""
    connections: float
    """Connections of a worker process."""
    crowd: float = 0.0
    """The part of ``server`` that each further process adds: it skips the rows that the others have locked."""

    def crowded(self, processes: int) -> float:
        """Return the seconds of the server's cores for a task that one of so many processes runs."""
        return self.server * (1 + self.crowd * (processes - 1))

    def most(self, processes: int) -> float:
        """Return the tasks a second of so many processes where no core is missing.

        Each waits for its transaction before it goes on, as handlers that do nothing leave nothing else to do.
        """
        return processes / (self.client + self.crowded(processes))

    def here(self, processes: int, cores: float) -> float:
        """Return the tasks a second of so many processes that share these cores with the server."""
        return min(self.most(processes), cores / (self.client + self.crowded(processes)))

    def carried(self, cores: int) -> Carried:
        """Return what a server of so many cores carries, the workers elsewhere: with the fewest processes that fill it.

        Its cores are then busy to the part ``USED``, pushes included.
        """
        for processes in range(1, MOST):
            rate = cores * USED / (self.push + self.crowded(processes))
            if self.most(processes) >= rate:
                break
        return Carried(rate, processes, processes * self.connections, rate * self.wal / MB)


@dataclass(frozen=True)
class Carried:
    """What a server carries: tasks a second, processes with their connections, megabytes of log a second."""

    rate: float
    processes: int
    connections: float
    wal: float


def fitted(one: Costs, two: Costs) -> Costs:
    """Return the costs of one process, with what a second one adds."""
    return replace(one, crowd=max(0.0, two.server / one.server - 1))


@dataclass(frozen=True)
class Measured:
    """One run: what so many processes did, and what the machine had left for them."""

    processes: int
    rate: float
    cores: float
    """The cores of the machine, less what others used meanwhile."""
    costs: Costs


def measure(server: Server, folder: Path, processes: int, tasks: int) -> Measured:
    """Fill a queue, let so many worker processes drain it, and take the figures."""
    name = f"fleet_{processes}"
    url = server.create(name)
    try:
        asyncio.run(create(url))
        (folder / name).mkdir()
        with working(url, folder / name, processes) as workers:
            return asyncio.run(_drain(url, server, name, workers, tasks))
    finally:
        server.drop(name)


async def _drain(url: str, server: Server, name: str, workers: Sequence[Worker], tasks: int) -> Measured:
    def execute(statement: str) -> list[tuple[Any, ...]]:
        return server.execute(statement, name)

    count = len(workers)
    async with TaskQ(url) as tq:
        await tq.pause()
        _, log = footprint(execute)
        before = _used(server, workers)
        for first in range(0, tasks, BATCH):
            await tq.push_many(params(range(first, min(first + BATCH, tasks))))
        await tq.resume()
        async with asyncio.timeout(PATIENCE):
            await _effects(workers, 1)  # a worker sees the end of a pause only at its next look
            filled, start = _used(server, workers), time.perf_counter()
            await _effects(workers, tasks)
            connections = sum(_connections(worker, server) for worker in workers)
            while (counts := (await tq.stats()).counts).get("pending") or counts.get("running"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        seconds = time.perf_counter() - start
        after = _used(server, workers)
    _, written = footprint(execute)
    mine = after.server - filled.server + after.clients - filled.clients + after.this - filled.this
    others = max(0.0, after.machine - filled.machine - mine) / seconds
    costs = Costs(
        push=(filled.server - before.server) / tasks,
        server=(after.server - filled.server) / tasks,
        client=(after.clients - filled.clients) / tasks,
        wal=(written - log) / tasks,
        connections=connections / count,
    )
    return Measured(count, tasks / seconds, (os.cpu_count() or 1) - others, costs)


async def _effects(workers: Sequence[Worker], count: int) -> None:
    while sum(worker.effects for worker in workers) < count:  # noqa: ASYNC110 - they are files of other processes
        await asyncio.sleep(0.005)


def _connections(worker: Worker, server: Server) -> int:
    """Return how many connections a process has with the server."""
    import psutil

    every = psutil.net_connections("tcp")
    return sum(1 for each in every if each.pid == worker.pid and each.raddr[1:] == (server.port,))


@dataclass(frozen=True)
class _Used:
    """Seconds of the cores until now."""

    server: float
    clients: float
    this: float
    machine: float


def _used(server: Server, workers: Sequence[Worker]) -> _Used:
    import psutil

    master = psutil.Process(server.pid)
    total = sum(master.cpu_times()[:4])  # with the children that have ended
    for child in master.children():
        try:
            total += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    clients = sum(sum(psutil.Process(worker.pid).cpu_times()[:2]) for worker in workers)
    whole = psutil.cpu_times()
    return _Used(total, clients, time.process_time(), sum(whole) - whole.idle - whole.iowait)


# ---- the result -----------------------------------------------------------------------------------------------------


def result(measured: Sequence[Measured], where: dict[str, Any], tasks: int) -> Result:
    """Return the model, what it says, and how far off it was, ready for JSON."""
    costs = fitted(measured[0].costs, measured[1].costs)
    checked = []
    for each in measured:
        said = costs.here(each.processes, each.cores)
        error = 100 * (said / each.rate - 1)
        checked.append(
            {
                "processes": each.processes,
                "cores": round(each.cores, 2),
                "rate": round(each.rate, 1),
                "model": round(said, 1),
                "error_percent": round(error, 1),
                "costs": asdict(each.costs),
            }
        )
    return {"machine": where, "tasks": tasks, "costs": asdict(costs), "checked": checked}


def table(made: Result) -> list[str]:
    """Return the lines of the manual's table: what a server of N cores carries."""
    costs = Costs(**made["costs"])
    lines = []
    for cores in CORES:
        carried = costs.carried(cores)
        cells = (cores, short(carried.rate), carried.processes, f"{carried.connections:.0f}", f"{carried.wal:.0f} MB/s")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def checks(made: Result) -> list[str]:
    """Return the lines of the manual's table: what the model said here, and what was measured."""
    return [
        f"| {each['processes']} | {short(each['rate'])} | {short(each['model'])} | {each['error_percent']:+.0f} % |"
        for each in made["checked"]
    ]


def main(arguments: Sequence[str], *, said: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.fleet", description="Say what a PostgreSQL carries.")
    parser.add_argument("--tasks", type=int, default=100_000, metavar="N", help="of each run; %(default)s")
    parser.add_argument("--jit", action="store_true", help="PostgreSQL of the system, 17 or earlier, with JIT")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="FOLDER")
    parser.add_argument(
        "--keep", action="store_true", help="keep the result in benchmarks/results, and write it into the manual"
    )
    options = parser.parse_args(arguments)
    stores = Stores(options.out.resolve(), jit=options.jit)
    try:
        where = machine.describe(stores, [])
        where["command"] = " ".join(["python -m benchmarks.fleet", *(["--jit"] if options.jit else [])])
        server = stores.start("postgresql")
        if server is None:
            print(f"PostgreSQL: {stores.unavailable['postgresql']}", file=sys.stderr)
            return 2
        where["servers"] = machine.servers(stores)
        measured = [measure(server, stores.folder, processes, options.tasks) for processes in PROCESSES]
    finally:
        stores.close()
    made = result(measured, where, options.tasks)
    kept.write(options.out, "fleet", made)
    if options.keep:
        kept.write(kept.ROOT / kept.RESULTS, "fleet", made)
        kept.show({"the model here": checks(made), "a server": table(made)})
    for name, value in made["costs"].items():
        said(f"{name}: {value:.6g}")
    for line in ("processes, tasks/s, the model, its error:", *checks(made), "a server:", *table(made)):
        said(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Runs the cases: the contestants of a scenario in turn, round after round, each in a process of its own."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

from benchmarks.case import AIOTASKQ, Case, Run, Sample, Scenario, is_peer
from benchmarks.stores import Stores

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
GROWTH = 10  # times the last try, at most
MOST = 2_000_000  # of anything in one run


@dataclass(frozen=True)
class Settings:
    """How much is measured. ``seconds`` is what a run is sized for, where its scenario has no fixed size."""

    seconds: float = 1.0
    rounds: int = 3
    scale: float = 1.0

    @property
    def patience(self) -> float:
        """Seconds that a run may take, with the filling of its queue."""
        return 60.0 + 240.0 * self.scale


@dataclass
class Measured:
    """What the rounds of one case gave: each figure's values in order, and all waits together."""

    case: Case
    n: int = 0
    rounds: dict[str, list[float]] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    error: str = ""
    repeated: list[str] = field(default_factory=list)
    """Why a run of a peer was tried a second time, each time that it was."""
    took: float = 0.0
    """Seconds, with the warm-up and all that is not measured."""

    def add(self, sample: Sample) -> None:
        """Add a round."""
        for name, value in sample.values.items():
            self.rounds.setdefault(name, []).append(value)
        self.waits += sample.waits


class Failed(Exception):
    """A run gave no sample; the message is the reason."""


def is_checkout(folder: Path) -> bool:
    """Return whether there is a package aiotaskq in that folder."""
    return (folder / "aiotaskq" / "__init__.py").is_file()


class ContestantProcess:
    """A process that runs the cases of one contestant, one after the other."""

    def __init__(self, log: Path, checkout: Path | None = None) -> None:
        """Of another ``checkout`` the package is run, with the Python of its ``.venv`` if it has one.

        The benchmarks are those of this checkout: so a difference is one of the package.
        """
        self._log: IO[bytes] = log.open("ab")
        self._root, self._python = ROOT, sys.executable
        self._mixed: tempfile.TemporaryDirectory[str] | None = None
        if checkout is not None:
            self._mixed = tempfile.TemporaryDirectory(prefix="aiotaskq-against-")
            self._root = Path(self._mixed.name)
            for name, place in (("aiotaskq", checkout), ("benchmarks", ROOT), ("tests", ROOT)):
                (self._root / name).symlink_to((place / name).resolve())
            if (own := checkout / ".venv" / "bin" / "python").exists():
                self._python = str(own)
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, case: Case, run: Run, patience: float) -> Sample:
        """Run a case there. Raises Failed; a process that does not answer in time is killed."""
        process = self._alive()
        order = {"id": case.scenario.id, "who": case.who, "run": vars(run)}
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            if not select.select([process.stdout], [], [], patience)[0]:
                raise Failed(f"no end within {patience:.0f} s")
            line = process.stdout.readline()
            if not line:
                raise Failed(f"its process ended with exit code {process.wait()}")
        except (OSError, Failed) as error:
            self._kill()
            raise Failed(str(error)) from None
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        if case.scenario.fresh:
            self._kill()
        return Sample(**answer)

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._kill()
        if self._process is None:
            pipe = subprocess.PIPE
            # Settings of the machine's owner are not to be measured.
            environment = {key: value for key, value in os.environ.items() if not key.startswith("AIOTASKQ_")}
            # Before what is installed, and before another checkout that PYTHONPATH may name already.
            path = os.pathsep.join(filter(None, (str(self._root), os.environ.get("PYTHONPATH"))))
            self._process = subprocess.Popen(
                [self._python, "-m", "benchmarks.contestant_process"],
                stdin=pipe,
                stdout=pipe,
                stderr=self._log,
                cwd=self._root,
                env={**environment, "PYTHONPATH": path},
                start_new_session=True,  # so that it can be killed with the processes that it has started
            )
        return self._process

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(BrokenPipeError):  # an order that was not read
                    assert pipe is not None
                    pipe.close()
            self._process = None

    def close(self) -> None:
        """End the process."""
        self._kill()
        self._log.close()
        if self._mixed is not None:
            self._mixed.cleanup()


class Runner:
    """Measures scenarios; what it has is in ``measured`` at any time, also when it is interrupted."""

    def __init__(
        self,
        stores: Stores,
        settings: Settings,
        logs: Path,
        tell: Callable[[str], None],
        step: Callable[[], None],
    ) -> None:
        self.measured: list[Measured] = []
        self._stores = stores
        self._settings = settings
        self._logs = logs
        self._tell = tell
        self._step = step
        self._processes: dict[str, ContestantProcess] = {}
        self._family = ""
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_family()

    def measure(self, scenario: Scenario, cases: Iterable[Case]) -> None:
        """Measure the cases of one scenario, round robin, after a warm-up that also determines the size of the runs."""
        if scenario.family != self._family:
            self._end_family()  # a process that waits costs memory; one that polls costs time
            self._family = scenario.family
        measurements = [Measured(case) for case in cases]
        self.measured += measurements
        sizes: dict[str, int] = {}
        for measurement in measurements:
            self._tell(f"{measurement.case.label}: warm-up")
            with self._failing(measurement):
                measurement.n = self._twice(measurement, functools.partial(self._size, measurement.case))
                # Two checkouts do the same amount: a rate may depend on how many there are.
                measurement.n = sizes.setdefault(measurement.case.who, measurement.n)
        for number in range(self._settings.rounds):
            first = number % len(measurements)  # another one in each round
            order = measurements[first:] + measurements[:first]
            for measurement in order:
                self._tell(f"{measurement.case.label}: round {number + 1} of {self._settings.rounds}")
                with self._failing(measurement):
                    if not measurement.error:
                        once = functools.partial(self._once, measurement.case, measurement.n, self._settings.scale)
                        measurement.add(self._twice(measurement, once))

    @contextlib.contextmanager
    def _failing(self, measurement: Measured) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        except Failed as error:
            measurement.error = str(error)
        finally:
            measurement.took += time.monotonic() - start
            self._step()

    def _twice(self, measurement: Measured, run: Callable[[], T]) -> T:
        """Run; if a peer fails, once more, which is noted in the report: one failure of a peer must not end a long run.

        aiotaskq and the limit have no second try.
        """
        try:
            return run()
        except Failed as error:
            if not is_peer(measurement.case.who):
                raise
            measurement.repeated.append(str(error))
            return run()

    def _once(self, case: Case, n: int, scale: float) -> Sample:
        if case.label not in self._processes:
            log = self._logs / f"{self._family}-{case.label.replace(' ', '-')}.log"
            self._processes[case.label] = ContestantProcess(log, case.checkout)
        with self._stores.empty(case.scenario.place) as place:
            patience = self._settings.patience * case.scenario.patience
            return self._processes[case.label].run(case, Run(n, place, scale), patience)

    def _size(self, case: Case) -> int:
        """Warm up, and return how often a run is to do it."""
        scenario, seconds = case.scenario, self._settings.seconds
        if scenario.size:
            n = max(1, round(scenario.size * self._settings.scale))
            if scenario.warm_up and not scenario.fresh:
                self._once(case, max(1, n // 20), self._settings.scale / 20)
            return n
        n = scenario.start
        for _ in range(6):
            took = max(self._once(case, n, self._settings.scale).seconds, 1e-6)
            grown = min(MOST, max(scenario.start, round(n * min(GROWTH, seconds / took))))
            if took >= seconds / 3:
                return grown
            n = grown
        return n

    def _end_family(self) -> None:
        for process in self._processes.values():
            process.close()
        self._processes.clear()


def chosen(scenarios: dict[str, Scenario], only: list[str]) -> list[tuple[Scenario, list[Case]]]:
    """Return the scenarios with the cases that one of the patterns names, ``family/scenario/contestant``; all, if none.

    A pattern may name a part: ``redis``, ``sqlite/push*``, ``*/aiotaskq``, ``huey``.
    """
    found = []
    for scenario in scenarios.values():
        cases = [case for case in scenario.cases.values() if not only or any(_matches(case, each) for each in only)]
        if cases:
            found.append((scenario, cases))
    return found


def beside(picked: list[tuple[Scenario, list[Case]]], checkout: Path) -> list[tuple[Scenario, list[Case]]]:
    """Return the cases of aiotaskq alone, each with the same case of another checkout."""
    pairs = ((scenario, [case for case in cases if case.who == AIOTASKQ]) for scenario, cases in picked)
    return [(scenario, [*own, *(replace(case, checkout=checkout) for case in own)]) for scenario, own in pairs if own]


def _matches(case: Case, pattern: str) -> bool:
    parts = (case.scenario.family, case.scenario.name, case.who)
    names = ("/".join(parts), case.scenario.id, "/".join(parts[1:]), *parts)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)

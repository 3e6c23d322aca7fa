"""Checks the ledgers and final rows of a run: lost, doubled, stuck and refused tasks, and the times of recovery.

Pure functions: nothing here reads a file, a clock or a store. Instants are seconds of the ledger's clock.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aiotaskq.core.firing import derived_id
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from tests.chaos.ledger import Line

GIVEN_BACK = frozenset({"released", "retried"})
"""Settlements after which the task is meant to run again."""


@dataclass(frozen=True)
class Harm:
    """Something done to the system: to one process (``pid``), or to all of them (None)."""

    kind: str  # killed, paused, cut
    at: float
    until: float
    pid: int | None = None
    lease_until: float = math.inf  # of a process that was paused: when the lease that it had then was over


@dataclass
class Run:
    """One execution of a handler."""

    id: str
    fence: int
    pid: int
    start: float
    owner: str = ""
    end: float | None = None
    how: str = ""
    settled: float | None = None
    event: str = ""

    @property
    def committed(self) -> bool:
        """Whether the store has taken the outcome."""
        return self.settled is not None and self.event != "lost"


@dataclass
class Findings:
    """What a check has found. ``violations`` is what must be empty; the numbers are for the report."""

    tasks: int = 0
    runs: int = 0
    harms: int = 0
    lost: list[str] = field(default_factory=list)
    duplicates: int = 0
    explained: int = 0
    recovery: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return percentile(self.recovery, 50)

    @property
    def p99(self) -> float:
        return percentile(self.recovery, 99)


def percentile(values: Collection[float], percent: float) -> float:
    """Return the nearest-rank percentile, 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


# ---- reading the ledger ---------------------------------------------------------------------------------------------


def runs_of(lines: Iterable[Line]) -> dict[str, list[Run]]:
    """Return the runs of each task in the order of their fences, which is that of their claims."""
    runs: dict[str, list[Run]] = defaultdict(list)
    open_runs: dict[tuple[str, int, int], Run] = {}
    for line in sorted(lines, key=lambda line: line.at):
        key = (line.id, line.fence, line.pid)
        if line.what == "start":
            run = open_runs[key] = Run(line.id, line.fence, line.pid, line.at, line.owner)
            runs[line.id].append(run)
        elif line.what == "end" and key in open_runs:
            open_runs[key].end, open_runs[key].how = line.at, line.how
        elif line.what == "settled" and key in open_runs:
            open_runs[key].settled, open_runs[key].event = line.at, line.how
    for mine in runs.values():
        mine.sort(key=lambda run: run.fence)
    return runs


def acknowledged(lines: Iterable[Line]) -> set[str]:
    """Return the ids whose push has returned."""
    return {line.id for line in lines if line.what == "ack"}


def harms_in(lines: Iterable[Line]) -> list[Harm]:
    """Return the harm that handlers did to their own processes."""
    return [Harm("killed", line.at, line.at, line.pid) for line in lines if line.what == "suicide"]


# ---- what must hold -------------------------------------------------------------------------------------------------


def lost(acked: Collection[str], rows: Mapping[str, Task], runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Every acknowledged task that is gone, has not ended well, or says that it has and never ran to its end."""
    found = []
    for task_id in sorted(acked):
        row = rows.get(task_id)
        if row is None:
            found.append(f"{task_id}: acknowledged, and there is no row")
        elif row.status is not Status.COMPLETED:
            found.append(f"{task_id}: {row.status}, {(row.error_message or '').splitlines()[:1]}")
        elif not any(run.how == "returned" for run in runs.get(task_id, ())):
            found.append(f"{task_id}: completed, and no handler ever returned")
    return found


def stuck(rows: Iterable[Task]) -> list[str]:
    """Tasks that say ``running`` when nothing runs any more."""
    return [
        f"{row.task_id}: still running, owner {row.lease_owner}, lease until {row.lease_until}"
        for row in rows
        if row.status is Status.RUNNING
    ]


def fences(
    runs: Mapping[str, Sequence[Run]], rows: Mapping[str, Task], harms: Sequence[Harm] = (), *, slack: float = 0.0
) -> list[str]:
    """Deliveries of a task whose fences do not rise strictly, and results that are not those of the last delivery.

    A process that was paused between claim and start begins late what has run elsewhere; ``slack`` is as for
    ``duplicates``.
    """
    found = []
    for task_id, mine in runs.items():
        for before, after in itertools.pairwise(mine):
            late = before.start > after.start and not any(_explains(harm, before, after, slack) for harm in harms)
            if late or after.fence == before.fence:
                found.append(
                    f"{task_id}: fence {before.fence} (pid {before.pid}) started at {before.start:.3f}, and fence "
                    f"{after.fence} (pid {after.pid}) at {after.start:.3f}"
                )
        row = rows.get(task_id)
        if row is None or row.status is not Status.COMPLETED:
            continue
        if isinstance(row.result, dict) and "fence" in row.result and row.result["fence"] != row.fence:
            found.append(f"{task_id}: the result is of fence {row.result['fence']}, the row has {row.fence}")
        if row.fence < max(run.fence for run in mine):
            found.append(f"{task_id}: the row's fence {row.fence} is behind its runs'")
    return found


def zombie_writes(lines: Iterable[Line], runs: Mapping[str, Sequence[Run]]) -> tuple[int, list[str]]:
    """How many writes of overtaken deliveries were tried, and those that the store has taken."""
    tried, found = 0, []
    for line in lines:
        if line.what not in ("write", "settled"):
            continue
        newer = [run for run in runs.get(line.id, ()) if run.fence > line.fence and run.start < line.at]
        if not newer:
            continue
        # A settlement is reported after its commit, so a newer run alone does not make it late; a newer one that
        # started before this run had ended does.
        mine = [run for run in runs[line.id] if (run.fence, run.pid) == (line.fence, line.pid)]
        if line.what == "settled" and not any(run.end is None or newer[0].start < run.end for run in mine):
            continue
        tried += 1
        held = line.held if line.what == "write" else line.how != "lost"
        if held:
            found.append(
                f"{line.id}: {line.how} of fence {line.fence} (pid {line.pid}) was taken after fence {newer[0].fence}"
            )
    return tried, found


def duplicates(runs: Mapping[str, Sequence[Run]], harms: Sequence[Harm], *, slack: float) -> tuple[int, int, list[str]]:
    """Count runs beyond the first that no outcome asked for: those that a fault explains; the others are reported.

    A run explains the next one if its process was killed, paused or cut off before its outcome was committed.
    ``slack`` is how long before a run's start a harm may have ended: a process that is paused between claim and start
    begins late what is no longer its own.
    """
    count, explained, found = 0, 0, []
    for task_id, mine in runs.items():
        for before, after in itertools.pairwise(mine):
            if before.committed and before.event in GIVEN_BACK:
                continue
            count += 1
            if before.committed:
                found.append(f"{task_id}: fence {before.fence} was {before.event}, and fence {after.fence} ran")
            elif any(_explains(harm, before, after, slack) for harm in harms):
                explained += 1
            else:
                found.append(
                    f"{task_id}: fence {after.fence} (pid {after.pid}, at {after.start:.3f}) ran although nothing was "
                    f"done to fence {before.fence} (pid {before.pid}, {before.start:.3f} to {before.end}, "
                    f"{before.how or 'unfinished'}, {before.event or 'not settled'})"
                )
    return count, explained, found


def _explains(harm: Harm, before: Run, after: Run, slack: float) -> bool:
    return harm.pid in (None, before.pid) and harm.at <= after.start and harm.until >= before.start - slack


def executions(runs: Mapping[str, Sequence[Run]], ids: Collection[str], wanted: int = 1) -> list[str]:
    """Tasks that did not run exactly so often."""
    return [
        f"{task_id}: ran {len(runs.get(task_id, ()))} times, not {wanted}"
        for task_id in sorted(ids)
        if len(runs.get(task_id, ())) != wanted
    ]


def recovery(
    runs: Mapping[str, Sequence[Run]], harms: Iterable[Harm], rows: Mapping[str, Task]
) -> tuple[list[float], list[str]]:
    """Seconds from each kill to the next start of every task that it interrupted; reports those never restarted.

    A run that had come to its end may or may not have been committed when its process died; it counts only if the task
    was restarted. A task that has been given up (poison) need not be.
    """
    killed = {harm.pid: harm.at for harm in harms if harm.kind == "killed"}
    times, found = [], []
    for task_id, mine in runs.items():
        for number, run in enumerate(mine):
            at = killed.get(run.pid)
            if at is None or run.start > at or (run.committed and run.settled is not None and run.settled <= at):
                continue
            if number + 1 < len(mine):
                times.append(max(0.0, mine[number + 1].start - at))
            elif run.end is None and not (task_id in rows and rows[task_id].final):
                found.append(f"{task_id}: fence {run.fence} died with pid {run.pid} and never started again")
    return times, found


def owners(lines: Iterable[Line]) -> list[str]:
    """Owner ids that more than one process start has had."""
    starts: dict[str, set[tuple[int, float]]] = defaultdict(set)
    for line in lines:
        if line.what == "boot" and line.owner:
            starts[line.owner].add((line.pid, line.at))
    return [f"owner {owner} is not fresh: {sorted(seen)}" for owner, seen in starts.items() if len(seen) > 1]


def parallel(runs: Mapping[str, Sequence[Run]], lease: float, harms: Sequence[Harm] = ()) -> list[str]:
    """Runs of one task that overlapped while the earlier one's process was neither paused nor cut off.

    An earlier run without an end was killed, or abandoned at a stop: then nothing may start before the lease is over,
    which the process's last line bounds from below only if it lived; so those are left to ``recovery``.
    """
    found = []
    for task_id, mine in runs.items():
        for before, after in itertools.pairwise(mine):
            if before.end is None or after.start >= before.end:
                continue
            if not any(_explains(harm, before, after, lease) for harm in harms):
                found.append(f"{task_id}: fences {before.fence} and {after.fence} ran at the same time")
    return found


def schedule_tasks(
    schedules: Iterable[Schedule], first_due: Mapping[str, int], rows: Iterable[Task], *, gaps: bool = False
) -> list[str]:
    """Check interval schedules: each fired task belongs to one due, each due has one task, and all are counted.

    ``first_due`` is each schedule's first due in microseconds. Unless ``gaps`` are allowed (a misfire policy that
    skips), the dues must be without one.
    """
    by_schedule: dict[str, list[Task]] = defaultdict(list)
    for row in rows:
        if row.scheduler_task_id is not None:
            by_schedule[row.scheduler_task_id].append(row)
    found = []
    for schedule in schedules:
        mine, step = by_schedule[schedule.task_id], (schedule.interval_seconds or 0) * SECOND
        if schedule.run_count != len(mine):
            found.append(f"{schedule.name}: run_count is {schedule.run_count}, and there are {len(mine)} tasks")
        following = (schedule.next_run_at or 0) * SECOND + schedule.next_run_us
        dues = range(first_due[schedule.task_id], following, step)
        expected = {derived_id(schedule.task_id, due): due for due in dues}
        ids = {row.task_id for row in mine}
        if len(ids) < len(mine):
            found.append(f"{schedule.name}: {len(mine) - len(ids)} tasks are there twice")
        if strange := ids - expected.keys():
            found.append(f"{schedule.name}: {len(strange)} tasks belong to no due before the next one")
        if not gaps and (missing := expected.keys() - ids):
            late = sorted(expected[each] for each in missing)
            found.append(f"{schedule.name}: {len(missing)} dues have no task, the first {late[0]}")
    return found


def check(
    lines: Sequence[Line],
    rows: Iterable[Task],
    harms: Sequence[Harm],
    *,
    lease: float,
    acked: Collection[str] | None = None,
    all_complete: bool = True,
) -> Findings:
    """Do every check that holds for any run; ``acked`` defaults to what the producers' ledgers say.

    ``all_complete`` is false where some tasks are meant to fail; their scenario then looks for lost ones itself.
    """
    by_id = {row.task_id: row for row in rows}
    runs = runs_of(lines)
    harms = [*harms, *harms_in(lines)]
    findings = Findings(
        tasks=len(by_id),
        runs=sum(len(mine) for mine in runs.values()),
        harms=sum(harm.kind != "cut" for harm in harms),
    )
    if all_complete:
        findings.lost = lost(acknowledged(lines) if acked is None else acked, by_id, runs)
    findings.recovery, never = recovery(runs, harms, by_id)
    findings.duplicates, findings.explained, unexplained = duplicates(runs, harms, slack=lease)
    findings.violations = [
        *(f"lost: {each}" for each in findings.lost),
        *(f"stuck: {each}" for each in stuck(by_id.values())),
        *(f"never recovered: {each}" for each in never),
        *(f"unexplained: {each}" for each in unexplained),
        *(f"fence: {each}" for each in fences(runs, by_id, harms, slack=lease)),
        *(f"zombie: {each}" for each in zombie_writes(lines, runs)[1]),
        *(f"parallel: {each}" for each in parallel(runs, lease, harms)),
        *(f"owner: {each}" for each in owners(lines)),
    ]
    return findings

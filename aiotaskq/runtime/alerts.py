"""Reads of a store what the rules of alerts are about."""

from __future__ import annotations

from aiotaskq.backends.base import Backend, Schedules
from aiotaskq.core.alerts import NAMED, Rules, Seen
from aiotaskq.core.task import SECOND, Status
from aiotaskq.runtime.queue.operations import stats_of


async def look(backend: Backend, schedules: Schedules | None, rules: Rules, now: int) -> Seen:
    """Return what is in a store; ``now`` in microseconds UTC. Raises DatabaseUnavailable."""
    stats = await stats_of(backend, now)
    late: list[str] = []
    if schedules is not None and rules.schedule_late is not None:
        due = await schedules.due(now - int(rules.schedule_late * SECOND), NAMED + 1)
        late = [each.name for each in due]
    unclaimed: list[str] = []
    if backend.workers is not None and rules.no_worker is not None:
        behind = now - int(rules.no_worker * SECOND)
        awake = [each for each in await backend.workers.all() if each.lease_until > now and not each.quiet]
        if not any(each.queues is None for each in awake):
            claimed = {name for each in awake for name in each.queues or ()}
            waiting = {name for name, counts in stats.queues.items() if counts.get(str(Status.PENDING))}
            for name in sorted(waiting - claimed - {*stats.paused}):
                first = await backend.next_run_at(behind, [name])
                if first is not None and first <= behind:
                    unclaimed.append(name)
    return Seen(stats.counts.get(str(Status.FAILED), 0), stats.oldest_age, late, unclaimed)

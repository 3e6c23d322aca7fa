"""Gates: limits, rates and fair shares that tasks pass before they can be claimed, and the rule by which they pass.

A task with gates is *parked* while it waits: it is pending, its ``run_at`` is ``PARKED``, and its due time is in
``due_at``. A task that has passed all of its gates is un-parked: an ordinary pending task. It holds a slot of each of
its gates from then until it ends, or is parked again for a retry. Slots are not counted anywhere: they are the tasks
that hold them (``core.parking``). Everything here is pure: a backend reads and locks what a rule needs, and writes
what it returns. What it is given and returns is in no cycle, so the garbage collector does not track it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

PARKED = 2**62
"""The ``run_at`` of a task that waits at a gate: no claim finds it."""
NEVER_BY_TIME = 253_402_300_799_000_000
"""The end of the year 9999, in microseconds UTC: a gate that is closed until then does not open by time."""
BATCH = 100
"""The most tasks that pass a gate at a time: it bounds what a store reads at once. Where more may pass, it goes on."""
BUDGET = "budget:"
"""The beginning of the keys of the gates that keep the budgets of groups."""


class Bounds(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a gate lets pass; a bound that is None does not bound."""

    cap: int | None = None
    """The most tasks that hold a slot."""
    window: int | None = None
    """The same for a fair share: a task that had to wait then queues behind all tasks that are ready."""
    interval: int | None = None
    """Microseconds for each token of a rate."""
    burst: int = 1
    """The most tokens of a rate that can be saved."""
    max_waiting: int | None = None
    """The most tasks that may wait here; a push of more is refused."""


class Flow(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a task passes and waits for before it can be claimed, as its push declared it.

    Only a newer call of a debounced task that waits replaces it.
    """

    gates: tuple[tuple[str, Bounds], ...] = ()
    """Its gates, in the order in which they are passed."""
    weight: int = 1
    """The tokens that it takes from a rate."""
    weights: tuple[tuple[str, int], ...] = ()
    """By key, the tokens that it takes at the gates where they differ from ``weight``."""
    group: str | None = None
    """The id of the group whose member it is."""
    parents: tuple[tuple[str, str], ...] = ()
    """The ids and names of the tasks that have to end before it."""
    children: tuple[tuple[str, str], ...] = ()
    """The ids of the tasks that wait for its end, each with one of the ``RULES`` of core.groups."""
    rules: tuple[str, ...] = ()
    """The rules of its ``parents``, in their order, where it was pushed after them: these do not know of it."""
    source: str | None = None
    """The id of the group whose end has pushed it."""

    def tokens(self, key: str) -> int:
        """Return the tokens that it takes from the rate of this gate."""
        return dict(self.weights).get(key, self.weight) if self.weights else self.weight


class Gate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The state of a gate. Instants are microseconds UTC."""

    key: str
    bounds: Bounds = Bounds()
    fixed: bool = False
    """Whether the bounds were set by an operator, so that those declared by a push do not replace them."""
    tat: int = 0
    """When all tokens of the rate will be there again (the theoretical arrival time of GCRA)."""
    charged_until: int = 0
    """The latest start of a task that ``tat`` accounts for."""
    closed_until: int = 0
    """Before this instant nothing passes."""
    next_at: int | None = None
    """When a task that waits may pass without the end of another one; None if none waits for that.

    The first sweep from then on admits the gate: 0 makes it due at once.
    """


class GateChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a gate; what is None stays as it is."""

    bounds: dict[str, int | None] = {}
    """The new values of some bounds, by their names in ``Bounds``; all bounds are fixed then, unless ``declared``."""
    declared: bool = False
    """Whether the bounds are no longer fixed: the next push declares others."""
    unless_fixed: bool = False
    """Whether nothing is changed where an operator has set bounds."""
    closed_until: int | None = None
    """Microseconds UTC; 0 opens the gate."""
    closed_at_least: int = 0
    """The same, but a gate that is closed for longer stays so."""
    charge: int = 0
    """Tokens to take from its rate in addition; a negative number returns some."""


class GateState(msgspec.Struct, frozen=True, kw_only=True):
    """A gate, and how many tasks hold a slot of it and wait at it."""

    gate: Gate
    held: int
    waiting: int


class Starts(NamedTuple):
    """The tokens of the tasks that hold a slot of a rate, or held one until now, by when they started."""

    unstarted: int = 0
    """The sum of those of tasks that have not started. One above the burst has the same effect as the burst."""
    started: Sequence[tuple[int, int]] = ()
    """Of the others, when each was claimed and its tokens; those that are accounted for may be left out."""


def budget_gate(group_id: str) -> str:
    """Return the key of the gate that the members of a group with a budget pass first."""
    return f"{BUDGET}{group_id}"


def group_of_budget(key: str, bounds: Bounds) -> str | None:
    """Return the id of the group whose budget a gate keeps; None for any other gate: those have bounds."""
    return key.removeprefix(BUDGET) if key.startswith(BUDGET) and bounds == Bounds() else None


def read_ahead(gate: Gate, held: int, now: int) -> int:
    """Return how many of the tasks that wait at a gate are needed to admit it at ``now``, in microseconds UTC.

    ``held`` tasks hold a slot. One more than may pass tells when it may; it is not needed where it passes only at the
    end of another task.
    """
    if now < gate.closed_until:
        return 1
    free, bounds = _free(gate.bounds, held), gate.bounds
    if bounds.interval is not None and free:
        return min(free, bounds.burst, BATCH) + 1
    return free if free < BATCH else BATCH


def _free(bounds: Bounds, held: int) -> int:
    """Return how many slots are free."""
    cap, window = bounds.cap, bounds.window
    if cap is None or (window is not None and window < cap):
        cap = window
    return PARKED if cap is None else 0 if cap < held else cap - held


def admit(gate: Gate, held: int, starts: Starts, now: int, weights: Sequence[int]) -> tuple[int, Gate]:
    """Return how many of the waiting tasks may pass at ``now``, and the gate after that.

    ``weights`` are the tokens of the tasks that wait and are due, in claim order: the first ones pass. ``held`` is the
    number of tasks that hold a slot; only a rate needs ``starts``. Only the first task that may not pass gives the gate
    a ``next_at``, and only if a rate or a closed gate holds it back.

    A rate is the generic cell rate algorithm (ITU-T I.371), over the starts of tasks: what has passed and not started
    counts as if it started now, so that saved and unstarted tokens together are at most ``burst``.
    """
    bounds = gate.bounds
    if bounds.interval is not None:
        gate = charged(gate, starts, now)
    if now < gate.closed_until:
        return 0, replace(gate, next_at=gate.closed_until if weights else None)
    free = min(len(weights), _free(bounds, held))
    if bounds.interval is None:
        return free, gate if gate.next_at is None else replace(gate, next_at=None)
    tat, count, next_at = max(gate.tat, now), 0, None
    for weight in weights[:free]:
        next_at = tat - (bounds.burst - min(weight, bounds.burst)) * bounds.interval
        if next_at > now:
            break
        tat, next_at, count = tat + weight * bounds.interval, None, count + 1
    return count, replace(gate, tat=tat if count else gate.tat, next_at=next_at)


def charged(gate: Gate, starts: Starts, now: int) -> Gate:
    """Return the gate with a ``tat`` that accounts for these starts.

    Each start is charged once, together with the starts after it. After the clock was set back, starts of before are
    ahead of it: they count as starts at ``now``.
    """
    bounds, until = gate.bounds, gate.charged_until
    if bounds.interval is None:
        return gate
    tokens = min(starts.unstarted, bounds.burst)
    tat = max(gate.tat, now + tokens * bounds.interval) if tokens else gate.tat
    for at, more in sorted(starts.started, reverse=True):
        # Of starts while the clock goes through a time again it is unknown whether ``tat`` accounts for them.
        if at <= gate.charged_until and not at <= now < gate.charged_until:
            continue
        tokens += more
        tat = max(tat, min(at, now) + tokens * bounds.interval)
        until = max(until, at)
    return replace(gate, tat=tat, charged_until=until)


def due_by(gate: Gate, at: int) -> Gate:
    """Return the gate with a ``next_at`` no later than ``at``, or than the instant at which it opens."""
    at = max(at, gate.closed_until)
    return replace(gate, next_at=at if gate.next_at is None else min(at, gate.next_at))


def changed(gate: Gate, change: GateChange, now: int) -> Gate:
    """Return the gate, which is ``charged``, after a change; a backend then admits what may pass it."""
    if change.unless_fixed and gate.fixed:
        return gate
    gate = _bounded(gate, replace(gate.bounds, **change.bounds), now) if change.bounds else gate
    closed_until = gate.closed_until if change.closed_until is None else change.closed_until
    tat = gate.tat
    if change.charge and gate.bounds.interval is not None:
        tat = max(tat, now) + change.charge * gate.bounds.interval
    return replace(
        gate,
        fixed=(gate.fixed or bool(change.bounds)) and not change.declared,
        closed_until=max(closed_until, change.closed_at_least),
        tat=tat,
    )


def declared(gate: Gate, bounds: Bounds, now: int) -> Gate:
    """Return the gate for a push that declares these bounds: the latest ones count, unless an operator has set some."""
    if gate.fixed or gate.bounds == bounds:
        return gate
    return _bounded(gate, bounds, now)


def set_back(gate: Gate, back: int, now: int) -> Gate:
    """Return the gate after its clock was set back by ``back`` microseconds, to ``now`` or before.

    Whether an instant of the gate was read before or after the step is unknown: the gate may have let tasks pass before
    the step was noticed. So ``tat`` stays, but no later than that of a rate without tokens: the rate gives no more than
    it may, and stands still at most until it has saved ``burst`` tokens. What was charged beyond that moves with the
    clock. So does a ``closed_until`` that is a real instant. The next sweep admits the gate.
    """
    tat = gate.tat
    if gate.bounds.interval is not None:
        tat = max(tat - back, min(tat, now + gate.bounds.burst * gate.bounds.interval))
    return replace(
        gate,
        tat=tat,
        closed_until=gate.closed_until - back if now < gate.closed_until < NEVER_BY_TIME else gate.closed_until,
        next_at=None if gate.next_at is None else min(gate.next_at, now),
    )


def _bounded(gate: Gate, bounds: Bounds, now: int) -> Gate:
    """Return the gate with other bounds.

    By a faster rate the tokens that were taken come back sooner. What started before there was a rate takes none.
    """
    before, tat, charged_until = gate.bounds.interval, gate.tat, gate.charged_until
    if before is None and bounds.interval is not None:
        charged_until = max(charged_until, now)
    elif before is not None and bounds.interval is not None and tat > now:
        tat = min(tat, now + -(-(tat - now) // before) * bounds.interval)
    return replace(gate, bounds=bounds, tat=tat, charged_until=charged_until)


def is_idle(gate: Gate, now: int) -> bool:
    """Return whether a gate at which no task is, at ``now``, lets pass what a new one would."""
    return not gate.fixed and gate.next_at is None and gate.tat <= now and gate.closed_until <= now

"""Limits, rates and fair shares at run time: they are listed, changed, paused and resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.errors import INT32, TEN_YEARS, check_int, check_key, check_seconds, guess, instant
from aiotaskq.core.gate import BUDGET, Bounds, GateChange, GateState, group_of_budget
from aiotaskq.core.limits import Rate, names_gate
from aiotaskq.core.task import SECOND
from aiotaskq.core.usage import USED_UP_UNTIL
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.log import log, printable

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend
    from aiotaskq.runtime.handler import Handler

MOST_LISTED = 100_000
ENDLESS = TEN_YEARS * SECOND // 2
"""Microseconds: a limit that is paused for longer is paused until it is resumed."""


def told_limits(handlers: Mapping[str, Handler]) -> set[str]:
    """Return the names of the limits that these handlers declare."""
    gatings = [handler.gating for handler in list(handlers.values())]
    return {label for gating in gatings if gating is not None for label in gating.labels}


def declared_bounds(handlers: Mapping[str, Handler], key: str) -> Bounds | None:
    """Return what these handlers declare for a gate; None if none does, or that depends on the params of a task."""
    found = (handler.gating.bounds_of(key) for handler in list(handlers.values()) if handler.gating is not None)
    return next((bounds for bounds in found if bounds is not None), None)


class LimitState(msgspec.Struct, frozen=True, kw_only=True):
    """A limit as it is now: its bounds, and how many tasks it holds and keeps waiting. Instants in microseconds UTC."""

    key: str
    """As ``tenant:42``, or ``openai``."""
    cap: int | None = None
    """The most tasks that run, or are ready to run, at a time; None does not bound."""
    window: int | None = None
    """The same for the fair share of a key."""
    rate: float | None = None
    """Tokens per second."""
    burst: int | None = None
    """The most tokens of the rate that are saved."""
    max_waiting: int | None = None
    """The most tasks that may wait here."""
    held: int = 0
    """How many tasks run or are ready, and those that wait at a later limit."""
    waiting: int = 0
    """How many tasks wait here."""
    fixed: bool = False
    """Whether the bounds were set by an operator: pushes do not change them until ``reset``."""
    state: Literal["open", "paused", "used_up"] = "open"
    """Whether tasks pass; ``used_up``: the budget of its group is used up."""
    paused_until: int | None = None
    """Until when it is paused; None also where it is paused until it is resumed."""
    next_at: int | None = None
    """When a task that waits may pass without the end of another one; None if none waits for that."""
    budget_of: str | None = None
    """The id of the group whose budget it keeps; None for those of types."""


class Limits:
    """``tq.limits``: those of a store, by their keys, ``openai`` or ``tenant:42``. Changes hold in all processes.

    Those of the budgets of groups are listed, but not changed here: that raises ValidationError.
    """

    def __init__(self, backend: Backend, clock: Clock, handlers: Mapping[str, Handler]) -> None:
        """For ``tq.limits``; ``handlers`` are those that are registered in this process."""
        self._backend = backend
        self._gates = backend.gates
        self._clock = clock
        self._handlers = handlers

    async def list(self, limit: int = 1_000, *, prefix: str = "") -> list[LimitState]:
        """Return the first limits that are in use or were set, by their keys; with ``prefix`` those that begin so.

        Raises ValidationError.
        """
        found = await self._gates.find(limit=check_int("limit", limit, 1, MOST_LISTED), prefix=prefix)
        return [self._state(each) for each in found]

    async def get(self, key: str) -> LimitState:
        """Return one limit. Raises NotFound where no task has passed, and nothing was set."""
        found = await self._gates.find([check_key("key", key)])
        if not found:
            raise NotFound(f"there is no limit {printable(key)}")
        return self._state(found[0])

    async def some(self, keys: Sequence[str]) -> Sequence[LimitState]:
        """Return those of these limits that are there."""
        return [self._state(each) for each in await self._gates.find(keys)]

    async def tasks(self, key: str, limit: int = 100) -> tuple[Sequence[str], Sequence[str]]:
        """Return the ids of up to ``limit`` tasks that hold a slot of a limit, and of the first ones that wait there.

        Raises ValidationError.
        """
        return await self._gates.tasks(check_key("key", key), check_int("limit", limit, 1, MOST_LISTED))

    async def set(
        self,
        key: str,
        cap: int | UnsetType | None = UNSET,
        *,
        rate: Rate | UnsetType | None = UNSET,
        window: int | UnsetType | None = UNSET,
        max_waiting: int | UnsetType | None = UNSET,
    ) -> LimitState:
        """Set bounds of a limit, now and until ``reset``, whatever pushes declare; bounds that are not named stay.

        None takes a bound away; a cap of 0 lets nothing pass. Tasks that have passed are not stopped. Raises
        ValidationError, also where no bound is named.
        """
        changes: dict[str, int | None] = {}
        for name, value, low in (("cap", cap, 0), ("window", window, 1), ("max_waiting", max_waiting, 0)):
            if value is not UNSET:
                changes[name] = None if value is None else check_int(name, value, low)
        if rate is None:
            changes |= {"interval": None, "burst": 1}
        elif isinstance(rate, Rate):
            changes |= {"interval": rate.interval, "burst": rate.saved}
        elif rate is not UNSET:
            raise ValidationError(f"rate: Rate(100, per=60) is needed (got {rate!r:.40})")
        if not changes:
            raise ValidationError("set: name what to set: cap, rate, window or max_waiting")
        declared = declared_bounds(self._handlers, check_key("key", key))
        if declared is not None and not await self._gates.find([key]):
            changes = msgspec.structs.asdict(declared) | changes
        return await self._change(key, GateChange(bounds=changes), "set")

    async def reset(self, key: str) -> LimitState:
        """Let the bounds be those that pushes declare again: now those that this process declares, then of each push.

        Where no handler here declares any, now those of a task that waits or holds a slot; without one, those that were
        set stay until the next push. Raises ValidationError, and NotFound where nothing has declared the limit.
        """
        declared = declared_bounds(self._handlers, check_key("key", key)) or await self._pushed_bounds(key)
        bounds = {} if declared is None else msgspec.structs.asdict(declared)
        return await self._change_known(key, GateChange(bounds=bounds, declared=True), "reset")

    async def _pushed_bounds(self, key: str) -> Bounds | None:
        held, waiting = await self.tasks(key, 1)
        rows = await self._backend.get([*waiting, *held]) if held or waiting else ()
        gates = [gate for task in rows if task is not None and task.flow is not None for gate in task.flow.gates]
        return next((bounds for name, bounds in gates if name == key), None)

    async def pause(
        self,
        key: str,
        seconds: float | timedelta | None = None,
        *,
        until: float | datetime | None = None,
    ) -> LimitState:
        """Let no task pass for so many seconds, or until an instant, or without both until ``resume``.

        ``until`` is an aware datetime or epoch seconds. Tasks that have passed continue. Raises ValidationError, and
        NotFound where nothing has declared the limit.
        """
        return await self._change_known(key, GateChange(closed_until=self._until(seconds, until)), "pause")

    async def pause_for(self, key: str, seconds: float | timedelta) -> LimitState:
        """As ``pause``, but a limit that is paused for longer stays so: for handlers that are told to slow down."""
        return await self._change_known(key, GateChange(closed_at_least=self._until(seconds, None)), "pause")

    async def resume(self, key: str) -> LimitState:
        """Let tasks pass a paused limit again.

        Raises ValidationError for the limit of a budget, as each verb that changes a limit.

        Raises NotFound where nothing has declared it.
        """
        return await self._change_known(key, GateChange(closed_until=0), "resume")

    async def charge(self, key: str, tokens: int) -> LimitState:
        """Take tokens from the rate of a limit in addition; a negative number returns some.

        Raises ValidationError, also for a limit without a rate, and NotFound where nothing has declared it.
        """
        return await self._change_known(key, GateChange(charge=check_int("tokens", tokens, -INT32)), "charge")

    async def declare(self) -> None:
        """Give the limits without a key that are in use the bounds that the handlers of this process declare.

        What an operator has set stays. So a backlog has the limits of the code that runs.
        """
        labels = sorted(label for label in told_limits(self._handlers) if not label.endswith(":"))
        for state in await self._gates.find(labels, len(labels)) if labels else ():
            gate, bounds = state.gate, declared_bounds(self._handlers, state.gate.key)
            if bounds is not None and not gate.fixed and gate.bounds != bounds:
                change = GateChange(bounds=msgspec.structs.asdict(bounds), declared=True, unless_fixed=True)
                await self._gates.change(gate.key, change, self._clock.now())
                log.info("limit {}: takes the bounds that this version declares", printable(gate.key))

    def _until(self, seconds: float | timedelta | None, until: float | datetime | None) -> int:
        if seconds is not None and until is not None:
            raise ValidationError("seconds, until: give one of the two")
        if until is not None:
            return instant("until", until)
        return self._clock.now() + int((TEN_YEARS if seconds is None else check_seconds("seconds", seconds)) * SECOND)

    async def _change_known(self, key: str, change: GateChange, verb: str) -> LimitState:
        """Change a limit that is in use, or that handlers of this process, or of a worker, declare."""
        await self._check_no_budget(check_key("key", key))
        found = await self._gates.find([key])
        if not found and not any(names_gate(label, key) for label in told_limits(self._handlers)):
            await self._check_told(key)
        declared = declared_bounds(self._handlers, key)
        bounds, fixed = (found[0].gate.bounds, found[0].gate.fixed) if found else (Bounds(), False)
        if change.charge and bounds.interval is None:
            if fixed or declared is None or declared.interval is None:
                raise ValidationError(
                    f"charge: limit {printable(key)} has no rate to take tokens from; "
                    "declare one, or set it: limits.set(key, rate=Rate(100, per=60))"
                )
            change = replace(change, bounds=msgspec.structs.asdict(declared), declared=True)
        return await self._change(key, change, verb)

    async def _check_told(self, key: str) -> None:
        """Raise NotFound for a limit that is not there and that no worker tells of."""
        known = set(told_limits(self._handlers))
        for worker in await self._backend.workers.all() if self._backend.workers is not None else ():
            if worker.limits is None or any(names_gate(label, key) for label in worker.limits):
                return
            known.update(worker.limits)
        known.update(state.gate.key for state in await self._gates.find())
        raise NotFound(
            f"limit {key!r}: no handler declares it, and no task has passed it "
            f"(limits list shows those in use; limits set makes one){guess(key, known)}"
        )

    async def _change(self, key: str, change: GateChange, verb: str) -> LimitState:
        await self._check_no_budget(check_key("key", key))
        await self._gates.change(key, change, self._clock.now())
        log.debug("limit {}: {}", printable(key), verb)
        return await self.get(key)

    async def _check_no_budget(self, key: str) -> None:
        """Raise ValidationError for the limit of a group's budget: what is set here would let its members pass."""
        if not key.startswith(BUDGET):
            return
        group_id = key.removeprefix(BUDGET)
        (group,) = await self._backend.groups.get([group_id])
        if group is not None and group.budget:
            raise ValidationError(
                f"{printable(key)}: only the budget of group {printable(group_id)} pauses and resumes this limit; "
                "give the group another budget instead: aiotaskq groups budget GROUP NAME=NUMBER"
            )

    def _state(self, found: GateState) -> LimitState:
        gate, bounds, now = found.gate, found.gate.bounds, self._clock.now()
        budget_of, paused = group_of_budget(gate.key, bounds), gate.closed_until > now
        return LimitState(
            key=gate.key,
            cap=bounds.cap,
            window=bounds.window,
            rate=None if bounds.interval is None else SECOND / bounds.interval,
            burst=None if bounds.interval is None else bounds.burst,
            max_waiting=bounds.max_waiting,
            held=found.held,
            waiting=found.waiting,
            fixed=gate.fixed,
            state="open" if not paused else "used_up" if budget_of and gate.closed_until == USED_UP_UNTIL else "paused",
            paused_until=gate.closed_until if paused and gate.closed_until - now <= ENDLESS else None,
            next_at=None if gate.next_at is None else max(gate.next_at, now),  # 0 is for the next look at the gate
            budget_of=budget_of,
        )

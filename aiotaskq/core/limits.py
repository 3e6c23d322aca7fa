"""Limits, rates and fair shares as they are declared, and the gates that a task passes by them.

They are evaluated when a task is pushed: its gates and their bounds are stored with it. ``core.gate`` has the rule by
which gates let tasks pass.
"""

from __future__ import annotations

import functools
import graphlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from typing import Any, TypeAlias
from uuid import UUID

import msgspec
from msgspec.structs import force_setattr, replace

from aiotaskq.core.errors import (
    INT32,
    MAX_KEY,
    MAX_NAME,
    TEN_YEARS,
    ValidationError,
    check_int,
    check_key,
    check_seconds,
    guess,
    shown,
)
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task

WINDOW = 100
"""Tasks of one key that are ready or run at a time, by a fair share that names no window."""
FASTEST = 10_000
"""Tokens per second of the fastest rate: the time between two tokens is a whole number of microseconds."""

Of: TypeAlias = str | Callable[[dict[str, Any]], Any]
"""A value of a task: the name of a parameter, or a function of its params."""


class Limit(msgspec.Struct, frozen=True):
    """At most ``cap`` tasks at a time: ``Limit(5, key="tenant")`` for each tenant, ``Limit(5)`` for the task type."""

    cap: int
    """The most tasks that run, or are ready to run, at a time."""
    key: Of | None = None
    """One limit for each of its values; None is one for all. A task whose key is None is not limited."""
    name: str | None = None
    """The name of the limit, which task types share by it; default the key's parameter, without one the task type."""
    max_waiting: int | None = None
    """The most tasks that may wait at the limit; a push of more raises QueueFull."""

    def __post_init__(self) -> None:
        if check_int("limit", self.cap, 0) == 0:
            raise ValidationError("limit: 0 would let no task run; give at least 1, or pause it: tq.limits.pause(key)")
        _check_gate("limit", self.key, self.name, self.max_waiting)

    def bounds(self, value: Callable[[str, Of], Any]) -> Bounds:
        """Return the bounds for a task, of which ``value`` evaluates a parameter or function."""
        return Bounds(cap=self.cap, max_waiting=self.max_waiting)


class Rate(msgspec.Struct, frozen=True):
    """At most ``limit`` tokens in ``per`` seconds; a task takes ``weight`` of them, by default one.

    Tokens come evenly. Up to ``burst`` are saved while none is taken, so that no ``per`` seconds see more than
    ``limit + burst``.
    """

    limit: int
    per: float | timedelta = 1.0
    """Seconds, or a timedelta."""
    key: Of | None = None
    """As for ``Limit``."""
    weight: Of | int = 1
    """The tokens that a task takes, at most ``burst``: a number, a parameter, or a function of the params."""
    burst: int | None = None
    """The most tokens that are saved; default a tenth of the limit, at least one."""
    name: str | None = None
    """As for ``Limit``."""
    max_waiting: int | None = None
    """As for ``Limit``."""

    def __post_init__(self) -> None:
        check_int("rate", self.limit, 1)
        force_setattr(self, "per", check_seconds("rate: per", self.per, zero=False))
        if self.limit > FASTEST * self.seconds:
            raise ValidationError(
                f"rate: {self.limit} in {self.seconds:g} s is more than {FASTEST} per second, the fastest rate"
            )
        if not _is_evaluated(self.weight):
            check_int("rate: weight", self.weight, 1)
        if self.burst is not None:
            check_int("rate: burst", self.burst, 1)
        _check_tokens("rate: burst", self.saved, self.interval)
        if isinstance(self.weight, int):
            self.check_weight(self.weight)
        _check_gate("rate", self.key, self.name, self.max_waiting)

    def check_weight(self, weight: int) -> None:
        """Raise ValidationError for a task that takes more tokens than are ever saved."""
        if weight > self.saved:
            raise ValidationError(
                f"rate: weight: {weight} tokens are more than the burst of {self.saved}, the most that are saved; "
                f"give the rate a burst of at least {weight}"
            )

    @property
    def seconds(self) -> float:
        """``per`` in seconds."""
        return float(self.per)  # type: ignore[arg-type]  # the constructor has converted a timedelta

    @property
    def interval(self) -> int:
        """The microseconds for each token, rounded up."""
        return math.ceil(self.seconds * SECOND / self.limit)

    @property
    def saved(self) -> int:
        """The most tokens that are saved."""
        return max(1, self.limit // 10) if self.burst is None else self.burst

    def bounds(self, value: Callable[[str, Of], Any]) -> Bounds:
        """As for ``Limit``."""
        return Bounds(interval=self.interval, burst=self.saved, max_waiting=self.max_waiting)


class Fair(msgspec.Struct, frozen=True):
    """A fair share of the workers for each value of a key, by turns: ``Fair("tenant")``.

    At most ``window × weight`` tasks of a key run, or are ready to run. One that waits queues behind all tasks that are
    ready when it passes, so that a key with a million tasks delays the tasks of another one by at most its window. Make
    the window no smaller than the number of slots of all workers, or one key alone cannot fill them.
    """

    key: Of
    """A parameter, or a function of the params; a task whose key is None is not limited."""
    window: int = WINDOW
    weight: Of | float = 1.0
    """The share against that of other keys: a number, a parameter, or a function of the params."""
    name: str | None = None
    """As for ``Limit``."""
    max_waiting: int | None = None
    """As for ``Limit``."""

    def __post_init__(self) -> None:
        if not _is_evaluated(self.key):
            raise ValidationError("fair: a key is needed: the name of a parameter, or a function of the params")
        check_int("fair: window", self.window, 1)
        if not _is_evaluated(self.weight):
            _check_share(self.weight)
        _check_gate("fair", self.key, self.name, self.max_waiting)

    def bounds(self, value: Callable[[str, Of], Any]) -> Bounds:
        """As for ``Limit``. Raises ValidationError for a weight that is no number above 0."""
        weight = self.weight
        share = _check_share(value("fair: weight", weight) if isinstance(weight, str) or callable(weight) else weight)
        return Bounds(window=min(INT32, max(1, round(self.window * share))), max_waiting=self.max_waiting)


Spec: TypeAlias = Limit | Rate | Fair
KINDS: Mapping[type, str] = {Fair: "fair", Limit: "limit", Rate: "rate"}
"""The options, in the order in which the gates of one width are passed: a rate last, as its tokens do not come back."""


class Gating:
    """The gates that the tasks of one type pass, in their order."""

    def __init__(
        self,
        task_type: str,
        specs: Sequence[Spec],
        *,
        accepted: Collection[str] | None = None,
        defaults: Mapping[str, Any] = {},
    ) -> None:
        """Compile what was declared for a task type.

        ``accepted`` are the names of its parameters, None for any; ``defaults`` are their defaults as they would be
        stored. Raises ValidationError for a name that is no parameter, and two bounds of a kind at one gate.
        """
        self._type = task_type
        self._defaults = dict(defaults)
        rank: list[type] = list(KINDS)
        self.specs: Sequence[Spec] = sorted(specs, key=lambda spec: (spec.key is None, rank.index(spec.__class__)))
        """What was declared, in the order in which the gates are passed: those with a key before those of all tasks."""
        labels: set[tuple[str, str]] = set()
        for spec in self.specs:
            kind = KINDS[spec.__class__]
            for field, of in (("key", spec.key), ("weight", getattr(spec, "weight", None))):
                if isinstance(of, str) and accepted is not None and of not in accepted:
                    raise _no_parameter(f"{kind}: {field}", of, task_type, accepted)
            if (label := (kind, self.label(spec))) in labels:
                raise ValidationError(
                    f"{kind}: {task_type} has two for {label[1].rstrip(':')!r}; give one of them another name"
                )
            labels.add(label)

    def label(self, spec: Spec) -> str:
        """Return the name of its gate; with a colon if there is one for each value of the key."""
        if spec.key is None:
            return spec.name or self._type
        return f"{spec.name or (spec.key if isinstance(spec.key, str) else self._type)}:"

    def declared(self) -> dict[str, list[Spec]]:
        """Return what is declared for each gate, without what each task type may choose, in the order of the gates."""
        found: dict[str, list[Spec]] = {}
        for spec in self.specs:
            same: dict[str, Any] = {"key": "any", "name": None} | ({"weight": 1} if isinstance(spec, Rate) else {})
            found.setdefault(self.label(spec), []).append(replace(spec, **same))
        return found

    @property
    def labels(self) -> list[str]:
        """The names of the gates; see ``label``."""
        return list(dict.fromkeys(map(self.label, self.specs)))

    def bounds_of(self, key: str) -> Bounds | None:
        """Return what is declared for a gate; None if it is no gate of the type, or its bounds depend on the params."""
        specs = [spec for spec in self.specs if names_gate(self.label(spec), key)]
        if any(isinstance(spec, Fair) and _is_evaluated(spec.weight) for spec in specs):
            return None
        return functools.reduce(_both, [spec.bounds(_no_params) for spec in specs]) if specs else None

    def gated(self, task: Task) -> Task:
        """Return the task with its gates, parked at the first; as it is if it has none. Raises ValidationError."""
        flow = self.flow(task.params)
        return task if flow is None else parked(replace(task, flow=flow), task.run_at)

    def flow(self, params: Mapping[str, Any]) -> Flow | None:
        """Return the gates of a task with these params, as they are stored, and its weights; None if it has none.

        Raises ValidationError for a key or weight that cannot be one.
        """
        given = {**self._defaults, **params}

        def value(field: str, of: Of) -> Any:
            if isinstance(of, str):
                if of not in given:
                    raise ValidationError(f"{field}: {of!r} is not among the params of {self._type}")
                return given[of]
            try:
                return of(dict(given))
            except Exception as error:
                raise ValidationError(
                    f"{field}: its function raised {error.__class__.__name__}: {error}; "
                    "it is given the params as they are stored, a dict of JSON values"
                ) from error

        gates: dict[str, Bounds] = {}
        weights: dict[str, int] = {}
        for spec in self.specs:
            kind, key = KINDS[spec.__class__], self.label(spec)
            if spec.key is not None:
                if (found := value(f"{kind}: key", spec.key)) is None:
                    continue
                key = _printable(f"{kind}: key", f"{key}{_text(kind, found)}")
            bounds = spec.bounds(value)
            if isinstance(spec, Rate):
                weights[key] = _tokens(spec.weight, value)
                _check_tokens("rate: weight", weights[key], spec.interval)
                spec.check_weight(weights[key])
            gates[key] = _both(gates[key], bounds) if key in gates else bounds
        if not gates:
            return None
        if len(set(weights.values())) == 1:
            return Flow(gates=tuple(gates.items()), weight=next(iter(weights.values())))
        return Flow(gates=tuple(gates.items()), weights=tuple((key, n) for key, n in weights.items() if n != 1))


def names_gate(label: str, key: str) -> bool:
    """Return whether the gate with this key is the one of a label, or one of those for each value of its key."""
    return len(key) > len(label) and key.startswith(label) if label.endswith(":") else key == label


def _no_params(field: str, of: Of) -> Any:
    raise AssertionError(f"{field} needs params")  # pragma: no cover - its callers leave out what does


def specs_of(limit: object = None, rate: object = None, fair: object = None) -> tuple[Spec, ...]:
    """Return what these options declare: each is one or a list of several; a text as ``fair`` is its key.

    Raises ValidationError for another type.
    """
    found: list[Any] = []
    for kind, name in KINDS.items():
        given = {"limit": limit, "rate": rate, "fair": fair}[name]
        for each in given if isinstance(given, list | tuple) else () if given is None else (given,):
            if kind is Fair and _is_evaluated(each):
                found.append(Fair(each))
            elif isinstance(each, kind):
                found.append(each)
            elif place := next((other for other_kind, other in KINDS.items() if isinstance(each, other_kind)), None):
                raise ValidationError(f"{name}: a {type(each).__name__} is given as {place}=")
            else:
                example = {"limit": "Limit(5)", "rate": "Rate(100, per=60)", "fair": 'Fair("tenant")'}[name]
                raise ValidationError(f"{name}: {example} or a list of such is needed (got {shown(each)})")
    return tuple(found)


def check_shared(type: str, gating: Gating, others: Iterable[tuple[str, Gating]]) -> None:
    """Raise ValidationError if a gate that task types share is declared differently, or passed in another order.

    With different bounds the latest push would change those of the other type; in another order two tasks could hold
    the slots for which the other one waits.
    """
    mine = gating.declared()
    behind: dict[str, dict[str, str]] = {}
    _note_order(behind, type, list(mine))
    for other, theirs in others:
        declared = theirs.declared()
        for name in mine.keys() & declared.keys():
            if mine[name] != declared[name]:
                raise ValidationError(
                    f"{type}: the limit {name.rstrip(':')!r} is shared with {other}, which declares it differently; "
                    "declare it alike, or give one of them another name"
                )
        _note_order(behind, other, list(declared))
    try:
        graphlib.TopologicalSorter(behind).prepare()
    except graphlib.CycleError as error:
        steps = "; ".join(
            f"{behind[first][second]}: {first.rstrip(':')!r} → {second.rstrip(':')!r}"
            for second, first in reversed([*pairwise(error.args[1])])
        )
        raise ValidationError(
            f"{type}: shared limits would be passed in a circle ({steps}); list shared limits in the same order"
        ) from None


def _note_order(behind: dict[str, dict[str, str]], type: str, names: Sequence[str]) -> None:
    """Note of each gate those that are next, and a task type of which that is so."""
    for first, second in pairwise(names):
        behind.setdefault(first, {}).setdefault(second, type)


def _is_evaluated(of: object) -> bool:
    return isinstance(of, str) or callable(of)


def _check_gate(kind: str, key: object, name: object, max_waiting: object) -> None:
    if key is not None and not callable(key):
        check_key(f"{kind}: key", key, MAX_NAME)
    if name is not None:
        _printable(f"{kind}: name", check_key(f"{kind}: name", name, MAX_NAME))
    if max_waiting is not None:
        check_int(f"{kind}: max_waiting", max_waiting, 0)


def _check_tokens(field: str, tokens: int, interval: int) -> None:
    if tokens * interval > TEN_YEARS * SECOND:
        raise ValidationError(f"{field}: {tokens} tokens take more than ten years at this rate")


def _tokens(weight: Of | int, value: Callable[[str, Of], Any]) -> int:
    return weight if isinstance(weight, int) else check_int("rate: weight", value("rate: weight", weight), 1)


def _check_share(weight: object) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < INT32:
        raise ValidationError(f"fair: weight: a number above 0 is needed (got {shown(weight)})")
    return float(weight)


def _text(kind: str, value: object) -> str:
    """Return a key as the text of its gate."""
    if isinstance(value, Enum):
        value = value.value
    if not isinstance(value, str | int | float | UUID | Decimal | date):
        raise ValidationError(
            f"{kind}: key: a text or a number is needed (got {value.__class__.__name__}); use a function of the params"
        )
    return str(value)


def _printable(field: str, text: str) -> str:
    if len(text) > MAX_KEY:
        raise ValidationError(f"{field}: {len(text)} characters are more than {MAX_KEY} (starts with {text[:20]!r})")
    if not text.isprintable():
        raise ValidationError(f"{field}: only printable characters are allowed (got {text[:40]!r})")
    return text


def _both(first: Bounds, second: Bounds) -> Bounds:
    """Return the bounds of one gate for which two kinds are declared."""
    fields = {
        name: known if (added := getattr(second, name)) is None else added
        for name, known in msgspec.structs.asdict(first).items()
    }
    fields["burst"] = max(first.burst, second.burst)
    most = [each.max_waiting for each in (first, second) if each.max_waiting is not None]
    return Bounds(**{**fields, "max_waiting": min(most, default=None)})


def _no_parameter(field: str, name: str, type: str, accepted: Collection[str]) -> ValidationError:
    first, *parts = name.split(".")
    if parts and first in accepted:
        path = "".join(f"[{part!r}]" for part in (first, *parts))
        return ValidationError(
            f"{field}: {name!r} is a part of a parameter of {type}(); give a function: lambda params: params{path}"
        )
    known = ", ".join(sorted(accepted)) or "none"
    return ValidationError(f"{field}: {type}() has no parameter {name!r}; there is: {known}{guess(name, accepted)}")

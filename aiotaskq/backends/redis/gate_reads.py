"""What a transaction in Redis reads of gates: ``lua/gates_read.lua`` reads it in one step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from aiotaskq.backends.redis.gate_texts import StateText, StoredGate, read_gate, read_state

LATER = 1_000  # tasks that are released at a time: those that were not due
GROWTH = 4  # how many times as many tasks are read where those that were read did not do


class WaitingRead(NamedTuple):
    """The first tasks that wait at a gate, as they were read."""

    limit: int
    """The most that were read of each queue."""
    is_whole: bool
    """Whether these are all of the queues that are not paused."""
    rows: Sequence[StateText]
    unread: int = 0
    """How many others cannot be read."""


class LaterRead(NamedTuple):
    """The tasks at a gate that were not due and are."""

    now: int
    next_due: int | None
    """When the next one is due."""
    rows: Sequence[StateText]


class GateReads:
    """What was read of gates for a transaction."""

    def __init__(self) -> None:
        self.gates: dict[str, StoredGate] = {}
        self.texts: dict[str, bytes | None] = {}
        """Those of the gates, which the commit compares."""
        self.waiting: dict[str, WaitingRead] = {}
        self.later: dict[str, LaterRead] = {}
        self.holders: dict[str, Sequence[StateText]] = {}
        self.lost: dict[str, Sequence[str]] = {}
        """Of the gates with holders, the ids that hold a slot and have no row with a flow."""
        self.counted: dict[str, tuple[int, int]] = {}
        """How many tasks hold a slot and wait, by the index."""
        self.paused: list[str] | None = None
        self.states: dict[str, StateText] = {}
        """By id."""

    def wanted_again(self) -> Wanted:
        """Return what reads the same again."""
        return Wanted(
            gates=list(self.gates),
            waiting={key: read.limit for key, read in self.waiting.items()},
            later={key: read.now for key, read in self.later.items()},
            holders=list(self.holders),
            counted=list(self.counted),
            paused=self.paused is not None,
        )


class Wanted(msgspec.Struct):
    """What is to be read of gates."""

    gates: Collection[str] = ()
    waiting: Mapping[str, int] = {}
    """By gate, how many of the tasks that wait there."""
    later: Mapping[str, int] = {}
    """By gate, when what was not due is due by now."""
    holders: Collection[str] = ()
    counted: Collection[str] = ()
    paused: bool = False

    def beside(self, known: GateReads) -> Wanted | None:
        """Return what of this was not read yet, None if all was."""
        gates = [key for key in self.gates if key not in known.gates]
        waiting, later = {}, {}
        for key, limit in self.waiting.items():
            read = known.waiting.get(key)
            if read is None or (read.limit < limit and not read.is_whole):
                waiting[key] = limit if read is None else max(limit, GROWTH * read.limit)
        for key, now in self.later.items():
            found = known.later.get(key)
            if found is None or found.now < now:
                later[key] = now
        holders = [key for key in self.holders if key not in known.holders]
        counted = [key for key in self.counted if key not in known.counted]
        paused = self.paused and known.paused is None
        if not (gates or waiting or later or holders or counted or paused):
            return None
        return Wanted(gates, waiting, later, holders, counted, paused)

    def words(self) -> dict[str, list[Any]]:
        """Return it for ``lua/gates_read.lua``."""
        return {
            "gates": list(self.gates),
            "waiting": [word for pair in self.waiting.items() for word in pair],
            "later": [word for key, now in self.later.items() for word in (key, str(now), LATER)],
            "holders": list(self.holders),
            "counted": list(self.counted),
        }

    def read(self, answer: Sequence[Any], into: GateReads) -> None:
        """Take what ``lua/gates_read.lua`` has answered."""
        gates, waiting, later, holders, counted, paused = answer
        for key, text in zip(self.gates, gates, strict=True):
            into.gates[key] = read_gate(key, text)
            into.texts[key] = None if text.startswith(b"-") else text
        for (key, limit), (is_whole, words) in zip(self.waiting.items(), waiting, strict=True):
            rows, lost = self._rows(words, into)
            into.waiting[key] = WaitingRead(limit, is_whole == 1, rows, len(lost))
        for (key, now), (next_due, words) in zip(self.later.items(), later, strict=True):
            at = None if next_due is None else int(float(next_due))
            into.later[key] = LaterRead(now, at, self._rows(words, into)[0])
        for key, words in zip(self.holders, holders, strict=True):
            into.holders[key], into.lost[key] = self._rows(words, into)
        for key, words in zip(self.counted, counted, strict=True):
            held, waits = words.split(b" ")
            into.counted[key] = int(held), int(waits)
        into.paused = [name.decode() for name in paused]

    def _rows(self, words: Sequence[bytes], into: GateReads) -> tuple[list[StateText], list[str]]:
        found, lost = [], []
        pieces = iter(words)
        for name, text in zip(pieces, pieces, strict=True):
            task_id = name.decode(errors="backslashreplace")
            row = into.states.get(task_id) or read_state(task_id, text)  # the first one counts: it is compared
            if row is None:
                lost.append(task_id)
            else:
                into.states[task_id] = row
                found.append(row)
        return found, lost

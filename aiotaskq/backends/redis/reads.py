"""What a transaction in Redis has read, and the digests of the texts that its commit compares."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.rows import (
    DAMAGED,
    HEAD,
    Place,
    members,
    number,
    owner_word,
    pack,
    to_tasks_or_none,
    to_text,
)
from aiotaskq.backends.workers import Held
from aiotaskq.core.gate import Flow, Gate
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.status import FINAL, PENDING, RUNNING, Status
from aiotaskq.core.tags import labels
from aiotaskq.core.task import Task
from aiotaskq.log import log

FEW = 5_000  # running rows, or rows with a tag, that are sorted here
READ = 1_000  # rows in one answer of a script: the server runs no other command meanwhile
LATER = 1_000  # tasks that are released at a time: those that were not due
GROWTH = 4  # how many times as many rows are read where those that were read did not do

_OF_GATES = ("gates", "holders", "counted", "waiting", "later", "paused")
"""What ``lua/gates_read.lua`` reads, all in one step."""
_AFTERWARDS = ("answers", "heads")
"""What the commit does not compare, and what is read behind the rest."""
_STATUSES = {str(status).encode(): status for status in Status}
_place = msgspec.json.Decoder(Place).decode
_group = msgspec.json.Decoder(GroupState).decode
_member = msgspec.json.Decoder(tuple[str, str | None, bool]).decode


class StoredGate(msgspec.Struct, array_like=True):
    """A gate as it is stored. Each transaction that changes it, or what waits there, writes it with a new version."""

    version: int
    held: int
    """The number of the tasks that hold a slot."""
    waiting: int
    gate: Gate | None
    """None where there is none; then the version is 0."""


_stored_gate = msgspec.json.Decoder(StoredGate).decode


@functools.lru_cache(4_000)
def _flow_of(text: bytes) -> Flow:
    """Return the flow of a task with gates; most tasks at a gate have the same."""
    try:
        return msgspec.json.decode(text, type=Flow)
    except DAMAGED:
        return Flow()  # it is told where the row is read as a whole


class StateText:
    """The state of a row with a flow, and its task without what it does not need to pass gates."""

    __slots__ = ("_flow", "_head", "_json_at", "_place_at", "task", "text")

    def __init__(self, task_id: str, text: bytes) -> None:
        """Raises ValueError for a text that has no flow, or cannot be read."""
        head = HEAD(text)
        if head is None or head[11] == b"0":
            raise ValueError("the row has no flow")
        names_at = head.end() + int(head[9])
        self._place_at = names_at + int(head[10])
        self._json_at = self._place_at + int(head[11])
        try:
            place = _place(b"{%b}" % text[self._place_at + 1 :])
        except DAMAGED:  # it passes nevertheless
            place = _place(b"{%b}" % text[self._place_at + 1 : self._json_at])
        priority, _, queue = text[head.end() : names_at].partition(b":")
        self.text, self._head, self._flow = text, head, place.flow
        self.task = Task(
            task_id=task_id,
            type="",
            status=_STATUSES[head[1]],
            priority=int(priority),
            began_at=place.began_at,
            fence=int(head[2]),
            queue=queue.decode(),
            run_at=int(head[7]),
            seq=int(head[6]),
            expires_at=None if head[5] == b"-" else int(head[5]),
            due_at=place.due_at,
            gate=place.gate,
            flow=_flow_of(bytes(place.flow)),
            waits=place.waits,
        )

    def at(self, after: Task) -> bytes:
        """Return the text of the row where it is at another place."""
        head, text = self._head, self.text
        place = members(Place(after.waits, after.due_at, after.gate, self._flow)).encode()
        return b"%b%d%b%d %b%b%b" % (
            *(text[: head.start(7)], after.run_at, text[head.end(7) : head.start(11)], len(place)),
            *(text[head.end() : self._place_at], place, text[self._json_at :]),
        )


def read_state(task_id: str, text: bytes) -> StateText | None:
    """Return the state of a row, None if there is none, or none with a flow."""
    try:
        return StateText(task_id, text) if text else None
    except (*DAMAGED, KeyError):
        return None


class Unread(Exception):
    """What a transaction needs is not read yet."""

    def __init__(self, names: Mapping[str, Mapping[Any, Any]]) -> None:
        """``names``: by kind, as ``Reads.missing`` returns them."""
        super().__init__()
        self.names = names


class WaitingRead(NamedTuple):
    """The first tasks that wait at a gate, as they were read."""

    limit: int
    """The most that were read of each queue."""
    is_whole: bool
    """Whether these are all of the queues that are not paused."""
    rows: Sequence[StateText]
    unread: int = 0
    """How many others cannot be read."""


NOTHING = WaitingRead(0, True, ())


class LaterRead(NamedTuple):
    """The tasks at a gate that were not due and are."""

    now: int
    next_due: int | None
    """When the next one is due."""
    rows: Sequence[StateText]


class Reads:
    """What was read for a transaction, by kind and name, and the digests of its texts.

    A kind is one of ``_OF_GATES``, has a method of its own here, or is a hash, of which the names are fields. Of gates
    there are by key, beside their ``StoredGate``: ``waiting`` and ``later``, as above; ``holders``, the rows that hold
    a slot and the ids that do and have no row with a flow; ``counted``, how many hold a slot and wait, by the index.
    ``paused`` has the paused queues under the name "". ``answers`` has those of commands that read, as ``many`` takes
    them, and ``heads`` what ``read_heads`` returns; the commit compares neither.
    """

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis
        self.found: dict[str, dict[Any, Any]] = {}
        self.digests: dict[str, dict[str, str]] = {}
        """By key and field; those of rows count where a transaction asks for them. Of gates the texts themselves."""
        self.states: dict[str, StateText] = {}
        """The rows of tasks at gates, by id."""

    def missing(self, kind: str, names: Collection[Any]) -> dict[Any, Any]:
        """Return what of these names is not read yet.

        What waits is a mapping to how many of it are wanted, and what is due ``later`` to when that is due by now.
        """
        known = self.found.get(kind, {})
        if not isinstance(names, Mapping) or kind not in ("waiting", "later"):
            return {name: None for name in names if name not in known}
        if kind == "later":
            return {key: now for key, now in names.items() if key not in known or known[key].now < now}
        found = {}
        for key, limit in names.items():
            read = known.get(key)
            if read is None or (read.limit < limit and not read.is_whole):
                found[key] = limit if read is None else max(limit, GROWTH * read.limit)
        return found

    async def fetch(self, names: Mapping[str, Mapping[Any, Any]]) -> None:
        """Read these names, by kind; first what the commit compares, since the rest must be no older."""
        if of_gates := {kind: found for kind, found in names.items() if kind in _OF_GATES}:
            await self._read_gates(of_gates)
        others = [(kind, [*found]) for kind, found in names.items() if kind not in _OF_GATES]
        parts = [(kind, found[at : at + READ]) for kind, found in others for at in range(0, len(found), READ)]
        for compared in (True, False):
            now = [(kind, part) for kind, part in parts if (kind not in _AFTERWARDS) == compared]
            await asyncio.gather(*(getattr(self, f"_read_{kind}", self._read_fields)(kind, part) for kind, part in now))

    async def again(self) -> None:
        """Read all of it again."""
        names: dict[str, dict[Any, Any]] = {kind: dict.fromkeys(found) for kind, found in self.found.items()}
        for kind in names.keys() & {"waiting", "later"}:
            names[kind] = {key: read[0] for key, read in self.found[kind].items()}
        self.found, self.digests, self.states = {}, {}, {}
        await self.fetch(names)

    def _note(self, kind: str, names: Iterable[Any], values: Iterable[Any]) -> None:
        self.found.setdefault(kind, {}).update(zip(names, values, strict=True))

    async def _texts(self, key: str, names: Sequence[str]) -> list[bytes | None]:
        texts: list[bytes | None] = await self._redis.command("HMGET", self._redis.root + key, *names)
        self._compare(key, names, map(digest, texts))
        return texts

    def _compare(self, key: str, names: Iterable[str], digests: Iterable[str]) -> None:
        known = self.digests.setdefault(key, {})
        for name, each in zip(names, digests, strict=True):
            known.setdefault(name, each)  # if it was read twice, and has changed, the commit must not hold

    async def _read_gates(self, names: Mapping[str, Mapping[Any, Any]]) -> None:
        gates, holders, counted, waiting, later = (names.get(kind, {}) for kind in _OF_GATES[:-1])
        given = {
            "gates": list(gates),
            "waiting": [word for pair in waiting.items() for word in pair],
            "later": [word for key, now in later.items() for word in (key, str(now), LATER)],
            "holders": list(holders),
            "counted": list(counted),
        }
        texts, first, due, held, counts, paused = await self._redis.run("gates_read", pack(given))
        stored = list(map(_stored_gate, texts))
        self._note("gates", gates, stored)
        # They are short: compared as they are.
        self._compare(
            "gates", gates, (text.decode() if row.gate else "" for row, text in zip(stored, texts, strict=True))
        )
        for (key, limit), (is_whole, words) in zip(waiting.items(), first, strict=True):
            rows, lost = self._rows(words)
            self._note("waiting", [key], [WaitingRead(limit, is_whole == 1, rows, len(lost))])
        for (key, now), (next_due, words) in zip(later.items(), due, strict=True):
            self._note("later", [key], [LaterRead(now, number(next_due), self._rows(words)[0])])
        self._note("holders", holders, map(self._rows, held))
        self._note("counted", counted, (tuple(map(int, words.split(b","))) for words in counts))
        self._note("paused", [""], [[name.decode() for name in paused]])

    def _rows(self, words: Sequence[bytes]) -> tuple[list[StateText], list[str]]:
        """Return the rows with these ids and states, and the ids of those that cannot be read."""
        found, lost = [], []
        pieces = iter(words)
        for name, text in zip(pieces, pieces, strict=True):
            task_id = to_text(name)
            row = self.states.get(task_id) or read_state(task_id, text)  # the first one counts: it is compared
            if row is None:
                lost.append(task_id)
            else:
                self.states[task_id] = row
                found.append(row)
        return found, lost

    async def _read_tasks(self, _kind: str, ids: Sequence[str]) -> None:
        rows, digests = await self._redis.run("read", *ids)
        texts = [digest.decode() for digest in digests]
        self._compare("state", ids, texts[::2])
        self._compare("usage", ids, texts[1::2])
        self._note("tasks", ids, to_tasks_or_none(rows, with_head=True))

    async def _read_groups(self, _kind: str, ids: Sequence[str]) -> None:
        texts, callbacks = await asyncio.gather(self._texts("groups", ids), self._texts("groups:then", ids))
        self._note("groups", ids, map(to_group, ids, texts, callbacks))

    async def _read_fields(self, key: str, names: Sequence[str]) -> None:
        self._note(key, names, await self._texts(key, names))

    async def _read_last(self, _kind: str, places: Sequence[str]) -> None:
        found = await many(self._redis, (("ZRANGE", f"names:{place}", "-1", "-1") for place in places))
        self._compare("last", places, (digest(names[0] if names else None) for names in found))
        self._note("last", places, (to_text(names[0]) if names else None for names in found))

    async def _read_heads(self, _kind: str, ids: Sequence[str]) -> None:
        self._note("heads", ids, await read_heads(self._redis, ids))

    async def _read_answers(self, _kind: str, commands: Sequence[tuple[str, ...]]) -> None:
        self._note("answers", commands, await many(self._redis, commands))


class Newest:
    """Walks over the stamps of the rows with some statuses, the newest push first."""

    def __init__(self, redis: RedisConnections, statuses: Collection[Status]) -> None:
        self._redis = redis
        self._keys = [f"is:{status}" for status in statuses if status in FINAL]
        self._live = {PENDING, RUNNING}.intersection(statuses)
        self._running: list[bytes] | None = None  # if they are few; a walk over all live rows finds more of them soon
        self._tagged: list[bytes] | None = None
        self.last: bytes | None = None
        """The stamp behind which the next page begins."""

    async def keep_tagged(self, tags: Mapping[str, str]) -> None:
        """Walk only over what has these tags, if that is little."""
        sets = [f"tagged:{name}" for name in labels(tags)]
        if min(await many(self._redis, [("SCARD", key) for key in sets])) <= FEW:
            ids = await self._redis.command("SINTER", *(self._redis.root + key for key in sets))
            heads = zip(ids, await read_heads(self._redis, ids), strict=True)
            self._tagged = sorted((b"%020d%b" % (int(head[6]), each) for each, head in heads if head), reverse=True)

    async def page(self, count: int) -> list[bytes]:
        """Return the next stamps, up to so many."""
        if self._tagged is not None:
            found = (stamp for stamp in self._tagged if self.last is None or stamp < self.last)
            return list(itertools.islice(found, count))
        keys = [*self._keys, *(["is:live"] if self._live and self._running is None else [])]
        if self._live == {RUNNING} and self._running is None:
            held, leased = await many(self._redis, [("ZRANGE", key, "0", str(FEW)) for key in ("held", "leased")])
            if len(held) <= FEW and len(leased) <= FEW:
                self._running = [*(member.partition(b" ")[2] for member in held), *leased]
                keys = self._keys
        stamps = await newest_stamps(self._redis, keys, self.last, count)
        stamps += [stamp for stamp in self._running or () if self.last is None or stamp < self.last]
        return sorted(stamps, reverse=True)[:count]


async def having(redis: RedisConnections, ids: Sequence[str], tags: Mapping[str, str]) -> Sequence[str]:
    """Return those of these ids of tasks that have these tags."""
    if not (ids and tags):
        return ids
    flags = await many(redis, [("SMISMEMBER", f"tagged:{name}", *ids) for name in labels(tags)])
    return [task_id for task_id, *each in zip(ids, *flags, strict=True) if all(each)]


async def newest_stamps(redis: RedisConnections, keys: Iterable[str], last: bytes | None, count: int) -> list[bytes]:
    """Return up to so many members of these sorted sets, whose scores are 0, the last first, and behind ``last``."""
    bound = "+" if last is None else f"({to_text(last)}"
    commands = [("ZREVRANGEBYLEX", key, bound, "-", "LIMIT", "0", str(count)) for key in keys]
    stamps = {stamp for part in await many(redis, commands) for stamp in part}
    return sorted(stamps, reverse=True)[:count]


async def many(redis: RedisConnections, commands: Iterable[Sequence[str]]) -> list[Any]:
    """Run commands that read in one step; their keys are without the prefix."""
    found: list[Any] = await redis.run("read_many", pack([*commands]))
    return found


async def read_heads(redis: RedisConnections, ids: Sequence[str | bytes]) -> list[re.Match[bytes] | None]:
    """Return the words of the head of each of these rows; None where there is none, or it cannot be read."""
    texts = await redis.command("HMGET", f"{redis.root}state", *ids) if ids else ()
    return [HEAD(text or b"") for text in texts]


async def read_held(redis: RedisConnections, owner: str) -> list[Held]:
    """Return what ``Backend.held`` does of one worker."""
    found: list[Held] = []
    word = owner_word(owner).encode()
    first = b"[%b " % word
    while True:
        words = (first, b"(%b!" % word, "BYLEX", "LIMIT", 0, READ)
        members = await redis.command("ZRANGE", f"{redis.root}held", *words)
        ids = [member[len(word) + 21 :] for member in members]
        for task_id, head in zip(ids, await read_heads(redis, ids), strict=True):
            if head is not None and head[1] == b"running" and head[4].partition(b"!")[0] == b"@" + word:
                found.append((task_id.decode(), int(head[2]), head[3] == b"1"))
        if len(members) < READ:
            return found
        first = b"(" + members[-1]


def digest(text: bytes | None) -> str:
    return "" if text is None else hashlib.sha1(text, usedforsecurity=False).hexdigest()


def to_group(group_id: str, text: bytes | None, callbacks: bytes | None) -> GroupState | None:
    """Return the group with these texts; None where there is none, or it cannot be read: that is logged, and it stays.

    The other groups, and the tasks in it, go on.
    """
    try:
        return None if text is None else _group(b"%b,%b" % (text[:-1], callbacks[1:]) if callbacks else text)
    except DAMAGED as error:
        log.error("group {} cannot be read: {}", group_id, error)
        return None


def to_members(group_id: str, texts: Iterable[bytes], start: int = 0) -> list[Member]:
    """Return the members of a group with these texts, of which the first has the position ``start``."""
    return [
        Member(group_id=group_id, position=position, member_id=member_id, name=name, is_group=is_group)
        for position, (member_id, name, is_group) in enumerate(map(_member, texts), start)
    ]


def postings_of(group: GroupState | None) -> dict[tuple[str, str], int]:
    """Return the entries of a group in sorted sets: their scores by key and member."""
    if group is None:
        return {}
    live, outer = group.ended_at is None, group.parent_id is None
    found = {(f"groups:{'live' if live else 'ended'}", stamp_of(group)): 0}
    if group.ended_at is not None and outer and not group.needed_by:
        found["groups:done", group.group_id] = group.ended_at
    if live and group.cancel_requested:
        found["groups:cancelling", group.group_id] = 0
    return found


def stamp_of(group: GroupState) -> str:
    """Return the member of a group in ``groups:live`` and ``groups:ended``."""
    return f"{group.created_at:020d}{group.group_id}"

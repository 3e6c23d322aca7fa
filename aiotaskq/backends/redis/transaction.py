"""Transactions in Redis: a function reads rows and decides, and one script writes what it has decided.

The function is plain, and changes nothing but its ``RedisTransaction``, so it may run several times. It is left where
it reads what is not known yet; that is read, and the function runs again. The script, ``lua/commit.lua``, compares the
digests of all that was read, also of what is missing, and writes nothing if one has changed: then the function runs
again on fresh reads. After a conflict it waits for others of this process that met one there, and after ``OPTIMISTIC``
conflicts for those of other processes: with a lock in Redis. The locks only save attempts, and may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec
from msgspec.structs import replace

from aiotaskq.backends.base import Change, Room, holds
from aiotaskq.backends.flow.groups import again, concerns, follow, follow_deletes, is_tied, parents_first, waits_again
from aiotaskq.backends.flow.touched import USED_UP, Followed
from aiotaskq.backends.flow.transaction import Rows
from aiotaskq.backends.listeners import ENDED, GATES, READY, Listeners
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.rows import changed_rows, new_rows, pack, to_tasks_or_none
from aiotaskq.core.errors import gate_full, queue_full
from aiotaskq.core.gate import Gate
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.notes import MAX_NOTES, MAX_SIZE
from aiotaskq.core.task import Task
from aiotaskq.core.usage import Usage, budget_gate

T = TypeVar("T")
Message = Callable[[Mapping[str, Sequence[str]]], bytes]
Messages = Callable[[Sequence[Task], int], list[Task]]

READ = 1_000  # rows in one answer of a script: the server runs no other command meanwhile
OPTIMISTIC = 3
LOCKED_FOR = 1_000  # milliseconds; then the lock of a process that was killed is free
LOOK_AGAIN = (0.001, 0.02)  # seconds between two attempts to lock

_encode = msgspec.json.Encoder().encode
_group = msgspec.json.Decoder(GroupState).decode
_callbacks = msgspec.json.Decoder(tuple[Task | None, Task | None]).decode
_member = msgspec.json.Decoder(tuple[str, str | None, bool]).decode
_ids = msgspec.json.Decoder(list[str]).decode


class _Unread(Exception):
    """What a transaction needs is not read yet."""

    def __init__(self, names: Mapping[str, Collection[str]]) -> None:
        """``names``: by kind, which is the name of a method of ``Reads``."""
        super().__init__()
        self.names = names


class Reads:
    """What was read for a transaction, by kind and name, and the digests of its texts."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis
        self.found: dict[str, dict[str, Any]] = {}
        self.digests: dict[str, dict[str, str]] = {}
        """By key and field; those of rows count where a transaction asks for them."""

    async def fetch(self, names: Mapping[str, Collection[str]]) -> None:
        """Read these names, by kind; first what the commit compares, since the rest must be no older."""
        parts = [(kind, [*found][at : at + READ]) for kind, found in names.items() for at in range(0, len(found), READ)]
        for compared in (True, False):
            now = [(kind, part) for kind, part in parts if (kind in ("tasks", "groups")) == compared]
            await asyncio.gather(*(getattr(self, f"_read_{kind}")(part) for kind, part in now))

    async def again(self) -> None:
        """Read all of it again."""
        names = {kind: [*found] for kind, found in self.found.items()}
        self.found, self.digests = {}, {}
        await self.fetch(names)

    def _note(self, kind: str, names: Sequence[str], values: Iterable[Any]) -> None:
        self.found.setdefault(kind, {}).update(zip(names, values, strict=True))

    async def _texts(self, key: str, names: Sequence[str], compared: bool = True) -> list[bytes | None]:
        texts: list[bytes | None] = await self._redis.command("HMGET", self._redis.root + key, *names)
        if compared:
            self.digests.setdefault(key, {}).update(zip(names, map(_digest, texts), strict=True))
        return texts

    async def _read_tasks(self, ids: Sequence[str]) -> None:
        rows, digests = await self._redis.run(scripts.READ, *ids)
        texts = [digest.decode() for digest in digests]
        self.digests.setdefault("state", {}).update(zip(ids, texts[::2], strict=True))
        self.digests.setdefault("usage", {}).update(zip(ids, texts[1::2], strict=True))
        self._note("tasks", ids, to_tasks_or_none(rows))

    async def _read_groups(self, ids: Sequence[str]) -> None:
        texts, callbacks = await asyncio.gather(self._texts("groups", ids), self._texts("groups:then", ids))
        self._note("groups", ids, map(to_group, ids, texts, callbacks))

    async def _read_inner(self, ids: Sequence[str]) -> None:
        texts = await self._texts("groups:inner", ids, compared=False)
        self._note("inner", ids, (_ids(text) if text else [] for text in texts))

    async def _read_members(self, ids: Sequence[str]) -> None:
        for group_id in ids:
            texts = await self._redis.command("LRANGE", f"{self._redis.root}members:{group_id}", 0, -1)
            self._note("members", [group_id], [to_members(group_id, texts)])

    async def _read_statuses(self, ids: Sequence[str]) -> None:
        texts = await self._texts("state", ids, compared=False)
        self._note("statuses", ids, (text and text.partition(b" ")[0].decode() for text in texts))


class RedisTransaction(Rows):
    """The rows of one run of a function; the gates that it touches are admitted by the script."""

    def __init__(self, reads: Reads, messages: Messages, refused: Container[int]) -> None:
        """``refused``: which of the changes of ``update`` do not hold, since the script has said so."""
        self._reads, self.messages, self._refused = reads, messages, refused
        self._looked = 0  # how many changes of `update` were looked at
        self.updates: dict[int, int] = {}
        """Which changes of ``update`` those that the script gets are, by their places there."""
        self._compared: dict[str, set[str]] = {"state": set(), "usage": set()}
        self._tasks: dict[str, Task | None] = {}  # as they were written
        self._groups: dict[str, GroupState | None] = {}  # the same
        self._deleted: list[str] = []
        self._changes: list[Change] = []
        self._pushed: list[Task] = []
        self._inserted: list[Task] = []
        self._members: dict[str, list[Member]] = {}
        self._usage: dict[str, Usage] = {}
        self._bounded: set[str] = set()  # tasks that are refused where too many would wait at a gate
        self._notes: list[Any] = []
        self._ends: list[tuple[Task, Task]] = []  # from which something follows
        self.room: Room | None = None

    def need(self, **names: Collection[str]) -> None:
        """Read what of this is not read yet: names by kind."""
        known = self._reads.found
        unread = {kind: dict.fromkeys(each).keys() - known.get(kind, {}).keys() for kind, each in names.items()}
        if any(unread.values()):
            raise _Unread({kind: sorted(each) for kind, each in unread.items() if each})

    def _read(self, kind: str, names: Collection[str]) -> dict[str, Any]:
        self.need(**{kind: names})
        found = self._reads.found.get(kind, {})
        return {name: found[name] for name in names}

    # ---- as the rows of a transaction ----

    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        self._compared["state"].update(ids)
        return self.look(ids)

    def look(self, ids: Sequence[str]) -> dict[str, Task]:
        """Read tasks whose changes until the commit do not matter."""
        found = {**self._read("tasks", ids), **{each: self._tasks[each] for each in ids if each in self._tasks}}
        return {task_id: task for task_id, task in found.items() if task is not None}

    def statuses(self, ids: Sequence[str]) -> dict[str, str | None]:
        """Read the statuses of tasks, None where there is none; their changes until the commit do not matter."""
        return self._read("statuses", ids)

    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        for before, after in changes:
            self._write(Change(before, after))

    def _write(self, change: Change) -> None:
        self._changes.append(change)
        self._tasks[change.after.task_id] = change.after

    def groups(self, ids: Sequence[str]) -> dict[str, GroupState]:
        found = {**self._read("groups", ids), **{each: self._groups[each] for each in ids if each in self._groups}}
        return {group_id: group for group_id, group in found.items() if group is not None}

    def add_groups(self, groups: Sequence[GroupState], members: Sequence[Member]) -> bool:
        if self.groups([group.group_id for group in groups]).get(groups[0].group_id) is not None:
            return False
        self.add_members(members)
        self.write_groups(groups)
        return True

    def write_groups(self, groups: Sequence[GroupState]) -> None:
        self._groups.update({group.group_id: group for group in groups})

    def drop(self, ids: Sequence[str]) -> None:
        """Delete groups that were read."""
        self._groups.update(dict.fromkeys(ids))

    def check_push(self, tasks: Sequence[Task]) -> None:
        self._bounded.update(task.task_id for task in tasks)  # by the script

    def insert(self, tasks: Sequence[Task]) -> Sequence[Task]:
        for task in tasks:
            (self._pushed if task.task_id in self._bounded else self._inserted).append(task)
        return tasks

    def existing(self, ids: Sequence[str]) -> Collection[str]:
        return self.tasks(ids).keys()

    def add_members(self, members: Sequence[Member]) -> None:
        for member in members:
            self._members.setdefault(member.group_id, []).append(member)

    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        return [each for inner in self._read("inner", ids).values() for each in inner]

    def members(self, ids: Sequence[str]) -> dict[str, list[Member]]:
        """Read all members of groups that are there."""
        return self._read("members", ids)

    def add_gates(self, gates: Sequence[Gate]) -> None:
        pass  # the script makes those that it closes

    # ---- what the verbs of the backend do ----

    def update(self, changes: Sequence[Change]) -> list[bool]:
        """Do as ``Backend.update``, and what follows."""
        tied = [change.before for change in changes if change.before.flow is not None and is_tied(change.before)]
        flows = [task.flow for task in tied if task.flow is not None]
        self.need(
            tasks=[*(change.before.task_id for change in changes), *(i for flow in flows for i, _ in flow.children)],
            groups=[group_id for flow in flows if (group_id := flow.group or flow.source)],
        )
        return parents_first(changes, self._update)

    def _update(self, changes: Sequence[Change]) -> list[bool]:
        held = []
        for change in changes:
            before, after = change.before, change.after
            row = self.tasks([before.task_id]).get(before.task_id)
            self._looked += 1
            held.append(row is not None and holds(row, change) and self._looked not in self._refused)
            if row is None or not held[-1]:
                continue
            if row.flow != before.flow:  # the reader knew another row, or could not decode it: the stored flow stays
                after = after.replace(flow=row.flow)
            if waits_again(row, after):
                self._follow()  # it reads what follows from the changes before it
                after = again(self, after)
            self.updates[len(self._changes)] = self._looked
            self._write(replace(change, after=after))
            if concerns(row, after):
                self._ends.append((row, after))
            if row.final and not after.final:
                self._follow()
        self._follow()
        return held

    def delete(self, tasks: Sequence[Task]) -> int:
        """Delete tasks that were read, and do what follows; return how many."""
        for task in tasks:
            self._deleted.append(task.task_id)
            self._tasks[task.task_id] = None
        follow_deletes(self, tasks)
        return len(self._deleted)

    def _follow(self) -> None:
        if self._ends:
            ends, self._ends = self._ends, []
            follow(self, ends)

    def use(self, task: Task, usage: Usage) -> None:
        """Store what a task that was read has used up."""
        self._compared["usage"].add(task.task_id)
        self._usage[task.task_id] = usage

    def note(self, task_id: str, words: Sequence[str]) -> None:
        """Append notes to a task, given as ``lua/include/notes.lua`` takes them."""
        self._notes += (task_id, words, len(words) // 3, MAX_NOTES, MAX_SIZE)

    # ---- the commit ----

    def hints(self) -> dict[str, list[str]]:
        """Return the hints of what it writes, with their names."""
        ended = [change.after.task_id for change in self._changes if change.after.final]
        ended += self.touched.followed.ended_groups
        hints = {ENDED: list(dict.fromkeys(ended))} if ended else {}
        if self._changes or self._deleted or self._pushed or self._inserted or self.touched.changes:
            hints[READY] = []
        return hints

    def words(self) -> list[bytes] | None:
        """Return the arguments of ``lua/commit.lua`` behind the hint; None where nothing is to be written."""
        fields, scores, unlinked = self._group_words()
        for task_id, usage in self._usage.items():
            fields += ("usage", task_id, _text(usage))
        changes = list(changed_rows(self._changes)) if self._changes else []
        pushed = list(new_rows(self._pushed)) if self._pushed else []
        inserted = list(new_rows(self._inserted)) if self._inserted else []
        if not (fields or changes or pushed or inserted or self._deleted or self._notes or self.touched.changes):
            return None
        compared = {
            key: [name for name in found if key not in self._compared or name in self._compared[key]]
            for key, found in self._reads.digests.items()
        }
        digests = self._reads.digests
        head = {
            "checks": [[key, names, [digests[key][name] for name in names]] for key, names in compared.items()],
            "changes": len(changes),
            "refused": len(pushed),
            "deleted": self._deleted,
            "fields": fields,
            "scores": scores,
            "lists": self._member_words(),
            "unlinked": unlinked,
            "notes": self._notes,
            "closed": [key for key, change in self.touched.changes if change is USED_UP],
            "opened": [key for key, change in self.touched.changes if change is not USED_UP],
            "now": str(self.touched.now if self.room is None else self.room.now),
            "maxsize": False if self.room is None else self.room.maxsize,
        }
        return [pack(head), *changes, *pushed, *inserted]

    def _member_words(self) -> list[Any]:
        words: list[Any] = []
        for group_id, members in self._members.items():
            texts = [_text((member.member_id, member.name, member.is_group)) for member in members]
            words += (f"members:{group_id}", texts)
        return words

    def _group_words(self) -> tuple[list[Any], list[Any], list[str]]:
        """Return fields of hashes and members of sorted sets to write, and the keys to unlink."""
        fields: list[Any] = []
        scores: list[Any] = []
        unlinked: list[str] = []
        for group_id, after in self._groups.items():
            before = self._reads.found.get("groups", {}).get(group_id)
            left, entered = _postings(before), _postings(after)
            for key, member in left.keys() - entered.keys():
                scores += (key, member, False)
            for (key, member), score in entered.items():
                if left.get((key, member)) != score:
                    scores += (key, member, score)
            if after is None:
                unlinked.append(f"members:{group_id}")
                for key in ("groups", "groups:then", "groups:inner"):
                    fields += (key, group_id, False)
                if before is not None and before.budget:
                    gate = budget_gate(group_id)
                    fields += ("gates", gate, False, "slots", gate, False)
                    scores += ("gates:due", gate, False)
                    unlinked += [f"{name}:{gate}" for name in ("lines", "later", "started")]
                continue
            fields += ("groups", group_id, _text(replace(after, then=None, on_failure=None)))
            then, on_failure = (None, None) if before is None else (before.then, before.on_failure)
            if after.then is not then or after.on_failure is not on_failure:
                fields += ("groups:then", group_id, _text((after.then, after.on_failure)))
            inner = [member.member_id for member in self._members.get(group_id, ()) if member.is_group]
            if inner:
                fields += ("groups:inner", group_id, _text(inner))
        return fields, scores, unlinked


class RedisTransactions:
    """Runs functions in transactions of one namespace."""

    def __init__(self, redis: RedisConnections, listeners: Listeners, message: Message) -> None:
        """``message`` returns hints as they are published."""
        self._redis, self._listeners, self._message = redis, listeners, message
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by what has changed
        self.messages: Messages = lambda _ended, _now: []
        """As ``Groups.messages``."""
        self.followed: Callable[[Followed], None] = lambda _more: None
        """Called with what has followed, after the commit."""

    async def run(
        self, body: Callable[[RedisTransaction], T], *, room: Room | None = None, repeatable: bool = False
    ) -> tuple[T, list[Any]]:
        """Run ``body`` in one transaction, and write what it has decided; return its result, and what the script says.

        ``body`` may run several times. With ``room`` the tasks that it pushes have to fit. ``repeatable``: the commit
        is sent again if its connection is lost, since ``body`` finds what it has written. Raises QueueFull, and what
        ``body`` raises.
        """
        reads = Reads(self._redis)
        async with contextlib.AsyncExitStack() as locks:
            conflicts = 0
            refused: set[int] = set()
            while True:
                tx = RedisTransaction(reads, self.messages, refused)
                tx.room = room
                try:
                    result = body(tx)
                except _Unread as unread:
                    await reads.fetch(unread.names)
                    continue
                words = tx.words()
                if words is None:
                    return result, [1, [], [], 0]
                hints = tx.hints()
                hint = self._message(hints)
                answer = await self._redis.run(scripts.COMMIT, hint, *words, repeatable=repeatable)
                if answer[0] == -3:
                    refused.add(tx.updates[answer[1]])
                    continue
                if answer[0]:
                    break
                conflicts += 1
                name = answer[1].decode(errors="backslashreplace")
                if conflicts == 1:
                    await locks.enter_async_context(self._locks.setdefault(name, asyncio.Lock()))
                if conflicts == OPTIMISTIC:
                    await locks.enter_async_context(self._locked(name))
                refused.clear()
                await reads.again()
        if answer[0] == -1 and room is not None:
            raise queue_full(room.maxsize, answer[1])
        if answer[0] == -2:
            raise gate_full(answer[1].decode(), int(answer[2]))
        if answer[3]:
            (self._listeners.receive if hint else self._listeners.notify)(GATES)
        for kind, names in hints.items():
            self._listeners.receive(kind, names)
        if tx.touched.followed:
            self.followed(tx.touched.followed)
        return result, answer

    @contextlib.asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        key, owner = f"lock:{name}", secrets.token_hex(8)
        words = ("SET", self._redis.root + key, owner, "NX", "PX", LOCKED_FOR)
        while True:
            if await self._redis.command(*words):
                break
            await asyncio.sleep(random.uniform(*LOOK_AGAIN))
        try:
            yield
        finally:
            await self._redis.run(scripts.UNLOCK, key, owner)


def _digest(text: bytes | None) -> str:
    return "" if text is None else hashlib.sha1(text, usedforsecurity=False).hexdigest()


def _text(value: Any) -> str:
    return _encode(value).decode()


def _postings(group: GroupState | None) -> dict[tuple[str, str], str]:
    """Return the entries of a group in sorted sets: their scores by key and member."""
    if group is None:
        return {}
    live, outer = group.ended_at is None, group.parent_id is None
    found = {(f"groups:{'live' if live else 'ended'}", stamp_of(group)): "0"}
    if not live and outer and not group.needed_by:
        found["groups:done", group.group_id] = str(group.ended_at)
    if live and group.cancel_requested:
        found["groups:cancelling", group.group_id] = "0"
    return found


def stamp_of(group: GroupState) -> str:
    """Return the member of a group in ``groups:live`` and ``groups:ended``."""
    return f"{group.created_at:020d}{group.group_id}"


def to_group(_id: str, text: bytes | None, callbacks: bytes | None) -> GroupState | None:
    """Return the group with these texts, None where there is none."""
    if text is None or callbacks is None:
        return None if text is None else _group(text)
    then, on_failure = _callbacks(callbacks)
    return replace(_group(text), then=then, on_failure=on_failure)


def to_members(group_id: str, texts: Iterable[bytes], start: int = 0) -> list[Member]:
    """Return the members of a group with these texts, of which the first has the position ``start``."""
    return [
        Member(group_id=group_id, position=position, member_id=member_id, name=name, is_group=is_group)
        for position, (member_id, name, is_group) in enumerate(map(_member, texts), start)
    ]

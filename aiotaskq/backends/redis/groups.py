"""Groups in Redis. Members are counted in the scripts that write rows: ``lua/include/groups.lua``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from aiotaskq.backends.base import Room
from aiotaskq.backends.coded import encoded_room
from aiotaskq.backends.flow.groups import Followed
from aiotaskq.backends.groups import Groups, encoded_plan, recoded_group
from aiotaskq.backends.listeners import ENDED, GATES, READY, Listeners
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.rows import changed_rows, new_rows, pack, row_words
from aiotaskq.core.coded import encoded
from aiotaskq.core.errors import NotSupported, gate_full, queue_full
from aiotaskq.core.gate import Flow
from aiotaskq.core.groups import GroupState, Member, Plan
from aiotaskq.core.task import Task
from aiotaskq.core.usage import Usage
from aiotaskq.core.usage import decode as decode_usage

READ = 1_000  # groups in one answer: the server runs no other command meanwhile


class _Origin(msgspec.Struct, omit_defaults=True):
    """What of a group never changes, but for its callbacks."""

    name: str | None = None
    parent_id: str | None = None


_encode = msgspec.json.Encoder().encode
_origin = msgspec.json.Decoder(_Origin).decode
_member = msgspec.json.Decoder(tuple[str, str | None, bool]).decode
_task = msgspec.json.Decoder(Task).decode
_texts = msgspec.json.Decoder(list[str]).decode


class RedisGroups(Groups):
    """The groups of one namespace."""

    def __init__(
        self,
        name: str,
        redis: RedisConnections,
        listeners: Listeners,
        hint: bytes,
        recode: Callable[[Sequence[str]], Awaitable[object]],
    ) -> None:
        """``name`` is for errors; ``hint``: the message of new ready tasks, which scripts send to other processes.

        ``recode`` writes tasks with the codec: scripts cannot do that.
        """
        self._name, self._redis, self._listeners, self._hint, self._recode = name, redis, listeners, hint, recode

    async def push(
        self,
        plan: Plan,
        session: Any = None,
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> bool:
        if session is not None:
            raise NotSupported(
                f"session: {self._name} cannot join a transaction; push after the commit, or use a SQL store"
            )
        self.used = True
        plan, room = encoded_plan(plan, self.codec), encoded_room(room, self.codec)
        words: list[bytes | str | int] = [self._hint, pack(list(_group_words(plan)))]
        if room is None:
            words += ["", "", "", 0]
        else:
            changes = list(changed_rows(room.instead))
            words += [room.maxsize, room.now, len(plan.entering), len(changes), *changes]
        made, later, *followed = await self._redis.run(
            scripts.GROUPS_PUSH, *words, *(new_rows(plan.tasks) if plan.tasks else ()), repeatable=True
        )
        if made == -1 and room is not None:
            raise queue_full(room.maxsize, later)
        self._pushed(made, later)
        if made and room is not None and room.instead:
            self._listeners.notify(ENDED, [change.after.task_id for change in room.instead])
        if followed:
            await self.followed(followed[0])
        return bool(made == 1)

    async def add(self, group_id: str, tasks: Sequence[Task], now: int) -> int | None:
        sent = tasks if (codec := self.codec) is None else [encoded(task, codec) for task in tasks]
        words = (self._hint, group_id, *(new_rows(sent) if sent else ()))
        added, later = await self._redis.run(scripts.GROUPS_ADD, *words)
        self._pushed(added, later)
        return None if added < 0 else int(added)

    def _pushed(self, made: Any, later: Any) -> None:
        """Pass on the hints of a push. Raises QueueFull if too many tasks would wait at a gate."""
        if type(made) is bytes:
            raise gate_full(made.decode(), int(later))
        if later:
            self._listeners.receive(GATES)
        self._listeners.receive(READY)

    async def get(self, ids: Sequence[str]) -> list[GroupState | None]:
        found: list[GroupState | None] = []
        for start in range(0, len(ids), READ):
            part = ids[start : start + READ]
            states = await self._redis.command("HMGET", f"{self._redis.root}groups", *part)
            callbacks = await self._redis.command("HMGET", f"{self._redis.root}groups:then", *part)
            fields = [field for group_id in part for field in (group_id, f"{group_id} budget")]
            sums = iter(await self._redis.command("HMGET", f"{self._redis.root}groups:sums", *fields))
            found += [
                None if state is None else _group(group_id, state, packed, usage, budget)
                for group_id, state, packed, usage, budget in zip(part, states, callbacks, sums, sums, strict=True)
            ]
        return found

    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        which = "" if ended is None else "ended" if ended else "live"
        found: list[GroupState] = []
        last = after or ""
        while len(found) < limit:
            wanted = min(limit - len(found), READ)
            ids = [name.decode() for name in await self._redis.run(scripts.GROUPS_FIND, wanted, last, which)]
            found += [group for group in await self.get(ids) if group is not None]
            if len(ids) < wanted:
                break
            last = ids[-1]
        return found

    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        key = f"{self._redis.root}members:{group_id}"
        rows = await self._redis.command("LRANGE", key, start, start + limit - 1)
        return [
            Member(group_id=group_id, position=position, member_id=member_id, name=name, is_group=is_group)
            for position, (member_id, name, is_group) in enumerate(map(_member, rows), start)
        ]

    async def set_budget(self, group_id: str, budget: Usage, now: int) -> GroupState | None:
        answer = await self._redis.run(scripts.GROUPS_BUDGET, self._hint, group_id, _text(budget), now)
        if not answer:
            return None
        if answer[0]:
            self._listeners.receive(GATES)
        self._listeners.receive(READY)
        return (await self.get([group_id]))[0]

    async def request_cancel(self, group_id: str) -> bool:
        return bool(await self._redis.run(scripts.GROUPS_CANCEL, group_id) == 1)

    async def cancelling(self, limit: int) -> list[str]:
        if await self._redis.command("EXISTS", f"{self._redis.root}groups:following"):
            await self._follow()  # its process was killed meanwhile
        names = await self._redis.command("ZRANGE", f"{self._redis.root}groups:cancelling", 0, limit - 1)
        return [name.decode() for name in names]

    async def purge(self, before: int, limit: int) -> int:
        return int(await self._redis.run(scripts.GROUPS_PURGE, before, limit))

    async def recode(self, ids: Sequence[str]) -> tuple[int, list[str]]:
        if (codec := self.codec) is None:
            return await super().recode(ids)
        written, left = 0, []
        changes: list[bytes | str] = []
        callbacks = await self._redis.command("HMGET", f"{self._redis.root}groups:then", *ids) if ids else ()
        for group_id, words in zip(ids, callbacks, strict=True):
            if words is None:
                continue
            then, on_failure = _callbacks(words)
            group = recoded_group(GroupState(group_id=group_id, then=then, on_failure=on_failure), codec)
            if group is None:
                left.append(group_id)
            else:
                changes += (group_id, words, _templates(group))
                written += 1
        if changes:  # a group that was deleted meanwhile stays deleted
            await self._redis.run(scripts.STEPS_RECODE, "groups:then", *changes, repeatable=True)
        return written, left

    async def mend(self, now: int) -> int:
        wrong = 0
        last: bytes | str = ""
        while True:
            last, count, *rest = await self._redis.run(scripts.GROUPS_MEND_CHILDREN, self._hint, now, last)
            wrong += int(count)
            await self._mended(rest)
            if not last:
                break
        after = None
        while groups := await self.find(READ, after=after, ended=False):
            ids = [group.group_id for group in groups]
            after = ids[-1]
            while ids:
                counted, count, *rest = await self._redis.run(scripts.GROUPS_MEND, self._hint, now, *ids)
                wrong += int(count)
                del ids[:counted]
                await self._mended(rest)
        return wrong

    async def _mended(self, rest: Sequence[Any]) -> None:
        later, followed = rest
        if later:
            self._listeners.receive(GATES)
        await self.followed(followed)

    # ---- for the backend ----

    async def followed(self, answer: Sequence[Any]) -> None:
        """Pass on what a script has done for groups, and tell the children that do not know of an end yet."""
        self.used = True
        if await self._heard(answer):
            await self._follow()

    async def _follow(self) -> None:
        """Tell children of the ends of their parents, as many in one script as may be."""
        more = True
        while more:
            later, answer = await self._redis.run(scripts.GROUPS_FOLLOW, self._hint)
            self._listeners.receive(READY)
            if later:
                self._listeners.receive(GATES)
            more = await self._heard(answer)

    async def _heard(self, answer: Sequence[Any]) -> bool:
        """Pass on what has followed, and code the messages that a script has made of it.

        Return whether there are children that do not know of it yet.
        """
        *lists, more = answer
        followed = Followed(*([name.decode(errors="backslashreplace") for name in names] for names in lists))
        if names := followed.all_ended:
            self._listeners.notify(ENDED, names)
        if self.heard is not None:
            self.heard(followed)
        if self.codec is not None and self.webhooks and followed.pushed:
            await self._recode(followed.pushed)
        return bool(more)


def _text(value: Any) -> str:
    return _encode(value).decode()


def _group_words(plan: Plan) -> Iterator[tuple[Any, ...]]:
    """Return the words of each group for a script."""
    members: dict[str, list[str]] = {group.group_id: [] for group in plan.groups}
    inner: dict[str, list[str]] = {}
    for member in plan.members:
        members[member.group_id].append(_text((member.member_id, member.name, member.is_group)))
        if member.is_group:
            inner.setdefault(member.group_id, []).append(member.member_id)
    for group in plan.groups:
        inside = _text(inner[group.group_id]) if group.group_id in inner else ""
        has_callback = group.then is not None or group.on_failure is not None
        callbacks = _templates(group) if has_callback else ""
        sums = (_text(group.usage) if group.usage else "", _text(group.budget) if group.budget else "")
        yield group.group_id, _state(group), inside, callbacks, *sums, members[group.group_id]


def _state(group: GroupState) -> str:
    """Return a group as ``lua/include/groups.lua`` writes it."""
    return (
        f"{group.total} {group.remaining} {group.failed} {group.cancelled} {group.needed_by} {group.generation} "
        f"{int(group.cancel_requested)} {'-' if group.ended_at is None else group.ended_at} {group.created_at:020d} "
        f"{_text(_Origin(group.name, group.parent_id))}"
    )


def _templates(group: GroupState) -> str:
    return _text([*_template(group, group.then), *_template(group, group.on_failure)])


def _callbacks(words: bytes | None) -> tuple[Task | None, Task | None]:
    """Return the callbacks of a group from what ``_templates`` has made of them."""
    if words is None:
        return None, None
    texts = _texts(words)
    return _task(texts[2]) if texts[2] else None, _task(texts[5]) if texts[5] else None


def _template(group: GroupState, task: Task | None) -> tuple[str, str, str]:
    """Return body and state of the row that a script makes of a callback, and the callback for a reader."""
    if task is None:
        return "", "", ""
    flow = replace(task.flow or Flow(), source=group.group_id)
    _, body, state = row_words(task.replace(task_id="", created_at=0, gate=None, flow=flow))
    return body, state, _text(task)


def _group(
    group_id: str, state: bytes, callbacks: bytes | None, usage: bytes | None, budget: bytes | None
) -> GroupState:
    total, remaining, failed, cancelled, needed_by, generation, cancel, ended, created, origin = state.split(b" ", 9)
    known = _origin(origin)
    then, on_failure = _callbacks(callbacks)
    return GroupState(
        group_id=group_id,
        name=known.name,
        total=int(total),
        remaining=int(remaining),
        failed=int(failed),
        cancelled=int(cancelled),
        needed_by=int(needed_by),
        generation=int(generation),
        parent_id=known.parent_id,
        then=then,
        on_failure=on_failure,
        usage={} if usage is None else decode_usage(usage),
        budget={} if budget is None else decode_usage(budget),
        cancel_requested=cancel == b"1",
        created_at=int(created),
        ended_at=None if ended == b"-" else int(ended),
    )

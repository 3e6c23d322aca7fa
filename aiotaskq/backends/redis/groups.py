"""Groups in Redis: ``backends.flow.groups`` in transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aiotaskq.backends.base import Room
from aiotaskq.backends.coded import encoded_room
from aiotaskq.backends.flow.groups import (
    Ends,
    add_tasks,
    as_cancelled,
    fill,
    flag_cancelled,
    lost_parents,
    parents_of,
    replace_budget,
    to_children,
    to_groups,
)
from aiotaskq.backends.flow.touched import Followed
from aiotaskq.backends.groups import Groups, encoded_plan, recoded_group
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.reads import READ, stamp_of, to_group, to_members
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.redis.transactions import RedisTransactions
from aiotaskq.core.coded import encoded
from aiotaskq.core.errors import NotSupported, queue_full
from aiotaskq.core.groups import GroupState, Member, Plan, Tally
from aiotaskq.core.task import PENDING, RUNNING, Task
from aiotaskq.core.usage import Usage


class RedisGroups(Groups):
    """The groups of one namespace."""

    def __init__(self, name: str, redis: RedisConnections, transactions: RedisTransactions) -> None:
        """``name`` is for errors."""
        self._name, self._redis, self._transactions = name, redis, transactions
        transactions.messages, transactions.followed = self.messages, self._followed

    def _followed(self, more: Followed) -> None:
        self.used = True
        if self.heard is not None:
            self.heard(more)

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
        first = plan.groups[0].group_id

        def body(tx: RedisTransaction) -> bool:
            tx.need(groups=[group.group_id for group in plan.groups])
            if tx.groups([first]):  # this very push has made it, if the first of its tasks is there
                task = next(iter(plan.tasks), None)
                known = None if task is None else tx.tasks([task.task_id]).get(task.task_id)
                return task is not None and known is not None and known.seq == task.seq
            if room is not None and not all(tx.update(room.instead)):
                raise queue_full(room.maxsize, 0)
            tx.add_groups(plan.groups, plan.members)
            fill(tx, plan)
            return True

        return await self._transactions.run(body, room=room, repeatable=True)

    async def add(self, group_id: str, tasks: Sequence[Task], now: int) -> int | None:
        sent = tasks if (codec := self.codec) is None else [encoded(task, codec) for task in tasks]
        return await self._transactions.run(lambda tx: add_tasks(tx, group_id, sent))

    async def get(self, ids: Sequence[str]) -> list[GroupState | None]:
        found: list[GroupState | None] = []
        for start in range(0, len(ids), READ):
            part = ids[start : start + READ]
            texts = await self._redis.command("HMGET", f"{self._redis.root}groups", *part)
            callbacks = await self._redis.command("HMGET", f"{self._redis.root}groups:then", *part)
            found += map(to_group, part, texts, callbacks)
        return found

    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        which = ["live", "ended"] if ended is None else ["ended" if ended else "live"]
        (last,) = (None,) if after is None else await self.get([after])
        if last is None and after is not None:
            return []
        found: list[GroupState] = []
        while len(found) < limit:
            wanted = min(limit - len(found), READ)
            bound = "+" if last is None else f"({stamp_of(last)}"
            ids = [name.decode() for name in await self._redis.run(scripts.GROUPS_FIND, wanted, bound, *which)]
            page = [group for group in await self.get(ids) if group is not None]
            found += page
            if len(ids) < wanted or not page:
                break
            last = page[-1]
        return found

    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        key = f"{self._redis.root}members:{group_id}"
        return to_members(group_id, await self._redis.command("LRANGE", key, start, start + limit - 1), start)

    async def set_budget(self, group_id: str, budget: Usage, now: int) -> GroupState | None:
        return await self._transactions.run(lambda tx: replace_budget(tx, group_id, budget, now))

    async def request_cancel(self, group_id: str) -> bool:
        return await self._transactions.run(lambda tx: flag_cancelled(tx, group_id))

    async def cancelling(self, limit: int) -> list[str]:
        names = await self._redis.command("ZRANGE", f"{self._redis.root}groups:cancelling", 0, limit - 1)
        return [name.decode() for name in names]

    async def purge(self, before: int, limit: int) -> int:
        words = ("-inf", f"({before}", "LIMIT", 0, limit)
        names = await self._redis.command("ZRANGEBYSCORE", f"{self._redis.root}groups:done", *words)
        ids = [name.decode() for name in names]

        def body(tx: RedisTransaction) -> int:
            groups = tx.groups(ids).values()
            # One that was brought back meanwhile stays.
            gone = [each.group_id for each in groups if not each.needed_by and (each.ended_at or before) < before]
            level = gone
            while level := tx.inner_groups(level):
                gone += tx.groups(level)
            tx.drop(gone)
            return len(gone)

        return await self._transactions.run(body) if ids else 0

    async def recode(self, ids: Sequence[str]) -> tuple[int, list[str]]:
        if (codec := self.codec) is None:
            return await super().recode(ids)

        def body(tx: RedisTransaction) -> tuple[int, list[str]]:
            groups = [each for each in tx.groups(ids).values() if each.then is not None or each.on_failure is not None]
            anew = {each.group_id: recoded_group(each, codec) for each in groups}
            tx.write_groups(written := [group for group in anew.values() if group is not None])
            return len(written), [group_id for group_id, group in anew.items() if group is None]

        return await self._transactions.run(body, repeatable=True)

    async def mend(self, now: int) -> int:
        wrong = 0
        last: bytes | str = ""
        while True:
            last, names = await self._redis.run(scripts.GROUPS_WAITING, last, READ)
            ids = [name.decode() for name in names]
            wrong += await self._transactions.run(lambda tx, ids=ids: _mend_children(tx, ids, now))  # type: ignore[misc]
            if not last:
                break
        after = None
        while groups := await self.find(READ, after=after, ended=False):
            for group in groups:
                after = group.group_id
                wrong += await self._transactions.run(lambda tx, each=after: _mend_group(tx, each, now))  # type: ignore[misc]
        return wrong


def _mend_children(tx: RedisTransaction, ids: Sequence[str], now: int) -> int:
    children = [task for task in tx.look(ids).values() if task.waits]
    lost = lost_parents(children, tx.look(sorted({parent for child in children for parent in parents_of(child)})))
    tx.tasks(list(lost))  # is compared, and the end of a parent writes it, too
    to_groups(tx, to_children(tx, as_cancelled(lost), now), now)
    return len(lost)


def _mend_group(tx: RedisTransaction, group_id: str, now: int) -> int:
    group = tx.groups([group_id]).get(group_id)  # before what it has to agree with: see Reads.fetch
    members = tx.members([group_id])[group_id]
    inner = tx.groups([member.member_id for member in members if member.is_group]).values()
    # The end of a member writes the group, too, which is compared.
    statuses = tx.statuses([member.member_id for member in members if not member.is_group]).values()
    live = sum(each.ended_at is None for each in inner) + sum(each in (PENDING, RUNNING) for each in statuses)
    if group is None or group.ended_at is not None or group.remaining == live:
        return 0
    missing = group.remaining - live
    tallies = {group_id: Tally(ended=missing, cancelled=max(0, missing))}
    to_groups(tx, Ends(tallies, []), now)
    return 1

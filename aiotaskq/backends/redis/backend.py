"""The Redis backend (also Valkey): a verb is one Lua script, which the server runs as one step, or a transaction.

A whole namespace has one hash tag, not one for each queue. So a push to several queues is all or nothing, and a claim
from several queues has an exact order; and in a cluster a namespace is on one node, while several namespaces
(``?prefix=…``) are spread.
"""

from __future__ import annotations

import contextlib
import re
from asyncio import Future
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

from msgspec.structs import replace

from aiotaskq.backends.base import Backend, Change, Claim, QueueStats, Room, matching, stats_of
from aiotaskq.backends.flow.groups import push_within, staying
from aiotaskq.backends.listeners import CANCEL, READY
from aiotaskq.backends.pending_types import PendingType, count_types, share
from aiotaskq.backends.redis.connection import FlowRequired, RedisConnections
from aiotaskq.backends.redis.flow_reads import RedisGateReads, RedisGroupReads
from aiotaskq.backends.redis.notifier import RedisNotifier
from aiotaskq.backends.redis.reads import GROWTH, READ, Newest, having, read_heads, read_held
from aiotaskq.backends.redis.rows import (
    NO_CLAIM,
    changed_words,
    claim_words,
    has_flow,
    number,
    packed,
    packed_names,
    progress_json,
    pushed_rows,
    to_tasks,
    to_tasks_or_none,
    to_text,
)
from aiotaskq.backends.redis.schedules import RedisSchedules
from aiotaskq.backends.redis.server import check_format, check_settings, read_limits
from aiotaskq.backends.redis.side_rows import RedisSideRows
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.redis.transactions import RedisTransactions
from aiotaskq.backends.workers import Held
from aiotaskq.core.parking import any_flow
from aiotaskq.core.status import FINAL, PENDING, Status
from aiotaskq.core.task import SECOND, Task, TaskFilter, any_tags
from aiotaskq.errors import DatabaseUnavailable, ValidationError

_GLOB = re.compile(r"[\\*?\[\]^]")  # characters with a meaning in a pattern of HSCAN
MOST_GATED = 50_000  # tasks in a push with gates: one script writes them, and the server runs nothing else meanwhile
LANES = 100  # of which pending rows are counted by type


class RedisBackend(Backend):
    """Tasks, schedules and public values in Redis or Valkey. It belongs to the event loop in which it is opened."""

    durable: ClassVar[bool] = True
    shared = True

    def __init__(self, url: str, quiet: bool = False, patience: float | None = None) -> None:
        """``quiet``: the server's settings were checked already. ``patience``: as of ``another``.

        Raises ValidationError for a URL that is not valid.
        """
        super().__init__()
        self._url = url
        self._quiet = quiet
        self._redis = RedisConnections(url, self._prepare)
        if patience is not None:
            options = self._redis.address.options
            options["socket_timeout"] = min(patience, options["socket_timeout"])
        self._notifier = RedisNotifier(self._redis, self.listeners)
        self._transactions = RedisTransactions(self._redis, self, self._notifier.message)
        parts = (self._redis, self._transactions)
        gates, groups = RedisGateReads(*parts), RedisGroupReads(*parts)
        self.keep(self._transactions, RedisSideRows(self._redis), gates, groups)
        self.schedules = RedisSchedules(*parts)

    async def _prepare(self, redis: RedisConnections) -> None:
        await check_format(redis)
        await read_limits(redis)
        if not self._quiet:
            await check_settings(redis)
            self._quiet = True
        self._notifier.start()

    async def open(self) -> None:
        await self._redis.open()

    async def close(self) -> None:
        await self._notifier.stop()
        await self._redis.close()

    def pending(self) -> Iterable[Future[Any]]:
        return self._redis.pending

    async def ping(self) -> int | None:
        seconds, micros = await self._redis.command("TIME")
        return int(seconds) * SECOND + int(micros)

    def another(self, patience: float | None = None) -> RedisBackend:
        return type(self)(self._url, quiet=True, patience=patience)

    async def watch(self) -> None:
        with contextlib.suppress(DatabaseUnavailable):  # it listens as soon as the server can be reached
            await self._redis.ready()
        self._notifier.listen()

    # ---- tasks ----

    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        flow = any_flow(tasks) or any_tags(tasks)
        if flow and len(tasks) > MOST_GATED:
            raise ValidationError(
                f"{len(tasks):,} tasks at once, of which some pass limits, rates or fair shares, or have tags, are "
                f"more than the {MOST_GATED:,} that Redis takes; push fewer at a time"
            )
        if flow or room is not None:
            # A repeated push is the same push, whether or not the first one has reached the server.
            return await self._transactions.transact(lambda tx: push_within(tx, tasks, room), repeatable=True)
        stored = list(tasks)
        if tasks:
            others, words = pushed_rows(stored)
            answer = await self._redis.run("push", self._notifier.ready, *words, repeatable=True)
            if answer is None:
                others, words = pushed_rows(stored, plain=False)
                answer = await self._redis.run("push", self._notifier.ready, *words, repeatable=True)
            for number, task in zip(answer[0], to_tasks(answer[1]), strict=True):
                stored[others[number - 1]] = task
        self.listeners.receive(READY)
        return stored

    async def _claim(self, wanted: Claim) -> list[Task]:
        return (await self._exchange((), wanted))[1]

    async def update(self, changes: Sequence[Change]) -> list[bool]:
        return (await self._exchange(changes, NO_CLAIM))[0]

    async def _exchange(self, changes: Sequence[Change], wanted: Claim) -> tuple[list[bool], list[Task]]:
        if not changes and not wanted.limit:
            return [], []
        if not has_flow(changes):
            hints = self.hints_of_update(changes, [True] * len(changes))
            words = (self._notifier.message(hints), *claim_words(wanted), *packed(map(changed_words, changes)))
            with contextlib.suppress(FlowRequired):
                flags, claimed = await self._redis.run("exchange", *words)
                held = [flag == 1 for flag in flags]  # the script has sent the hints to other processes
                for kind, names in (hints if all(held) else self.hints_of_update(changes, held)).items():
                    self.listeners.receive(kind, names)
                return held, to_tasks(claimed)
        held, claimed = await self._transactions.write(lambda tx: tx.update(changes), wanted)
        return held, await self._claim(wanted) if claimed is None else to_tasks(claimed)

    exchange = _exchange  # ``update`` and ``_claim`` call the private name: ``CodedBackend`` encodes in the public one

    async def report(self, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
        def body(tx: RedisTransaction) -> list[bool]:
            heads, held = tx.heads([task_id for task_id, _, _ in progress]), []
            for task_id, fence, value in progress:
                head = heads[task_id]
                held.append(head is not None and head.group(1, 2) == (b"running", b"%d" % fence))
                if held[-1]:
                    tx.fields["progress"][task_id] = progress_json(value)
            return held

        return await self._transactions.transact(body, repeatable=True)

    async def request_cancel(self, ids: Sequence[str]) -> list[bool]:
        def body(tx: RedisTransaction) -> list[bool]:
            heads = tx.heads(ids)
            running = {task_id: head for task_id, head in heads.items() if head is not None and head[1] == b"running"}
            for task_id, head in running.items():
                tx.states += (task_id, head.string[: head.start(3)] + b"1" + head.string[head.end(3) :])
            return [task_id in running for task_id in ids]

        flagged = await self._transactions.transact(body, repeatable=True)
        self.listeners.notify(CANCEL, ids)
        return flagged

    async def cancelling(self, ids: Sequence[str]) -> list[str]:
        heads = zip(ids, await read_heads(self._redis, ids), strict=True)
        return [task_id for task_id, head in heads if head is not None and head.group(1, 3) == (b"running", b"1")]

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        found: list[Task | None] = []
        for start in range(0, len(ids), READ):
            found += to_tasks_or_none((await self._redis.run("read", *ids[start : start + READ]))[0])
        return found

    async def recode(self, ids: Sequence[str]) -> list[bool | None]:
        if self.codec is None:
            return await super().recode(ids)
        done = await self._transactions.transact(partial(RedisTransaction.recode, ids=ids, codec=self.codec))
        return [done[task_id] for task_id in ids]

    async def find(self, where: TaskFilter, limit: int) -> list[Task]:
        statuses = set(where.status or Status)
        newest = Newest(self._redis, statuses)
        if where.after is not None:
            (head,) = await read_heads(self._redis, [where.after])
            newest.last = None if head is None else head[6] + where.after.encode()
        if where.tags:
            await newest.keep_tagged(where.tags)
        restricts = len(statuses & {Status.PENDING, Status.RUNNING}) == 1 or where.restricted  # one index has both
        matches = matching(replace(where, tags={}))
        tasks: list[Task] = []
        left, look = where.newest, 0
        while len(tasks) < limit and left != 0:
            wanted = min(limit - len(tasks), READ)
            look = min(READ, max(wanted, GROWTH * look)) if restricts else wanted
            if left is not None:
                look = min(look, left)
                left -= look
            if not (stamps := await newest.page(look)):
                break
            rows = await self.get(await having(self._redis, [to_text(stamp[20:]) for stamp in stamps], where.tags))
            # One of which nothing can be read is of no type, and matches every filter.
            tasks += [task for task in rows if task is not None and (matches(task) or not task.type)]
            newest.last = stamps[-1]
        return tasks[:limit]

    async def last_ended(self, status: Status, limit: int) -> list[str]:
        words = ("(+inf", "-inf", "LIMIT", 0, limit)  # the rows without a time are at the end
        found = await self._redis.command("ZREVRANGEBYSCORE", f"{self._redis.root}ended:{status}", *words)
        return [to_text(name) for name in found]

    async def ids_with_prefix(self, prefixes: Sequence[str], limit: int) -> list[list[str]]:
        # There is no index of the ids. The server looks at a part of them for each command, and runs others in between.
        found: dict[str, set[str]] = {prefix: set() for prefix in prefixes}
        shared = min(found, default="")
        while not all(prefix.startswith(shared) for prefix in found):
            shared = shared[:-1]
        words = ("MATCH", _GLOB.sub(r"\\\g<0>", shared) + "*", "COUNT", READ)
        cursor = b"0"
        while found and any(len(ids) < limit for ids in found.values()):
            cursor, rows = await self._redis.command("HSCAN", f"{self._redis.root}state", cursor, *words)
            for name in [to_text(field) for field in rows[::2]]:
                for prefix, ids in found.items():
                    if name.startswith(prefix):
                        ids.add(name)
            if cursor == b"0":
                break
        return [sorted(found[prefix])[:limit] for prefix in prefixes]

    async def overdue(self, now: int, limit: int) -> list[Task]:
        return to_tasks(await self._redis.run("overdue", now, limit))

    async def held(self, owners: Sequence[str]) -> dict[str, list[Held]]:
        return {owner: await read_held(self._redis, owner) for owner in owners}

    async def _look(self, now: int, queues: Sequence[str] | None, count: bool = False) -> tuple[int, int | None, Any]:
        ready, first, counts = await self._redis.run("look", now, packed_names(queues), int(count))
        return ready, number(first), counts

    async def next_run_at(self, now: int, queues: Sequence[str] | None = None) -> int | None:
        return (await self._look(now, queues))[1]

    async def count_ready(self, now: int, queues: Sequence[str] | None = None) -> int:
        return (await self._look(now, queues))[0]

    async def least_ready(self, now: int, limit: int) -> list[Task]:
        return to_tasks(await self._redis.run("least_ready", now, limit))

    async def pending_types(self, now: int, limit: int) -> list[PendingType]:
        stamps: list[bytes] = []
        lanes = await self._redis.command("ZRANGE", f"{self._redis.root}heads", 0, LANES - 1)
        for first, last in (("-inf", now), (f"({now}", "+inf")):
            left = limit
            for place, lane in enumerate(lanes):
                key, most = self._redis.root.encode() + b"lane:" + lane, share(left, len(lanes) - place)
                found = await self._redis.command("ZRANGE", key, first, last, "BYSCORE", "LIMIT", 0, most)
                stamps += found
                left -= len(found)
        tasks = await self.get([to_text(stamp[20:]) for stamp in stamps])
        return count_types((task for task in tasks if task is not None and task.status is PENDING), now)

    async def stats(self, now: int) -> QueueStats:
        ready, first, counts = await self._look(now, None, count=True)
        rows = []
        for name, count in zip(counts[::2], counts[1::2], strict=True):
            status, _, queue = to_text(name).partition(":")
            rows.append((queue, status, int(count)))
        return stats_of(rows, ready, first if ready else None)

    async def active(self, schedule_ids: Sequence[str]) -> dict[str, int]:
        if not schedule_ids:
            return {}
        counts = await self._redis.command("HMGET", f"{self._redis.root}active", *schedule_ids)
        return {name: int(count or 0) for name, count in zip(schedule_ids, counts, strict=True)}

    async def purge(self, where: TaskFilter, limit: int) -> int:
        deleted, matches = 0, matching(replace(where, tags={}))
        before = "+inf" if where.completed_before is None else f"({where.completed_before}"
        for status in [status for status in where.status or FINAL if status in FINAL]:
            passed, found = 0, [b""]
            while deleted < limit and found:
                words = ("-inf", before, "LIMIT", passed, READ)
                found = await self._redis.command("ZRANGEBYSCORE", f"{self._redis.root}ended:{status}", *words)
                page = [to_text(name) for name in found]
                wanted = await having(self._redis, page, where.tags)

                def body(
                    tx: RedisTransaction,
                    page: list[str] = page,
                    wanted: Collection[str] = wanted,
                    status: Status = status,
                    left: int = limit - deleted,
                ) -> tuple[int, int]:
                    rows = {task_id: task for task_id, task in tx.tasks(page).items() if task.status is status}
                    for task_id in page:
                        if task_id not in rows:
                            tx.scores[f"ended:{status}"][task_id] = None  # the row does not confirm the entry
                    ended = [task for task in rows.values() if task.task_id in wanted and matches(task)]
                    stay = staying(tx, ended, where.completed_before)
                    gone = tx.delete([task for task in ended if task.task_id not in stay][:left])
                    return gone, len(rows) - gone

                gone, kept = await self._transactions.transact(body)
                deleted, passed = deleted + gone, passed + kept
        return deleted

    async def delete(self, ids: Sequence[str], *, ended: bool = False) -> int:
        deleted = 0
        for start in range(0, len(ids), READ):

            def body(tx: RedisTransaction, part: Sequence[str] = ids[start : start + READ]) -> int:
                rows = tx.tasks(part)
                damaged = [task_id for task_id in tx.existing(part) if task_id not in rows]
                return tx.delete([row for row in rows.values() if row.final or not ended], damaged)

            deleted += await self._transactions.transact(body)
        return deleted

    async def set_paused(self, queue: str, paused: bool) -> None:
        write = ["SADD" if paused else "SREM", "paused", [queue]]
        await self._transactions.transact(lambda tx: tx.commands.append(write), repeatable=True)
        await self.gates.pause(queue, paused)
        self.listeners.notify(READY)

    async def paused(self) -> list[str]:
        return sorted(name.decode() for name in await self._redis.command("SMEMBERS", f"{self._redis.root}paused"))

"""``claim``: its order, one claim for each task, and the tasks that it does not return."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.outcome import Backoff, Failed, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Attempt, Task, TaskFilter, claim_order
from tests.support import nursery
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, ids, new, pushed, read
from tests.support.statements import at_each_statement

ROOT = Path(__file__).resolve().parent.parent.parent


async def test_becomes_running_with_fence_owner_lease_and_start(backend: Backend) -> None:
    task = await pushed(backend, params={"a": [1]}, extra={"own": 1}, retry_count=2, fence=7, error_message="before")
    (claimed,) = await backend.claim("me", NOW + 1_999_999, 10, lease_until=LEASE)
    assert claimed == task.replace(
        status=Status.RUNNING,
        fence=8,
        lease_owner="me",
        lease_until=LEASE,
        started_at=NOW // SECOND + 1,
        began_at=NOW + 1_999_999,
    )
    assert await read(backend, task) == claimed
    assert await backend.claim("me", NOW, 10, lease_until=LEASE) == []


async def test_without_a_lease(backend: Backend) -> None:
    await pushed(backend)
    (claimed,) = await backend.claim("me", NOW, 1)
    assert claimed.lease_until is None
    # Without a registry, for ever; else for as long as its owner is there: test_worker_leases.py
    assert await backend.overdue(NOW + 10**15, 10) == ([] if backend.workers is None else [claimed])


async def test_order_is_priority_then_run_at_then_push(backend: Backend) -> None:  # I8
    chance = random.Random(1)
    tasks = [
        new(priority=chance.choice([-(2**31) + 1, -1, 0, 0, 3, 2**31 - 1]), run_at=NOW - chance.choice([0, 0, 1, 2]))
        for _ in range(200)
    ]
    await backend.push(tasks)
    claimed = [task for _ in range(200) for task in await backend.claim("o", NOW, 1)]
    assert ids(claimed) == ids(sorted(tasks, key=claim_order))


@pytest.mark.parametrize("batch", [1, 7, 50])
async def test_order_in_batches(backend: Backend, batch: int) -> None:
    tasks = [new(priority=n % 3, queue=f"q{n % 4}") for n in range(100)]
    await backend.push(tasks)
    claimed: list[Task] = []
    while part := await backend.claim("o", NOW, batch):
        assert len(part) <= batch
        claimed += part
    assert ids(claimed) == ids(sorted(tasks, key=claim_order))


async def test_equal_orders_never_compare_tasks(backend: Backend) -> None:  # I8
    tasks = [new(seq=5, params={"n": n}, queue=f"q{n % 3}") for n in range(9)]
    for task in tasks:
        await backend.push([task])
    claimed = [task for _ in range(9) for task in await backend.claim("o", NOW, 1)]
    assert sorted(ids(claimed)) == sorted(ids(tasks))


async def test_limit(backend: Backend) -> None:
    await backend.push([new() for _ in range(5)])
    assert await backend.claim("o", NOW, 0) == []
    assert len(await backend.claim("o", NOW, 3)) == 3
    assert len(await backend.claim("o", NOW, 100)) == 2


async def test_not_before_run_at(backend: Backend) -> None:  # B1, F17
    task = await pushed(backend, run_at=NOW + 10 * 60 * SECOND)
    for now in (NOW, NOW + 60 * SECOND, task.run_at - SECOND, task.run_at - 1):
        assert await backend.claim("o", now, 10) == []
        assert await backend.count_ready(now) == 0
        assert await backend.next_run_at(now) == task.run_at
    assert await backend.count_ready(task.run_at) == 1
    assert ids(await backend.claim("o", task.run_at, 10)) == [task.task_id]


async def test_push_stamps_of_another_clock_make_nothing_due(backend: Backend) -> None:  # B1, C12
    # The stamps of a process rise even when its clock was set back: they say nothing about time.
    task = await pushed(backend, run_at=NOW + 60 * SECOND, seq=NOW + 3600 * SECOND)
    assert await backend.claim("o", NOW, 10) == []
    assert await backend.next_run_at(NOW) == task.run_at


async def test_not_before_run_at_when_the_clock_is_set_back(backend: Backend) -> None:  # B1, C12
    early = await pushed(backend, run_at=NOW)
    late = await pushed(backend, run_at=NOW + 60 * SECOND, priority=-1)
    assert await backend.count_ready(NOW + 60 * SECOND) == 2
    assert await backend.next_run_at(NOW + 60 * SECOND) is not None
    assert await backend.count_ready(NOW) == 1
    assert (await backend.stats(NOW)).ready == 1
    assert ids(await backend.claim("o", NOW, 10)) == [early.task_id]
    assert await backend.next_run_at(NOW) == late.run_at
    assert ids(await backend.claim("o", late.run_at, 10)) == [late.task_id]


async def test_not_at_or_after_expires_at(backend: Backend) -> None:
    gone = await pushed(backend, expires_at=NOW)
    alive = await pushed(backend, expires_at=NOW + 1)
    assert await backend.count_ready(NOW) == 1
    assert ids(await backend.claim("o", NOW, 10)) == [alive.task_id]
    assert await backend.claim("o", NOW, 10) == []
    assert (await read(backend, gone)).status is Status.PENDING  # ending it is a rule's business


@pytest.mark.parametrize("limit", [1, 10])
async def test_an_expired_one_behind_others_is_not_claimed(backend: Backend, limit: int) -> None:
    tasks = [new(expires_at=expires_at) for expires_at in (None, NOW + 5, NOW + 20, None, NOW + 9)]
    await backend.push(tasks)
    assert await backend.count_ready(NOW + 4) == 5
    claimed: list[Task] = []
    while part := await backend.claim("o", NOW + 10, limit, lease_until=LEASE):
        claimed += part
    assert ids(claimed) == ids([tasks[0], tasks[2], tasks[3]])


async def test_an_expired_one_does_not_look_claimable(backend: Backend) -> None:
    await pushed(backend, expires_at=NOW + 5)
    await pushed(backend, run_at=NOW + 20, expires_at=NOW + 8)
    assert await backend.next_run_at(NOW) is not None
    assert await backend.next_run_at(NOW + 9) is None  # a consumer that trusted it would spin
    assert await backend.count_ready(NOW + 30) == 0
    assert await backend.claim("o", NOW + 30, 10) == []


async def test_a_retry_that_waits_beyond_expires_at_is_claimed(backend: Backend) -> None:
    await pushed(backend, expires_at=NOW + 5)
    (running,) = await backend.claim("o", NOW, 1, lease_until=LEASE)
    retry = settle(running, Failed("x", True, Backoff(10, jitter=False), 1.0), NOW)
    assert await backend.update([Change(running, retry)]) == [True]
    assert await backend.overdue(NOW + 9, 10) == []
    assert ids(await backend.claim("o", retry.run_at, 1, lease_until=LEASE)) == [running.task_id]


async def test_only_of_the_queues_asked_for(backend: Backend) -> None:
    await backend.push([new(queue=queue) for queue in ("a", "b", "c", "A")])
    assert [task.queue for task in await backend.claim("o", NOW, 10, queues=["b"])] == ["b"]
    assert await backend.claim("o", NOW, 10, queues=[]) == []
    assert await backend.claim("o", NOW, 10, queues=["unknown"]) == []
    assert [task.queue for task in await backend.claim("o", NOW, 10, queues=["c", "a", "b"])] == ["a", "c"]
    assert [task.queue for task in await backend.claim("o", NOW, 10)] == ["A"]


async def test_paused_queues(backend: Backend) -> None:
    await backend.push([new(queue=queue) for queue in ("a", "b", "a")])
    await backend.set_paused("a", True)
    await backend.push([new(queue="a")])  # pushes go on
    assert [task.queue for task in await backend.claim("o", NOW, 10)] == ["b"]
    assert await backend.claim("o", NOW, 10, queues=["a"]) == []
    await backend.set_paused("a", False)
    assert [task.queue for task in await backend.claim("o", NOW, 10)] == ["a", "a", "a"]


async def test_a_released_task_keeps_its_place(backend: Backend) -> None:
    tasks = await backend.push([new() for _ in range(3)])
    (first,) = await backend.claim("o", NOW, 1)
    back = first.replace(status=Status.PENDING, lease_owner=None, lease_until=None)
    assert await backend.update([Change(first, back)]) == [True]
    claimed = await backend.claim("o", NOW, 3)
    assert ids(claimed) == ids(tasks)
    assert [task.fence for task in claimed] == [2, 1, 1]


@pytest.mark.heavy
@pytest.mark.parametrize("batch", [1, 7, 50])
async def test_concurrent_claimers_get_each_task_once(store: Store, batch: int) -> None:  # A8
    backends = [store.backend, await store.another() if store.backend.shared else store.backend]
    count = 600
    await store.backend.push([new(queue=f"q{n % 3}", priority=n % 5) for n in range(count)])

    async def claimer(number: int) -> list[Task]:
        mine: list[Task] = []
        while part := await backends[number % 2].claim(f"owner-{number}", NOW, batch, lease_until=LEASE):
            assert all(task.lease_owner == f"owner-{number}" for task in part)
            mine += part
        return mine

    claimed = [task for part in await asyncio.gather(*map(claimer, range(32))) for task in part]
    assert len(claimed) == len({(task.task_id, task.fence) for task in claimed}) == count


CLAIMER = """
import asyncio, json, sys
from aiotaskq.backends import connect

async def main(url, owner, now, batch):
    backend = connect(url)
    await backend.open()
    print("ready", flush=True)
    sys.stdin.readline()
    async def claimer():
        mine = []
        while part := await backend.claim(owner, now, batch, lease_until=now + 60_000_000):
            mine += part
        return mine
    parts = await asyncio.gather(*(claimer() for _ in range(4)))
    print(json.dumps([(task.task_id, task.fence) for part in parts for task in part]))
    await backend.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


@pytest.mark.heavy
@pytest.mark.promise("several processes")
async def test_claimers_in_many_processes_get_each_task_once(process_store: Store) -> None:  # A8
    count = 1_000
    await process_store.backend.push([new() for _ in range(count)])
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        nursery.Popen(
            [sys.executable, "-c", CLAIMER, process_store.url, f"owner-{batch}", str(NOW), str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
        )
        for batch in (7, 7, 50, 13)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
    answers = await asyncio.gather(*(asyncio.to_thread(process.communicate, b"go\n") for process in processes))
    claimed: list[Any] = [tuple(pair) for out, _ in answers for pair in json.loads(out)]
    assert len(claimed) == count
    assert set(Counter(claimed).values()) == {1}
    assert {fence for _, fence in claimed} == {1}


@pytest.mark.parametrize(
    ("column", "broken"),
    [("params", "{nicht json"), ("params", "[1, 2]"), ("params", '{"a": NaN}'), ("extra", "{")],
)
async def test_an_undecodable_row_is_handed_out_and_kept(  # A16, I5
    sql_store: Store, column: str, broken: str
) -> None:
    backend = sql_store.backend
    tasks = await backend.push([new(params={"n": n}) for n in range(100)])
    bad = tasks[57]
    sql_store.execute(f"UPDATE task_queue SET {column} = :broken WHERE task_id = :id", broken=broken, id=bad.task_id)
    claimed = await backend.claim("o", NOW, 100, lease_until=LEASE)
    assert ids(claimed) == ids(tasks)
    assert [task.task_id for task in claimed if task.undecodable is not None] == [bad.task_id]
    assert column in (claimed[57].undecodable or "")
    failed = claimed[57].replace(status=Status.FAILED, error_message="undecodable")
    assert await backend.update([Change(claimed[57], failed)]) == [True]
    revived = failed.replace(status=Status.PENDING, error_message=None)
    assert await backend.update([Change(failed, revived)]) == [True]
    ((kept,),) = sql_store.execute(f"SELECT {column} FROM task_queue WHERE task_id = :id", id=bad.task_id)
    assert kept == broken


@pytest.mark.stores("sqlite")  # the others look at text before they store it
async def test_text_that_is_not_utf8_does_not_stop_the_queue(sql_store: Store) -> None:  # A16
    backend = sql_store.backend
    tasks = await backend.push([new(), new(params={"a": 1}), new()])
    sql_store.execute(
        """UPDATE task_queue SET params = CAST(x'7b2261223a22ff227d' AS TEXT) WHERE task_id = :id""",
        id=tasks[1].task_id,
    )
    claimed = await backend.claim("o", NOW, 10, lease_until=LEASE)
    assert [task.undecodable is not None for task in claimed] == [False, True, False]
    failed = claimed[1].replace(status=Status.FAILED)
    assert await backend.update([Change(claimed[1], failed)]) == [True]
    ((kept,),) = sql_store.execute("SELECT hex(params) FROM task_queue WHERE task_id = :id", id=tasks[1].task_id)
    assert kept == "7B2261223A22FF227D"
    assert len(await backend.find(TaskFilter(), 10)) == 3


async def test_rows_of_a_program_that_knows_only_the_documented_columns(sql_store: Store) -> None:
    sql_store.execute(
        "INSERT INTO task_queue (task_id, task_type, params, created_at) VALUES ('old-1', 'mail', NULL, :now)",
        now=NOW // SECOND,
    )
    (claimed,) = await sql_store.backend.claim("o", NOW, 10, lease_until=LEASE)
    assert (claimed.task_id, claimed.type, claimed.params, claimed.max_retries) == ("old-1", "mail", {}, 3)
    assert claimed.undecodable is None


async def test_a_claim_that_fails_anywhere_loses_nothing(sql_store: Store) -> None:  # A2
    backend: Any = sql_store.backend
    due = NOW + 60 * SECOND
    delayed = [new(run_at=due, queue=f"q{n % 3}") for n in range(503)]
    others = [new(run_at=due + 3600 * SECOND), new(queue="elsewhere", run_at=NOW)]
    await backend.push([*delayed, *others])
    left = [0]

    class Cut(Exception):
        pass

    def cut(*_: Any) -> None:
        if left[0] == 0:
            raise Cut
        left[0] -= 1

    async def give_back(claimed: list[Task]) -> None:
        back = [task.replace(status=Status.PENDING, lease_owner=None, lease_until=None) for task in claimed]
        assert all(await backend.update([Change(task, b) for task, b in zip(claimed, back, strict=True)]))

    engine = (await backend.database.connections()).sync_engine
    names = [f"q{n}" for n in range(3)]
    moments: tuple[Literal["before", "after"], ...] = ("before", "after")
    for moment in moments:
        with at_each_statement(engine, cut, moment):
            for statement in range(40):
                left[0] = statement
                try:
                    claimed = await backend.claim("o", due, 503, queues=names, lease_until=due + SECOND)
                except Cut:
                    left[0] = 1000
                    # Before the commit nothing has happened; after it only the answer is lost, and leases end.
                    claimed = await backend.find(TaskFilter(status=(Status.RUNNING,)), 1_000)
                    assert len(claimed) in (0, 503)
                    await give_back(claimed)
                    assert (await backend.stats(due)).counts["pending"] == 505
                    continue
                left[0] = 1000
                break
            else:
                pytest.fail("a claim takes more than forty statements")
            assert len(claimed) == 503, f"lost when cut {moment} the {statement}th"
            assert statement > 0
            await give_back(claimed)
    assert sorted(ids(await backend.claim("o", due, 1_000))) == sorted(ids([*delayed, others[1]]))


RARE: tuple[dict[str, Any], ...] = (
    *({"expires_at": NOW + 10**9}, {"due_at": NOW - 5}, {"unique_key": "u"}, {"idempotency_key": "i"}),
    *({"scheduler_task_id": "s"}, {"on_success": "f"}, {"on_failure": "f"}, {"extra": {"a": [1, "é"]}}),
    *({"crashes": 2}, {"retry_count": 2, "error_message": "ValueError: no"}, {"completed_at": 5, "ended_at": 6}),
    *({"result": {"n": 1.5}}, {"progress": {"n": 1}}, {"timeout": 0.5}, {"cancel_requested": True}),
    {"attempts": (Attempt(number=1, began_at=1, ended_at=2, outcome="failed", error="ValueError: no"),)},
)


async def test_whatever_a_task_has_is_claimed_with_it(backend: Backend) -> None:
    tasks = [new(run_at=NOW - 100 + n, **fields) for n, fields in enumerate([{}, *RARE, {}])]
    await backend.push(tasks)
    claimed = await backend.claim("owner", NOW, 100, lease_until=LEASE)
    assert claimed == await backend.get(ids(tasks))
    by_claim = dict.fromkeys(("status", "fence", "lease_owner", "lease_until", "started_at", "began_at"))
    assert [task.replace(**by_claim) for task in claimed] == [task.replace(**by_claim) for task in tasks]

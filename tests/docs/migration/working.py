"""Workers, their queues, and the command line."""

from __future__ import annotations

import asyncio

from aiotaskq import TaskQ
from aiotaskq.testing import virtual
from tests.docs.migration.rows import APP, TASKS, row, served
from tests.support.command import Cli, wait_for
from tests.support.machine import within


@row("Celery", "worker_prefetch_multiplier")
async def claimed_when_there_is_a_free_slot() -> None:
    async with virtual(concurrency=1) as kit:
        began, end = asyncio.Event(), asyncio.Event()

        @kit.tq.task
        async def f() -> None:
            began.set()
            await end.wait()

        await kit.tq.push_many([f.call(), f.call()])
        await began.wait()
        counts = (await kit.tq.stats()).counts
        assert (counts["pending"], counts["running"]) == (1, 1)
        end.set()
        await kit.drain()


@row("Celery", "include=[…]")
@row("arq", "functions=[download]")
def handlers_in_modules(cli: Cli) -> None:
    assert "@tq.task" in TASKS and "import tasks" in APP
    served(cli, "run", "app:tq")


@row("Celery", "task_routes")
def a_queue_of_its_own(cli: Cli) -> None:
    served(cli, "run", "app:tq", "--queues", "mail", queue="mail", decorator='@tq.task(queue="mail")')


@row("Celery", "celery -A app worker -c 20")
def workers(cli: Cli) -> None:
    served(cli, "run", "app:tq", "--concurrency", "20")


@row("Celery", "watchmedo auto-restart -- celery -A app worker")
@row("arq", "arq app.WorkerSettings")
@row("dramatiq", "dramatiq app --processes 2 --threads 8 --watch .")
def reloading_workers(cli: Cli) -> None:
    served(cli, "run", "app:tq", "--concurrency", "20", "--processes", "2", "--reload")


@row("Celery", "--autoscale=10,3")
def as_many_workers_as_needed(cli: Cli) -> None:
    cli.push("f")
    assert cli.json("scale", "--db", cli.url)["wanted_workers"] == 1  # GET /scale answers the same


@row("Celery", "celery -A app inspect active")
@row("RQ", "rq info")
def what_there_is(cli: Cli) -> None:
    cli.push("f")
    assert cli.json("stats", "--db", cli.url)["counts"]["pending"] == 1
    with cli.running("--db", cli.url, "--port", "0", "--read-only", verb="web") as (_, lines):
        wait_for(lines, "http://127.0.0.1:")


@row("Celery", "priority=9")
@row("dramatiq", '@dramatiq.actor(queue_name="mail", priority=10)')
@row("RQ", "queue.enqueue(f, at_front=True)")
@row("RQ", 'Queue("high")')
@row("Huey", "@huey.task(expires=60, priority=10)")
async def queues_and_priorities() -> None:
    tq, order = TaskQ("memory://"), list[str]()

    @tq.task(queue="high", expires=60)
    async def f(name: str) -> None:
        order.append(name)

    @tq.task(queue="mail", priority=10)
    async def g() -> None: ...

    async with tq.running(concurrency=1, queues=["high", "low"]):
        unserved = await g.push()
        calls = [f.call("last"), f.options(priority=-9).call("first"), f.options(queue="low", priority=-1).call("then")]
        for handle in await tq.push_many(calls):
            await handle.result(timeout=within(10))
        assert await unserved.status() == "pending" and (await unserved.task()).priority == 10
    assert order == ["first", "then", "last"]


@row("RQ", "rq worker --burst")
async def until_nothing_waits() -> None:
    tq, ran = TaskQ("memory://"), list[int]()

    @tq.task
    async def f(x: int) -> None:
        ran.append(x)

    async with tq.running(concurrency=2):
        await tq.push_many([f.call(x) for x in range(10)])
        while await tq.count(status="pending"):
            await asyncio.sleep(0)
    assert len(ran) == 10


@row("RQ", "rq worker high low")
def workers_of_queues(cli: Cli) -> None:
    served(cli, "run", "app:tq", "--queues", "high,low", "--processes", "2", queue="high")


@row("APScheduler", "ThreadPoolExecutor(20)")
@row("Huey", "huey_consumer app.huey -w 8 -k process")
def a_process_for_a_handler(cli: Cli) -> None:
    served(cli, "run", "app:tq", "--concurrency", "8", decorator='@tq.task(executor="process")')


@row("APScheduler", "scheduler.start()")
def started_in_three_ways(cli: Cli) -> None:
    served(cli, "run", "app:tq")
    tq = TaskQ("memory://")

    @tq.task
    def f() -> int:
        return 1

    async def inside() -> int:
        async with tq.running():
            return await (await f.push()).result(timeout=within(10))

    assert asyncio.run(inside()) == 1
    served(cli)  # tq.run()

"""The shop of ``demo --web``: a day of made-up history, one of each situation that the dashboard explains, traffic."""

from __future__ import annotations

import asyncio
import math
import random
from importlib import metadata
from typing import Any, NamedTuple

from aiotaskq.app.groups import Workflow
from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.change import Claim
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.history import DAY, HOUR, MINUTE, QUARTER, WIDTHS, Key, Roll, Sums, begin_of
from aiotaskq.core.limits import Limit, Rate
from aiotaskq.core.outcome import ALONE, MAX_CRASHES, Life, outcome_of_lost
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.runtime.audit import audit
from aiotaskq.runtime.context import current_task
from aiotaskq.runtime.steps import sleep_for, wait_event

SHOP, MAIL, MEDIA, IMPORTS, NEWS = QUEUES = ("shop", "mail", "media", "imports", "newsletter")
TRAFFIC, NIGHTLY = "demo-traffic", "demo-nightly"
TENANTS = ("acme", "globex", "initech")
OPERATOR = "mara"
BEFORE, NOW = "1.8.3", "1.9.0"
"""The version of the shop until some minutes ago, and that which runs."""
_UNIQUE = "0-000000000000"  # the end of the id of a worker
CAUSES = (
    (ConnectionError, "the payment provider does not answer"),
    (ValueError, "card 4242 was declined: insufficient funds"),
    (KeyError, "address"),
)


def register(tq: TaskQ) -> None:
    """Register the handlers of the shop."""

    @tq.task(name="order.charge", queue=SHOP, max_retries=2, backoff=1)
    async def charge(order: int, fails: int | None = None) -> str:
        await asyncio.sleep(random.uniform(0.1, 0.8) if fails is None else 0)
        if fails is not None or random.random() < 0.1:
            error, message = CAUSES[(fails or 0) % len(CAUSES)]
            raise error(message)
        return f"charged {order}"

    @tq.task(name="order.reserve", queue=SHOP)
    async def reserve(order: int) -> str:
        await asyncio.sleep(random.uniform(0.2, 1.0))
        return f"reserved {order}"

    @tq.task(name="order.ship", queue=SHOP)
    async def ship(order: int) -> str:
        await asyncio.sleep(random.uniform(0.2, 1.5))
        return f"shipped {order}"

    @tq.task(name="order.approve", queue=SHOP)
    async def approve(order: int) -> Any:
        return await wait_event(f"approved:{order}", timeout=3 * DAY)

    @tq.task(name="mail.confirm", queue=MAIL)
    async def confirm(order: int) -> None:
        await asyncio.sleep(0.05)

    @tq.task(name="mail.remind", queue=MAIL)
    async def remind(order: int) -> None:
        await sleep_for("three days", days=3)

    @tq.task(name="mail.digest", queue=MAIL, rate=Rate(1, per=HOUR))
    async def digest(reader: str) -> None: ...

    @tq.task(name="search.index", queue=MEDIA, debounce=20 * MINUTE, max_wait=HOUR, key="product")
    async def index(product: int) -> None: ...

    @tq.task(name="media.render", queue=MEDIA, limit=Limit(1))
    async def render(picture: int) -> None:
        await asyncio.sleep(random.uniform(2, 4))

    @tq.task(name="media.parse", queue=MEDIA)
    async def parse(upload: str) -> None: ...

    @tq.task(name="import.rows", queue=IMPORTS, limit=Limit(1, key="tenant"))
    async def import_rows(tenant: str, rows: int) -> int:
        for done in range(100, rows + 1, 100):
            await current_task().progress(done, rows)
            await asyncio.sleep(0.1)
        return rows

    @tq.task(name="import.nightly", queue=IMPORTS)
    async def nightly() -> None: ...

    @tq.task(name="shop.traffic", queue=SHOP)
    async def traffic() -> None:
        order = random.randrange(1_000, 10_000)
        flow = Workflow(f"order {order}")
        flow.add("charge", charge.call(order=order))
        flow.add("reserve", reserve.call(order=order))
        flow.add("ship", ship.call(order=order), after=["charge", "reserve"])
        flow.add("mail", confirm.call(order=order), after=["ship"])
        await tq.start(flow)
        await tq.push_many([import_rows.call(tenant=random.choice(TENANTS), rows=1_500) for _ in range(3)])

    tq.elsewhere("media.transcode")


async def fill(url: str, now: int) -> None:
    """Write a day of history that ends at ``now``, in microseconds UTC, and one of each situation."""
    past = VirtualClock(now - 40 * MINUTE * SECOND)
    async with TaskQ(url, clock=past, version=BEFORE) as tq:
        register(tq)
        history = tq.queue.backend.history
        for width in WIDTHS:
            while await history.roll(Roll(width, (), now), 1_000):  # that of an earlier demo
                pass
        await history.add([sums.period(key) for key, sums in _day(now).items()])
        await _poison(tq, past)
        await _dead_worker(tq, past, now - 5 * MINUTE * SECOND)
    async with TaskQ(url, version=NOW) as tq:
        register(tq)
        await _situations(tq)


async def _situations(tq: TaskQ) -> None:
    push = tq.push
    await tq.push_many([tq.call("media.render", {"picture": number}) for number in range(120)])
    leaving = [await push(name, {"order": 4711 + n}) for n in range(2) for name in ("order.approve", "mail.remind")]
    failing = [tq.call("order.charge", {"order": 5_000 + n, "fails": n * n % 7}, max_retries=0) for n in range(14)]
    failed = await tq.push_many(failing)
    async with tq.running(8, queues=[SHOP, MAIL], scheduler=False):
        await asyncio.gather(*(tq.queue.wait_for_end(each.task_id) for each in failed))
        while not all(map(_has_left, [await each.task() for each in leaving])):
            await tq.queue.clock.sleep(0.01)
    for reader in ("ann", "bob", "eve"):
        await push("mail.digest", {"reader": reader})
    for product in (17, 17, 18):
        await push("search.index", {"product": product})
    await push("media.transcode", {"video": "launch.mp4"}, queue=MEDIA)
    await push("order.ship", {"order": 4713}, delay=4 * HOUR)
    late = Workflow("order 4714").add("charge", tq.call("order.charge", {"order": 4714}, delay=2 * HOUR))
    late.add("ship", tq.call("order.ship", {"order": 4714}), after=["charge"])
    await tq.start(late)
    await push("order.ship", {"order": 4715}, limit=Limit(2, name="carrier"))
    await tq.limits.pause("carrier")
    await push("order.ship", {"order": 4716}, limit=Limit(2, name="carrier"))
    await tq.push_many([tq.call("mail.confirm", {"order": 4_800 + n}, queue=NEWS) for n in range(12)])
    await tq.pause(NEWS)
    await tq.schedules.add("demo nightly", "import.nightly", cron="0 3 * * *", queue=IMPORTS, schedule_id=NIGHTLY)
    await tq.schedules.pause(NIGHTLY)
    for action, target in (
        ("limits.pause", "carrier"),
        ("queues.pause", NEWS),
        ("schedules.pause", NIGHTLY),
    ):
        await audit(tq.queue, "dashboard", action, OPERATOR, [target])


def _has_left(task: Task) -> bool:
    """Whether the handler of a task has been left: it sleeps, or waits for an event."""
    return task.status is Status.PENDING and task.fence > 0


async def _poison(tq: TaskQ, clock: VirtualClock) -> None:
    """Let a task be claimed by processes that die under it, until it fails as poison."""
    await tq.push("media.parse", {"upload": "broken.pdf"})
    for process in range(MAX_CRASHES):
        owner = f"worker-media-1-{200 + process}-{_UNIQUE}{ALONE}"
        _, (task,) = await tq.queue.backend.exchange((), Claim(owner, clock.now(), 1, (MEDIA,)))
        clock.step(20)
        await tq.queue.settle(task, outcome_of_lost(Life.UNKNOWN), lease_over=True)
        clock.step(5)


async def _dead_worker(tq: TaskQ, clock: VirtualClock, seen_at: int) -> None:
    """Leave a running task behind whose worker has sent no heartbeat since."""
    clock.step((seen_at - clock.now()) / SECOND)
    owner, backend = f"worker-import-2-31337-{_UNIQUE}", tq.queue.backend
    queues, lease = (IMPORTS,), seen_at + 30 * SECOND
    info = WorkerInfo(
        owner=owner,
        host="import-2",
        pid=31337,
        aiotaskq=metadata.version("aiotaskq"),
        started_at=seen_at - 45 * MINUTE * SECOND,
        seen_at=seen_at,
        lease_until=lease,
        queues=queues,
        concurrency=4,
        busy=1,
        version=BEFORE,
    )
    if backend.workers is not None:
        await backend.workers.register(info)
        await backend.workers.note_version(info)
        await tq.push("import.rows", {"tenant": "hooli", "rows": 1_500})
        await backend.exchange((), Claim(owner, clock.now(), 1, queues))


# ---- the past day -------------------------------------------------------------------------------------------------


class _Kind(NamedTuple):
    type: str
    queue: str
    minutely: float
    """Tasks a minute in the middle of the day."""
    seconds: float
    """The median of their run times."""


_KINDS = (
    _Kind("order.charge", SHOP, 14, 0.4),
    _Kind("order.reserve", SHOP, 14, 0.6),
    _Kind("order.ship", SHOP, 13, 0.8),
    _Kind("mail.confirm", MAIL, 13, 0.05),
    _Kind("media.render", MEDIA, 4, 2.5),
    _Kind("import.rows", IMPORTS, 3, 1.6),
)
_BURST = range(8, 17)  # minutes ago in which a fifth of the charges fail
_SLOW = range(30)  # minutes ago in which a picture takes six times as long


def _day(now: int) -> dict[Key, Sums]:
    """Return the sums of 24 hours: quarters of an hour, and of the last two hours each minute."""
    chance, found = random.Random(now), dict[Key, Sums]()
    for ago in range(1, DAY // MINUTE):
        at = now - ago * MINUTE * SECOND
        width = MINUTE if ago < 2 * HOUR // MINUTE else QUARTER
        busy = 0.25 + 0.75 * math.sin(math.pi * (at / SECOND % DAY) / DAY) ** 2
        for kind in _KINDS:
            runs = max(0, round(chance.gauss(kind.minutely * busy, 1.5)))
            failed = runs // 5 if kind.type == "order.charge" and ago in _BURST else int(chance.random() < 0.01)
            slower = 6 if kind.type == "media.render" and ago in _SLOW else 1
            for outcome, number in (("failed", min(runs, failed)), ("completed", runs - min(runs, failed))):
                if number:
                    key = begin_of(at, width), width, kind.queue, kind.type, outcome, ""
                    median = kind.seconds * slower * SECOND
                    times = [round(chance.lognormvariate(math.log(median), 0.5)) for _ in range(number)]
                    waits = [round(chance.lognormvariate(math.log(20_000), 0.9)) for _ in range(number)]
                    found.setdefault(key, Sums()).add_runs(times, waits)
    return found


async def add_traffic(tq: TaskQ) -> None:
    """Add the schedule that pushes the traffic of an open task queue, anew."""
    await internal(tq).scheduler().delete(TRAFFIC)
    await tq.schedules.add("demo traffic", "shop.traffic", interval=5, queue=SHOP, schedule_id=TRAFFIC)

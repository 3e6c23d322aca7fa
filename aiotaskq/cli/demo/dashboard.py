"""The demo's dashboard: workers go on, and some traffic shows limits, workflows, retries, schedules."""

from __future__ import annotations

import asyncio
import importlib
import random
from collections.abc import Callable

from aiotaskq.app.groups import Workflow
from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.demo.tasks import OTHERS
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.output import echo
from aiotaskq.core.limits import Limit
from aiotaskq.runtime.context import current_task

TENANTS = ("acme", "globex", "initech")
TRAFFIC = "demo-traffic"


class Dashboard:
    """Serves the pages of the demo's database until it is cancelled."""

    def __init__(self, url: str, port: int) -> None:
        """Raise MissingExtra before the demo begins."""
        self._server = importlib.import_module("aiotaskq.web.server")
        self._url = url
        self._port = port
        self.open = False
        """Whether it serves pages."""

    async def serve(self, register: Callable[[TaskQ], None]) -> None:
        """Run workers and serve the dashboard; ``register`` registers the demo's own handlers."""
        tq = TaskQ(self._url, lease=10, poll_interval=0.2)
        register(tq)
        _register_traffic(tq)
        self.open = True
        async with tq.running(8):
            await tq.scheduler.delete_task(TRAFFIC)
            await tq.scheduler.add_scheduler_task(
                "demo traffic", "demo.traffic", "interval", interval_seconds=5, queue=OTHERS, task_id=TRAFFIC
            )
            try:
                await self._server.serve_until(asyncio.Event(), tq, port=self._port, show_args=True, started=_say)
            finally:
                await tq.scheduler.pause_task(TRAFFIC)


def _say(url: str) -> None:
    echo()
    echo(tr("dashboard: {url} (Ctrl-C ends the demo)", url=f"{url}/dashboard/"))


def _register_traffic(tq: TaskQ) -> None:
    @tq.task(name="demo.import", queue=OTHERS, limit=Limit(1, key="tenant"))
    async def import_rows(tenant: str, rows: int) -> int:
        for done in range(0, rows, 100):
            await current_task().progress(done, rows)
            await asyncio.sleep(0.1)
        return rows

    @tq.task(name="demo.charge", queue=OTHERS, max_retries=2, backoff=1)
    async def charge(order: int) -> str:
        await asyncio.sleep(random.uniform(0.1, 0.8))
        if random.random() < 0.2:
            raise ConnectionError("the payment provider does not answer")
        return f"charged {order}"

    @tq.task(name="demo.ship", queue=OTHERS)
    async def ship(order: int) -> str:
        await asyncio.sleep(random.uniform(0.2, 1.5))
        return f"shipped {order}"

    @tq.task(name="demo.mail", queue=OTHERS)
    async def mail(order: int) -> None:
        await asyncio.sleep(0.05)

    @tq.task(name="demo.traffic", queue=OTHERS)
    async def traffic() -> None:
        order = random.randrange(1_000, 10_000)
        flow = Workflow(f"order {order}")
        flow.add("charge", charge.call(order=order))
        flow.add("reserve", ship.call(order=order))
        flow.add("ship", ship.call(order=order), after=["charge", "reserve"])
        flow.add("mail", mail.call(order=order), after=["ship"])
        await tq.start(flow)
        await tq.push_many([import_rows.call(tenant=random.choice(TENANTS), rows=1_500) for _ in range(3)])

"""What an operator finds in the demo's shop: for each of 18 situations the cause, and what mends it, in few clicks."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from aiotaskq import TaskQ
from aiotaskq.cli.demo import shop
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from tests.support.machine import within
from tests.support.rows import new
from tests.web.dashboard.conftest import Browse, in_starlette

CAUSE, REPAIR = 3, 4
"""Clicks from the overview, at most."""


class Situation(NamedTuple):
    name: str
    path: tuple[str, ...]
    """What is clicked: the words of a link, or ``row: `` and words of the row whose task is opened."""
    cause: str
    """Words of the last page."""
    repair: tuple[str, ...] = ()
    """What else is clicked, ``button: `` and the name of the action last; empty where no button mends it."""


SITUATIONS = (
    Situation("delayed", ("pending",), "delayed", ("row: order.ship delayed", "button: tasks.run_now")),
    Situation("at a limit", (), "The limit media.render is full", ("The limit media.render", "button: limits.set")),
    Situation(
        "queue paused", (), "The queue newsletter is paused, and 12 tasks wait in it", ("button: queues.resume",)
    ),
    Situation("no worker for its type", (), "a type that no worker knows: media.transcode"),
    Situation("no worker for its queue", (), "Tasks of the queue reports are ready, but no worker claims from it"),
    Situation("limit paused", (), "The limit carrier is paused, and 1 task waits at it", ("button: limits.resume",)),
    Situation("debounced", ("pending", "row: search.index"), "It is debounced", ("button: tasks.run_now",)),
    Situation("behind another task", ("pending",), "behind one task", ("row: behind one task", "row: charge")),
    Situation("sleeps", ("pending",), "sleeps", ("row: mail.remind", "button: tasks.run_now")),
    Situation(
        "waits for an event",
        ("pending",),
        "for the event approved:4711",
        ("row: approved:4711", "Emit the event", "button: events.emit"),
    ),
    Situation(
        "rate used up", ("pending",), "rate of mail.digest used up", ("rate of mail.digest", "button: limits.set")
    ),
    Situation("dead worker", ("run was lost",), "import-2"),
    Situation("poison", (), "A task of the type media.parse was failed as poison", ("poison", "button: tasks.retry")),
    Situation(
        "burst of failures", ("Failures",), "card # was declined: insufficient funds", ("button: tasks.retry_many",)
    ),
    Situation("slow type", ("Task types", "media.render"), "p95"),
    Situation("schedule paused", (), "The schedule demo nightly is paused", ("button: schedules.resume",)),
    Situation("backlog", ("media",), "Workers that claim from it", ()),
    Situation("task that hangs", (), "has run for more than ten times its p99", ("button: tasks.cancel",)),
)


@pytest.fixture
async def browse(tmp_path: Path) -> AsyncIterator[Browse]:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    async with TaskQ(url) as clock:
        now = clock.queue.clock.now()
    await shop.fill(url, now)
    tq = TaskQ(url, version=shop.NOW)
    shop.register(tq)
    tq.elsewhere("report")
    async with tq.running(8, queues=shop.QUEUES, scheduler=False):
        await tq.push("report", queue="reports")
        (lost,) = await tq.find(type="import.rows")
        await tq.queue.wait_for_end(lost.task_id, within(60))
        (worker,) = [each for each in await tq.workers.list() if each.version == shop.NOW]
        began = now - 34 * 60 * SECOND
        known = {"seq": now, "created_at": began // SECOND, "run_at": began, "fence": 1, "queue": shop.SHOP}
        hung = new(task_id="hangs", type="order.ship", status=Status.RUNNING, lease_owner=worker.owner, **known)
        await tq.queue.backend.push([hung.replace(started_at=began // SECOND, began_at=began)])
        async with in_starlette(tq, show_args=True) as browse:
            yield browse


def plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def target(page: str, clicked: str) -> str:
    """Return the address behind a link, by its words, or behind that of the task in a row, by words of the row."""
    if clicked.startswith("row: "):
        words = clicked.removeprefix("row: ").split()
        rows = re.findall(r"<tr>.*?</tr>|<li>.*?</li>", page, re.DOTALL)
        found = [each for each in rows if all(word in plain(each) for word in words) and 'href="task?id=' in each]
        links = re.findall(r'href="(task\?id=[^"]+)"', found[0]) if found else []
    else:
        anchors = re.findall(r'<a [^>]*href="([^"]+)"[^>]*>(.*?)</a>', page, re.DOTALL)
        exact = [address for address, inner in anchors if plain(inner) == clicked]
        links = exact or [address for address, inner in anchors if clicked in plain(inner)]
    assert links, f"{clicked!r} is not on the page: {plain(page)[:3_000]}"
    return html.unescape(links[0])


async def test_each_cause_and_what_mends_it_are_few_clicks_away(browse: Browse) -> None:
    overview = (await browse.get("")).text
    far = []
    for situation in SITUATIONS:
        page, clicks = overview, 0
        for clicked in situation.path:
            page, clicks = (await browse.get(target(page, clicked))).text, clicks + 1
        assert situation.cause in plain(page), f"{situation.name}: {plain(page)[:3_000]}"
        if clicks > CAUSE:
            far.append(f"{situation.name}: {clicks} clicks to the cause")
        for clicked in situation.repair:
            clicks += 1
            if clicked.startswith("button: "):
                action = clicked.removeprefix("button: ")
                assert f'action="{action}"' in page, f"{situation.name}: no button {action}"
            else:
                page = (await browse.get(target(page, clicked))).text
        if clicks > REPAIR:
            far.append(f"{situation.name}: {clicks} clicks to what mends it")
    assert not far


async def test_which_host_and_which_version_are_two_clicks_away(browse: Browse) -> None:
    overview = (await browse.get("")).text
    assert overview.count('<line class="deploy"') == 6, "both versions in three charts"
    assert re.search(rf"Version {re.escape(shop.NOW)} since", plain(overview))
    failed = (await browse.get(target(overview, "row: order.charge"))).text
    assert re.search(rf"on [\w.-]+ *, version {re.escape(shop.NOW)}", plain(failed)), plain(failed)
    lost = (await browse.get(target(overview, "run was lost"))).text
    dead = (await browse.get(target(lost, "row: import.rows"))).text
    assert "import-2" in plain(dead) and shop.BEFORE in plain(dead)

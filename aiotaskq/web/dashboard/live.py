"""Updates of open pages: one asyncio task renders each page that is open, and sends the parts that have changed.

The tabs of one visitor that show the same page share one rendering; another visitor's forms hold another token. The
pause between two rounds grows with what a round has cost, so that open pages take a bounded share of a core.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.task import SECOND
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import log
from aiotaskq.web.dashboard.render import live_parts
from aiotaskq.web.dashboard.view import Page, View
from aiotaskq.web.problem_details import ProblemError

INTERVAL = 1.0  # seconds between two rounds
SHARE = 0.03  # of a core that rendering may take, beside the counts
LONGEST = 60.0  # seconds between two rounds where a store hardly answers
UPDATE_TIMEOUT = 5.0  # seconds for one page
BEAT = 15.0  # seconds after which a comment is sent, so that proxies keep the connection
MOST_BEHIND = 4  # updates that wait for a slow client; then its page is sent anew

Render = Callable[[Page, View], Awaitable[bytes]]


class _Open:
    """One page that is open in one or more tabs."""

    def __init__(self, page: Page, view: View) -> None:
        self.page = page
        self.view = view
        self.parts: dict[str, str] = {}
        self.tabs: set[asyncio.Queue[bytes]] = set()


class Live:
    """The pages that are open."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._open: dict[bytes, _Open] = {}
        self._clock = SystemClock()
        self._task: asyncio.Task[None] | None = None

    async def updates(self, page: Page, view: View, seconds: float) -> AsyncGenerator[bytes]:
        """Yield server-sent events of a page for some seconds: ``part`` with id and markup of what has changed."""
        key = _key(page, view)
        tab: asyncio.Queue[bytes] = asyncio.Queue(MOST_BEHIND)
        opened = self._open.setdefault(key, _Open(page, view))
        opened.tabs.add(tab)
        if opened.parts:  # the page that this tab has read may be older
            tab.put_nowait(_event(list(opened.parts.items())))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="aiotaskq-dashboard")
        until = self._clock.ticks() + round(seconds * SECOND)
        try:
            yield b"retry: 2000\n\n"
            while (left := until - self._clock.ticks()) > 0:
                try:
                    async with asyncio.timeout(min(BEAT, left / SECOND)):
                        event = await tab.get()
                except TimeoutError:
                    event = b": \n\n"
                yield event
        finally:
            opened.tabs.discard(tab)
            if not opened.tabs and self._open.get(key) is opened:
                del self._open[key]

    async def _run(self) -> None:
        """Render what is open until nothing is."""
        before = 0.0
        while self._open:
            began = self._clock.ticks()
            for key, opened in list(self._open.items()):
                try:
                    await self._update(opened)
                except Exception as error:  # it must not end the updates of other pages
                    log.error("dashboard: {} cannot be rendered", opened.page.name or "overview", cause=error)
                    if self._open.get(key) is opened:  # until a tab of it connects again
                        del self._open[key]
            spent = (self._clock.ticks() - began) / SECOND
            await asyncio.sleep(pause_after(before, spent))
            before = spent

    async def _update(self, opened: _Open) -> None:
        now = opened.view.tq.queue.clock.now()
        view = opened.view.updated(now)
        try:
            async with asyncio.timeout(UPDATE_TIMEOUT):
                page = await self._render(opened.page, view)
        except (AiotaskqError, ProblemError, TimeoutError) as error:
            log.debug("dashboard: {} was not updated: {}", opened.page.name or "overview", error)
            return
        parts = dict(live_parts(page))
        changed = [(name, text) for name, text in parts.items() if opened.parts.get(name) != text]
        opened.parts = parts
        if not changed:
            return
        for tab in opened.tabs:
            if tab.full():  # it reads too slowly: what it has not read is older than this
                while not tab.empty():
                    tab.get_nowait()
                tab.put_nowait(_event(list(parts.items())))
            else:
                tab.put_nowait(_event(changed))


def pause_after(before: float, spent: float) -> float:
    """Return the seconds until the next round, by the seconds that the last two have taken.

    The shorter one counts: a round that a busy machine held up does not tell what rounds cost.
    """
    return min(LONGEST, max(INTERVAL, min(before, spent) / SHARE))


def _event(parts: list[tuple[str, str]]) -> bytes:
    return b"event: parts\ndata: " + msgspec.json.encode(parts) + b"\n\n"


def _key(page: Page, view: View) -> bytes:
    """Tabs with the same key see the same page."""
    seen = (page.name, sorted(view.query.items()), view.words.language, sorted(view.allowed), view.form_token)
    return msgspec.json.encode(seen)

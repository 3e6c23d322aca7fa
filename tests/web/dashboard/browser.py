"""A real browser, Debian's chromium without a screen, and a server for it in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from aiotaskq import TaskQ
from aiotaskq.web.server import serve_until
from tests.support.installed import Unavailable, program

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start the browser. Raises Unavailable on a machine without it."""
    installed = program("chromium", "chromium-browser")
    if installed is None:
        raise Unavailable("chromium is not installed (Debian: apt-get install -y chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=installed, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def served(tq: TaskQ, port: int = 0, **options: Any) -> AsyncIterator[str]:
    """Serve the dashboard on a port, by default a free one; yields its address."""
    stop, found = asyncio.Event(), asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve_until(stop, tq, port=port, started=found.set_result, **options))
    done, _ = await asyncio.wait([server, found], return_when=asyncio.FIRST_COMPLETED)
    if server in done:
        server.result()
    try:
        yield f"{found.result()}/dashboard/"
    finally:
        stop.set()
        await server


class Watched:
    """A visitor with what the browser has complained about: errors of scripts, refused content, foreign requests."""

    def __init__(self, context: BrowserContext, page: Page, home: str) -> None:
        self.context = context
        self.page = page
        self.home = home
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("console", lambda said: self.problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda request: self._check(request.url))

    async def watch_policy(self) -> None:
        """Note what the Content-Security-Policy has refused, from the first page on."""
        await self.context.expose_function("refused", lambda what: self.problems.append(f"refused: {what}"))
        await self.context.add_init_script(
            'document.addEventListener("securitypolicyviolation",'
            " (event) => refused(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));"
        )

    def _check(self, url: str) -> None:
        if not url.startswith(self.home):
            self.problems.append(f"a request leaves the dashboard: {url}")

    async def open(self, path: str = "") -> Page:
        await self.page.goto(self.home + path)
        return self.page


@contextlib.asynccontextmanager
async def visitor(
    browser: Browser, home: str, *, language: str = "en", theme: Any = "light", width: int = 1280, **options: Any
) -> AsyncIterator[Watched]:
    """Open a window of its own, with its own cookies."""
    size: Any = {"width": width, "height": 900}
    context = await browser.new_context(locale=language, color_scheme=theme, viewport=size, **options)
    try:
        watched = Watched(context, await context.new_page(), home)
        await watched.watch_policy()
        yield watched
    finally:
        await context.close()


async def overflow(page: Page) -> list[str]:
    """Return what is wider than the window, where the page can be scrolled sideways."""
    return list(
        await page.evaluate(
            """() => {
                const wide = document.documentElement.clientWidth;
                if (document.documentElement.scrollWidth <= wide) return [];
                return [...document.querySelectorAll("body *")]
                    .filter((each) => each.getBoundingClientRect().right > wide + 1)
                    .filter((each) => !each.closest(".scroll, .menu, .tabs"))
                    .map((each) => each.outerHTML.slice(0, 160)).concat("the page");
            }"""
        )
    )

"""Pages as HTML, and updates of open ones: their script asks again and again for the parts that have changed.

Jinja2 escapes everything that is not markup of a template.

Each answer is short: between two of them an open page holds nothing of the application, and delays no stop of a server.
An answer says when to ask again. The pause between two renderings grows with the CPU time that the open pages take, so
that this is a bounded share of a core; pages that take much wait longer than others. So does a page that could not be
read, and until then says why. In a long pause a tab asks nevertheless: the store is asked for a sign of life, so that a
page soon says that it is away.
Slow pages are read one at a time, as the share permits. The update of a page that was quick gets a short limit; if it
is cut, the page is read later with a longer one.
The tabs of one visitor that show the same page share one rendering; another visitor's forms hold another token.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import msgspec

from aiotaskq.backends.read_limit import ReadTooLong, limited_reads
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.errors import missing
from aiotaskq.core.task import SECOND
from aiotaskq.web.dashboard.view import Page, View

try:
    import jinja2
except ModuleNotFoundError:
    raise missing("jinja2", "dashboard") from None

TEMPLATES = Path(__file__).parent / "templates"
_LIVE = re.compile(r'<(\w+) id="([\w-]+)" data-live[^>]*>(.*?)</\1><!--end \2-->', re.DOTALL)
_TABLE = re.compile(r'<table class="rows">.*?</table>', re.DOTALL)
_CELL = re.compile(r"<t[hd][ >].*?</t[hd]>", re.DOTALL)
_TAG = re.compile(r"<(span|svg)\b[^>]*aria-hidden.*?</\1>|<[^>]*>", re.DOTALL)
_BLANK = re.compile(r">\s+<(?=/td>)")

INTERVAL = 1.0  # seconds between two renderings of a page
SHARE = 0.04  # of a core that open pages may take, beside the counts
UNKNOWN = 1.0  # seconds of CPU time that a page may take of which nothing is known
ANSWER = 0.002  # seconds of CPU time of an answer, beside the rendering
EVEN = 8.0  # seconds up to which all pages have the same pause, and longer only those that take much
LONGEST = 600.0  # seconds between two renderings
PAGE_TIMEOUT = 5.0  # seconds of a whole page
READ_LIMIT = 2.0  # seconds of one statement of a page, after which the store cancels it
QUICK = 0.1  # seconds that a quick page takes at most; twice as many are the limit of one statement of its update
ALIVE = 3.0  # seconds after which the store has to answer something, if there are not too many pages
SOONEST = 0.1  # seconds until a tab that shares a rendering asks for the next one
ALLOWED = 30.0  # seconds after which it is asked again which actions a visitor may take
LATE = 8.0  # seconds by which a tab may ask later than it was told, until its page counts as closed
MOST_OPEN = 256  # pages whose rendering is kept

Render = Callable[[Page, View], Awaitable[bytes]]


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A part of a page: a tab that has this digest has this markup."""

    name: str
    digest: str
    markup: str


class Update(msgspec.Struct, frozen=True):
    """What has changed in a page since a tab has asked last."""

    parts: list[Part]
    age: float
    """Seconds since the page was read."""
    at: str
    """When that was, as the page shows it."""
    again: float
    """Seconds after which to ask again."""


@dataclass
class _Open:
    """One page that is open in one or more tabs."""

    parts: list[Part] = field(default_factory=list)
    costs: tuple[float, float] = (0.0, 0.0)
    """Seconds of CPU time of the last two renderings; 0 where there was none."""
    answers: int = 1
    """How many were given between the last two renderings: about one for each tab."""
    counted: int = 0
    """How many were given since the last rendering."""
    read_at: int | None = None
    now: int = 0
    """The same in microseconds UTC."""
    tried_at: int | None = None
    cut: bool = False
    """Whether the page was not read, the last time."""
    problem: Exception | None = None
    """Why it could not be read, where it will not soon be read with a longer limit."""
    limit: float = READ_LIMIT
    """Seconds of one statement of the next rendering."""
    open_until: int = 0
    allowed: frozenset[str] = frozenset()
    allowed_until: int = 0
    rendering: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def cost(self) -> float:
        """Seconds of CPU time between two renderings: of the shorter one, as other parts of the process may be busy."""
        return min(self.costs) + self.answers * ANSWER

    @property
    def slow(self) -> bool:
        return self.cut or min(self.costs) > QUICK


class Live:
    """The pages that are open."""

    def __init__(self, render: Render, clock: Clock, cpu: Callable[[], float] = time.process_time) -> None:
        self._render = render
        self._open: dict[bytes, _Open] = {}
        self._clock = clock
        self._meter = CpuMeter(cpu)
        self._slow_reads = 0
        self._slow_at = 0  # when the next slow page may be read

    async def update(
        self, page: Page, view: View, allowed: Callable[[], Awaitable[frozenset[str]]], known: Collection[str]
    ) -> Update:
        """Return what a tab that has the parts with the digests ``known`` does not have. Raises as the page.

        ``allowed`` returns the actions that the visitor may take.
        """
        key = _key(page, view)
        self._open.setdefault(key, _Open())
        opened = self._open[key] = self._open.pop(key)  # to the end
        self._expect(opened, LATE)
        self._forget()
        opened.counted += 1
        try:
            async with opened.rendering:
                if self._left(opened) <= 0:
                    await self._read(opened, page, replace(view, update=True), allowed)
                elif opened.problem is not None:
                    raise opened.problem.with_traceback(None)
                elif self._since(opened.tried_at) >= self._alive:
                    async with asyncio.timeout(PAGE_TIMEOUT):
                        await replace(view, update=True).keep("alive", functools.partial(_sign_of_life, view), INTERVAL)
        finally:
            again = max(SOONEST, min(self._left(opened), self._alive))
            self._expect(opened, again + LATE)
        parts = [part for part in opened.parts if part.digest not in known]
        return Update(parts, self._since(opened.read_at), view.words.time(opened.now), again)

    async def _read(
        self, opened: _Open, page: Page, view: View, allowed: Callable[[], Awaitable[frozenset[str]]]
    ) -> None:
        slow = opened.slow
        self._slow_reads += slow
        opened.tried_at, opened.problem, opened.cut = self._clock.ticks(), None, True
        opened.answers, opened.counted = opened.counted, 0
        try:
            with self._meter.measured(min(opened.costs)) as spent:
                async with asyncio.timeout(PAGE_TIMEOUT):
                    if opened.tried_at >= opened.allowed_until:
                        opened.allowed = await allowed()
                        opened.allowed_until = self._clock.ticks() + round(ALLOWED * SECOND)
                    view = replace(view, allowed=opened.allowed, read_limit=opened.limit)
                    text = await self._render(page, view)
            opened.cut, opened.limit = False, min(READ_LIMIT, 2 * max(QUICK, self._since(opened.tried_at)))
        except Exception as error:
            if not isinstance(error, ReadTooLong) or opened.limit >= READ_LIMIT:
                opened.problem = error
                raise
            opened.limit = min(READ_LIMIT, 2 * opened.limit)
            return  # the tab keeps what it shows, and tells how old that is
        finally:
            self._slow_reads -= slow
            self._count(opened, min(spent.seconds, self._since(opened.tried_at)))
        opened.parts = [Part(name, _digest(name, markup), markup) for name, markup in live_parts(text)]
        opened.read_at, opened.now = opened.tried_at, view.now

    def _left(self, opened: _Open) -> float:
        """Return the seconds until the next rendering of a page."""
        if opened.read_at is None and opened.problem is None:
            return 0.0
        left = pause_of(opened.cost, self._costs) - self._since(opened.tried_at)
        if opened.slow and self._slow_reads:
            return max(left, INTERVAL)
        return max(left, -self._since(self._slow_at)) if self._takes_much(opened) else left

    def _takes_much(self, opened: _Open) -> bool:
        """Return whether a page has to wait for its share; one that only waits for the store does not."""
        return opened.slow and opened.cost > _portions(self._costs)[0]

    def _count(self, opened: _Open, seconds: float) -> None:
        """Note the CPU time of a rendering; the share pays for that of a slow page before the next one is read.

        One that was cut had begun to take more than it is known to take.
        """
        opened.costs = seconds if opened.cut else opened.costs[1], seconds
        if self._takes_much(opened):
            share = _portions(self._costs)[1]
            self._slow_at = max(self._slow_at, self._clock.ticks()) + round(seconds / share * SECOND)

    @property
    def _costs(self) -> list[float]:
        return [each.cost for each in self._open.values()]

    def _since(self, ticks: int | None) -> float:
        """Return the seconds since then."""
        assert ticks is not None
        return (self._clock.ticks() - ticks) / SECOND

    @property
    def _alive(self) -> float:
        """Seconds after which a tab asks at the latest: the answers alone take no more than the share, either."""
        return max(ALIVE, len(self._open) * ANSWER / SHARE)

    def _expect(self, opened: _Open, seconds: float) -> None:
        opened.open_until = self._clock.ticks() + round(seconds * SECOND)

    def _forget(self) -> None:
        """Forget the pages that are open no more, and of too many the one asked for longest ago."""
        now = self._clock.ticks()
        for key in [key for key, each in self._open.items() if each.open_until <= now]:
            del self._open[key]
        if len(self._open) > MOST_OPEN:
            del self._open[next(iter(self._open))]


class Spent:
    """CPU time of one thing that was measured, in seconds."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.seconds = 0.0


class CpuMeter:
    """Measures CPU time of the process, threads of drivers included, and shares it among what runs at the same time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = 0.0
        self._running: set[Spent] = set()

    @contextlib.contextmanager
    def measured(self, expected: float) -> Iterator[Spent]:
        """Add what is spent within to what this yields.

        What runs at the same time is shared by what is ``expected`` of each, in seconds: what is expected to take
        little does not look expensive beside what takes much. 0 is unknown, and counts as much.
        """
        spent = Spent(expected or UNKNOWN)
        self._share()
        self._running.add(spent)
        try:
            yield spent
        finally:
            self._share()
            self._running.discard(spent)

    def _share(self) -> None:
        now = self._clock()
        weights = sum(each.weight for each in self._running)
        for each in self._running:
            each.seconds += (now - self._at) * each.weight / weights
        self._at = now


async def _sign_of_life(view: View) -> None:
    """Let the store answer. Raises DatabaseUnavailable if it does not."""
    # A store that cancels the statement answers, too: a table may be locked, which this page need not read.
    with limited_reads(QUICK), contextlib.suppress(ReadTooLong):
        await view.tq.queue.backend.ping()


def pause_of(cost: float, costs: Sequence[float]) -> float:
    """Return the seconds between two renderings of a page that takes ``cost``, beside pages that take ``costs``.

    All are CPU seconds of one rendering; the page itself is among them.
    """
    pause = sum(costs) / SHARE
    if pause > EVEN:
        most, share = _portions(costs)
        pause = EVEN if cost <= most else sum(each for each in costs if each > most) / share
    return min(LONGEST, max(INTERVAL, pause))


def _portions(costs: Sequence[float]) -> tuple[float, float]:
    """Return what a page takes at most that is not slow, in CPU seconds, and the share of a core that others leave."""
    most = EVEN * SHARE / len(costs)
    return most, max(SHARE / len(costs), SHARE - sum(each for each in costs if each <= most) / EVEN)


def _digest(name: str, markup: str) -> str:
    return hashlib.blake2b(f"{name}\0{markup}".encode(), digest_size=9).hexdigest()


def _key(page: Page, view: View) -> bytes:
    """Tabs with the same key see the same page."""
    return msgspec.json.encode((page.name, sorted(view.query.items()), view.words.language, view.form_token))


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def render(name: str, data: Mapping[str, Any]) -> bytes:
    """Return the page of a template."""
    return labelled(_environment().get_template(f"{name}.html").render(data)).encode("utf-8", "replace")


def labelled(page: str) -> str:
    """Name the column in each cell of a table, but for the first one: a narrow screen shows each row as a list."""
    return _TABLE.sub(_labelled, page)


def _labelled(table: re.Match[str]) -> str:
    head, end, body = table[0].partition("</thead>")
    cells = _CELL.findall(head)
    titles = ["" if 'class="hidden"' in each else _TAG.sub("", each).strip() for each in cells]
    # The style sheet capitalises the titles in the head of a table, except those of the class ``keep``: so here, too.
    titles = [t if " keep" in cell else t[:1].upper() + t[1:] for t, cell in zip(titles, cells, strict=True)]
    first = next((place for place, title in enumerate(titles) if title), 0)
    labels = [f'<td data-label="{title}"' if title and place != first else "<td" for place, title in enumerate(titles)]
    rows = [row.split("<td") for row in _BLANK.sub("><", body).split("</tr>")]
    return (
        head
        + end
        + "</tr>".join(row[0] + "".join(map(str.__add__, chain(labels, repeat("<td")), row[1:])) for row in rows)
    )


def live_parts(page: bytes) -> Iterator[tuple[str, str]]:
    """Yield id and content of each part of a page that may change while it is open: see ``live`` in ``parts.html``."""
    for found in _LIVE.finditer(page.decode()):
        yield found[2], found[3]

"""What a page's function gets: the task queue, the checked query, the words of the page, and what may be done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlencode

import msgspec

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.audit import MAX_ENTRIES, AuditEntry
from aiotaskq.core.task import SECOND
from aiotaskq.operations.hidden import visible_entry
from aiotaskq.operations.table import Operation
from aiotaskq.web.dashboard.counts import Counts
from aiotaskq.web.dashboard.happened import Feed
from aiotaskq.web.dashboard.life import Life
from aiotaskq.web.dashboard.operated import Operated, noun_of, operated_of
from aiotaskq.web.dashboard.past import Past
from aiotaskq.web.dashboard.session import Message, Preferences
from aiotaskq.web.dashboard.words import Words, marked
from aiotaskq.web.problem_details import ProblemError

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

T = TypeVar("T")


class Kept:
    """What the updates of open pages need not read anew each time: it is kept for some seconds, for all pages.

    Answers by their names, of which there are a few.
    """

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._answers: dict[str, tuple[int, Any]] = {}

    async def get(self, name: str, seconds: float, read: Callable[[], Awaitable[T]]) -> T:
        """Return an answer that is not older than so many seconds, which is read if there is none."""
        at, answer = self._answers.get(name, (0, None))
        if name in self._answers and self._clock.ticks() - at < seconds * SECOND:
            return cast(T, answer)
        before = self._answers
        answer = await read()
        if before is self._answers:  # else something was changed meanwhile
            self._answers[name] = self._clock.ticks(), answer
        return answer

    def forget(self) -> None:
        """Read everything anew: something was changed."""
        self._answers = {}


@dataclass(frozen=True, kw_only=True)
class View:
    """One request for a page."""

    tq: TaskQ
    words: Words
    counts: Counts
    past: Past
    feed: Feed
    life: Life
    kept: Kept
    query: Mapping[str, str]
    now: int
    """Microseconds UTC."""
    show_args: bool = False
    """Whether params, results and stored values may be shown."""
    allowed: frozenset[str] = frozenset()
    """The names of the actions that this visitor may take."""
    name: str = ""
    update: bool = False
    """Whether this is a page that is open already, and read again."""
    preferences: Preferences = field(default_factory=Preferences)
    message: Message | None = None
    form_token: str = ""

    async def keep(self, name: str, seconds: float, read: Callable[[], Awaitable[T]]) -> T:
        """Return what is read; for an update of an open page, what was read at most so many seconds before."""
        return await self.kept.get(name, seconds if self.update else 0.0, read)

    def text(self, name: str) -> str | None:
        """Return a query parameter; None where it is absent or empty."""
        return self.query.get(name) or None

    def needed(self, name: str) -> str:
        """Return a query parameter. Raises ProblemError where it is absent."""
        value = self.text(name)
        if value is None:
            raise ProblemError(422, "ValidationError", marked("the address of this page is incomplete"))
        return value

    def whole(self, name: str, default: int, most: int) -> int:
        """Return a whole number from 1 to ``most``; a wrong or absent one is the default."""
        value = self.query.get(name, "")
        return min(int(value[:9]), most) or default if value.isdecimal() and value.isascii() else default


def link(page: str, /, **query: object) -> str:
    """Return the address of a page, relative to any other one; parameters that are None or empty are left out."""
    given = urlencode({name: str(value) for name, value in query.items() if value not in (None, "")})
    return f"{page or './'}{given and '?'}{given}"


Load = Callable[[View], Awaitable[dict[str, Any]]]


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page: its path, title, template, and the function that reads its data."""

    name: str
    title: str
    """A sentence of the catalogue."""
    load: Load
    section: str = ""
    """The entry of the menu that is marked; default its own."""
    parameters: tuple[str, ...] = ()
    """The query parameters that it takes."""

    @property
    def template(self) -> str:
        """The file in ``templates``."""
        return self.name or "overview"


class Pages:
    """A table of pages that a decorator fills."""

    def __init__(self) -> None:
        self.all: dict[str, Page] = {}

    def __call__(self, name: str, title: str, *parameters: str, section: str = "") -> Callable[[Load], Load]:
        """Register the function of a page."""

        def register(load: Load) -> Load:
            self.all[name] = Page(
                name=name,
                title=title,
                load=load,
                section=section or name,
                parameters=parameters,
            )
            return load

        return register


pages = Pages()


@dataclass(frozen=True, kw_only=True)
class Change:
    """One request for a change, from a form whose token was checked."""

    tq: TaskQ
    form: Mapping[str, list[str]]
    actor: str
    now: int
    """Microseconds UTC."""
    show_args: bool = False
    """Whether params, results and stored values may be shown."""

    def text(self, name: str) -> str | None:
        """Return a field; None where it is absent or empty."""
        return next(iter(self.form.get(name, ())), "") or None

    def needed(self, name: str) -> str:
        """Return a field. Raises ProblemError where it is absent."""
        value = self.text(name)
        if value is None:
            raise ProblemError(
                422, "ValidationError", marked("a field of the form is missing; go back, and fill it in")
            )
        return value

    @property
    def sure(self) -> bool:
        """Whether the question has been answered with yes."""
        return self.text("sure") == "yes"


class Question(msgspec.Struct, frozen=True):
    """Asked before a change that cannot be undone; the answer yes repeats the form."""

    text: str
    """A sentence of the catalogue, with ``{names}``."""
    values: dict[str, Any]
    button: str
    back: str
    """The page for the answer no."""


class Done(msgspec.Struct, frozen=True):
    """A change was made: the message for the next page, and which page that is."""

    message: Message
    page: str


def done(text: str, page: str, **about: str) -> Done:
    """Return that a change was made; ``about`` fills the places of the sentence."""
    return Done(Message(text, dict(about)), page)


class StoppedError(Exception):
    """An error, the cause, has stopped a change of many things; ``done`` is what was done before."""

    def __init__(self, done: Done) -> None:
        super().__init__(done.message.text)
        self.done = done


Run = Callable[[Change], Awaitable["Question | Done"]]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One change: its operation, whose name is the path of its form, and its function."""

    operation: Operation
    run: Run
    form: str | None = None
    """The page that has its form: input that is refused is shown there again, with what was wrong."""


class Actions:
    """A table of actions that a decorator fills."""

    def __init__(self) -> None:
        self.all: dict[str, Action] = {}

    def __call__(self, operation: Operation, *, form: str | None = None) -> Callable[[Run], Run]:
        """Register the function of an action; ``form`` is the page that has its form."""

        def register(run: Run) -> Run:
            self.all[operation.name] = Action(operation=operation, run=run, form=form)
            return run

        return register


actions = Actions()


KEEP_LOG = 3.0
"""Seconds for which an open page does not read the log anew."""
LISTED = 20
"""Changes that are listed on the page of the thing that was changed."""


async def log_of(view: View) -> list[AuditEntry]:
    """Read the audit log, the newest change first; for an update of an open page it may be some seconds old."""
    entries = await view.keep("audit", KEEP_LOG, lambda: view.tq.queue.backend.audit.read(MAX_ENTRIES))
    return [visible_entry(each, view.show_args) for each in entries]


async def operated_on(view: View, target: str, nouns: Collection[str]) -> list[Operated]:
    """Return the latest changes of one thing, the newest first."""
    found = [each for each in await log_of(view) if target in each.targets and noun_of(each.action) in nouns]
    return list(map(operated_of, found[:LISTED]))

"""What pages and actions are made of: a view of one request, a change by a form, and the tables of both."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.audit import MAX_ENTRIES, AuditEntry
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.operations.hidden import visible_entry
from aiotaskq.operations.table import Access, Counted, Enough, Operation, parameters, perform, perform_each, read
from aiotaskq.runtime.handler import Handler
from aiotaskq.web.dashboard.counts import Counts, Kept
from aiotaskq.web.dashboard.happened import Feed, Life, Operated, noun_of, operated_of
from aiotaskq.web.dashboard.past import Past
from aiotaskq.web.dashboard.session import Message, Preferences
from aiotaskq.web.dashboard.words import Words, marked
from aiotaskq.web.problem_details import ProblemError

T = TypeVar("T")


class Shared:
    """What the pages of one task queue share: what was read of it, and is kept for a while."""

    def __init__(self, tq: TaskQ) -> None:
        self.tq = tq
        self.counts = Counts(tq)
        self.past = Past(tq)
        self.feed = Feed(internal(tq).registered.hooks)
        self.life = Life(tq)
        self.kept = Kept(SystemClock().ticks)

    def forget(self) -> None:
        """Read anew: something was changed."""
        self.counts.forget()
        self.kept.forget()


@dataclass(frozen=True, kw_only=True)
class View:
    """One request for a page."""

    shared: Shared
    words: Words
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

    @property
    def tq(self) -> TaskQ:
        """The task queue."""
        return self.shared.tq

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The handlers of this process by their types."""
        return internal(self.tq).registered.handlers

    async def keep(self, name: str, seconds: float, read: Callable[[], Awaitable[T]]) -> T:
        """Return what is read; for an update of an open page, what was read at most so many seconds before."""
        return await self.shared.kept.get(name, seconds if self.update else 0.0, read)

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


pages: dict[str, Page] = {}
"""By their names."""


def page(name: str, title: str, *parameters: str, section: str = "") -> Callable[[Load], Page]:
    """Register the function of a page."""

    def register(load: Load) -> Page:
        made = Page(name=name, title=title, load=load, section=section or name, parameters=parameters)
        return pages.setdefault(name, made)

    return register


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


actions: dict[str, Action] = {}
"""By the names of their operations."""


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


# ---- fields of forms ----


def json_of(name: str, text: str) -> Any:
    """Return the value of a JSON text. Raises ValidationError naming the field."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ValidationError(f"{name}: is no JSON: {error}") from None
    except RecursionError:
        raise ValidationError(f"{name}: is nested too deeply") from None


def number(name: str, text: str) -> float:
    """Return the number of a text. Raises ValidationError naming the field."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValidationError(f"{name}: a number is needed (got {text!r:.60})")
    return found


def by_name(operation: Operation, change: Change) -> dict[str, Any]:
    """Return each parameter from the field of its name; one that is empty is left out. Raises ValidationError."""
    given = {each.name: (each.kind, change.text(each.name)) for each in parameters(operation)}
    return {
        name: json_of(name, text) if kind in (dict, Any) else text
        for name, (kind, text) in given.items()
        if text is not None
    }


# ---- actions ----


def register(operation: Operation, run: Run, form: str | None = None) -> None:
    """Register the function of an action; ``form`` is the page that has its form."""
    actions[operation.name] = Action(operation=operation, run=run, form=form)


def action(
    operation: Operation,
    page: Callable[[Change, str], str],
    said: str | Callable[[Any], str],
    *,
    form: str | None = None,
    question: str = "",
    button: str = "",
    values: Callable[[Change], dict[str, Any]] | None = None,
) -> None:
    """Register the action of an operation on one thing.

    Args:
        page: returns the address of the page that is shown afterwards, from the name of the thing.
        said: what is said there, or what returns it from the answer. A sentence of the catalogue, with the name of the
            thing, as ``question``.
        form: the page that has its form, if that can be refused.
        question: asked before; none if it is empty.
        button: the answer yes.
        values: reads the form; default each parameter from the field of its name.
    """
    thing = operation.thing
    assert thing is not None
    values = values or functools.partial(by_name, operation)

    async def run(change: Change) -> Question | Done:
        name = change.needed(thing)
        if question and not change.sure:
            return Question(question, {thing: name}, button, page(change, name))
        access = Access(change.tq, change.show_args)
        given = read(operation, values(change), strict=False)
        answer = await perform(operation, access, given, "dashboard", change.actor)
        return done(said if isinstance(said, str) else said(answer), page(change, name), **{thing: name})

    register(operation, run, form)


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of an operation on many things: sentences of the catalogue, with ``{count}``."""

    button: str = ""
    """The answer yes."""
    ask_selected: str = ""
    """Asked before it is done to those that are selected; nothing can be selected if it is empty."""
    ask_all: str = ""
    """Asked before it is done to all that match; nothing if it is empty."""
    ask_uncounted: str = ""
    """The same, where they are so many that counting them takes too long."""
    done: str
    left: str = ""
    """Said where the time of one request was over before all were done."""


SECONDS = 20.0
"""After which no further transaction is begun."""
COUNT_SECONDS = 5.0


def action_on_many(
    operation: Operation,
    texts: Texts,
    page: Callable[[Change], str],
    where: Callable[[Change], dict[str, Any] | None] = lambda _change: {},
) -> None:
    """Register the action of an operation on those things that are selected, or on all that match.

    Args:
        page: returns the address of the page that is shown afterwards.
        where: returns the filters from the form; None where nothing can match.
    """
    many, thing = operation.many, operation.thing
    assert many is not None and thing is not None

    async def asked(change: Change, back: str, ids: list[str] | None, given: dict[str, Any]) -> Question | Done:
        if ids is not None:
            return Question(texts.ask_selected, {"count": len(ids)}, texts.button, back)
        try:
            async with asyncio.timeout(COUNT_SECONDS):
                access, params = Access(change.tq, change.show_args), read(many, given | {"dry_run": True})
                counted: Counted = await perform(many, access, params, "dashboard", change.actor)
        except TimeoutError:
            return Question(texts.ask_uncounted or texts.ask_all, {"count": "?"}, texts.button, back)
        if not counted.count:
            return Done(Message(marked("Nothing matches."), problem=True), back)
        return Question(texts.ask_all, {"count": counted.count}, texts.button, back)

    async def run(change: Change) -> Question | Done:
        back, ids, given = page(change), None, where(change)
        if texts.ask_selected and change.text("which") != "all":
            ids = list(dict.fromkeys(change.form.get(thing, ())))
        if given is None or ids == []:
            said = marked("Nothing matches.") if given is None else marked("Nothing is selected.")
            return Done(Message(said, problem=True), back)
        if not change.sure and (texts.ask_all if ids is None else texts.ask_selected):
            return await asked(change, back, ids, given)
        count, over = 0, False
        end = change.tq.queue.clock.ticks() + int(SECONDS * SECOND)

        def progress(now: int) -> None:
            nonlocal count, over
            count, over = now, change.tq.queue.clock.ticks() >= end
            if over:
                raise Enough

        access = Access(change.tq, change.show_args, progress=progress)
        try:
            if ids is None:
                await perform(many, access, read(many, given), "dashboard", change.actor)
            else:
                await perform_each(operation, access, ids, "dashboard", change.actor)
        except Exception as error:
            raise StoppedError(Done(Message(texts.done, {"count": count}), back)) from error
        return Done(Message(texts.left if over else texts.done, {"count": count}), back)

    register(many, run)

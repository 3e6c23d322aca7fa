"""What pages and actions are made of: a view of one request, and the tables of both."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.audit import MAX_ENTRIES, AuditEntry
from aiotaskq.core.tags import read_labels, split_labels
from aiotaskq.core.task import SECOND
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.operations.audit import AuditView
from aiotaskq.operations.fields import view_of
from aiotaskq.operations.hidden import visible_entry
from aiotaskq.operations.table import Access, Counted, Enough, Operation, parameters_of, perform, perform_each, read
from aiotaskq.runtime.handler import Handler
from aiotaskq.runtime.waiting import awake
from aiotaskq.web.dashboard.counts import Counts, Kept
from aiotaskq.web.dashboard.happened import Feed, Life
from aiotaskq.web.dashboard.past import Past
from aiotaskq.web.dashboard.session import Message, Preferences, form_token
from aiotaskq.web.dashboard.words import Words, marked
from aiotaskq.web.problem_details import ProblemError

T = TypeVar("T")


MOST_DUES = 2_000
"""Schedules whose due times are kept."""
KEPT = 5.0
"""Seconds for which an open page does not read anew what takes long."""


class Shared:
    """What the pages of one task queue share: what was read of it, and is kept for a while."""

    def __init__(self, tq: TaskQ) -> None:
        self.tq = tq
        self.counts = Counts(tq)
        self.past = Past(tq)
        self.feed = Feed(internal(tq).registered.hooks)
        self.life = Life(tq)
        self.kept = Kept(SystemClock().ticks)
        self.dues = Kept(tq.queue.clock.now, MOST_DUES)

    def forget(self) -> None:
        """Read anew: something was changed."""
        self.counts.forget()
        self.kept.forget()


@dataclass(frozen=True, kw_only=True)
class View:
    """One request, what is known of its visitor, and what the page for it may show."""

    shared: Shared
    request: Request
    words: Words
    now: int
    """Microseconds UTC."""
    key: str = ""
    """The session; "" where there is none yet."""
    actor: str = ""
    """The name of the visitor, "" where nothing tells it."""
    form: Mapping[str, list[str]] = field(default_factory=dict)
    """The fields of a change."""
    ours: bool = False
    """Whether the form was made for this session; a form of another session changes nothing."""
    query: Mapping[str, str] = field(default_factory=dict)
    """The query parameters that the page takes."""
    show_args: bool = False
    """Whether params, results and stored values may be shown."""
    allowed: frozenset[str] = frozenset()
    """The names of the actions that this visitor may take."""
    name: str = ""
    """That of the page."""
    update: bool = False
    """Whether this is a page that is open already, and read again."""
    read_limit: float = math.inf
    """Seconds of one statement of it, if less than of each page."""
    preferences: Preferences = field(default_factory=Preferences)
    message: Message | None = None

    @property
    def path(self) -> str:
        """The path below the prefix, without the slash at its beginning; "" is the overview."""
        return str(self.request.path_params.get("name", ""))

    @property
    def form_token(self) -> str:
        """What every form of the page holds, "" where there is no session."""
        return form_token(self.key) if self.key else ""

    @property
    def tq(self) -> TaskQ:
        """The task queue."""
        return self.shared.tq

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The handlers of this process by their types."""
        return internal(self.tq).registered.handlers

    async def keep(self, name: str, read: Callable[[], Awaitable[T]], seconds: float = KEPT) -> T:
        """Return what is read; for an update of an open page, what was read at most so many seconds before."""
        return await self.shared.kept.get(name, seconds if self.update else 0.0, read)

    def text(self, name: str) -> str | None:
        """Return a query parameter, or of a change a field of the form; None where it is absent or empty."""
        given = self.form.get(name, ()) if self.form else [self.query.get(name, "")]
        return next(iter(given), "") or None

    def needed(self, name: str) -> str:
        """Return the same. Raises ProblemError where it is absent."""
        value = self.text(name)
        if value is None:
            of_form = marked("a field of the form is missing; go back, and fill it in")
            of_page = marked("the address of this page is incomplete")
            raise ProblemError(422, "ValidationError", of_form if self.form else of_page)
        return value

    @property
    def sure(self) -> bool:
        """Whether the question before a change has been answered with yes."""
        return self.text("sure") == "yes"

    async def perform(self, operation: Operation, values: Mapping[str, Any]) -> Any:
        """Run an operation with the parameters that these texts and values are. Raises what it raises."""
        given = read(operation, values, strict=False)
        return await perform(operation, Access(self.tq, self.show_args), given, "dashboard", self.actor)

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


class Question(msgspec.Struct, frozen=True):
    """Asked before a change that cannot be undone; the answer yes repeats the form.

    The template has the sentences of each action.
    """

    about: str
    """What it is about: ``one`` thing, ``selected`` ones, or ``all`` that match, ``uncounted`` where they are many."""
    values: dict[str, Any]
    """For the places of the sentence."""
    back: str
    """The page for the answer no."""
    where: dict[str, Any] = {}
    """The filters of ``all``."""


class Done(Message, frozen=True, kw_only=True):
    """A change was made: the message for the next page, and which page that is."""

    page: str
    error: AiotaskqError | None = None
    """What has stopped a change of many things before all were done."""


class Preview(msgspec.Struct, frozen=True):
    """Nothing was changed: the form is shown again, with what it would do."""

    planned: Any


Run = Callable[[View], Awaitable["Question | Done | Preview"]]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One change: its operation, whose name is the path of its form, and its function."""

    operation: Operation
    run: Run
    form: str | None = None
    """The page that has its form: what is refused is shown there again, with what was wrong."""


actions: dict[str, Action] = {}
"""By the names of their operations."""


# ---- changes by operators ----

PAGES = {
    "tasks": ("task", "id"),
    "queues": ("queue", "name"),
    "limits": ("limit", "key"),
    "schedules": ("schedule", "id"),
    "groups": ("group", "id"),
    "workers": ("worker", "id"),
    "values": ("value", "key"),
}
"""The page of a thing by the noun of the change, and the parameter of its address."""
_NO_THINGS = ("filter: ", "count: ", "stopped by: ")
LISTED = 20
"""Changes that are listed on the page of the thing that was changed."""


async def log_of(view: View) -> list[AuditEntry]:
    """Read the audit log, the newest change first; for an update of an open page it may be some seconds old."""
    entries = await view.keep("audit", lambda: view.tq.queue.backend.audit.read(MAX_ENTRIES))
    return [visible_entry(each, view.show_args) for each in entries]


async def operated_on(view: View, target: str, nouns: Collection[str]) -> list[AuditView]:
    """Return the latest changes of one thing, the newest first."""
    found = [each for each in await log_of(view) if target in each.targets and _noun(each.action) in nouns]
    return [view_of(AuditView, each) for each in found[:LISTED]]


def target_link(action: str, target: str, first: bool) -> str | None:
    """Return the address of the page of a thing that was changed; None for what is said of many."""
    noun = _noun(action)
    if noun not in PAGES or target == "*" or target.startswith(_NO_THINGS):
        return None
    # A schedule that was run names the task, too.
    return page_of(noun if first else "tasks", target)


def page_of(noun: str, name: str) -> str:
    """Return the address of the page of a thing."""
    place, parameter = PAGES[noun]
    return link(place, **{parameter: name})


def thing_of(view: View) -> dict[str, str]:
    """Return the parameter of the page of the thing that a form is about; empty where it is about none."""
    noun, thing = _noun(view.path), actions[view.path].operation.thing
    name = next(iter(view.form.get(thing or "", ())), None)
    return {} if name is None or noun not in PAGES else {PAGES[noun][1]: name}


def back_of(view: View, gone: bool) -> str:
    """Return the page from which a request that was refused came: of the thing, unless that is gone, or the list."""
    if view.path in pages:
        return pages[view.path].section or "./"
    if view.path not in actions:
        return "./"
    noun = _noun(view.path)
    if actions[view.path].operation.thing is not None:
        thing = thing_of(view)
        return noun if gone or not thing else page_of(noun, *thing.values())
    return link(noun, **{name: view.form[name][0] for name in pages[noun].parameters if name in view.form})


def _noun(action: str) -> str:
    return action.partition(".")[0]


# ---- queues ----


async def firsts_of(view: View, queues: Iterable[str]) -> dict[str, int | None]:
    """Return when the next task of each of these queues is due, in microseconds UTC."""
    return {name: await view.tq.queue.backend.next_run_at(view.now, [name]) for name in queues}


def age_of(view: View, first: int | None) -> float | None:
    """Return for how many seconds a task that is due then has been ready; None where it is not."""
    return (view.now - first) / SECOND if first is not None and first <= view.now else None


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


async def check_type(view: View) -> None:
    """Raise ValidationError for a type that no running worker has, unless the form was sent again with it."""
    name = view.text("type")
    if name is None or name in view.handlers or view.text("sure") in ("yes", name):
        return
    workers = await awake(view.tq.queue.backend, view.now)
    if workers and not any(each.knows(name) for each in workers):
        raise ValidationError(f"type: no running worker has {name!r:.60}; send the form again if it is right")


def by_name(operation: Operation, view: View) -> dict[str, Any]:
    """Return each parameter from the field of its name; one that is empty is left out. Raises ValidationError."""
    given = {each.name: (each.kind, view.text(each.name)) for each in parameters_of(operation.params)}
    tags = view.text("tags") if "tags" in given else None
    return {
        name: json_of(name, text) if kind in (dict, Any) else text
        for name, (kind, text) in given.items()
        if text is not None and name != "tags"
    } | ({} if tags is None else {"tags": read_labels(split_labels(tags))})


# ---- actions ----


def register(operation: Operation, run: Run, form: str | None = None) -> None:
    """Register the function of an action; ``form`` is the page that has its form."""
    actions[operation.name] = Action(operation=operation, run=run, form=form)


def action(
    operation: Operation,
    said: str | Callable[[Any], str],
    *,
    page: Callable[[View, str], str] | None = None,
    form: str | None = None,
    asks: bool = False,
    values: Callable[[View], dict[str, Any]] | None = None,
) -> None:
    """Register the action of an operation on one thing.

    Args:
        said: what is said afterwards, or what returns it from the answer. A sentence of the catalogue, with the name of
            the thing.
        page: returns the address of the page that is shown then, from the name of the thing; default that which the
            form names, else the thing's own, or the list where it is deleted.
        form: the page that has its form; default the thing's own.
        asks: whether a question is asked before.
        values: reads the form; default each parameter from the field of its name.
    """
    thing = operation.thing
    assert thing is not None
    values = values or functools.partial(by_name, operation)

    async def run(view: View) -> Question | Done:
        name = view.needed(thing)
        back = _page(view, operation.noun, name) if page is None else page(view, name)
        if asks and not view.sure:
            return Question("one", {thing: name}, back)
        answer = await view.perform(operation, values(view))
        after = operation.noun if operation.verb == "delete" else back
        return Done(said if isinstance(said, str) else said(answer), {thing: name}, page=after)

    register(operation, run, form or PAGES[operation.noun][0])


def _page(view: View, noun: str, name: str) -> str:
    """Return the page from which a change was asked for: the overview, the list or, by default, that of the thing."""
    return {"overview": "./", "list": noun}.get(view.text("back") or "") or page_of(noun, name)


SECONDS = 20.0
"""After which no further transaction is begun."""
COUNT_SECONDS = 5.0


def action_on_many(
    operation: Operation,
    page: Callable[[View], str],
    done: str,
    *,
    selects: bool = False,
    asks: bool = True,
    where: Callable[[View], dict[str, Any] | None] = lambda _view: {},
) -> None:
    """Register the action of an operation on those things that are selected, or on all that match.

    Args:
        page: returns the address of the page that is shown afterwards.
        done: what is said there: a sentence of the catalogue, with ``{count}``.
        selects: whether things can be selected.
        asks: whether a question is asked before.
        where: returns the filters from the form; None where nothing can match.
    """
    many, thing = operation.many, operation.thing
    assert many is not None and thing is not None

    async def asked(view: View, back: str, ids: list[str] | None, given: dict[str, Any]) -> Question | Done:
        if ids is not None:
            return Question("selected", {"count": len(ids)}, back)
        try:
            async with asyncio.timeout(COUNT_SECONDS):
                counted: Counted = await view.perform(many, given | {"dry_run": True})
        except TimeoutError:
            return Question("uncounted", {"count": "?"}, back, given)
        if not counted.count:
            return Done(marked("Nothing matches."), problem=True, page=back)
        return Question("all", {"count": counted.count}, back, given)

    async def run(view: View) -> Question | Done:
        back, ids, given = page(view), None, where(view)
        if selects and view.text("which") != "all":
            ids = list(dict.fromkeys(view.form.get(thing, ())))
        if given is None or ids == []:
            said = marked("Nothing matches.") if given is None else marked("Nothing is selected.")
            return Done(said, problem=True, page=back)
        if asks and not view.sure:
            return await asked(view, back, ids, given)
        count, over = 0, False
        end = view.tq.queue.clock.ticks() + int(SECONDS * SECOND)

        def progress(now: int) -> None:
            nonlocal count, over
            count, over = now, view.tq.queue.clock.ticks() >= end
            if over:
                raise Enough

        access = Access(view.tq, view.show_args, progress=progress)
        try:
            if ids is None:
                await perform(many, access, read(many, given), "dashboard", view.actor)
            else:
                await perform_each(operation, access, ids, "dashboard", view.actor)
        except AiotaskqError as error:
            return Done(done, {"count": count}, page=back, error=error)
        return Done(done, {"count": count}, left=over, page=back)

    register(many, run)

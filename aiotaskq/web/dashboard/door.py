"""The actions of the operations in the table: a form is read, a question asked where one is to be, and a page shown."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import msgspec

from aiotaskq.core.task import SECOND
from aiotaskq.operations.table import Access, Counted, Enough, Operation, parameters, perform, perform_each, read
from aiotaskq.web.dashboard.fields import json_of
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, StoppedError, actions, done
from aiotaskq.web.dashboard.words import marked


def by_name(operation: Operation, change: Change) -> dict[str, Any]:
    """Return each parameter from the field of its name; one that is empty is left out. Raises ValidationError."""
    given = {each.name: (each.kind, change.text(each.name)) for each in parameters(operation)}
    return {
        name: json_of(name, text) if kind in (dict, Any) else text
        for name, (kind, text) in given.items()
        if text is not None
    }


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

    actions(operation, form=form)(run)


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

    actions(many)(run)

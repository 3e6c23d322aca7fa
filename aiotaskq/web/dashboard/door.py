"""The actions of the operations in the table: a form is read, a question asked where one is to be, and a page shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiotaskq.operations.table import Access, Counted, Operation, perform, read
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, actions, done


def _by_name(operation: Operation) -> Callable[[Change], dict[str, Any]]:
    def values(change: Change) -> dict[str, Any]:
        given = {name: change.text(name) for name in operation.params.__struct_fields__}
        return {name: text for name, text in given.items() if text is not None}

    return values


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
    values = values or _by_name(operation)

    async def run(change: Change) -> Question | Done:
        name = change.needed(thing)
        if question and not change.sure:
            return Question(question, {thing: name}, button, page(change, name))
        access = Access(change.tq, change.show_args)
        given = read(operation, values(change), strict=False)
        answer = await perform(operation, access, given, "dashboard", change.actor)
        return done(said if isinstance(said, str) else said(answer), page(change, name), **{thing: name})

    actions(operation.name, form=form, tells=True)(run)


def action_on_all(operation: Operation, page: str, said: str, *, question: str = "", button: str = "") -> None:
    """Register the action of an operation on all things; texts as of ``action``, with ``{count}``."""
    many = operation.many
    assert many is not None

    async def asked(change: Change, **values: Any) -> int:
        access = Access(change.tq, change.show_args)
        counted: Counted = await perform(many, access, read(many, values), "dashboard", change.actor)
        return counted.count

    async def run(change: Change) -> Question | Done:
        if question and not change.sure:
            return Question(question, {"count": await asked(change, dry_run=True)}, button, page)
        return Done(Message(said, {"count": await asked(change)}), page)

    actions(many.name, tells=True)(run)

"""Names that other libraries have and people type first, with what says the same here, and the page of the manual.

The libraries are Celery, dramatiq, arq, RQ, huey, taskiq, APScheduler, procrastinate and SAQ. Errors about an unknown
attribute, option, command, or option of a command look here, and the names are in ``foreign_names.toml``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, cast

from aiotaskq.core.errors import ValidationError

F = TypeVar("F", bound=Callable[..., Any])

FILE = Path(__file__).with_name("foreign_names.toml")
_BASES = {"option of a Django task": "task option"}
"""Places whose other names are those of another place."""


class Word(NamedTuple):
    """What says the same here, and the page of the manual about it."""

    here: str
    page: str


@functools.cache
def names() -> dict[str, dict[str, tuple[str, str]]]:
    """Return by the place of a name and by what says the same here: the page of the manual, and the names elsewhere."""
    import tomllib  # only an error needs it

    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def word(place: str, name: str) -> Word | None:
    """Return what a name of another library is here; None if the table has it not."""
    for here, (page, elsewhere) in names()[place].items():
        if name in elsewhere.split():
            return Word(here, page)
    return word(_BASES[place], name) if place in _BASES else None


def everywhere(name: str) -> list[Word]:
    """Return what a name of another library is here, in each place where it has it, without repetitions."""
    found = [here for place in names() if (here := word(place, name)) is not None]
    return list(dict.fromkeys(found))


def unknown_options(where: str, place: str, unknown: Collection[str], known: Collection[str]) -> ValidationError:
    """Return the error of a call with options that there are not."""
    for name in sorted(unknown):
        if (found := word(place, name)) is not None:
            return ValidationError(
                f"{where}: there is no option {name!r}; here: {found.here} ('aiotaskq docs {found.page}')"
            )
        import difflib

        if close := difflib.get_close_matches(name, known, n=1, cutoff=0.7):
            return ValidationError(f"{where}: unknown option {name}; did you mean {close[0]}?")
    return ValidationError(f"{where}: unknown option {', '.join(sorted(unknown))}; use {', '.join(known)}")


def checks_options(where: str, place: str, more: Collection[str] = ()) -> Callable[[F], F]:
    """Decorate a method so that an unknown keyword argument raises the error of ``unknown_options``.

    So does a positional argument that it does not take. ``more`` are the names that its ``**options`` take.
    """

    def decorate(function: F) -> F:
        parameters = [each for each in inspect.signature(function).parameters.values() if each.kind != each.VAR_KEYWORD]
        named = [each.name for each in parameters if each.kind == each.KEYWORD_ONLY]
        taken = len(parameters) - len(named)
        known = [each.name for each in parameters if each.name not in ("self", "function")]
        known += [name for name in more if name not in known]

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if not args or inspect.isfunction(args[0]):
                raise ValidationError(f"{where}: make a task queue first, tq = TaskQ(…), and write @tq.{where}")
            if unknown := options.keys() - known:
                raise unknown_options(where, place, unknown, known)
            if len(args) > taken:
                raise ValidationError(f"{where}: options are given by name, as in {where}({(named or known)[0]}=…)")
            return function(*args, **options)

        return cast(F, call)

    return decorate


class Hinted:
    """A base class whose error about an unknown attribute says what that of another library is here."""

    __slots__ = ()
    _place: ClassVar[str]
    """Where in the table its attributes are."""

    if not TYPE_CHECKING:  # type checkers go on to report unknown attributes

        def __getattr__(self, name: str) -> Any:
            error = f"{type(self).__name__!r} object has no attribute {name!r}"
            if not name.startswith("_") and (found := word(self._place, name)) is not None:
                error += f"; here: {found.here} ('aiotaskq docs {found.page}')"
            raise AttributeError(error, name=name, obj=self)

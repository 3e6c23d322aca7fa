"""The compiled binder of a handler gives what ``inspect.Signature.bind`` gives, and refuses what it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq import injected
from aiotaskq.app.handle import binder_of
from aiotaskq.core.outcome import Backoff
from aiotaskq.runtime.handler import INJECTED, make_handler


class Client: ...


def nothing() -> None: ...
def one(a: int) -> None: ...
def defaults(a: int, b: int = 1, c: Any = None) -> None: ...
def keywords(a: int, *, b: int, c: int = 2) -> None: ...
def open_ended(a: int = 0, **b: int) -> None: ...
def with_client(a: int, client: Client = injected(), *, b: int = 1) -> None: ...


FUNCTIONS = [nothing, one, defaults, keywords, open_ended, with_client]
VALUES = st.integers() | st.none() | st.just(INJECTED)


def bound(function: Callable[..., None], args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The params by the standard library, as the binder is to give them."""
    found = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    if function is open_ended:
        found.update(found.pop("b", {}))
    if function is with_client and found.get("client") is INJECTED:
        del found["client"]
    return found


@pytest.mark.parametrize("function", FUNCTIONS)
@given(
    args=st.lists(VALUES, max_size=3),
    kwargs=st.dictionaries(st.sampled_from(["a", "b", "c", "client", "self"]), VALUES, max_size=4),
)
def test_it_binds_as_the_standard_library_does(
    function: Callable[..., None], args: list[Any], kwargs: dict[str, Any]
) -> None:
    bind = binder_of(make_handler(None, function, backoff=Backoff()))
    try:
        wanted = bound(function, args, kwargs)
    except TypeError:
        with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) "):
            bind(*args, **kwargs)
    else:
        assert bind(*args, **kwargs) == wanted


def test_it_names_the_handler_and_what_is_wrong() -> None:
    bind = binder_of(make_handler("mail.send", one, backoff=Backoff()))
    with pytest.raises(TypeError, match=r"^mail\.send\(\) missing 1 required positional argument: 'a'$"):
        bind()
    with pytest.raises(TypeError, match=r"^mail\.send\(\) got an unexpected keyword argument 'b'$"):
        bind(1, b=2)

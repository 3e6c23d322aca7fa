"""Results and errors of handlers as they are stored: JSON, limits of size, escaped characters."""

from __future__ import annotations

import dataclasses
import datetime
import gc
import json
import math
import socket
import sys
import uuid
import weakref
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.conversion import describe, storable
from aiotaskq.core.errors import INT64, MAX_ERROR, check_json, clip
from aiotaskq.core.outcome import Cancelled, Failed, settle
from aiotaskq.core.status import Status
from aiotaskq.errors import ValidationError
from tests.core.outcomes import NOW, task


def test_error_text_is_cut_to_16_kb() -> None:  # F16
    text = clip("E: " + "x" * 5_000_000)
    assert text.startswith("E: xxx")
    assert text.endswith("\n… (truncated)")
    assert len(text.encode()) <= MAX_ERROR == 16 * 1024
    assert clip("x" * MAX_ERROR) == "x" * MAX_ERROR


@given(st.text(st.characters(), max_size=300), st.integers(0, 200))
def test_error_text_fits_every_store(text: str, times: int) -> None:  # F16, I1
    clipped = clip(text * times)
    assert "\x00" not in clipped
    assert len(clipped.encode()) <= MAX_ERROR  # also: no lone surrogates
    if text.isascii() and "\x00" not in text and len(text * times) <= MAX_ERROR:
        assert clipped == text * times


def test_nul_and_surrogates_are_escaped() -> None:  # I1
    assert clip("a\x00b\ud800c") == "a\\x00b\\ud800c"
    assert len(clip("🙂" * 20_000).encode()) <= MAX_ERROR
    assert len(clip("\x00" * 20_000).encode()) <= MAX_ERROR
    for outcome in (Failed("a\x00\ud800", retryable=False), Cancelled("a\x00\ud800")):
        assert settle(task(), outcome, NOW).error_message == "a\\x00\\ud800"
    assert settle(task(), Failed("a\x00\ud800"), NOW).error_message == "a\\x00\\ud800"


class Local:
    pass


def test_describe_names_the_error_and_keeps_no_frames() -> None:  # H2
    def boom() -> None:
        local = Local()
        refs.append(weakref.ref(local))
        raise KeyError("missing")

    refs: list[weakref.ref[Local]] = []
    texts = []
    for _ in range(100):
        try:
            boom()
        except KeyError as error:
            texts.append(describe(error))
    gc.collect()
    assert all(ref() is None for ref in refs)
    assert texts[0].startswith("KeyError: 'missing'\n\nTraceback (most recent call last):\n")
    assert "in boom" in texts[0]
    assert all(type(text) is str for text in texts)


def test_describe_of_odd_errors() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("x")) == "ValueError: x"
    assert describe(Mute()) == "Mute: <RuntimeError in __str__>"

    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError("deep")

    with pytest.raises(ValueError, match="deep") as raised:
        deep(500)
    assert describe(raised.value).count('File "') <= 20


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


class Record(msgspec.Struct):
    a: int


@pytest.mark.parametrize(
    ("result", "stored"),
    [
        (None, None),
        (True, True),
        (0, 0),
        (INT64, INT64),
        (1.5, 1.5),
        ("é", "é"),
        ((1, (2,)), [1, [2]]),
        ({"a": {1}}, {"a": [1]}),
        (Point(1, [2]), {"x": 1, "y": [2]}),
        (Record(3), {"a": 3}),
        ({1: "a"}, {"1": "a"}),
        (Status.FAILED, "failed"),
        (datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), "2024-01-02T00:00:00Z"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ("a\x00b", "a\\x00b"),
        ({"k\x00": ["\ud800"]}, {"k\\x00": ["\\ud800"]}),
    ],
)
def test_a_result_as_json(result: Any, stored: Any) -> None:  # I4
    found = storable(result)
    assert found == stored
    assert type(found) is type(stored)
    check_json("result", found)
    assert json.loads(json.dumps(found)) == stored


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"a": [1, {"b": (object(),)}]}, "result.a[1].b[0]: object has no JSON form"),
        (b"x", "result: bytes is not JSON; encode it as text"),
        ({"a": bytearray(b"x")}, "result.a: bytearray is not JSON"),
        ([0.0, math.nan], "result[1]: nan is not JSON"),
        ({"x": -math.inf}, "result.x: -inf is not JSON"),
        (INT64 + 1, "result: an int over 64 bits is not portable JSON; use a string"),
        ([10**5000], "result[0]: an int over 64 bits is not portable JSON; use a string"),
        (10**5000, "result: an int over 64 bits is not portable JSON; use a string"),
        ({(1, 2): 3}, "result: Only dicts with str-like or number-like keys are supported"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,  # an int may be too long to print
)
def test_a_result_that_is_not_json(result: Any, message: str) -> None:  # I4
    with pytest.raises(ValidationError) as raised:
        storable(result)
    assert str(raised.value) == message


def test_a_socket_a_cycle_and_a_deep_result() -> None:  # I4, I3
    with (
        socket.socket() as handle,
        pytest.raises(ValidationError, match=r"^result\.s: socket has no JSON form"),
    ):
        storable({"s": handle})
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ValidationError, match=r"^result\[0\]\[0\].*…: nested deeper than 64 levels"):
        storable(cycle)
    deep: Any = 1
    for _ in range(80):
        deep = [deep]
    with pytest.raises(ValidationError, match=r"^result\[0\].*…: nested deeper than 64 levels"):
        storable(deep)
    for _ in range(sys.getrecursionlimit() * 10):
        deep = [deep]
    with pytest.raises(ValidationError, match=r"^result\[0\].*…: nested deeper than 64 levels"):
        storable(deep)


def test_a_result_of_objects_that_is_deep_or_a_cycle() -> None:
    cycle: dict[str, Any] = {}
    cycle["a"] = cycle
    with pytest.raises(ValidationError, match=r"^result\.a\.a.*…: nested deeper than 64 levels"):
        storable(cycle)
    deep: Any = 1
    for _ in range(sys.getrecursionlimit() * 10):
        deep = {"a": deep}
    with pytest.raises(ValidationError, match=r"^result\.a(\.a)*…: nested deeper than 64 levels"):
        storable(deep)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()), st.lists))
def test_every_result_is_stored_or_refused(result: Any) -> None:
    try:
        stored = storable(result)
    except ValidationError:
        return
    assert json.loads(msgspec.json.encode(stored)) == stored


def test_keys_that_become_one_in_json_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"result\.a\[0\]: two of its keys are the same text"):
        storable({"a": [{1: "x", "1": "y"}]})
    assert storable({1: (2, 3)}) == {"1": [2, 3]}

"""Tasks from unchecked input: every validation error, ids, push stamps, and the documented dict."""

from __future__ import annotations

import copy
import math
import os
import re
import sys
import threading
import types
import uuid
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiotaskq.core import ids as ids_module
from aiotaskq.core.errors import INT32, INT64, MAX_PAYLOAD, check_int, check_json, check_key, check_seconds, check_text
from aiotaskq.core.ids import new_id, next_seq, second_of
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import SECOND, Task, claim_order, new_task, same_content
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.queue.queue import task_from_dict, task_to_dict

NOW = 1_750_000_000 * SECOND + 250_000
HUGE = 10**5000  # Python refuses to print it


class Rude:
    """Its repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError("rude")


class Colour(StrEnum):
    RED = "red"


def by_type(value: Any) -> str:
    """A test id for values that cannot always be printed."""
    return re.sub(r"\W+", "-", value)[:40] if isinstance(value, str) else type(value).__name__


def refusal(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        call(*args, **kwargs)
    assert type(raised.value) is ValidationError
    return str(raised.value)


# ---- new_task -----------------------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    task = new_task("mail", {"to": "a"}, now=NOW)
    assert task == Task(
        task_id=task.task_id,
        type="mail",
        params={"to": "a"},
        status=Status.PENDING,
        priority=0,
        retry_count=0,
        max_retries=3,
        created_at=NOW // SECOND,
        queue="default",
        run_at=NOW,
        seq=task.seq,
    )
    assert str(uuid.UUID(task.task_id)) == task.task_id


def test_everything_given() -> None:
    fields: dict[str, Any] = {
        "task_id": "x" * 36,
        "priority": -INT32,
        "queue": "q" * 100,
        "retry_count": INT32,
        "max_retries": 0,
        "run_at": NOW + 5,
        "expires_at": NOW + 9,
        "unique_key": "u" * 255,
        "idempotency_key": "é🙂",
        "scheduler_task_id": "s",
        "on_success": "then",
        "on_failure": "else",
        "extra": {"own": 1},
    }
    task = new_task("t" * 100, None, now=NOW, timeout=5, **fields)
    assert {name: getattr(task, name) for name in fields} == fields
    assert (task.params, task.timeout, type(task.timeout)) == ({}, 5.0, float)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"type": None}, "type: a string is needed (got NoneType)"),
    ({"type": 5}, "type: a string is needed (got int)"),
    ({"type": ""}, "type: must not be empty"),
    ({"type": " \t"}, "type: must not be empty"),
    ({"type": "t" * 101}, "type: 101 characters are more than 100 (starts with 'tttttttttttttttttttt')"),
    ({"type": "a\x00b"}, "type: NUL characters are not portable text"),
    ({"type": "é\x00"}, "type: NUL characters are not portable text"),
    ({"type": "a\nb"}, "type: control characters are not allowed (got 'a\\nb')"),
    ({"type": "a\x7f"}, "type: control characters are not allowed (got 'a\\x7f')"),
    ({"type": "ab\ud800"}, "type: a lone surrogate at position 2 is not text"),
    ({"params": []}, "params: a dict is needed (got list)"),
    ({"params": "{}"}, "params: a dict is needed (got str)"),
    ({"task_id": 5}, "task_id: a string is needed (got int)"),
    ({"task_id": ""}, "task_id: must not be empty"),
    ({"task_id": "i" * 37}, "task_id: 37 characters are more than 36 (starts with 'iiiiiiiiiiiiiiiiiiii')"),
    ({"task_id": "a\ud83d"}, "task_id: a lone surrogate at position 1 is not text"),
    ({"queue": None}, "queue: a string is needed (got NoneType)"),
    ({"queue": "q" * 101}, "queue: 101 characters are more than 100 (starts with 'qqqqqqqqqqqqqqqqqqqq')"),
    ({"queue": "a\rb"}, "queue: control characters are not allowed (got 'a\\rb')"),
    ({"priority": True}, "priority: an int is needed (got bool True)"),
    ({"priority": 1.0}, "priority: an int is needed (got float 1.0)"),
    ({"priority": "1"}, "priority: an int is needed (got str '1')"),
    ({"priority": None}, "priority: an int is needed (got NoneType None)"),
    ({"priority": math.nan}, "priority: an int is needed (got float nan)"),
    ({"priority": Rude()}, "priority: an int is needed (got Rude a huge or odd Rude)"),
    ({"priority": [HUGE]}, "priority: an int is needed (got list a huge or odd list)"),
    ({"priority": INT32 + 1}, "priority: 2147483648 is not in -2147483647..2147483647"),
    ({"priority": 2**63}, "priority: 9223372036854775808 is not in -2147483647..2147483647"),
    ({"priority": HUGE}, "priority: an int of 16610 bits is not in -2147483647..2147483647"),
    ({"priority": -HUGE}, "priority: an int of 16610 bits is not in -2147483647..2147483647"),
    ({"retry_count": -1}, "retry_count: -1 is not in 0..2147483647"),
    ({"max_retries": -1}, "max_retries: -1 is not in 0..2147483647"),
    ({"max_retries": False}, "max_retries: an int is needed (got bool False)"),
    ({"max_retries": math.inf}, "max_retries: an int is needed (got float inf)"),
    ({"max_retries": HUGE}, "max_retries: an int of 16610 bits is not in 0..2147483647"),
    ({"timeout": 0}, "timeout: must be more than 0 seconds (got 0)"),
    ({"timeout": -0.0}, "timeout: must be more than 0 seconds (got -0.0)"),
    ({"timeout": -1.5}, "timeout: must be more than 0 seconds (got -1.5)"),
    ({"timeout": math.nan}, "timeout: nan is not a number of seconds"),
    ({"timeout": math.inf}, "timeout: inf is not a number of seconds"),
    ({"timeout": -math.inf}, "timeout: -inf is not a number of seconds"),
    ({"timeout": True}, "timeout: seconds as int, float or timedelta are needed (got bool True)"),
    ({"timeout": "5"}, "timeout: seconds as int, float or timedelta are needed (got str '5')"),
    ({"timeout": Decimal(5)}, "timeout: seconds as int, float or timedelta are needed (got Decimal Decimal('5'))"),
    ({"timeout": Rude()}, "timeout: seconds as int, float or timedelta are needed (got Rude a huge or odd Rude)"),
    ({"timeout": 400_000_000}, "timeout: 400000000 seconds is more than ten years"),
    ({"timeout": 1e300}, "timeout: 1e+300 seconds is more than ten years"),
    ({"timeout": HUGE}, "timeout: a huge or odd int seconds is more than ten years"),
    ({"timeout": -HUGE}, "timeout: must be more than 0 seconds (got a huge or odd int)"),
    ({"unique_key": ""}, "unique_key: must not be empty"),
    ({"unique_key": "k" * 256}, "unique_key: 256 characters are more than 255 (starts with 'kkkkkkkkkkkkkkkkkkkk')"),
    ({"idempotency_key": 7}, "idempotency_key: a string is needed (got int)"),
    ({"idempotency_key": "a\x00"}, "idempotency_key: NUL characters are not portable text"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=by_type)
def test_bad_input(wrong: dict[str, Any], message: str) -> None:  # I1, I9
    assert refusal(new_task, **{"type": "t", "now": NOW, **wrong}) == message


@pytest.mark.parametrize(
    ("wrong", "message"), [w for w in WRONG if "unique_key" not in w[0] and "idem" not in w[1]], ids=by_type
)
def test_bad_input_in_a_dict(wrong: dict[str, Any], message: str) -> None:
    if wrong == {"task_id": None}:
        return
    source = {"type": "t", **wrong}
    (field,) = wrong
    if field == "priority":
        assert refusal(task_from_dict, {"type": "t"}, wrong["priority"], NOW) == message
    assert refusal(task_from_dict, source, 0, NOW) == message


def test_check_int_of_any_range() -> None:
    assert check_int("n", 5, 1, 5) == 5
    assert refusal(check_int, "n", 6, 1, 5) == "n: 6 is not in 1..5"
    assert refusal(check_int, "n", Colour.RED) == "n: an int is needed (got Colour <Colour.RED: 'red'>)"


def test_check_seconds() -> None:
    assert [check_seconds("s", value) for value in (0, 0.0, 1, 315_360_000)] == [0.0, 0.0, 1.0, 315_360_000.0]
    assert refusal(check_seconds, "s", -1) == "s: must be at least 0 seconds (got -1)"


def test_check_text_and_key() -> None:
    assert check_text("t", "a\nb", 5) == "a\nb"
    assert check_key("k", "ä🙂 a\u0308") == "ä🙂 a\u0308"
    assert "control" in refusal(check_key, "k", "a\x1b[31m")  # J12


@given(st.text(st.characters(), max_size=40))
def test_a_key_is_taken_as_it_is_or_refused(text: str) -> None:  # I1, I10
    try:
        assert check_key("k", text) == text
    except ValidationError:
        assert not text.strip() or any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in text)
    else:
        text.encode()


# ---- params -------------------------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


NOT_JSON: list[tuple[Any, str]] = [
    ({"items": [0, 1, 2, {3}]}, "params.items[3]: set is not JSON; use a list"),
    ({"order": uuid.UUID(int=7)}, "params.order: UUID is not JSON; use str()"),
    ({"on": date(2026, 1, 1)}, "params.on: date is not JSON; use .isoformat()"),
    ({"a": {"b": (1,)}}, "params.a.b: tuple is not JSON; use a list"),
    ({"a": b"x"}, "params.a: bytes is not JSON; encode it as text"),
    ({"a": Rude()}, "params.a: Rude is not JSON"),
    ({"a": Colour.RED}, "params.a: Colour is not JSON"),
    ({"a": OrderedDict()}, "params.a: OrderedDict is not JSON"),
    ({"a": Decimal(1)}, "params.a: Decimal is not JSON; use str()"),
    ({"a": math.nan}, "params.a: nan is not JSON"),
    ({"a": [1.5, math.inf]}, "params.a[1]: inf is not JSON"),
    ({"a": -math.inf}, "params.a: -inf is not JSON"),
    ({"a": "x\ud800"}, "params.a: a lone surrogate at position 1 is not text"),
    ({"a": "x\x00"}, "params.a: NUL characters are not portable text"),
    ({"a": "é\x00"}, "params.a: NUL characters are not portable text"),
    ({"k\x00": 1}, "params key: NUL characters are not portable text"),
    ({"a": {"\udfff": 1}}, "params.a key: a lone surrogate at position 0 is not text"),
    ({"a": INT64 + 1}, "params.a: an int over 64 bits is not portable JSON; use a string"),
    ({"a": -INT64 - 2}, "params.a: an int over 64 bits is not portable JSON; use a string"),
    ({"a": HUGE}, "params.a: an int over 64 bits is not portable JSON; use a string"),
    ({1: "a"}, "params: key 1 is int; JSON keys are strings"),
    ({"a": {None: 1}}, "params.a: key None is NoneType; JSON keys are strings"),
    ({"a": {HUGE: 1}}, "params.a: key a huge or odd int is int; JSON keys are strings"),
    ({"a": {Colour.RED: 1}}, "params.a: key <Colour.RED: 'red'> is Colour; JSON keys are strings"),
]


@pytest.mark.parametrize(("params", "message"), NOT_JSON, ids=by_type)
def test_params_that_are_not_json(params: Any, message: str) -> None:  # I1, I3
    assert refusal(check_json, "params", params) == message


def test_deep_and_cyclic_params() -> None:  # I3
    check_json("params", {"a": nested(63)})
    too_deep = "nested deeper than 64 levels (or in a cycle)"
    assert refusal(check_json, "params", {"a": nested(64)}) == f"params.a{'[0]' * 24}…: {too_deep}"
    assert too_deep in refusal(check_json, "params", {"a": nested(10_000)})
    cycle: dict[str, Any] = {"me": [1]}
    cycle["me"].append(cycle)
    assert refusal(check_json, "params", cycle).endswith(too_deep)
    wide: list[Any] = []
    wide.extend([wide] * 50)  # must not take 50**64 steps
    assert too_deep in refusal(check_json, "params", {"a": wide})


def test_the_size_of_a_payload() -> None:  # I2
    at_most = "x" * (MAX_PAYLOAD - len('{"a":""}'))
    assert len(check_json("params", {"a": at_most})) == MAX_PAYLOAD == 256 * 1024
    message = "params: 262,145 bytes of JSON are more than 262,144; store a reference instead"
    assert refusal(check_json, "params", {"a": at_most + "x"}) == message
    assert "bytes of JSON are more than" in refusal(check_json, "params", {"a": "🙂" * 65_536})  # bytes, not characters
    assert (
        refusal(check_json, "v", [1] * 5, limit=10) == "v: 11 bytes of JSON are more than 10; store a reference instead"
    )
    check_json("v", "é" * 2, limit=6)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_equal_after_the_round_trip_or_refused(value: Any) -> None:  # I3
    try:
        encoded = check_json("v", value)
    except ValidationError:
        return
    assert msgspec.json.decode(encoded) == value
    assert b"\\u0000" not in encoded


# ---- the documented dict ------------------------------------------------------------------------------------------


def test_a_dict_and_back() -> None:
    source = {"type": "mail", "params": {"to": "a"}, "task_id": "id-1", "tenant": 7, "note": None}
    task = task_from_dict(source, 0, NOW)
    assert task.extra == {"tenant": 7, "note": None}
    assert task_to_dict(task) == {
        "task_id": "id-1",
        "type": "mail",
        "params": {"to": "a"},
        "priority": 0,
        "retry_count": 0,
        "max_retries": 3,
        "created_at": NOW // SECOND,
        "tenant": 7,
        "note": None,
    }
    full = {**source, "priority": 2, "queue": "q", "timeout": 1.5, "scheduler_task_id": "s", "retry_count": 1}
    popped = task_to_dict(task_from_dict(full, 0, NOW))
    assert {name: popped[name] for name in full} == full
    again = task_from_dict(popped, 0, NOW + SECOND)
    assert same_content(again, task_from_dict(full, 0, NOW))


def test_which_priority_wins() -> None:
    assert task_from_dict({"type": "t", "priority": 2}, 0, NOW).priority == 2
    assert task_from_dict({"type": "t", "priority": 2}, 5, NOW).priority == 5
    assert task_from_dict({"type": "t"}, -3, NOW).priority == -3
    assert refusal(task_from_dict, {"type": "t"}, False, NOW) == "priority: an int is needed (got bool False)"


def test_created_at_is_ours() -> None:
    task = task_from_dict({"type": "t", "created_at": "yesterday"}, 0, NOW)
    assert (task.created_at, task.extra) == (NOW // SECOND, {})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "task: a dict is needed (got NoneType)"),
        ([("type", "t")], "task: a dict is needed (got list)"),
        ({}, "type: missing; a task is a dict with at least 'type' (a non-empty string)"),
        ({"params": {}}, "type: missing; a task is a dict with at least 'type' (a non-empty string)"),
        ({"type": "t", 5: 1}, "task: key 5 is int; keys are strings"),
        ({"type": "t", HUGE: 1}, "task: key a huge or odd int is int; keys are strings"),
        ({"type": "t", "scheduler_task_id": 5}, "scheduler_task_id: a string is needed (got int)"),
        (
            {"type": "t", "scheduler_task_id": "s" * 37},
            "scheduler_task_id: 37 characters are more than 36 (starts with 'ssssssssssssssssssss')",
        ),
    ],
    ids=by_type,
)
def test_a_bad_dict(source: Any, message: str) -> None:
    assert refusal(task_from_dict, source, 0, NOW) == message


@pytest.mark.parametrize(
    "source",
    [
        {"type": "t", "params": {"a": [1]}, "own": {"b": 2}, "priority": 1, "scheduler_task_id": "s"},
        {"type": "t", "params": None, "task_id": None},
        {"type": "", "params": []},
        {"type": "t", "priority": "high"},
        {"type": "t", 5: 6},
    ],
    ids=by_type,
)
def test_the_callers_dict_is_never_changed(source: dict[Any, Any]) -> None:
    before = copy.deepcopy(source)
    order = list(source)
    for mapping in (source, types.MappingProxyType(source)):
        try:
            task = task_from_dict(mapping, 3, NOW)
        except ValidationError:
            pass
        else:
            popped = task_to_dict(task)
            popped["new"] = 1
            popped.pop("type")
            task.extra["more"] = 1
        assert source == before
        assert list(source) == order


def test_same_content() -> None:
    task = task_from_dict({"type": "t", "params": {"a": 1}, "own": 1}, 2, NOW)
    assert same_content(task, task.replace(task_id="other", seq=0, run_at=0, status=Status.RUNNING))
    changes: list[dict[str, Any]] = [
        *({"type": "u"}, {"params": {}}, {"priority": 0}, {"retry_count": 1}, {"max_retries": 1}),
        *({"queue": "q"}, {"extra": {}}, {"timeout": 5.0}, {"scheduler_task_id": "s"}),
    ]
    for change in changes:
        assert not same_content(task, task.replace(**change))


def test_final() -> None:
    assert {status for status in Status if Task(task_id="1", type="t", status=status).final} == FINAL
    assert {str(status) for status in FINAL} == {"completed", "failed", "cancelled", "expired"}


def test_claim_order() -> None:
    first = Task(task_id="a", type="t", priority=-1, run_at=9, seq=9)
    second = Task(task_id="b", type="t", run_at=1, seq=9)
    third = Task(task_id="c", type="t", run_at=2, seq=1)
    fourth = Task(task_id="d", type="t", run_at=2, seq=2)
    assert sorted([fourth, second, third, first], key=claim_order) == [first, second, third, fourth]


@given(
    st.text(max_size=110) | st.integers() | st.none(),
    st.none() | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.integers(-(2**32), 2**32),
)
@example(" ", {}, 0)
@example("", {}, 0)
@example("a" * 101, {}, 0)
@example("a\n", {}, 0)
def test_the_usual_dict_is_checked_as_any_other(kind: Any, params: Any, priority: int) -> None:
    def made(**more: Any) -> Task | str:
        try:
            task = task_from_dict({"type": kind, "params": params, **more}, priority, NOW)
        except ValidationError as error:
            return str(error)
        return task.replace(task_id="any", seq=0, extra={})

    assert made() == made(own=1)


# ---- ids and stamps -----------------------------------------------------------------------------------------------


def test_ids_are_uuids_of_version_7_in_order_of_time() -> None:
    ids = [new_id() for _ in range(2_000)]
    assert len(set(ids)) == 2_000
    for text in ids:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 7, uuid.RFC_4122)
    stamps = [text[:13] for text in ids]
    assert stamps == sorted(stamps)


def test_ids_are_unique_across_threads() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    barrier = threading.Barrier(8)

    def work(_: int) -> list[str]:
        barrier.wait()
        return [new_id() for _ in range(5_000)]

    try:
        with ThreadPoolExecutor(8) as pool:
            ids = [text for part in pool.map(work, range(8)) for text in part]
    finally:
        sys.setswitchinterval(before)
    # The random part alone must be unique: threads share the millisecond.
    assert len({text[13:] for text in ids}) == len(ids) == 40_000


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_ids_are_unique_after_a_fork() -> None:  # E1
    new_id()  # before the fork, for what a process keeps between two ids
    children = []
    for _ in range(3):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writing, "\n".join(new_id() for _ in range(50)).encode())
            os._exit(0)
        os.close(writing)
        children.append((pid, reading))
    ids = [new_id() for _ in range(50)]
    for pid, reading in children:
        with os.fdopen(reading) as pipe:
            ids += pipe.read().split()
        assert os.waitpid(pid, 0)[1] == 0
    assert len({text[24:] for text in ids}) == len(ids) == 200, "a child has used the random numbers of its parent"


def test_push_stamps_rise_whatever_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:  # C12
    monkeypatch.setattr(ids_module, "_stamp", 0)
    stamps = [next_seq(now) for now in (100, 100, 100, 500, 50, 0, 499, 1_000)]
    assert stamps == [100, 101, 102, 500, 501, 502, 503, 1_000]


def test_tasks_of_one_second_share_the_object_of_their_creation_time() -> None:
    instants = [5_000 * SECOND, 5_001 * SECOND - 1, 5_001 * SECOND, 5_000 * SECOND + 7]  # the last: set back
    assert [second_of(now) for now in instants] == [5_000, 5_000, 5_001, 5_000]
    first, second = (new_task("work", now=5_000 * SECOND + more) for more in (1, 999_999))
    assert first.created_at == 5_000
    assert first.created_at is second.created_at

"""Typed params and results: each kind of annotation survives the way to JSON and back; what does not fit is named."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NewType

import annotated_types
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.core.conversion import Conversion, PlainCheck, Unsupported, conversion_of, resolved
from aiotaskq.core.errors import check_json
from aiotaskq.errors import MissingExtra, ValidationError
from tests.support.kinds import KINDS, Address, Item, Job, T


def converted(annotation: Any) -> Conversion:
    made = conversion_of(annotation)
    assert made is not None
    return made


@pytest.mark.parametrize(("annotation", "values"), KINDS, ids=[str(kind) for kind, _ in KINDS])
def test_each_kind_survives(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    conversion = converted(annotation)

    @settings(max_examples=40)
    @given(values)
    def survives(value: Any) -> None:
        stored = conversion.store("params.it", value)
        check_json("params.it", stored)
        through = json.loads(json.dumps(stored))
        loaded = conversion.load("params.it", through)
        assert loaded == value and type(loaded) is type(value)
        again = conversion.store("params.it", through)  # the JSON form is accepted as well
        assert conversion.load("params.it", again) == value

    survives()


@pytest.mark.parametrize(
    "annotation",
    [int, str, bool, float, dict, list, list[int], dict[str, Any], dict[str, list[float | None]],
     int | str | None, Sequence[str], Mapping[str, int], NewType("Id", int)],
    ids=str,
)  # fmt: skip
def test_plain_json_is_checked_and_not_converted(annotation: Any) -> None:
    assert isinstance(conversion_of(annotation), PlainCheck)


@pytest.mark.parametrize("annotation", [None, Any, object, T], ids=str)
def test_nothing_is_checked_where_any_value_fits(annotation: Any) -> None:
    assert conversion_of(annotation) is None


def test_values_that_do_not_fit_are_named_with_their_path() -> None:
    when = "2020-01-01T00:00:00Z"
    for annotation, value, said in (
        (Item, {"price": "1"}, "params.it: Object missing required field `at`"),
        (list[Item], [{"price": "x", "at": when}], "params.it[0].price: Invalid decimal string"),
        (dict[uuid.UUID, int], {"x": 1}, "params.it (a key): Invalid UUID"),
        (Job, {"item": {"price": "1", "at": when}, "path": 3}, "params.it.path: "),
        (uuid.UUID, 3, "params.it: Expected `uuid`, got `int`"),
        (Address, {"street": 3, "since": "2020-01-01"}, "params.it.street: Input should be a valid string"),
        (list[Address], [{"street": "x"}], "params.it[0].since: Field required"),
        (Annotated[int, pydantic.Field(gt=3)], 3, "params.it: Input should be greater than 3"),
        (dict[str, Item], {"a": object()}, "params.it: object has no JSON form"),
        (set[float], {math.nan}, "params.it[0]: Expected `float`, got `null`"),
    ):
        conversion = converted(annotation)
        with pytest.raises(ValidationError) as raised:
            conversion.store("params.it", value)
        assert str(raised.value).startswith(said), annotation
    many = converted(tuple[Annotated[int, pydantic.Field(gt=3)], ...])
    with pytest.raises(ValidationError, match=r"params\.it\[0\]: .*; params\.it\[2\]: [^;]*; and 2 more$"):
        many.store("params.it", [1] * 5)


@dataclasses.dataclass
class Bounded:
    number: Annotated[int, pydantic.Field(gt=3)]


@pydantic.dataclasses.dataclass(eq=False)
class Node:
    number: int


def test_a_bound_for_pydantic_is_checked_wherever_it_is() -> None:
    for annotation, value in (
        (Annotated[int, annotated_types.Gt(3)], 3),
        (dict[str, list[Annotated[int, annotated_types.Gt(3)]]], {"a": [3]}),
        (Bounded, {"number": 3}),
        (list[Bounded], [{"number": 3}]),
    ):
        with pytest.raises(ValidationError, match="Input should be greater than 3"):
            converted(annotation).store("params.it", value)


def test_a_value_that_equals_no_other_one_is_stored() -> None:
    conversion = converted(Node)
    assert conversion.load("it", conversion.store("it", Node(1))).number == 1


def test_a_value_that_is_nested_too_deeply_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    conversion = converted(dict[uuid.UUID, Any])
    with pytest.raises(ValidationError, match=r"^params\.it: "):
        conversion.store("params.it", {uuid.UUID(int=1): deep})


def test_a_bool_is_an_int_where_plain_values_are_checked() -> None:
    for annotation, fits, wrong in (
        (int, True, "x"),
        (list[int], [1, True], [True, "x"]),
        (dict[str, list[int]], {"a": [True]}, {"a": [True, None]}),
    ):
        check = converted(annotation)
        assert check.load("it", fits) == fits
        with pytest.raises(ValidationError, match=r"^it"):
            check.load("it", wrong)


def test_an_error_shows_no_value() -> None:
    for annotation, value in (
        (Address, {"street": 4711, "since": "secret"}),
        (uuid.UUID, "secret"),
        (Item, {"at": "secret"}),
    ):
        with pytest.raises(ValidationError) as raised:
            converted(annotation).load("params.it", value)
        assert "secret" not in str(raised.value) and "4711" not in str(raised.value)


@pytest.mark.parametrize(
    ("annotation", "fits", "wrong"),
    [
        (Annotated[list[int], msgspec.Meta(max_length=2)], [1, 2], [1, 2, 3]),
        (Annotated[list[int], msgspec.Meta(min_length=2)], [1, 2], [1]),
        (Annotated[list[int], msgspec.Meta(max_length=2)] | None, [1, 2], [1, 2, 3]),
        (Annotated[dict[str, int], msgspec.Meta(max_length=1)], {"a": 1}, {"a": 1, "b": 2}),
        (Annotated[dict[str, int], msgspec.Meta(min_length=1)], {"a": 1}, {}),
        (Annotated[set[int], msgspec.Meta(max_length=1)], [1], [1, 2]),
        (Annotated[str, msgspec.Meta(max_length=2)], "ab", "abc"),
        (Annotated[str, msgspec.Meta(pattern="^a")], "ab", "b"),
        (Annotated[int, msgspec.Meta(multiple_of=2)], 2, 3),
        (Annotated[float, msgspec.Meta(le=1.5)], 1.5, 1.6),
        (list[Annotated[int, msgspec.Meta(ge=1)]], [1], [1, 0]),
        (dict[str, Annotated[int, msgspec.Meta(ge=1)]], {"a": 1}, {"a": 0}),
        (dict[Annotated[str, msgspec.Meta(max_length=1)], int], {"a": 1}, {"ab": 1}),
    ],
    ids=str,
)
def test_a_bound_of_an_annotation_is_checked(annotation: Any, fits: Any, wrong: Any) -> None:
    conversion = converted(annotation)
    assert conversion.store("params.it", fits) == fits
    for check in (conversion.store, conversion.load):
        with pytest.raises(ValidationError, match=r"^params\.it.*: Expected"):
            check("params.it", wrong)


def test_a_value_that_would_come_back_as_another_type_is_refused() -> None:
    conversion = converted(dt.date | str)
    assert conversion.store("params.it", "soon") == "soon"
    assert conversion.store("params.it", dt.date(2020, 1, 1)) == "2020-01-01"
    with pytest.raises(ValidationError, match="would be read back as date, not as str"):
        conversion.store("params.it", "2020-01-01")


def test_a_value_that_would_come_back_as_another_value_is_refused() -> None:
    conversion = converted(Annotated[int, pydantic.PlainSerializer(lambda number: number + 1)])
    with pytest.raises(ValidationError, match="would be read back"):
        conversion.store("params.it", 1)


def test_a_text_of_json_is_stored_as_a_text() -> None:
    conversion = converted(pydantic.Json[list[int]])
    assert conversion.load("it", conversion.store("it", "[1, 2]")) == [1, 2]


def test_a_type_without_a_json_form_is_unsupported() -> None:
    class Client: ...

    for annotation in (
        Client,
        list[Client],
        Client | None,
        dict[str, Client],
        Annotated[Client, msgspec.Meta(title="it")],
    ):
        with pytest.raises(Unsupported, match="Client has no JSON form"):
            conversion_of(annotation)


def test_an_iterable_is_stored_as_a_list() -> None:
    conversion = converted(Iterable[uuid.UUID])
    ids = [uuid.UUID(int=1), uuid.UUID(int=2)]
    assert conversion.load("it", conversion.store("it", ids)) == ids
    assert conversion_of(Iterable[int]) is None


def test_names_are_looked_up_in_the_module_and_then_where_the_handler_is() -> None:
    assert resolved("list[Item]", globals(), {}) == list[Item]
    assert resolved("Here", {}, {"Here": int}) is int
    assert resolved("Item", globals(), {"Item": int}) is Item
    with pytest.raises(NameError):
        resolved("Nowhere", {}, {})


def test_a_function_is_no_param() -> None:
    with pytest.raises(ValidationError, match=r"^params\.it: "):
        converted(Callable[[], int]).store("params.it", lambda: 1)


def test_a_missing_pydantic_is_named_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)
    assert conversion_of(uuid.UUID) is not None
    with pytest.raises(MissingExtra, match=r"pydantic is not installed; install the extra pydantic: pip install "):
        conversion_of(dt.date | str)

"""Typed params and results: each kind of annotation survives the way to JSON and back; what does not fit is named."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.conversion import Conversion, Unsupported, conversion_of, resolved
from aiotaskq.core.validation import check_json
from aiotaskq.errors import ValidationError

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    x: int
    label: str = ""


class Options(TypedDict, total=False):
    when: dt.date
    ids: list[uuid.UUID]


@dataclasses.dataclass
class Item:
    price: decimal.Decimal
    at: dt.datetime
    tags: frozenset[str] = frozenset()
    inner: Optional[Item] = None  # noqa: UP045 - a name of the class itself, as text


class Job(msgspec.Struct):
    item: Item
    path: pathlib.PurePosixPath


@dataclasses.dataclass
class Page(Generic[T]):
    rows: list[T]


class Address(pydantic.BaseModel):
    street: str
    since: dt.date


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=False, strict=True)

    name: str = pydantic.Field(alias="customerName")
    ids: set[uuid.UUID] = set()
    address: Address | None = None


@dataclasses.dataclass
class Mixed:
    customer: Customer
    weight: float


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
WHOLE = st.integers(-(2**63), 2**63 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ZONED = st.datetimes(timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=8))]))
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
ITEMS: st.SearchStrategy[Item] = st.deferred(
    lambda: st.builds(Item, DECIMALS, ZONED, st.frozensets(TEXT, max_size=3), st.none() | ITEMS)
)
ADDRESSES = st.builds(Address, street=TEXT, since=st.dates())
CUSTOMERS = st.builds(Customer, customerName=TEXT, ids=st.sets(st.uuids(), max_size=3), address=st.none() | ADDRESSES)
KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (dt.datetime, st.datetimes() | ZONED),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas(dt.timedelta(days=-99_999), dt.timedelta(days=99_999))),
    (uuid.UUID, st.uuids()),
    (decimal.Decimal, DECIMALS),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (bytes, st.binary(max_size=20)),
    (set[int], st.sets(WHOLE, max_size=4)),
    (frozenset[str], st.frozensets(TEXT, max_size=4)),
    (tuple[int, str], st.tuples(WHOLE, TEXT)),
    (tuple[float, ...], st.lists(FINITE, max_size=3).map(tuple)),
    (collections.deque[int], st.lists(WHOLE, max_size=3).map(collections.deque)),
    (pathlib.Path, TEXT.map(pathlib.Path)),
    (Point, st.builds(Point, WHOLE, TEXT)),
    (Options, st.fixed_dictionaries({}, optional={"when": st.dates(), "ids": st.lists(st.uuids(), max_size=2)})),
    (Item, ITEMS),
    (Job, st.builds(Job, ITEMS, TEXT.map(pathlib.PurePosixPath))),
    (Page[uuid.UUID], st.builds(Page, st.lists(st.uuids(), max_size=3))),
    (dict[uuid.UUID, dt.date], st.dictionaries(st.uuids(), st.dates(), max_size=2)),
    (dict[int, Item], st.dictionaries(WHOLE, ITEMS, max_size=2)),
    (Item | None, st.none() | ITEMS),
    (int | uuid.UUID, WHOLE | st.uuids()),
    (Literal["a", "b"], st.sampled_from("ab")),
    (Annotated[int, msgspec.Meta(gt=3)], st.integers(4, 2**40)),
    (Address, ADDRESSES),
    (Customer, CUSTOMERS),
    (list[Customer], st.lists(CUSTOMERS, max_size=2)),
    (Mixed, st.builds(Mixed, CUSTOMERS, FINITE)),
    (Customer | Address, CUSTOMERS | ADDRESSES),
    (Item | Point, ITEMS),
    (Annotated[int, pydantic.Field(gt=3)], st.integers(4, 2**40)),
]


def converted(annotation: Any) -> Conversion:
    made = conversion_of(annotation)
    assert made is not None
    return made


@pytest.mark.parametrize(("annotation", "values"), KINDS, ids=[str(kind) for kind, _ in KINDS])
def test_each_kind_survives(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    conversion = converted(annotation)

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
    [int, str, bool, float, None, Any, object, T, dict, list, list[int], dict[str, Any], dict[str, list[float | None]],
     int | str | None, Sequence[str], Mapping[str, int], NewType("Id", int)],
    ids=str,
)  # fmt: skip
def test_plain_json_needs_no_conversion(annotation: Any) -> None:
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


def test_an_error_shows_no_value() -> None:
    for annotation, value in (
        (Address, {"street": 4711, "since": "secret"}),
        (uuid.UUID, "secret"),
        (Item, {"at": "secret"}),
    ):
        with pytest.raises(ValidationError) as raised:
            converted(annotation).load("params.it", value)
        assert "secret" not in str(raised.value) and "4711" not in str(raised.value)


def test_a_value_that_would_come_back_as_another_type_is_refused() -> None:
    conversion = converted(dt.date | str)
    assert conversion.store("params.it", "soon") == "soon"
    assert conversion.store("params.it", dt.date(2020, 1, 1)) == "2020-01-01"
    with pytest.raises(ValidationError, match="would be read back as date, not as str"):
        conversion.store("params.it", "2020-01-01")


def test_a_type_without_a_json_form_is_unsupported() -> None:
    class Client: ...

    for annotation in (Client, list[Client], Client | None, dict[str, Client]):
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

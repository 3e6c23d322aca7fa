"""Kinds of annotations of params and results, and strategies for their values."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import uuid
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar

import msgspec
import pydantic
from hypothesis import strategies as st

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


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
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

"""Instants as ISO 8601: exact, in UTC, and never an error for a number that was stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.errors import instant
from aiotaskq.core.instants import to_datetime, to_iso
from aiotaskq.core.task import Task

LAST = 253_402_300_799_999_999  # the last microsecond of the year 9999


@given(st.integers(0, LAST))
def test_the_text_is_the_instant(at: int) -> None:
    text = to_iso(at)
    assert text is not None and text.endswith("Z")
    assert datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(microseconds=at)
    assert ("." in text) is (at % 1_000_000 > 0)


@given(st.integers())
def test_any_stored_number_has_a_text_or_none(at: int) -> None:
    text = to_iso(at)
    assert (text is None) is not (-62_135_596_800_000_000 <= at <= LAST)


def test_nothing_has_no_text() -> None:
    assert to_iso(None) is None


@given(st.integers(0, 10**17))
def test_a_datetime_of_an_instant_names_it(at: int) -> None:
    assert instant("at", to_datetime(at)) == at


def test_a_property_says_what_it_is() -> None:
    docs = [vars(Task)[name].__doc__ for name in ("created", "started", "ended")]
    assert docs[0] == "``created_at`` as an aware datetime in UTC."
    assert docs[1].startswith("When the latest run was claimed") and docs[2].startswith("When it ended")

"""The type of an error, and what a search for its beginning can find."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.conversion import MAX_TYPE, check_error_type, error_type
from aiotaskq.errors import ValidationError

TEXTS = st.text("Va:\n é", max_size=MAX_TYPE + 20)


@given(error=TEXTS, size=st.integers(0, MAX_TYPE + 20))
def test_what_a_search_by_the_type_finds_is_in_the_type(error: str, size: int) -> None:
    beginning = error[:size]
    try:
        check_error_type("error", beginning)
    except ValidationError:
        return
    assert (error_type(error) or "").startswith(beginning)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (None, None),
        ("ValueError: card 4711", "ValueError"),
        ("KeyError\n\nTraceback: …", "KeyError"),
        ("x" * 150, "x" * 100),
        ("", ""),
    ],
)
def test_a_type_ends_at_a_colon_or_a_line_break(error: str | None, shown: str | None) -> None:
    assert error_type(error) == shown
    if shown:
        assert check_error_type("error", shown) == shown


@pytest.mark.parametrize("wrong", ["", "V:", "V\n", "V\0", "V" * 101, 1, None])
def test_what_is_no_beginning_of_a_type_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError, match="error: the beginning of an error's type is needed"):
        check_error_type("error", wrong)

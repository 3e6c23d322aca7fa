"""The quick check of params refuses exactly what the whole check refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.errors import check_json, check_storable
from aiotaskq.errors import ValidationError

LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=4) | st.floats()
VALUES = st.recursive(
    LEAVES | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


@given(st.dictionaries(st.text(max_size=3) | st.integers(), VALUES, max_size=3))
def test_the_quick_check_refuses_what_the_whole_one_refuses(value: dict[Any, Any]) -> None:
    try:
        check_json("params", value)
    except ValidationError as error:
        with pytest.raises(ValidationError, match=re.escape(str(error))):
            check_storable("params", value)
    else:
        check_storable("params", value)


def test_the_quick_check_leaves_what_is_long_to_the_whole_one() -> None:
    for value in ({"a": "x" * 300_000}, {"x" * 300_000: 1}, {str(n): "x" * 999 for n in range(300)}):
        with pytest.raises(ValidationError, match="bytes of JSON are more than"):
            check_storable("params", value)

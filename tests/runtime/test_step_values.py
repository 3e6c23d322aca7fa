"""The conversion of what a step returns, which is looked up once for a function."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from aiotaskq.errors import ValidationError
from aiotaskq.runtime.run_steps import returned_by


def test_the_conversion_of_a_step_follows_the_annotation_not_the_code() -> None:
    def made(kind: Any) -> Callable[[], Any]:
        def get() -> Any: ...

        get.__annotations__["return"] = kind
        return get

    first, other, plain = returned_by(made(Decimal)), returned_by(made(UUID)), returned_by(made(int))
    assert first is not None and first.load("value", "1.50") == Decimal("1.50")
    assert other is not None and other.load("value", str(UUID(int=7))) == UUID(int=7)
    assert plain is not None and (plain.load("value", 5), plain.load("value", True)) == (5, True)
    with pytest.raises(ValidationError, match="value: Expected `int`, got `str`"):
        plain.load("value", "5")
    assert returned_by(made(Any)) is returned_by(made(None)) is returned_by(len) is None, "anything fits"
    again = made(Decimal)
    assert returned_by(again) is returned_by(again)  # looked up once

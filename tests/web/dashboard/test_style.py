"""The style sheet: its spaces and sizes are those of one scale."""

from __future__ import annotations

import re

from tests.support.programs import ROOT

SHEET = (ROOT / "aiotaskq" / "web" / "dashboard" / "static" / "dashboard.css").read_text(encoding="utf-8")
SPACES = {1, 2, 4, 8, 12, 16, 24, 32, 40}
EXCEPTIONS = {"padding-left: 13px", "padding-left: 104px", "margin: 0 8px 0 -104px"}
"""16 less the border of 3; and the column of labels on a narrow screen."""


def test_spaces_are_of_one_scale() -> None:
    found = [each[0] for each in re.finditer(r"(?:(?:margin|padding)(?:-[a-z]+)*|(?<![-\w])gap): [^;}]*", SHEET)]
    pixels = {each: {int(size) for size in re.findall(r"(\d+)px", each)} for each in found}
    assert len(found) > 100
    assert {each for each, sizes in pixels.items() if not sizes <= SPACES} == EXCEPTIONS


def test_sizes_of_type_are_variables() -> None:
    assert re.findall(r"font(?:-size)?: \d+px", SHEET) == []

"""The pictures of the manual: each is used by both languages, and a drawing is legible in a light and a dark theme."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.programs import ROOT

DOCS = ROOT / "aiotaskq" / "docs"
IMAGES = sorted((DOCS / "images").iterdir())
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_a_picture_is_used_in_both_languages(path: Path) -> None:
    for folder, link in ((DOCS, f"images/{path.name}"), (DOCS / "zh", f"../images/{path.name}")):
        pages = [page.read_text(encoding="utf-8") for page in folder.glob("*.md")]
        assert any(f'"{link}"' in page or f"({link})" in page for page in pages), link


@pytest.mark.parametrize("path", [path for path in IMAGES if path.suffix == ".svg"], ids=lambda path: path.name)
def test_a_drawing_has_colours_for_both_themes_and_texts_inside_of_it(path: Path) -> None:
    drawing = ElementTree.parse(path).getroot()
    style = next(drawing.iter(f"{SVG}style")).text or ""
    light, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    coloured = set(re.findall(r"\.(\w+)[^{}]*\{[^}]*(?:fill: #|stroke: #)", light))
    assert {"card", "box", "line"} <= coloured <= set(re.findall(r"\.(\w+) \{", dark))
    assert re.search("[\u4e00-\u9fff]", drawing.findtext(f"{SVG}title") or "")
    _, _, width, height = map(float, drawing.attrib["viewBox"].split())
    places = [(float(each.attrib["x"]), float(each.attrib["y"])) for each in drawing.iter(f"{SVG}text")]
    assert len(places) > 5 and all(0 < x < width and 0 < y < height for x, y in places)

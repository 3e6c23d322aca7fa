"""The size in which the graph of a workflow is drawn."""

from __future__ import annotations

import re

import pytest

from aiotaskq import TaskQ, Workflow
from aiotaskq.app.handle import TaskCall
from aiotaskq.web.dashboard.pages.groups import ZOOMS, zoom_of
from tests.web.dashboard.conftest import Browse


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *[(None, (100, 75, 150)), ("150", (150, 100, 200)), ("fit", (None, 50, 100))],
        *[(str(ZOOMS[0]), (25, None, 50)), (str(ZOOMS[-1]), (200, 150, None))],
        *[("99", (100, 75, 150)), ("<b>", (100, 75, 150))],
    ],
)
def test_a_zoom_of_an_address(text: str | None, found: tuple[int | None, ...]) -> None:
    assert zoom_of(text) == found


async def test_the_graph_is_drawn_larger_and_smaller_by_links(browse: Browse, tq: TaskQ) -> None:
    call = TaskCall("greet", {"name": "x"}, {})
    group = await tq.start(Workflow().add("first", call).add("then", call, after=["first"]))
    address = f"group?id={group.group_id}"

    async def size(zoom: str) -> tuple[int, int]:
        page = (await browse.get(address + zoom)).text
        found = re.search(r'graph[^>]*>\s*<svg width="(\d+)" height="(\d+)"', page)
        assert found is not None
        return int(found[1]), int(found[2])

    width, height = await size("")
    assert await size("&zoom=200") == (2 * width, 2 * height)
    assert await size("&zoom=25") == (width // 4, height // 4)
    page = (await browse.get(address + "&zoom=25")).text
    assert f'href="{address}&amp;zoom=50#graph" aria-label="Larger"' in page and 'aria-label="Smaller"' not in page
    assert 'class="scroll graph fit"' in (await browse.get(address + "&zoom=fit")).text

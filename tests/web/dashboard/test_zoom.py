"""The size in which the graph of a workflow is drawn."""

from __future__ import annotations

import re

from aiotaskq import TaskQ, Workflow
from aiotaskq.app.handle import TaskCall
from tests.web.dashboard.conftest import Browse


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
    assert await size("&zoom=99") == await size("&zoom=<b>") == (width, height)
    page = (await browse.get(address + "&zoom=25")).text
    assert f'href="{address}&amp;zoom=50#graph" aria-label="Larger"' in page and 'aria-label="Smaller"' not in page
    page = (await browse.get(address + "&zoom=200")).text
    assert f'href="{address}&amp;zoom=150#graph" aria-label="Smaller"' in page and 'aria-label="Larger"' not in page
    page = (await browse.get(address + "&zoom=fit")).text
    assert 'class="scroll graph fit"' in page
    for percent, label in ((50, "Smaller"), (100, "Larger")):
        assert f'href="{address}&amp;zoom={percent}#graph" aria-label="{label}"' in page

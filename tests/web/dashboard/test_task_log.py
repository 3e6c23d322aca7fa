"""The log on the page of a task: its newest lines, as text, where params may be shown."""

from __future__ import annotations

from aiotaskq import TaskQ, current_task
from tests.support.machine import within
from tests.web.dashboard.conftest import in_starlette


async def test_the_log_of_a_task(tq: TaskQ) -> None:
    @tq.task
    async def writes(lines: int) -> None:
        for number in range(lines):
            current_task().log(f"<b>line {number}.</b>")
        current_task().emit({"token": "Hé"})

    async with tq.running():
        few, many = await writes.push(2), await writes.push(250)
        for handle in (few, many):
            await handle.result(within(20))
    async with in_starlette(tq, show_args=True) as browse:
        page = (await browse.get(f"task?id={few.task_id}")).text
        assert "&lt;b&gt;line 0.&lt;/b&gt;" in page and "<b>line" not in page
        assert "The newest" not in page
        found = (await browse.get(f"task?id={few.task_id}&format=json")).json()["notes"]
        assert [(note["n"], note["kind"]) for note in found] == [(1, "log"), (2, "log"), (3, "data")]
        page = (await browse.get(f"task?id={many.task_id}")).text
        assert "The newest 200 lines." in page
        assert page.index("line 249.") < page.index("line 51.")  # the newest first: an update keeps no scroll position
        assert "line 249." in page and "line 51." in page and "line 50." not in page
    async with in_starlette(tq) as browse:
        page = await browse.get(f"task?id={few.task_id}")
        assert page.status_code == 200 and "line 0." not in page.text
        assert (await browse.get(f"task?id={few.task_id}&format=json")).json()["notes"] is None

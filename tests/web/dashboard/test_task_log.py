"""The log on the page of a task: its newest lines, as text, where params may be shown."""

from __future__ import annotations

from aiotaskq import TaskQ, current_task
from aiotaskq.core.task import Attempt
from aiotaskq.web.dashboard.pages.tasks import during
from tests.support.machine import within
from tests.web.dashboard.conftest import in_starlette


async def test_the_log_of_a_task(tq: TaskQ) -> None:
    @tq.task
    async def writes(lines: int) -> None:
        for number in range(lines):
            current_task().log(f"<b>line {number}.</b>")
        current_task().stream({"token": "Hé"})

    async with tq.running():
        few, many = await writes.push(2), await writes.push(250)
        for handle in (few, many):
            await handle.result(within(20))
    async with in_starlette(tq, show_args=True) as browse:
        page = (await browse.get(f"task?id={few.task_id}")).text
        assert "&lt;b&gt;line 0.&lt;/b&gt;" in page and "<b>line" not in page
        assert "the newest" not in page and "Log: 3 lines" in page
        found = (await browse.get(f"task?id={few.task_id}&format=json")).json()["notes"]
        assert [(note["n"], note["kind"]) for note in found] == [(1, "log"), (2, "log"), (3, "data")]
        page = (await browse.get(f"task?id={many.task_id}")).text
        assert "Of its log the newest 200 lines are shown." in page
        assert page.index("line 249.") < page.index("line 51.")  # the newest first: an update keeps no scroll position
        assert "line 249." in page and "line 51." in page and "line 50." not in page
    async with in_starlette(tq) as browse:
        page = await browse.get(f"task?id={few.task_id}")
        assert page.status_code == 200 and "line 0." not in page.text
        assert (await browse.get(f"task?id={few.task_id}&format=json")).json()["notes"] is None


async def test_each_attempt_has_its_log(tq: TaskQ) -> None:
    @tq.task(max_retries=2, backoff=0.0)
    async def fails() -> None:
        current_task().log(f"in attempt {current_task().task.retry_count + 1}")
        if current_task().task.retry_count < 2:
            raise RuntimeError("no")

    async with tq.running():
        handle = await fails.push()
        await handle.result(within(20))
    async with in_starlette(tq, show_args=True) as browse:
        found = (await browse.get(f"task?id={handle.task_id}&format=json")).json()["notes"]
        assert [(note["attempt"], note["text"]) for note in found] == [(n, f"in attempt {n}") for n in (1, 2, 3)]
        page = (await browse.get(f"task?id={handle.task_id}")).text
        places = [page.index(text) for n in (3, 2, 1) for text in (f"attempt {n} <time", f">in attempt {n}<")]
        assert places == sorted(places) and page.count("Log: one line") == 3
        assert page.count('<details class="wrote" open>') == 1  # that of the latest attempt


def test_lines_of_attempts_that_are_not_kept_belong_to_none() -> None:
    runs = [Attempt(number=3, began_at=10), Attempt(number=4, began_at=None), Attempt(number=5, began_at=30)]
    assert [during(runs, at) for at in (9, 10, 29, 30, 99)] == [None, 3, 3, 5, 5]

"""Tags in the dashboard: chips that lead to the filtered table, the filter, forms, and actions on what it selects."""

from __future__ import annotations

import re

from aiotaskq import TaskQ
from aiotaskq.core.status import Status
from tests.web.dashboard.conftest import Browse, in_starlette, send

ORDER = {"order": "17"}
HOSTILE = {"x": "<b>1</b> y=2", "z": "&#34;"}


async def test_a_chip_leads_to_the_tasks_with_its_tag(tq: TaskQ) -> None:
    first = await tq.push("greet", {"name": "World"}, tags=ORDER)
    other = await tq.push("greet", {"name": "World"}, tags={"order": "18", **HOSTILE})
    async with in_starlette(tq) as browse:  # without show_args, too
        page = (await browse.get(f"task?id={first.task_id}")).text
        (address,) = re.findall(r'<a class="tag" href="([^"]*)">order=17</a>', page)
        table = (await browse.get(address)).text
        assert f"id={first.task_id}" in table and f"id={other.task_id}" not in table
        assert re.findall(r'<a class="tag" href="([^"]*)">order=17</a>', table) == [address]
        every = (await browse.get("tasks")).text
        assert '<span class="tag">x=&lt;b&gt;1&lt;/b&gt; y=2</span>' in every, "no address means this one"
        assert '<a class="tag" href="tasks?tag=z%3D%26%2334%3B">z=&amp;#34;</a>' in every
        both = await browse.get("tasks", params={"tag": "order=18, z=&#34;", "format": "json"})
        assert [each["task_id"] for each in both.json()["tasks"]] == [other.task_id]
        wrong = await browse.get("tasks?tag=order")
        assert wrong.status_code == 422 and "use name=value" in wrong.text


async def test_forms_take_tags_and_actions_the_filter(browse: Browse, tq: TaskQ) -> None:
    done = await send(browse, "tasks.push", "task-form", type="greet", params='{"name": "a"}', tags="order=17 a=b c")
    task = await tq.get(done.headers["location"].removeprefix("task?id="))
    assert task.tags == {"order": "17", "a": "b c"}
    left = await tq.push("greet", {"name": "a"}, tags={"order": "18"})
    fields = {"which": "all", "tag": "order=17", "sure": "yes"}
    await send(browse, "tasks.cancel_many", "tasks", **fields)
    assert (await tq.get(task.task_id)).status is Status.CANCELLED
    assert await left.status() is Status.PENDING


async def test_the_form_of_a_schedule(browse: Browse, tq: TaskQ) -> None:
    made = await tq.schedules.add("s", "greet", interval=60, params={"name": "a"}, tags=ORDER)
    page = f"schedule-form?id={made.task_id}"
    form = (await browse.get(page)).text
    assert re.search(r'<input name="tags" value="order=17"', form)
    assert "order=17</a>" in (await browse.get(f"schedule?id={made.task_id}")).text
    (seen,) = re.findall(r'name="seen" value="([^"]*)"', form)
    kept = {"schedule": made.task_id, "seen": seen, "name": "s", "type": "greet", "params": ""}
    await send(browse, "schedules.update", page, **kept, tags="order=18")
    assert (await tq.schedules.get("s")).tags == {"order": "18"}
    (seen,) = re.findall(r'name="seen" value="([^"]*)"', (await browse.get(page)).text)
    await send(browse, "schedules.update", page, **{**kept, "seen": seen}, tags="")
    assert (await tq.schedules.get("s")).tags == {}

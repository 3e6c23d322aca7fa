"""Schedules: their states, what they did and are about to do, the actions of the list, and the preview of the form."""

from __future__ import annotations

import html
import re
from typing import Any

import httpx
import pytest

from aiotaskq import TaskQ
from aiotaskq.app.internal import internal
from aiotaskq.backends.change import ScheduleChange
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.instants import from_iso
from aiotaskq.core.task import SECOND
from tests.web.dashboard.conftest import Browse, in_starlette, send

HOUR = 3_600 * SECOND
PARAMS = {"name": "World"}


def text_of(page: httpx.Response) -> str:
    """Return the text of a page without its tags."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.text)))


async def put(tq: TaskQ, schedule_id: str, **changes: Any) -> None:
    """Change a row as a scheduler does."""
    stored = internal(tq).scheduler().schedules
    (row,) = await stored.get([schedule_id])
    assert row is not None and await stored.change([ScheduleChange(row, row.replace(**changes))]) == [True]


async def test_each_state_has_its_own_word_and_actions(browse: Browse, tq: TaskQ) -> None:
    for name in ("active", "disabled", "finished", "paused"):
        await tq.schedules.add(name, "greet", interval=60, params=PARAMS, schedule_id=name)
    await tq.schedules.pause("paused")
    now = tq.queue.clock.now()
    await put(tq, "disabled", enabled=False, history=(FiringRecord(now, "disabled"),))
    await put(tq, "finished", enabled=False, next_run_at=None, next_run_us=0)
    rows = (await browse.get("schedules?format=json")).json()["schedules"]
    assert {each["schedule"]["name"]: each["schedule"]["state"] for each in rows} == {
        name: name for name in ("active", "disabled", "finished", "paused")
    }
    listed = (await browse.get("schedules")).text
    buttons = {
        "active": ["Run now", "Pause"],
        "disabled": ["Run now", "Resume"],
        "finished": ["Run now"],
        "paused": ["Run now", "Resume"],
    }
    for row in listed.split("<tr>")[2:]:
        name = re.findall(r"schedule\?id=(\w+)", row)[0]
        assert f"</svg>{name}</span>" in row
        assert re.findall(r"<button[^>]*>([^<]+)</button>", row) == buttons[name]
        assert ("data-ago" in row) is (name == "active"), "only one that is active has a next time"
        page = await browse.get(f"schedule?id={name}")
        assert f"</svg>{name}</span>" in page.text
        assert ("if it were resumed now" in text_of(page)) is (name in ("disabled", "paused"))


async def test_the_list_has_actions_and_is_shown_again(browse: Browse, tq: TaskQ) -> None:
    await tq.schedules.add("n", "greet", interval=60, params=PARAMS, schedule_id="s")
    for action, state in (("pause", "paused"), ("resume", "active"), ("run_now", "active")):
        done = await send(browse, f"schedules.{action}", "schedules", schedule="s", back="list")
        assert (done.status_code, done.headers["location"]) == (303, "schedules")
        assert (await tq.schedules.get("s")).state == state
    assert len(await tq.find(scheduler_task_id="s")) == 1
    done = await send(browse, "schedules.pause", "schedule?id=s", schedule="s")
    assert done.headers["location"] == "schedule?id=s"


async def test_next_times_are_to_come_however_long_it_was_paused(
    browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tq.schedules.add("n", "greet", interval=60, params=PARAMS, schedule_id="s")
    await tq.schedules.pause("s")
    real = tq.queue.clock.now
    monkeypatch.setattr(tq.queue.clock, "now", lambda: real() + 50 * HOUR)
    times = (await browse.get("schedule?id=s&format=json")).json()["next"]
    first = from_iso(times[0]["due"])
    assert len(times) == 10 and 0 < first - tq.queue.clock.now() <= 60 * SECOND
    assert (await tq.schedules.preview("s", 1))[0].timestamp() * SECOND >= first - SECOND


async def test_the_day_before_and_after_now(browse: Browse, tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    now = tq.queue.clock.now()
    monkeypatch.setattr(tq.queue.clock, "now", lambda: now)
    history = (
        FiringRecord(now - 40 * HOUR, "fired", now - 40 * HOUR, count=9, until=now - 12 * HOUR),
        FiringRecord(now - 6 * HOUR, "skipped", now - 6 * HOUR, "overlap"),
        FiringRecord(now - 3 * HOUR, "run_now", task_id="x"),
        FiringRecord(now - 2 * HOUR, "changed"),
    )
    await tq.schedules.add("n", "greet", interval=12 * 3600, params=PARAMS, schedule_id="s")
    await put(tq, "s", history=history)
    found = (await browse.get("schedules?format=json")).json()
    marks = [(each["kind"], each["begin"], each["width"]) for each in found["schedules"][0]["marks"]]
    assert marks[:3] == [("fired", 0, 250), ("skipped", 375, 3), ("fired", 437, 3)]
    assert [(kind, begin) for kind, begin, _ in marks[3:]] == [("due", 750)]
    places = [each["place"] for each in found["hours"]]
    assert len(places) >= 3 and places == sorted(places) and 0 < places[0] < places[-1] < 1000
    await tq.schedules.update("s", interval=60)
    (*_, band) = (await browse.get("schedules?format=json")).json()["schedules"][0]["marks"]
    assert (band["kind"], band["begin"], band["width"]) == ("due", 500, 500), "too many for one mark each"


@pytest.mark.parametrize(
    ("seconds", "said"), [(1, "every second"), (2, "every 2 s"), (60, "every minute"), (5400, "every 1 h 30 min")]
)
async def test_an_interval_is_said_in_words(browse: Browse, tq: TaskQ, seconds: int, said: str) -> None:
    await tq.schedules.add("n", "greet", interval=seconds, params=PARAMS, schedule_id="s")
    assert f"<dd>{said}</dd>" in (await browse.get("schedule?id=s")).text


async def test_once_is_said_with_its_time(browse: Browse, tq: TaskQ) -> None:
    await tq.schedules.add("n", "greet", at=1_900_000_000, params=PARAMS, schedule_id="s")
    for path in ("schedule?id=s", "schedules"):
        assert "once, at 17 Mar 2030 17:46:40" in text_of(await browse.get(path))


async def test_the_form_previews_the_next_times_and_saves_nothing(browse: Browse, tq: TaskQ) -> None:
    given = {"name": "n", "type": "greet", "schedule_type": "cron", "timing": "0 2 * * *", "timezone": "UTC"}
    page = await send(browse, "schedules.add", "schedule-form", **given, preview="yes")
    assert page.status_code == 200 and "Nothing is saved yet." in page.text
    assert len(re.findall(r"<li><time datetime=\"\d{4}-\d\d-\d\dT02:00:00", page.text)) == 5
    assert 'value="0 2 * * *"' in page.text and await tq.schedules.list() == []
    wrong = await send(browse, "schedules.add", "schedule-form", **given | {"timing": "0 2 * *"}, preview="yes")
    assert wrong.status_code == 422 and "fields" in text_of(wrong)
    await tq.schedules.add("n", "greet", interval=60, params=PARAMS, schedule_id="s")
    form = await browse.get("schedule-form?id=s")
    seen = re.findall(r'name="seen" value="(\w+)"', form.text)[0]
    edit = {"id": "s", "schedule": "s", "seen": seen, "schedule_type": "interval", "timing": "7200"}
    changed = await send(browse, "schedules.update", "schedule-form?id=s", **edit, preview="yes")
    dues = [from_iso(each) for each in re.findall(r'<li><time datetime="([^"]+)"', changed.text)]
    assert len(dues) == 5 and dues[1] - dues[0] == 7200 * SECOND
    assert (await tq.schedules.get("s")).interval_seconds == 60
    saved = await send(browse, "schedules.update", "schedule-form?id=s", **edit)
    assert saved.headers["location"] == "schedule?id=s" and (await tq.schedules.get("s")).interval_seconds == 7200


async def test_the_preview_of_an_edit_counts_the_runs_that_were(browse: Browse, tq: TaskQ) -> None:
    await tq.schedules.add("n", "greet", interval=3600, params=PARAMS, schedule_id="s", max_runs=4)
    await put(tq, "s", run_count=2)
    due = (await tq.schedules.get("s")).next_run_at
    seen = re.findall(r'name="seen" value="(\w+)"', (await browse.get("schedule-form?id=s")).text)[0]
    edit = {"id": "s", "schedule": "s", "seen": seen, "schedule_type": "interval", "timing": "3600"}
    for most, times in (("4", 2), ("3", 1), ("2", 0), ("0", 5)):
        form = await send(browse, "schedules.update", "schedules", **edit, max_runs=most, preview="yes")
        dues = [from_iso(each) // SECOND for each in re.findall(r'<li><time datetime="([^"]+)"', form.text)]
        assert len(dues) == times and dues[:1] in ([], [due]), "with the timing that it has its next run stays"
        assert ("It will not run" in form.text) is (times == 0)


@pytest.mark.parametrize("show", [True, False])
async def test_the_form_says_what_an_empty_field_does(tq: TaskQ, show: bool) -> None:
    await tq.schedules.add("Greet", "greet", interval=60, params=PARAMS, jitter=5, schedule_id="s")
    async with in_starlette(tq, show_args=show) as browse:
        page = (await browse.get("schedule-form?id=s")).text
        for name in ("queue", "jitter", "max_runs", "max_retries", "priority"):
            assert re.search(rf'<input name="{name}" value="[^"]+" required', page), "empty it would stay as it is"
        assert not re.search(r'<input name="(timezone|timeout|calendar|blackout)" value="[^"]*" required', page)
        assert ("Left empty, the params stay as they are" in page) is not show
        assert "Left empty" not in (await browse.get("schedule-form")).text

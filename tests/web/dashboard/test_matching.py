"""Filters without an index: parts of names, and params by a text or a path."""

from __future__ import annotations

import html
import re
import time

import pytest

from aiotaskq import TaskQ
from aiotaskq.web.dashboard.matching import like, params_like
from tests.support.machine import within
from tests.support.rows import new
from tests.web.dashboard.conftest import Browse, in_starlette


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("mail*", ["mail", "Mail.send"], ["email", ""]),
        ("*mail", ["mail", "EMAIL"], ["mails"]),
        ("*a*b*", ["ab", "xaxbx", "aab"], ["ba", "a", "b"]),
        ("a*a", ["aa", "aba"], ["a"]),
        ("*", ["", "x"], []),
        ("a.c*", ["a.c"], ["abc"]),
        ("城*", ["城市"], ["市"]),
    ],
)
def test_a_star_is_any_text(pattern: str, fits: list[str], others: list[str]) -> None:
    assert [like(pattern, each) for each in fits + others] == [True] * len(fits) + [False] * len(others)


PARAMS = {
    "order": {"id": 5, "name": "Ann Lee", "paid": True, "note": None, "tags": ["new", "eu"], "a.b": 1},
    "lines": [{"sku": "x-1", "n": 2}, {"sku": "y-2", "n": 3}],
    "url": "https://example.com/?id=7",
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *[("order.id=5", True), ("params.order.id=5", True), ("order.id = 5", True), ("order.id=50", False)],
        *[("order.name=ann lee", True), ("order.name=ann", False), ("order.name~ANN", True), ("order.id~5", True)],
        *[("order.paid=true", True), ("order.paid=1", False), ("order.note=null", True), ("order.none=null", False)],
        *[("lines.1.sku=y-2", True), ("lines.0.sku=y-2", False), ("lines.*.n=3", True), ("lines.9.n=3", False)],
        *[("order.tags.*=eu", True), ("*.id=5", True), ("order=5", False), ("order~lee", True), ("x..y=", False)],
        *[("?id=7", False), ("example.com/?id=7", False), ('"id":5', True), ("ANN", True), ("nobody", False)],
    ],
)
def test_params_by_a_text_or_a_path(text: str, found: bool) -> None:
    assert params_like(text)(new(params=PARAMS)) is found


def test_no_filter_is_slow() -> None:
    began = time.process_time()
    like("*a" * 400 + "b", "a" * 2_000)
    params_like("*." * 400 + "x=1")(new(params={"a": {"a": {"a": ["a"] * 50_000}}}))
    params_like("a" * 1_000)(new(params={"a": "a" * 50_000}))
    assert time.process_time() - began < within(1)


async def test_tasks_are_found_by_a_part_of_their_type(browse: Browse, tq: TaskQ) -> None:
    names = ("mail.send", "Mail.drop", "sms")
    for each in names:
        tq.elsewhere(each)
    ids = [(await tq.push(each, {"order": {"id": 5}}, queue="q")).task_id for each in names]
    page = await browse.get("tasks", params={"type": "mail*", "queue": "q"})
    assert ids[0] in page.text and ids[1] in page.text and ids[2] not in page.text
    assert "The newest 3 tasks that match the other filters were searched; 2 match." in page.text
    assert '<option value="all">' not in page.text  # what is not searched could match, too
    async with in_starlette(tq, show_args=True) as showing:
        wanted = {"type": "*.send", "params": "order.id=5", "format": "json"}
        found = (await showing.get("tasks", params=wanted)).json()
        assert [each["task_id"] for each in found["tasks"]] == ids[:1]


async def test_lists_are_filtered_by_a_part_of_a_name(browse: Browse, tq: TaskQ) -> None:
    for name in ("Mail.send", "mail.drop", "sms"):
        tq.elsewhere(name)
        await tq.push(name, {}, queue=f"queue of {name}")
        await tq.schedules.add(f"each {name}", "greet", params={"name": "x"}, interval=60)
    for page, rows in (("queues", "queues"), ("schedules", "schedules"), ("types", "idle")):
        for part, count in (("mail", 2), ("m*l.s", 1), ("nothing", 0)):
            reply = await browse.get(page, params={"like": part, "format": "json"})
            assert len(reply.json()[rows]) == count, (page, part)
        assert "matches." in (await browse.get(page, params={"like": "nothing"})).text
        assert 'value="mail"' in (await browse.get(page, params={"like": "mail"})).text
    assert len((await browse.get("schedules?like=greet&format=json")).json()["schedules"]) == 3


@pytest.mark.parametrize(
    ("page", "filtered"),
    [
        ("groups", "groups?status=failed"),
        ("limits", "limits?key=none"),
        ("values", "values?prefix=none"),
        ("events", "events?key=none"),
        ("activity", "activity?name=expired"),
    ],
)
async def test_an_empty_list_says_whether_a_filter_was_given(browse: Browse, page: str, filtered: str) -> None:
    hint = "Another filter may find some."
    assert hint not in (await browse.get(page)).text and hint in (await browse.get(filtered)).text


async def test_queues_are_listed_page_by_page(browse: Browse, tq: TaskQ) -> None:
    names = [f"{kind}-{number:03}" for kind in ("a", "b") for number in range(150)]
    await tq.queue.add([new(queue=each) for each in names])
    pages: list[list[str]] = []
    address = "queues?like=b-"
    while address:
        page = (await browse.get(address)).text
        pages.append(re.findall(r'<a href="queue\?name=([^"]+)"', page))
        more = re.search(r'href="(queues\?start=[^"]+)"[^>]*>More queues<', page)
        address = html.unescape(more[1]) if more else ""
    assert pages == [names[150:250], names[250:]]

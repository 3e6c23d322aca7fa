"""The dashboard behind each door: pages, forms, sessions, headers, and who may do what."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest

from aiotaskq import TaskQ
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.integrations import aiohttp as aiohttp_door
from aiotaskq.integrations import fastapi as fastapi_door
from aiotaskq.integrations import starlette as starlette_door
from aiotaskq.web.dashboard import session
from aiotaskq.web.dashboard.site import MENU, POLICY, pages
from tests.web.dashboard.conftest import Browse, form_token, in_starlette, send, standalone

TOKEN = "correct-horse-battery-staple"

Door = Callable[..., AbstractAsyncContextManager[Browse]]


@pytest.fixture
async def task_id(tq: TaskQ) -> str:
    return (await tq.push("greet", {"name": "<b>World</b>"})).task_id


async def test_every_door_serves_pages_assets_and_actions(door: Door, tq: TaskQ, task_id: str) -> None:
    async with door(tq) as browse:
        page = await browse.get("tasks")
        assert page.status_code == 200 and task_id in page.text
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        style = await browse.get("static/dashboard.css")
        assert style.headers["content-type"].startswith("text/css")
        again = await browse.get("static/dashboard.css", headers={"If-None-Match": style.headers["etag"]})
        assert again.status_code == 304
        asked = await send(browse, "tasks.cancel", f"task?id={task_id}", task_id=task_id)
        assert asked.status_code == 200 and "sure" in asked.text
        assert (await tq.get(task_id)).status == "pending"
        done = await send(browse, "tasks.cancel", f"task?id={task_id}", task_id=task_id, sure="yes")
        assert (done.status_code, done.headers["location"]) == (303, f"task?id={task_id}")
        assert (await tq.get(task_id)).status == "cancelled"
        shown = await browse.get(done.headers["location"])
        assert f"Task {task_id} is cancelled." in shown.text
        assert f"Task {task_id} is cancelled." not in (await browse.get(done.headers["location"])).text


async def test_the_prefix_without_a_slash_leads_to_the_overview(door: Door, tq: TaskQ) -> None:
    async with door(tq) as browse:
        bare = str(browse.base_url).rstrip("/")
        page = await browse.get(bare, follow_redirects=True)
        assert page.status_code == 200 and str(page.url) == bare + "/"


@pytest.mark.parametrize(
    "name",
    [name for name, page in pages.items() if not {"id", "key"} & {*page.parameters} and name not in ("queue", "type")],
)
async def test_a_page_is_data_for_programs_too(browse: Browse, name: str) -> None:
    page, data = await browse.get(name), await browse.get(name, params={"format": "json"})
    assert (page.status_code, data.headers["content-type"]) == (200, "application/json")
    assert isinstance(msgspec.json.decode(data.content), dict)


@pytest.mark.parametrize("path", ["", "nowhere", "static/dashboard.css", "static/../site.py", "task?id=none"])
async def test_each_response_has_the_strict_policy(browse: Browse, path: str) -> None:
    headers = (await browse.get(path)).headers
    assert headers["content-security-policy"] == POLICY
    assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")


async def test_a_page_that_is_not_there_is_a_page_with_a_way_back(browse: Browse) -> None:
    missing, task = await browse.get("nowhere"), await browse.get("task?id=none")
    assert (missing.status_code, task.status_code) == (404, 404)
    assert "there is no task none" in task.text and 'href="./"' in task.text


async def test_the_language_and_the_theme_are_chosen_and_kept(browse: Browse) -> None:
    assert 'lang="zh-CN"' in (await browse.get("", headers={"Accept-Language": "zh"})).text
    await send(browse, "preferences", language="zh")
    done = await send(browse, "preferences", theme="dark", back="tasks?status=failed")
    assert done.headers["location"] == "tasks?status=failed"
    page = (await browse.get("")).text
    assert 'lang="zh-CN"' in page and 'data-theme="dark"' in page


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example", "/\\evil.example", "nowhere", "tasks\r\nX: y"]
)
async def test_no_form_leads_elsewhere(browse: Browse, back: str) -> None:
    done = await send(browse, "preferences", theme="dark", back=back)
    assert (done.status_code, done.headers["location"]) == (303, "./")


async def test_a_form_without_the_token_of_its_session_changes_nothing(browse: Browse, tq: TaskQ) -> None:
    token = form_token(await browse.get("queues"))
    same = {"Sec-Fetch-Site": "same-origin"}
    whole = {"queue": "default", "form_token": token}
    cross = await browse.post("queues.pause", data=whole, headers={"Sec-Fetch-Site": "cross-site"})
    foreign = await browse.post("queues.pause", data=whole, headers={"Origin": "https://evil.example"})
    without = await browse.post("queues.pause", data={"queue": "default"}, headers=same)
    wrong = await browse.post("queues.pause", data={"queue": "default", "form_token": "0" * 64}, headers=same)
    browse.cookies.clear()
    stolen = await browse.post("queues.pause", data={"queue": "default", "form_token": token}, headers=same)
    assert [each.status_code for each in (cross, foreign, without, wrong, stolen)] == [403] * 5
    assert (await browse.get("queues.pause?queue=default")).status_code == 404
    assert await tq.paused() == []


async def test_read_only_pages_offer_no_action_and_take_none(tq: TaskQ, task_id: str) -> None:
    async with in_starlette(tq, read_only=True) as browse:
        page = await browse.get(f"task?id={task_id}")
        assert 'action="tasks.cancel"' not in page.text
        done = await send(browse, "tasks.cancel", task_id=task_id, sure="yes")
        assert done.status_code == 403 and (await tq.get(task_id)).status == "pending"


async def test_the_host_says_who_may_do_what(tq: TaskQ, task_id: str) -> None:
    asked = []

    async def allow(request: Any, action: str) -> bool:
        asked.append((request.url.path.rpartition("/")[2], action))
        return action in ("view", "queues.pause")

    async with in_starlette(tq, allow=allow) as browse:
        page = await browse.get("queues")
        assert 'action="queues.pause"' in page.text
        assert 'action="tasks.cancel"' not in (await browse.get(f"task?id={task_id}")).text
        assert (await send(browse, "tasks.cancel", task_id=task_id, sure="yes")).status_code == 403
        assert (await send(browse, "queues.pause", "queues", queue="default")).status_code == 303
    assert ("queues", "view") in asked and ("queues.pause", "queues.pause") in asked
    async with in_starlette(tq, allow=lambda _request, _action: False) as browse:
        assert (await browse.get("")).status_code == 403
        assert (await browse.get("tasks?format=json")).status_code == 403
        assert (await browse.get("live?page=tasks")).status_code == 403


async def test_a_change_is_an_event_with_its_actor(tq: TaskQ, task_id: str) -> None:
    seen = []
    tq.on("operated")(lambda event: seen.append(event.detail))
    async with in_starlette(tq, actor=lambda request: request.headers["x-user"]) as browse:
        browse.headers["x-user"] = "mara"
        await send(browse, "queues.pause", "queues", queue="default")
    assert seen == [{"action": "queues.pause", "actor": "mara", "targets": ["default"]}]


@pytest.mark.parametrize("module", [starlette_door, fastapi_door, aiohttp_door])
async def test_a_dashboard_that_anybody_could_open_is_refused(module: Any, tq: TaskQ) -> None:
    with pytest.raises(ValidationError, match="anybody could open it"):
        module.dashboard(tq)


# ---- the standalone server ------------------------------------------------------------------------------------------


async def test_the_standalone_server_asks_for_its_token(tq: TaskQ) -> None:
    async with standalone(tq, host="0.0.0.0", token=TOKEN) as browse:
        login = await browse.get("tasks?status=failed")
        assert login.status_code == 401 and 'name="token"' in login.text and "greet" not in login.text
        assert (await browse.get("tasks?format=json")).status_code == 401
        assert (await browse.get("live?page=tasks")).status_code == 401
        assert (await send(browse, "queues.pause", queue="default")).status_code == 401
        before = browse.cookies["aiotaskq_session"]
        wrong = await send(browse, "login", token="wrong-wrong-wrong-wrong")
        assert wrong.status_code == 401 and "not the token" in wrong.text
        done = await send(browse, "login", token=TOKEN, back="tasks?status=failed")
        assert (done.status_code, done.headers["location"]) == (303, "tasks?status=failed")
        assert browse.cookies["aiotaskq_session"] != before
        assert (await browse.get("tasks")).status_code == 200
        kept = browse.cookies["aiotaskq_session"]
        async with TaskQ(tq.url) as elsewhere, standalone(elsewhere, host="0.0.0.0", token=TOKEN) as other:
            other.cookies.set("aiotaskq_session", kept)  # another process with this token
            assert (await other.get("tasks")).status_code == 200
            async with standalone(tq, host="0.0.0.0", token=TOKEN + "!") as third:
                third.cookies.set("aiotaskq_session", kept)
                assert (await third.get("tasks")).status_code == 401
            await send(browse, "logout")
            assert (await browse.get("tasks")).status_code == 401
            for path in ("tasks", "tasks?format=json", "live?page=tasks"):  # with the cookie that was copied before
                assert (await other.get(path)).status_code == 401
            await send(browse, "login", token=TOKEN)
            assert (await browse.get("tasks")).status_code == 200


def test_a_login_that_was_ended_is_noted_for_as_long_as_it_would_hold() -> None:
    now = 1_700_000_000_000_000
    login = session.new_login(TOKEN, now, "")
    assert session.seconds_left(login, now + 3600 * SECOND) == 11 * 3600
    assert login not in session.logout_key(login) and session.logout_key(login) != session.logout_key(login + "0")


async def test_a_page_that_is_too_deep_leads_to_the_login(tq: TaskQ) -> None:
    async with standalone(tq, host="0.0.0.0", token=TOKEN) as browse:
        for path, up in (("tasks/", "../"), ("a/b/c", "../../")):
            leads = await browse.get(path)
            assert (leads.status_code, leads.headers["location"]) == (303, up)
            page = await browse.get(path, follow_redirects=True)
            assert page.status_code == 401 and page.url.path == "/dashboard/" and 'name="token"' in page.text
        assert (await browse.get("a/b?format=json")).status_code == 401


async def test_guesses_of_a_token_are_bounded(tq: TaskQ) -> None:
    async with standalone(tq, host="0.0.0.0", token=TOKEN) as browse:
        codes = [(await send(browse, "login", token=f"wrong-{number}")).status_code for number in range(12)]
        assert codes == [401] * 10 + [429] * 2
        assert (await send(browse, "login", token=TOKEN)).status_code == 303


async def test_cookies_are_out_of_reach_for_scripts_and_other_sites(tq: TaskQ) -> None:
    async with standalone(tq, host="0.0.0.0", token=TOKEN) as browse:
        given = [(await browse.get("")).headers["set-cookie"]]
        given += (await send(browse, "login", token=TOKEN)).headers.get_list("set-cookie")
        assert all("HttpOnly" in each and "SameSite=Lax" in each and "Secure" not in each for each in given)


async def test_without_a_token_only_names_of_this_machine_are_served(tq: TaskQ) -> None:
    async with standalone(tq) as browse:
        assert (await browse.get("tasks")).status_code == 200
        assert (await browse.get("tasks", headers={"Host": "evil.example"})).status_code == 403
        leads = await browse.get("http://localhost/")
        assert (leads.status_code, leads.headers["location"]) == (303, "dashboard/")


async def test_every_icon_of_a_page_is_drawn(browse: Browse, tq: TaskQ) -> None:
    drawn = set(re.findall(r'<symbol id="([a-z-]+)"', (await browse.get("static/icons.svg")).text))
    for name in (page.name for page in MENU):
        used = set(re.findall(r'icons\.svg#([^"]*)"', (await browse.get(name or "./")).text))
        assert f"page-{name or 'overview'}" in used and used <= drawn, name

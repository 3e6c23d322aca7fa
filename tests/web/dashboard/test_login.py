"""The three ways to log in, as the manual shows them; and the form of the dashboard in each framework."""

from __future__ import annotations

import asyncio
import html
import importlib.util
import re
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from aiohttp import web

from aiotaskq import TaskQ
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.integrations.aiohttp import USER
from aiotaskq.web.access import MAX_WRONG
from aiotaskq.web.dashboard import session
from tests.support.programs import ROOT
from tests.web.dashboard.conftest import DOORS, Browse, form_token, send

MANUAL = (ROOT / "aiotaskq" / "docs" / "login.md").read_text(encoding="utf-8")
SECRET = "a secret of the application"
SAME = {"Sec-Fetch-Site": "same-origin"}
EMBEDDED = {name: door for name, door in DOORS.items() if name != "standalone"}
Door = Callable[..., AbstractAsyncContextManager[Browse]]


# ---- as the manual shows them ---------------------------------------------------------------------------------------


@pytest.fixture(params=["session_login", "form_login", "basic_login"])
def module(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program of the manual with this name."""
    found = re.search(rf"^```python\n# {request.param}\.py\n(.*?)^```$", MANUAL, re.DOTALL | re.MULTILINE)
    assert found is not None
    path = tmp_path / f"{request.param}.py"
    path.write_text(found[1])
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(request.param, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, request.param, made)
    spec.loader.exec_module(made)
    return made


async def log_in(browse: Browse, way: str, password: str) -> None:
    match way:
        case "session_login":
            await browse.post("http://test/login", data={"user": "mara", "password": password})
        case "form_login":
            await send(browse, "login", user="mara", password=password)
        case _:
            browse.auth = httpx.BasicAuth("mara", password)


async def test_each_way_of_the_manual_lets_its_users_in_and_nobody_else(module: ModuleType) -> None:
    transport = httpx.ASGITransport(module.app)
    async with module.tq, Browse(transport=transport, base_url="http://test/tasks/") as browse:
        refused = [303] if module.__name__ == "session_login" else [401]

        async def closed() -> None:
            for path in ("tasks", "live?page=tasks", "tasks?format=json"):
                assert [(await browse.get(path)).status_code] == refused, path
            assert (await browse.post("queues.pause", data={"queue": "q"}, headers=SAME)).status_code in (*refused, 403)
            assert await module.tq.paused() == []

        await closed()
        await log_in(browse, module.__name__, "wrong")
        await closed()
        await log_in(browse, module.__name__, "correct horse")
        for path in ("tasks", "live?page=tasks", "tasks?format=json"):
            assert (await browse.get(path)).status_code == 200, path
        done = await send(browse, "queues.pause", "queues", queue="q")
        assert done.status_code == 303 and await module.tq.paused() == ["q"]
        (entry,) = await module.tq.queue.backend.audit.read(10)
        assert (entry.action, entry.actor) == ("queues.pause", "mara")


# ---- the form of the dashboard --------------------------------------------------------------------------------------


class Users:
    """The users of an application, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def check(self, name: str, password: str) -> object:
        self.asked.append((name, password))
        await asyncio.sleep(0)
        return {"id": 7} if (name, password) == ("mära", "right") else None


def seen_by(seen: list[Any]) -> Callable[[Any, str], bool]:
    def allow(request: Any, action: str) -> bool:
        seen.append(request[USER] if isinstance(request, web.Request) else request.state.aiotaskq_user)
        return action in ("view", "queues.pause")

    return allow


@pytest.mark.parametrize("name", EMBEDDED)
async def test_a_user_logs_in_and_out(name: str, tq: TaskQ) -> None:
    users, seen = Users(), []
    options = {"login": users.check, "secret": SECRET, "allow": seen_by(seen)}
    async with EMBEDDED[name](tq, **options) as browse:
        page = await browse.get("tasks?status=failed")
        assert page.status_code == 401 and 'name="user"' in page.text and 'name="token"' not in page.text
        assert (await browse.get("static/dashboard.css")).status_code == 200
        wrong = await send(browse, "login", user="mära", password="wrong")
        assert wrong.status_code == 401 and "The user name or the password is wrong." in wrong.text and not seen
        done = await send(browse, "login", user="mära", password="right", back="tasks?status=failed")
        assert (done.status_code, done.headers["location"]) == (303, "tasks?status=failed")
        page = await browse.get("tasks")
        assert page.status_code == 200 and "Log out" in page.text
        assert set(seen) == {"mära"}
        assert (await send(browse, "queues.pause", "queues", queue="q")).status_code == 303
        (entry,) = await tq.queue.backend.audit.read(10)
        assert entry.actor == "mära"
        kept = browse.cookies["aiotaskq_session"]
        async with TaskQ(tq.url) as elsewhere, EMBEDDED[name](elsewhere, **options) as other:  # another process
            other.cookies.set("aiotaskq_session", kept)
            assert (await other.get("tasks")).status_code == 200
            assert (await send(browse, "logout")).status_code == 303
            assert (await other.get("tasks")).status_code == 401
        async with EMBEDDED[name](tq, **options | {"secret": f"{SECRET}!"}) as other:
            other.cookies.set("aiotaskq_session", kept)
            assert (await other.get("tasks")).status_code == 401


@pytest.mark.parametrize("away", [False, True])
async def test_what_is_sent_after_the_login_has_ended_is_shown_again_behind_the_next_one(
    tq: TaskQ, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    typed = {"type": "greet", "params": '{"name": "<b>Ann</b> & 5%"}', "queue": "mail"}
    user = {"user": "mära", "password": "right"}
    async with EMBEDDED["starlette"](tq, login=Users().check, secret=SECRET, show_args=True) as browse:
        await send(browse, "login", **user)
        token = form_token(await browse.get("task-form"))
        if away:  # a window of another visitor has logged out
            await send(browse, "logout")
            browse.cookies.clear()
        else:
            real = tq.queue.clock.now
            monkeypatch.setattr(tq.queue.clock, "now", lambda: real() + session.LIFETIME)
        ended = await browse.post("tasks.push", data={"form_token": token, **typed}, headers=SAME)
        assert ended.status_code == 401 and "Your login has ended." in ended.text and "<b>Ann" not in ended.text
        for password, status in (("wrong", 401), ("right", 403)):
            hidden = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', ended.text)
            given = {name: html.unescape(value) for name, value in hidden} | user | {"password": password}
            ended = await browse.post("login", data=given, headers=SAME)
            assert ended.status_code == status
        assert "nothing was changed" in ended.text and html.escape(typed["params"]) in ended.text.replace(
            "&#34;", "&quot;"
        )
        assert await tq.find() == []
        done = await browse.post("tasks.push", data={"form_token": form_token(ended), **typed}, headers=SAME)
        assert done.status_code == 303
    (task,) = await tq.find()
    assert (task.queue, task.params) == ("mail", {"name": "<b>Ann</b> & 5%"})


async def test_a_login_with_what_was_sent_before_always_fits_into_one_request(tq: TaskQ) -> None:
    user = {"user": "mära", "password": "right"}
    async with EMBEDDED["starlette"](tq, login=Users().check, secret=SECRET) as browse:
        for size, status in ((100_000, 403), (150_000, 303)):  # escaped twice, which makes them up to five times longer
            browse.cookies.clear()
            ended = await browse.post("tasks.push", data={"type": "greet", "params": '"' * size}, headers=SAME)
            hidden = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', ended.text)
            given = {name: html.unescape(value) for name, value in hidden} | user
            done = await browse.post("login", data=given, headers=SAME)
            assert done.status_code == status
            assert (await browse.get("tasks")).status_code == 200
            assert ("Your login has ended." in ended.text) == (status == 403)


async def test_what_has_no_form_of_its_own_is_not_promised_to_be_shown_again(tq: TaskQ) -> None:
    await tq.push("greet", {"name": "x"}, delay=3600)
    user = {"user": "mära", "password": "right"}
    async with EMBEDDED["starlette"](tq, login=Users().check, secret=SECRET) as browse:
        ended = await browse.post("tasks.cancel_many", data={"which": "all", "sure": "yes"}, headers=SAME)
        assert ended.status_code == 401 and "shown again" not in ended.text
        hidden = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', ended.text)
        given = {name: html.unescape(value) for name, value in hidden} | user
        done = await browse.post("login", data=given, headers=SAME)
        assert done.status_code == 403 and "nothing was changed" in done.text
        assert [each.status for each in await tq.find()] == ["pending"]
        assert (await browse.get("tasks")).status_code == 200


async def test_a_login_needs_the_form_and_these_pages(tq: TaskQ) -> None:
    users = Users()
    async with EMBEDDED["starlette"](tq, login=users.check, secret=SECRET) as browse:
        given = {"user": "mära", "password": "right"}
        token = form_token(await browse.get(""))
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
            refused = await browse.post("login", data={**given, "form_token": token}, headers=headers)
            assert refused.status_code == 403
        assert (await browse.post("login", data=given, headers=SAME)).status_code == 403
        assert users.asked == []
        for back in ("https://evil.example/", "//evil.example", "nowhere"):
            done = await send(browse, "login", **given, back=back)
            assert (done.status_code, done.headers["location"]) == (303, "./")
            browse.cookies.clear()


async def test_after_too_many_wrong_logins_the_application_is_not_asked(tq: TaskQ) -> None:
    users = Users()
    async with EMBEDDED["starlette"](tq, login=users.check, secret=SECRET) as browse:
        for _ in range(MAX_WRONG + 5):
            assert (await send(browse, "login", user="mära", password="right")).status_code == 303  # no guesses
            browse.cookies.clear()
        token, users.asked = form_token(await browse.get("")), []
        data = {"form_token": token, "user": "mära", "password": "guess"}
        sent = [browse.post("login", data=data, headers=SAME) for _ in range(3 * MAX_WRONG)]
        codes = [answer.status_code for answer in await asyncio.gather(*sent)]
        assert sorted(codes) == [401] * MAX_WRONG + [429] * 2 * MAX_WRONG and len(users.asked) == MAX_WRONG
        assert (await send(browse, "login", user="mära", password="right")).status_code == 429
        assert len(users.asked) == MAX_WRONG


@pytest.mark.parametrize("given", [{"user": ""}, {"user": "x" * 201}, {"password": "x" * 1_001}])
async def test_what_nobody_types_is_not_asked_for(tq: TaskQ, given: dict[str, str]) -> None:
    users = Users()
    async with EMBEDDED["starlette"](tq, login=users.check, secret=SECRET) as browse:
        assert (await send(browse, "login", **{"user": "mära", "password": "right"} | given)).status_code == 401
        assert users.asked == []


async def test_an_error_of_the_application_is_its_own(tq: TaskQ) -> None:
    async def away(_name: str, _password: str) -> None:
        raise RuntimeError("the users cannot be read")

    async with EMBEDDED["starlette"](tq, login=away, secret=SECRET) as browse:
        with pytest.raises(RuntimeError, match="cannot be read"):
            await send(browse, "login", user="mära", password="right")


@pytest.mark.parametrize("name", EMBEDDED)
async def test_wrong_settings_are_refused(name: str, tq: TaskQ) -> None:
    for options, says in [
        ({"login": Users().check}, "give both"),
        ({"secret": SECRET}, "give both"),
        ({"login": Users().check, "secret": "changethis"}, "secret: at least 16"),
        ({"login": Users().check, "secret": "x" * 20}, "secret: at least 8 different"),
    ]:
        with pytest.raises(ValidationError, match=says):
            async with EMBEDDED[name](tq, **options):
                pass


def test_the_session_of_a_user_cannot_be_changed() -> None:
    now = 1_800_000_000 * SECOND
    login = session.new_login(SECRET, now, "mära.x")
    assert session.user_of(login, SECRET, now) == "mära.x"
    until, random, user, signature = login.split(".")
    other = session.new_login("another secret", now, "mära.x").split(".")[2]
    assert other == user
    changed = session.new_login("another secret", now, "root").split(".")[2]
    for forged in (f"{until}.{random}.{changed}.{signature}", f"{until}.{random}.{signature}", f"{until}.{random}"):
        assert session.user_of(forged, SECRET, now) is None
    assert session.user_of(session.new_session(now), SECRET, now) is None

"""Attacks on the dashboard's requests: forged forms, cookies, paths, methods, hosts, and bodies of any kind."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest

from aiotaskq import TaskQ
from aiotaskq.web.dashboard import session
from aiotaskq.web.dashboard.site import POLICY, actions, pages
from tests.web.dashboard.conftest import Browse, form_token, in_starlette, send, standalone

TOKEN = "correct-horse-battery-staple"
SAME = {"Sec-Fetch-Site": "same-origin"}
Door = Callable[..., AbstractAsyncContextManager[Browse]]


def packed(value: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")


# ---- forged forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["cross-site", "same-site", "x"])
async def test_no_action_is_taken_for_a_page_of_another_site(browse: Browse, site: str) -> None:
    token = form_token(await browse.get(""))
    for name in [*actions, "preferences"]:
        fields = {"form_token": token, "sure": "yes"}
        assert (await browse.post(name, data=fields, headers={"Sec-Fetch-Site": site})).status_code == 403, name


@pytest.mark.parametrize(
    "origin", ["null", "https://evil.example", "http://test.evil.example", "http://test:81", "http://["]
)
async def test_no_form_of_another_origin_is_taken(browse: Browse, tq: TaskQ, origin: str) -> None:
    token = form_token(await browse.get(""))
    done = await browse.post("queues.pause", data={"form_token": token, "queue": "q"}, headers={"Origin": origin})
    assert done.status_code == 403 and await tq.paused() == []


async def test_other_origins_can_be_let_in(tq: TaskQ) -> None:
    async with in_starlette(tq, origins=["https://ops.example"]) as browse:
        token = form_token(await browse.get(""))
        headers = {"Origin": "https://ops.example", "Sec-Fetch-Site": "cross-site"}
        done = await browse.post("queues.pause", data={"form_token": token, "queue": "q"}, headers=headers)
        assert done.status_code == 303 and await tq.paused() == ["q"]


async def test_only_forms_of_these_pages_are_read(door: Door, tq: TaskQ) -> None:
    async with door(tq) as browse:
        token = form_token(await browse.get(""))
        part = f'--x\r\nContent-Disposition: form-data; name="form_token"\r\n\r\n{token}\r\n--x--'
        for media_type, body in (
            ("application/json", msgspec.json.encode({"queue": "q", "form_token": token}).decode()),
            ("text/plain", f"queue=q&form_token={token}"),
            ("multipart/form-data; boundary=x", part),
            ("", f"queue=q&form_token={token}"),
        ):
            done = await browse.post("queues.pause", content=body, headers=SAME | {"Content-Type": media_type})
            assert done.status_code == 415 and await tq.paused() == [], media_type


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_no_link_changes_anything(browse: Browse, tq: TaskQ, method: str) -> None:
    token = form_token(await browse.get(""))
    for name in actions:
        done = await browse.request(method, f"{name}?queue=q&id=x&key=x&sure=yes&form_token={token}")
        assert done.status_code == 404, name
    assert await tq.paused() == []


async def test_other_methods_are_refused(door: Door, tq: TaskQ) -> None:
    async with door(tq) as browse:
        await browse.get("")
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
            done = await browse.request(method, "queues.pause?queue=q", headers=SAME)
            assert done.status_code in (403, 405) and await tq.paused() == [], method


async def test_head_has_the_headers_of_a_page_and_no_body(door: Door, tq: TaskQ) -> None:
    async with door(tq) as browse:
        for path in ("tasks", "live?page=tasks", "static/dashboard.css"):
            head = await browse.head(path)
            assert (head.status_code, head.content) == (200, b""), path
            assert head.headers["content-security-policy"] == POLICY


# ---- bodies and queries ---------------------------------------------------------------------------------------------

BODIES = [
    (b"queue=" + b"q" * 600_000, 413),
    (b"&".join(b"f%d=1" % number for number in range(6_000)), 400),
    (b"queue=%ff%fe", 400),
    (b"queue=\xff\xfe", 400),
    (b"queue=%00", 403),
    (b"&&&===;;;", 403),
    (b"form_token=%ed%a0%80", 400),
    (b"form_token=%E4%B8%AD", 403),
    (b"", 403),
]


async def test_no_body_breaks_a_form(door: Door, tq: TaskQ) -> None:
    async with door(tq) as browse:
        await browse.get("")
        headers = SAME | {"Content-Type": "application/x-www-form-urlencoded"}
        for body, status in BODIES:
            done = await browse.post("queues.pause", content=body, headers=headers)
            assert done.status_code == status and await tq.paused() == [], body[:40]


ODD = ["\0", "%", "\xff\xfe", "9" * 40, "-1", "q" * 2_000, "\r\nX: y", "'", "{0}", "1e999", "nan"]
"""Values that are no id, number or key."""


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
async def test_no_query_breaks_a_page(browse: Browse, odd: str) -> None:
    for page in pages.values():
        for form in ({}, {"format": "json"}):
            reply = await browse.get(page.name, params=dict.fromkeys(page.parameters, odd) | form)
            assert reply.status_code in (200, 404, 422), page.name


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
async def test_no_field_breaks_an_action(browse: Browse, odd: str) -> None:
    token = form_token(await browse.get(""))
    fields = (
        "id",
        "key",
        "queue",
        "value",
        "ttl",
        "cap",
        "rate",
        "burst",
        "window",
        "max_waiting",
        "name",
        "task_type",
    )
    fields += ("schedule_type", "timing", "timezone", "params", "type", "delay", "priority", "slots", "status", "sure")
    for name in actions:
        done = await browse.post(name, data=dict.fromkeys(fields, odd) | {"form_token": token}, headers=SAME)
        assert done.status_code in (200, 303, 404, 409, 422), name
        assert "\r" not in done.headers.get("location", "") and "x" not in done.headers


async def test_no_encoding_of_a_query_breaks_a_page(door: Door, tq: TaskQ) -> None:
    async with door(tq) as browse:
        for query in ("type=%ff%fe", "type=%ed%a0%80", "%00=%00", "&&==", "type=%u4e2d", "a" * 3_000):
            for form in ("", "&format=json"):
                assert (await browse.get(f"tasks?{query}{form}")).status_code == 200, query[:40]


PATHS = (
    *("static/..%2fsite.py", "static/%2e%2e/site.py", "static/../templates/base.html", "static//dashboard.css"),
    *("static/dashboard.css%00", "static/", "static", "static/.", "..%2f..%2fetc/passwd", "%00", "a/b/c", "tasks/"),
    *("tasks%2f", "//evil.example/", "live?page=nowhere", "%ff", "static/%ff", "logout", "login", "preferences"),
)


async def test_no_path_leads_elsewhere(door: Door, tq: TaskQ) -> None:
    async with door(tq) as browse:
        for path in PATHS:
            assert (await browse.get(f"{browse.base_url}{path}")).status_code == 404, path


async def test_the_page_of_a_path_that_is_too_deep_finds_its_style_and_its_way_back(browse: Browse) -> None:
    page = (await browse.get("tasks/1/2")).text
    assert 'href="../../static/dashboard.css"' in page and 'class="button" href="../.././"' in page


# ---- cookies --------------------------------------------------------------------------------------------------------

COOKIES = (
    *("=", ";;;", "aiotaskq_session=", "aiotaskq_session=\xff\xfe", f"aiotaskq_session={'x' * 7_000}"),
    *("; ".join(f"c{number}=x" for number in range(600)), "aiotaskq_view=%%%", f"aiotaskq_view={packed([1])}"),
    f"aiotaskq_view={packed({'language': 'xx', 'theme': '<script>'})}",
    *(
        f"aiotaskq_message={packed({'text': 1})}",
        "aiotaskq_message=" + base64.b64encode(b'{"x":' + b"[" * 5_000).decode(),
    ),
)


async def test_no_cookie_breaks_a_page(door: Door, tq: TaskQ) -> None:
    async with door(tq) as browse:
        for cookie in COOKIES:
            headers = [(b"Cookie", cookie.encode("latin-1")), (b"Sec-Fetch-Site", b"same-origin")]
            reply = await browse.get("", headers=headers)
            assert reply.status_code == 200 and "<script>" not in reply.text, cookie[:40]
            assert (await browse.post("queues.pause", data={"form_token": "x"}, headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Call this number: 1234", {}),
        ("{queue:>2000000000}", {"queue": "x"}),
        ("The queue {queue} is paused.", {}),
        ("The queue {queue} is paused.", {"text": "x", "queue": "x"}),
        ("{queue.__class__}", {"queue": "x"}),
    ],
)
async def test_a_made_up_message_is_not_shown(browse: Browse, text: str, values: dict[str, str]) -> None:
    browse.cookies.set("aiotaskq_message", packed({"text": text, "values": values}), path="/any/where/")
    page = await browse.get("")
    assert page.status_code == 200 and 'class="message"' not in page.text


async def test_cookies_of_the_host_do_not_hide_the_session(browse: Browse, tq: TaskQ) -> None:
    browse.cookies.set("theirs", '{"a": [1, "x"], "b": (c)}', path="/any/where/")
    assert (await send(browse, "queues.pause", "queues", queue="q")).status_code == 303
    assert await tq.paused() == ["q"]


async def test_a_long_name_fits_into_the_message(browse: Browse) -> None:
    done = await send(browse, "queues.pause", "queues", queue="中" * 100)
    assert done.status_code == 303 and len(done.headers["set-cookie"]) < 1_000
    assert "中" * 100 in (await browse.get("queues")).text


def test_a_message_has_a_bounded_length() -> None:
    message = session.Message("{key}", {"key": "中" * 255, "count": 10**9})
    assert len(session.cookie(session.MESSAGE, session.shortened(message), secure=True, seconds=60)) < 1_000


@pytest.mark.parametrize("header", [{}, {"X-Forwarded-Proto": "https"}, {"X-Forwarded-Proto": "HTTPS, http"}])
async def test_behind_https_cookies_are_secure(door: Door, tq: TaskQ, header: dict[str, str]) -> None:
    async with door(tq) as browse:
        cookie = (await browse.get("", headers=header)).headers["set-cookie"]
        assert ("Secure" in cookie) == bool(header) and "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert "Domain" not in cookie and "Path" not in cookie


# ---- logins ---------------------------------------------------------------------------------------------------------


async def test_a_session_that_was_planted_is_no_login(tq: TaskQ) -> None:
    async with standalone(tq, host="0.0.0.0", token=TOKEN) as browse:
        planted = session.new_session(tq.queue.clock.now())
        browse.cookies.set("aiotaskq_session", planted, domain="localhost.local", path="/dashboard/")
        token = session.form_token(planted)
        done = await browse.post("login", data={"form_token": token, "token": TOKEN}, headers=SAME)
        assert done.status_code == 303 and planted not in done.headers["set-cookie"]
    async with standalone(tq, host="0.0.0.0", token=TOKEN) as attacker:
        attacker.cookies.set("aiotaskq_session", planted, domain="localhost.local", path="/dashboard/")
        assert (await attacker.get("tasks")).status_code == 401


def test_a_login_expires_and_cannot_be_prolonged() -> None:
    now = 1_700_000_000_000_000
    login = session.new_login(TOKEN, now, "")
    assert session.user_of(login, TOKEN, now) == session.user_of(login, TOKEN, now + session.LIFETIME - 1) == ""
    assert session.user_of(login, TOKEN, now + session.LIFETIME) is None
    until, rest = login.split(".", 1)
    for changed in (f"{int(until) + 1}.{rest}", f"{until}0.{rest}", login[:-1], f"{login}0", "..", "", rest):
        assert session.user_of(changed, TOKEN, now) is None
    assert session.user_of(login, f"{TOKEN}!", now) is None


async def test_a_login_is_for_one_token_only_and_no_page_shows_without(tq: TaskQ) -> None:
    task_id = (await tq.push("greet", {"name": "x"})).task_id
    async with standalone(tq, host="0.0.0.0", token=TOKEN) as browse:
        for name in pages:
            for form in ("", "&format=json"):
                reply = await browse.get(f"{name}?id={task_id}{form}")
                assert reply.status_code == 401 and "greet" not in reply.text
        for name in actions:
            assert (await send(browse, name, id=task_id, sure="yes")).status_code == 401
    assert (await tq.get(task_id)).status == "pending"


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example", "tasks?type=中", "tasks?a\x00b", "?x=y", "tasks?a b"]
)
async def test_a_login_leads_to_these_pages_only(tq: TaskQ, back: str) -> None:
    async with standalone(tq, host="0.0.0.0", token=TOKEN) as browse:
        done = await send(browse, "login", token=TOKEN, back=back)
        assert (done.status_code, done.headers["location"]) == (303, "./")


# ---- who may --------------------------------------------------------------------------------------------------------


async def test_json_is_for_those_who_may_see_the_page(door: Door, tq: TaskQ) -> None:
    if "standalone" in repr(door):
        async with standalone(tq, host="0.0.0.0", token=TOKEN) as browse:
            assert (await browse.get("tasks?format=json")).status_code == 401
        return
    async with door(tq, allow=lambda _request, _action: False) as browse:
        for name in [*pages, "live"]:
            reply = await browse.get(f"{name}?format=json&page=tasks")
            assert (reply.status_code, msgspec.json.decode(reply.content)["status"]) == (403, 403)
            assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "127.0.0.1@evil.example"]
)
async def test_a_rebound_name_is_not_served(tq: TaskQ, host: str) -> None:
    async with standalone(tq) as browse:
        token = form_token(await browse.get(""))
        assert (await browse.get("", headers={"Host": host})).status_code == 403
        done = await browse.post(
            "queues.pause", data={"form_token": token, "queue": "q"}, headers=SAME | {"Host": host}
        )
        assert done.status_code == 403 and await tq.paused() == []


async def test_pages_cannot_be_framed(door: Door, tq: TaskQ) -> None:
    async with door(tq) as browse:
        for reply in (await browse.get(""), await browse.get("nowhere"), await browse.get("static/dashboard.js")):
            assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
            assert reply.headers["x-frame-options"] == "DENY"


def test_no_client_has_a_cookie_of_the_session_in_its_address() -> None:
    """Sessions are in cookies alone: an address is in logs and in Referer."""
    assert not {name for page in pages.values() for name in page.parameters} & {"token", "session", "form_token"}

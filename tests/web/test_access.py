"""Access to the operations API and its own server: origins, tokens, hosts."""

from __future__ import annotations

import hmac

import httpx
import pytest

from aiotaskq import TaskQ
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.web.access import (
    MAX_ADDRESSES,
    MAX_WRONG,
    MINUTE,
    TokenCheck,
    bearer,
    check_access,
    is_same_origin,
    names_loopback,
)
from aiotaskq.web.server import asgi
from tests.web.applications import Ask, refused

TOKEN = "a token of thirty-one letters.."


def test_same_origin_rule() -> None:  # J4
    def headers(**given: str) -> dict[str, str]:
        return {name.replace("_", "-"): value for name, value in given.items()}

    assert is_same_origin(headers(host="a:1")) and is_same_origin(headers(origin="http://A:1", host="a:1"))
    assert not is_same_origin(headers(origin="http://a:2", host="a:1"))
    assert not is_same_origin(headers(origin="http://a"))
    forged = headers(sec_fetch_site="cross-site", origin="http://a:1", host="a:1")
    assert not is_same_origin(forged)  # pages cannot forge the first
    assert is_same_origin(headers(sec_fetch_site="cross-site", origin="http://b", host="a"), {"http://b"})


def test_a_host_without_a_token_must_be_loopback() -> None:  # J4
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"):
        check_access(host, None)
    for host in ("0.0.0.0", "::", "", "192.168.0.1", "localhost.evil.example", "::ffff:10.0.0.1"):
        with pytest.raises(ValidationError, match="token"):
            check_access(host, None)
        check_access(host, TOKEN)
    for weak in ("", "short", "x" * 15, "ü" * 20, "a\nb" * 9):
        with pytest.raises(ValidationError, match="token: at least 16"):
            check_access("127.0.0.1", weak)
    with pytest.raises(ValidationError, match="token: at least 8 different characters"):
        check_access("127.0.0.1", "ab" * 20)
    assert names_loopback("localhost:80") and names_loopback("[::1]:80") and names_loopback("127.0.0.1")
    for host in (None, "", "evil.example", "127.0.0.1.evil.example", "[oops"):
        assert not names_loopback(host)


def test_wrong_tokens_are_limited_per_address(monkeypatch: pytest.MonkeyPatch) -> None:  # J15
    now = 0
    tokens = TokenCheck(TOKEN, lambda: now)
    compared: list[tuple[int, int]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return original(a, b)

    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for now in range(MAX_WRONG):
        assert tokens.retry_after("a") == 0
        assert not tokens.accepts("x" * now, "a")
    assert set(compared) == {(32, 32)}  # not even the length tells
    now = MAX_WRONG
    assert 0 < tokens.retry_after("a") <= 60 and tokens.retry_after("b") == 0
    now = MINUTE - 1
    assert tokens.retry_after("a") == 1
    now = MINUTE
    assert tokens.retry_after("a") == 0
    assert tokens.accepts(TOKEN, "a") and tokens.matches(TOKEN) and not tokens.matches("wrong") and len(tokens) == 1
    assert [bearer(each) for each in (f"bearer {TOKEN}", f"Basic {TOKEN}", None)] == [TOKEN, "", ""]
    for now in range(MAX_WRONG):  # noqa: B007 (the clock)
        tokens.accepts("wrong", "d")
    now = MAX_WRONG
    wait = tokens.retry_after("d")
    assert tokens.accepts(TOKEN, "d")
    now = 30 * SECOND
    assert not tokens.accepts("wrong", "d")
    now = MAX_WRONG
    assert tokens.retry_after("d") == wait
    for number in range(3 * MAX_ADDRESSES):
        tokens.accepts("wrong", f"address {number}")
    assert len(tokens) == MAX_ADDRESSES  # H3


async def test_the_standalone_server_checks_the_token(tq: TaskQ) -> None:  # J4, J15
    with pytest.raises(ValidationError, match=r"host: '0\.0\.0\.0' can be reached from other machines"):
        asgi(tq, "0.0.0.0")
    async with Ask(transport=httpx.ASGITransport(asgi(tq, "0.0.0.0", TOKEN)), base_url="http://ops.example") as ask:
        for path in ("/healthz", "/readyz"):
            assert (await ask.get(path)).status_code == 200
        for path in ("/tasks", "/stats", "/openapi.json", "/nothing"):
            answer = await ask.get(path)
            refused(answer, 401, "NoToken")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        right = {"authorization": f"Bearer {TOKEN}"}
        assert (await ask.get("/tasks", headers=right)).status_code == 200
        refused(await ask.get("/nothing", headers=right), 404, "HTTPException")
        refused(await ask.delete("/queues", headers=right), 405, "HTTPException")
        whole = (await ask.get("/openapi.json", headers=right)).json()
        assert whole["paths"]["/tasks"]["get"]["security"] == [{"aiotaskq_token": []}]
        cross = right | {"origin": "https://evil.example"}
        refused(await ask.post("/queues/q/pause", headers=cross), 403, "CrossOrigin")
        assert (await ask.post("/queues/q/pause", headers=right)).status_code == 200
        wrong = {"authorization": "Bearer nonsense"}
        for _ in range(MAX_WRONG):
            refused(await ask.get("/tasks", headers=wrong), 401, "NoToken")
        late = await ask.get("/tasks", headers=wrong)
        refused(late, 429, "TooManyGuesses")
        assert 0 < int(late.headers["retry-after"]) <= 60
        assert (await ask.get("/tasks", headers=right)).status_code == 200  # behind a proxy all have one address
        refused(await ask.get("/tasks", headers=wrong), 429, "TooManyGuesses")
        refused(await ask.get("/tasks"), 401, "NoToken")


async def test_without_a_token_only_loopback_names_are_served(tq: TaskQ) -> None:  # J4
    app = asgi(tq, "127.0.0.1")
    for name, status in (("localhost:8765", 200), ("127.0.0.1", 200), ("rebound.evil.example:8765", 403)):
        async with Ask(transport=httpx.ASGITransport(app), base_url=f"http://{name}") as ask:
            assert (await ask.get("/tasks")).status_code == status, name

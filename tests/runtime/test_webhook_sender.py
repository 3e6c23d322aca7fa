"""Sending a message of a webhook: to the checked address alone, signed, and with each kind of answer."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.webhooks import make_webhook, sign
from aiotaskq.runtime.webhook_sender import WebhookFailed, WebhookRefused, deliver, is_public

SECRET = bytes(range(32))
NOW = 1_700_000_000_000_000


class Receiver:
    """Answers each request with the next answer, and keeps what it was sent."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))
        writer.write(self.answers.pop(0).encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def receiver(*answers: str) -> AsyncIterator[Receiver]:
    found = Receiver(*answers)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found


def hook(port: int, **options: Any) -> Any:
    return make_webhook(f"http://hook.test:{port}/a?b=c", SECRET, **{"private": True} | options)


async def here(host: str, port: int) -> Sequence[str]:
    assert host == "hook.test"
    return ["127.0.0.1"]


async def test_a_message_is_signed_as_it_is_sent() -> None:
    async with receiver("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n") as found:
        assert await deliver(hook(found.port), "m1", {"type": "task.failed"}, NOW, here) == 204
    head, _, body = found.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /a?b=c HTTP/1.1" and f"Host: hook.test:{found.port}" in lines
    assert "webhook-id: m1" in lines and "webhook-timestamp: 1700000000" in lines
    assert f"webhook-signature: {sign(SECRET, 'm1', 1_700_000_000, body)}" in lines
    assert body == b'{"type":"task.failed"}'


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ("HTTP/1.1 500 No\r\n\r\n", WebhookFailed, "has answered 500"),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n",
            WebhookFailed,
            "redirects are not followed",
        ),
        ("HTTP/1.1 410 Gone\r\n\r\n", WebhookRefused, "410 Gone"),
        ("SSH-2.0-x\r\n\r\n", WebhookFailed, "is not HTTP"),
        ("HTTP/1.1 100 C\r\n\r\n" * 9, WebhookFailed, "too many interim answers"),
        ("", WebhookFailed, "IncompleteReadError"),
        ("HTTP/1.1 200 OK\r\nX: " + "x" * 100_000, WebhookFailed, "LimitOverrunError"),
    ],
)
async def test_answers_that_are_no_delivery(answer: str, error: type[Exception], message: str) -> None:
    async with receiver(answer) as found:
        with pytest.raises(error, match=message) as raised:
            await deliver(hook(found.port), "m1", {}, NOW, here)
    assert len(found.requests) == 1
    assert str(raised.value).startswith("webhook hook.test: ") and "/a" not in str(raised.value)


async def test_a_receiver_that_does_not_answer_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        with pytest.raises(WebhookFailed, match=r"no answer within 0\.05 s"):
            await deliver(hook(server.sockets[0].getsockname()[1], timeout=0.05), "m1", {}, NOW, here)


async def test_an_address_that_is_not_public_is_refused_before_anything_is_sent() -> None:
    async with receiver() as found:
        with pytest.raises(WebhookRefused, match="its address is not public"):
            await deliver(hook(found.port, private=False), "m1", {}, NOW, here)
    assert found.requests == []


async def test_the_name_is_resolved_once_and_only_the_checked_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, dialled = [], []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["10.0.0.1", "93.184.216.34"] if len(asked) == 1 else ["127.0.0.1"]

    async def dial(host: str, port: int, **_: Any) -> Any:
        dialled.append(host)
        raise ConnectionRefusedError("no")

    monkeypatch.setattr(asyncio, "open_connection", dial)
    with pytest.raises(WebhookFailed, match="ConnectionRefusedError"):
        await deliver(hook(443, private=False), "m1", {}, NOW, rebinding)
    assert (asked, dialled) == (["hook.test"], ["93.184.216.34"])


PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"),
    *("2002:7f00:1::", "240.0.0.1", "::ffff:169.254.169.254", "fec0::1", "192.0.0.192", "::ffff:192.0.0.192"),
    *("168.63.129.16", "::ffff:168.63.129.16", "192.88.99.1", "2001:0:7f00:1::", "64:ff9b:1::7f00:1", "5f00::1"),
    *("100.100.100.200", "fd00:ec2::254", "fd20:ce::254"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1", "::ffff:93.184.216.34"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_within_ipv6_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    assert is_public(f"::ffff:{address}") == is_public(str(address))
    assert not is_public(str(address)) or not address.is_private

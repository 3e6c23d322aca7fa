"""Sends the messages of webhooks: one POST to an address that was checked after its name was resolved.

A connection goes to the very address that was checked, so a name that resolves to another one a moment later (DNS
rebinding) reaches nothing else. Redirects are not followed. Only the status of the answer is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import SplitResult

import msgspec

from aiotaskq.core.task import SECOND
from aiotaskq.core.webhooks import Webhook, check_url, signed_headers
from aiotaskq.errors import AiotaskqError

_PORTS: Final = {"http": 80, "https": 443}
_INTERIM: Final = 8  # answers of the kind 1xx that may come before the one that counts
# Not to be reached from outside, though versions of ``ipaddress`` take some of them for global: what serves a machine
# of a cloud with its credentials; addresses that name IPv4 ones (NAT64, 6to4, Teredo); and what is for special use.
_REFUSED: Final = [
    *map(ipaddress.ip_network, ("192.0.0.0/24", "168.63.129.16/32", "192.88.99.0/24", "64:ff9b::/96")),
    *map(ipaddress.ip_network, ("64:ff9b:1::/48", "2001::/23", "2002::/16", "3fff::/20", "5f00::/16")),
]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class WebhookFailed(AiotaskqError, RuntimeError):
    """A message was not delivered; it is tried again."""


class WebhookRefused(AiotaskqError, RuntimeError):
    """A message cannot be delivered, and is not tried again."""


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet: not private, loopback, link-local, multicast or reserved."""
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.is_site_local:
            return False
    refused = ip.is_multicast or ip.is_reserved or any(ip in network for network in _REFUSED)
    return bool(ip.is_global) and not refused


async def resolved(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


async def deliver(
    webhook: Webhook, message_id: str, body: Mapping[str, Any], now: int, resolve: Resolve = resolved
) -> int:
    """Send a message, signed at ``now`` (microseconds UTC); return the HTTP status, which is 2xx.

    Raises:
        WebhookFailed: it was not answered by 2xx in time; the message has the reason.
        WebhookRefused: its address is not public, or the receiver has answered 410.
    """
    parts = check_url(webhook.url)
    content = msgspec.json.encode(body, order="sorted")
    headers = signed_headers(webhook, message_id, now // SECOND, content)
    shown = webhook.host
    try:
        async with asyncio.timeout(webhook.timeout):
            status = await _post(parts, await _address(webhook, parts, resolve), headers, content)
    except TimeoutError:
        raise WebhookFailed(f"webhook {shown}: no answer within {webhook.timeout:g} s") from None
    except (OSError, ssl.SSLError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
        raise WebhookFailed(f"webhook {shown}: {type(error).__name__}: {error}") from None
    if 200 <= status < 300:
        return status
    if status == 410:
        raise WebhookRefused(f"webhook {shown}: the receiver has answered 410 Gone; remove it")
    note = "; redirects are not followed" if 300 <= status < 400 else ""
    raise WebhookFailed(f"webhook {shown}: the receiver has answered {status}{note}")


async def _address(webhook: Webhook, parts: SplitResult, resolve: Resolve) -> tuple[str, int]:
    host, port = str(parts.hostname), parts.port or _PORTS[parts.scheme]
    addresses = await resolve(host, port)
    usable = [each for each in addresses if webhook.private or is_public(each)]
    if usable:
        return usable[0], port
    raise WebhookRefused(
        f"webhook {webhook.host}: its address is not public; if that is meant, register it with private=True"
    )


async def _post(parts: SplitResult, address: tuple[str, int], headers: Mapping[str, str], content: bytes) -> int:
    context = ssl.create_default_context() if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(
        *address, ssl=context, server_hostname=parts.hostname if context is not None else None
    )
    try:
        host = str(parts.hostname)
        host = f"[{host}]" if ":" in host else host
        lines = [
            f"POST {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1",
            f"Host: {host}" + (f":{parts.port}" if parts.port is not None else ""),
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
            "User-Agent: aiotaskq",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + content)
        await writer.drain()
        for _ in range(_INTERIM):
            head = await reader.readuntil(b"\r\n\r\n")
            version, _, rest = head.partition(b" ")
            if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
                raise ValueError("the answer is not HTTP")
            if (status := int(rest[:3])) >= 200:
                return status
        raise ValueError("too many interim answers")
    finally:
        # At once: a receiver that keeps the connection open must not hold the task.
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

"""Access to the API: same-origin checks against cross-site requests, tokens, and host names. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError

MIN_TOKEN = 16  # characters
MIN_VARIETY = 8  # different characters of a token
MAX_WRONG = 10  # guesses of one address in a minute; further wrong ones are answered with 429
MINUTE = 60 * SECOND
MAX_ADDRESSES = 1_000  # whose wrong guesses are counted; beyond that the addresses longest without one are dropped


def is_same_origin(headers: Mapping[str, str], origins: Collection[str] = ()) -> bool:
    """Return whether a request for a change comes from a page of this server, or from no browser at all.

    The rule is that of Go's net/http.CrossOriginProtection: a trusted origin passes; ``Sec-Fetch-Site``, which pages
    cannot forge, decides where it is sent; else ``Origin`` must name this host; a request with neither is not made by a
    browser.
    """
    fetch_site, origin, host = (headers.get(name) for name in ("sec-fetch-site", "origin", "host"))
    if origin is not None and origin in origins:
        return True
    if fetch_site:
        return fetch_site in ("same-origin", "none")
    if not origin:
        return True
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == str(host).lower()
    except ValueError:  # an Origin that is no URL
        return False


def is_encrypted(scheme: str, headers: Mapping[str, str]) -> bool:
    """Return whether the browser's connection is encrypted: this one, or, as a proxy says, the one before it.

    A client can claim that, too: it is asked only whether that client's own cookies are for encrypted connections.
    """
    said = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return "https" in (scheme, said)


def is_loopback(host: str) -> bool:
    """Return whether a server that listens on ``host`` can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def names_loopback(host: str | None) -> bool:
    """Return whether a Host header names this machine; any other name may be one of a DNS rebinding attack."""
    try:
        name = urlsplit(f"//{host or ''}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def check_access(host: str, token: str | None) -> None:
    """Raise ValidationError for a weak token, or for a host that other machines can reach without a token."""
    if token is not None:
        check_secret("token", token)
    if token is None and not is_loopback(host):
        raise ValidationError(
            f"host: {host!r:.60} can be reached from other machines; give a token, or listen on 127.0.0.1"
        )


def check_secret(argument: str, secret: str) -> None:
    """Raise ValidationError for a text that could be guessed; ``argument`` begins the message."""
    if len(secret) < MIN_TOKEN or not secret.isascii() or not secret.isprintable():
        raise ValidationError(
            f"{argument}: at least {MIN_TOKEN} printable ASCII characters are needed (got {len(secret)}); "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if len(set(secret)) < MIN_VARIETY:
        raise ValidationError(
            f"{argument}: at least {MIN_VARIETY} different characters are needed (got {len(set(secret))}); "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )


class Guesses:
    """Counts the wrong guesses of each address: at most ``MAX_WRONG`` in a minute."""

    def __init__(self, ticks: Callable[[], int]) -> None:
        """Count by a clock in microseconds."""
        self._ticks = ticks
        self._wrong: OrderedDict[str, list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._wrong)

    def retry_after(self, address: str) -> int:
        """Return for how many seconds this address may not guess again; 0 if it may."""
        now = self._ticks()
        wrong = [each for each in self._wrong.get(address, ()) if now - each < MINUTE]
        if len(wrong) < MAX_WRONG:
            return 0
        return max(1, -(-(wrong[-MAX_WRONG] + MINUTE - now) // SECOND))

    def add(self, address: str) -> None:
        """Count a wrong guess."""
        wrong = self._wrong.setdefault(address, [])
        wrong.append(self._ticks())
        del wrong[:-MAX_WRONG]
        self._wrong.move_to_end(address)
        while len(self._wrong) > MAX_ADDRESSES:
            self._wrong.popitem(last=False)

    def remove(self, address: str) -> None:
        """Take back the latest guess of an address."""
        if wrong := self._wrong.get(address):
            wrong.pop()


class TokenCheck(Guesses):
    """Compares tokens in constant time, and counts the wrong ones of each address.

    The right token is always accepted: behind a proxy all clients have one address, and a client that guesses must not
    lock out the others. The protection against guessing is the token's length.
    """

    def __init__(self, token: str, ticks: Callable[[], int]) -> None:
        # Digests have one length, so that not even the token's length can be measured.
        super().__init__(ticks)
        self._digest = _digest(token)

    def matches(self, given: str) -> bool:
        """Return whether this is the token; count nothing."""
        return hmac.compare_digest(_digest(given.strip()), self._digest)

    def accepts(self, given: str, address: str) -> bool:
        """Return whether this is the token; count a wrong one."""
        if self.matches(given):
            return True
        if not self.retry_after(address):
            self.add(address)
        return False


def bearer(authorization: str | None) -> str:
    """Return the token of ``Authorization: Bearer TOKEN``; "" where there is none."""
    scheme, _, given = (authorization or "").partition(" ")
    return given if scheme.lower() == "bearer" else ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

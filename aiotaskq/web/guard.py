"""Who may come in: same-origin checks against cross-site requests, tokens, host names, and a limit on guesses. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiotaskq.errors import ValidationError
from aiotaskq.task import SECOND

MIN_TOKEN = 16  # characters
GUESSES = 10  # wrong tokens of one address in a minute, before it has to wait
MINUTE = 60 * SECOND
MAX_ADDRESSES = 1_000  # remembered: more forget the longest silent ones


def is_same_origin(fetch_site: str | None, origin: str | None, host: str | None, origins: Collection[str] = ()) -> bool:
    """Whether a request that changes something was made by our own pages, or by no browser at all.

    The rule is that of Go's net/http.CrossOriginProtection: a trusted origin passes; ``Sec-Fetch-Site``, which pages
    cannot forge, decides where there is one; else ``Origin`` must name our host; with neither it is no browser's.
    """
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


def is_loopback(host: str) -> bool:
    """Whether a server that listens there can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def names_loopback(host: str | None) -> bool:
    """Whether a Host header names this machine: another name that leads here is a rebound one (DNS rebinding)."""
    try:
        name = urlsplit(f"//{host or ''}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def check_access(host: str, token: str | None) -> None:
    """Refuse to listen where others can reach it without a token. Raises ValidationError."""
    if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
        raise ValidationError(
            f"token: at least {MIN_TOKEN} printable ASCII characters are needed (got {len(token)}); "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if token is None and not is_loopback(host):
        raise ValidationError(
            f"host: {host!r:.60} can be reached from other machines; give a token, or listen on 127.0.0.1"
        )


class Doorkeeper:
    """Compares tokens in constant time, and lets nobody guess for long."""

    def __init__(self, token: str) -> None:
        # Digests are of one length, so that not even the length can be measured.
        self._digest = _digest(token)
        self._wrong: OrderedDict[str, list[int]] = OrderedDict()

    def wait(self, address: str, ticks: int) -> int:
        """Return for how many seconds this address may not try again; 0 if it may. ``ticks`` in microseconds."""
        wrong = [each for each in self._wrong.get(address, ()) if ticks - each < MINUTE]
        if len(wrong) < GUESSES:
            return 0
        return max(1, -(-(wrong[-GUESSES] + MINUTE - ticks) // SECOND))

    def admits(self, authorization: str | None, address: str, ticks: int) -> bool:
        """Whether ``Authorization: Bearer TOKEN`` holds the token."""
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(given.strip()), self._digest):
            self._wrong.pop(address, None)
            return True
        if authorization:  # who gives none at all does not guess
            wrong = self._wrong.setdefault(address, [])
            wrong.append(ticks)
            del wrong[:-GUESSES]
            self._wrong.move_to_end(address)
            while len(self._wrong) > MAX_ADDRESSES:
                self._wrong.popitem(last=False)
        return False


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

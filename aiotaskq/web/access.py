"""Who may come in: same-origin checks against cross-site requests, tokens, host names, limits on connections. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Collection
from ipaddress import ip_address
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError

MIN_TOKEN = 16  # characters
MIN_VARIETY = 8  # different characters of a token
GUESSES = 10  # wrong tokens of one address in a minute; further ones are answered with 429
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
    if token is not None and len(set(token)) < MIN_VARIETY:
        raise ValidationError(
            f"token: at least {MIN_VARIETY} different characters are needed (got {len(set(token))}); "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if token is None and not is_loopback(host):
        raise ValidationError(
            f"host: {host!r:.60} can be reached from other machines; give a token, or listen on 127.0.0.1"
        )


class Doorkeeper:
    """Compares tokens in constant time, and counts the wrong ones of each address.

    The right token is always let in: behind a proxy all clients have one address, and one that guesses must not shut
    the others out. What keeps a guesser out is the token's length.
    """

    def __init__(self, token: str) -> None:
        # Digests are of one length, so that not even the length can be measured.
        self._digest = _digest(token)
        self._wrong: OrderedDict[str, list[int]] = OrderedDict()

    def wait(self, address: str, ticks: int) -> int:
        """Return for how many seconds a wrong token of this address is refused unread; 0 if it may try another.

        ``ticks`` in microseconds.
        """
        wrong = [each for each in self._wrong.get(address, ()) if ticks - each < MINUTE]
        if len(wrong) < GUESSES:
            return 0
        return max(1, -(-(wrong[-GUESSES] + MINUTE - ticks) // SECOND))

    def admits(self, authorization: str | None, address: str, ticks: int) -> bool:
        """Whether ``Authorization: Bearer TOKEN`` holds the token. A wrong one is counted, unless it has to wait."""
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(given.strip()), self._digest):
            return True
        if authorization and not self.wait(address, ticks):  # a request without a token is no guess
            wrong = self._wrong.setdefault(address, [])
            wrong.append(ticks)
            del wrong[:-GUESSES]
            self._wrong.move_to_end(address)
            while len(self._wrong) > MAX_ADDRESSES:
                self._wrong.popitem(last=False)
        return False


C = TypeVar("C")


class Connections(Generic[C]):
    """Which connections are open, of at most ``total`` in all and ``each`` of one address.

    Where a new one would be too many, the one that has waited longest for a request makes room: half-sent requests
    cannot keep others out. Where all are at work the new one is refused.
    """

    def __init__(self, total: int, each: int) -> None:
        self.total = total
        self.each = each
        self._address: dict[C, str] = {}
        self._of: dict[str, int] = {}
        # Those without a request, the longest waiting first; of every address and of each.
        self._idle: OrderedDict[C, None] = OrderedDict()
        self._idle_of: dict[str, OrderedDict[C, None]] = {}

    def __len__(self) -> int:
        return len(self._address)

    def enter(self, connection: C, address: str) -> C | None:
        """Take in a connection, which has no request yet; return the one to be closed for it (it may be itself)."""
        closed: C | None = None
        if self._of.get(address, 0) >= self.each:
            closed = next(iter(self._idle_of.get(address, ())), connection)
        elif len(self._address) >= self.total:
            closed = next(iter(self._idle), connection)
        if closed is connection:
            return closed
        if closed is not None:
            self.leave(closed)
        self._address[connection] = address
        self._of[address] = self._of.get(address, 0) + 1
        self.idle(connection)
        return closed

    def leave(self, connection: C) -> None:
        """Forget a connection; one that is not known is no error."""
        address = self._address.pop(connection, None)
        if address is None:
            return
        self._forget_idle(connection, address)
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]

    def idle(self, connection: C) -> None:
        """Note that a connection has no request (any more)."""
        if (address := self._address.get(connection)) is not None and connection not in self._idle:
            self._idle[connection] = None
            self._idle_of.setdefault(address, OrderedDict())[connection] = None

    def busy(self, connection: C) -> None:
        """Note that a connection has a request, so that it is not closed to make room."""
        if (address := self._address.get(connection)) is not None:
            self._forget_idle(connection, address)

    def _forget_idle(self, connection: C, address: str) -> None:
        self._idle.pop(connection, None)
        if (idle := self._idle_of.get(address)) is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle_of[address]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

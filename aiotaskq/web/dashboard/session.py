"""Cookies of the dashboard: the session and its form token, preferences, a message to show once; the check of a login.

A session is a random text. Its form token is a digest of it: a page of another origin can neither read the cookie
(``HttpOnly``) nor make up a pair. That of a login holds the user's name, and is signed with the server's token or the
application's secret, so that it proves the login in every process that knows this.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import inspect
import secrets
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import msgspec

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.task import SECOND
from aiotaskq.web.access import Guesses, TokenCheck, check_secret
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.policy import CheckUser
from aiotaskq.web.problem_details import ProblemError

SESSION, PREFERENCES, MESSAGE = "aiotaskq_session", "aiotaskq_view", "aiotaskq_message"
LIFETIME = 12 * 3600 * SECOND
"""Microseconds for which a login holds."""
LONGEST = 120
"""Characters of a value in a message: a cookie holds 4 KB, and proxies bound headers, too."""
S = TypeVar("S", bound=msgspec.Struct)
_OWN = frozenset([SESSION, PREFERENCES, MESSAGE])
YEAR = 365 * 24 * 3600  # seconds


class Message(msgspec.Struct, frozen=True):
    """What an action has done, for the next page: a sentence of the catalogue, and its values."""

    text: str
    values: dict[str, str | int] = {}
    problem: bool = False
    left: bool = False
    """Whether the time of one request was over before all was done."""


class Preferences(msgspec.Struct, frozen=True):
    """What a visitor has chosen; empty is the browser's choice."""

    language: str = ""
    theme: str = ""


def cookies_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the dashboard's own cookies of a request, whatever other cookies of the host look like."""
    found: dict[str, str] = {}
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name in _OWN and value.isascii():
            found.setdefault(name, value)  # of two with one name, browsers send that of the longer path first
    return found


def new_session(now: int) -> str:
    """Return a new session; ``now`` in microseconds UTC."""
    return f"{now + LIFETIME}.{secrets.token_urlsafe(24)}"


def new_login(secret: str, now: int, user: str) -> str:
    """Return the session of a login that is signed with a secret; ``user`` may be ""."""
    text = f"{new_session(now)}.{base64.urlsafe_b64encode(user.encode()).decode()}"
    return f"{text}.{_signature(secret, text)}"


def user_of(session: str, secret: str, now: int) -> str | None:
    """Return the user of a session that was made by a login with this secret and still holds; None for any other."""
    text, _, signature = session.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(secret, text).encode()):
        return None
    until, _, user = text.split(".")
    return base64.urlsafe_b64decode(user).decode() if int(until) > now else None


def logout_key(session: str) -> str:
    """Return the key in public values under which a login is noted that was ended before its time."""
    return f"aiotaskq.logout.{hashlib.sha256(session.encode()).hexdigest()[:32]}"


def seconds_left(session: str, now: int) -> float:
    """Return for how many seconds a login would hold."""
    return (int(session.partition(".")[0]) - now) / SECOND


def form_token(session: str) -> str:
    """Return the text that every form of this session holds."""
    return hmac.new(session.encode(), b"aiotaskq form", hashlib.sha256).hexdigest()


def is_form_token(session: str, given: str) -> bool:
    """Return whether a form belongs to this session."""
    return bool(session) and hmac.compare_digest(form_token(session).encode(), given.encode())


def cookie(name: str, value: str | msgspec.Struct, *, secure: bool, seconds: int | None = None) -> str:
    """Return a cookie that scripts cannot read and that other sites' forms do not carry; 0 seconds deletes it.

    A Struct is packed, as ``kept`` reads it.
    """
    if not isinstance(value, str):
        value = base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")
    # Without a path it is that of the folder of the page: the prefix under which the dashboard is mounted.
    # Lax, so that a link in a chat or an alert opens a page with the login: only GET, which changes nothing, has it.
    parts = [f"{name}={value}", "HttpOnly", "SameSite=Lax"]
    if secure:
        parts.append("Secure")
    if seconds is not None:
        parts.append(f"Max-Age={seconds}")
    return "; ".join(parts)


def shortened(message: Message) -> Message:
    """Return a message whose values fit into a cookie."""
    values = {
        name: f"{each[:LONGEST]}…" if isinstance(each, str) and len(each) > LONGEST else each
        for name, each in message.values.items()
    }
    return Message(message.text, values, message.problem, message.left)


def kept(cookies: Mapping[str, str], name: str, kind: type[S]) -> S | None:
    """Return the Struct that a cookie keeps; None where there is none, or none that can be read."""
    if not (text := cookies.get(name)):
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=kind)
    except (ValueError, RecursionError, msgspec.MsgspecError):  # binascii.Error is a ValueError
        return None


def _signature(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), b"aiotaskq session " + text.encode(), hashlib.sha256).hexdigest()


# ---- the check of a login ----

MAX_USER, MAX_PASSWORD = 200, 1_000
"""Characters; hashing a long password takes long."""

Form = Callable[[str], str | None]
"""Returns a field of a form by its name, None where it is absent or empty."""


class TokenLogin:
    """With the token of the standalone server."""

    by_name = False
    """Whether the form asks for a user name and a password, else for a token."""

    def __init__(self, token: str, tokens: TokenCheck) -> None:
        self.secret = token
        """Signs the sessions, in every process."""
        self._tokens = tokens

    async def user(self, form: Form, address: str) -> str | None:
        """Return "" for the token, which is always accepted (see ``TokenCheck``), None for a wrong one.

        Raises ProblemError for an address with too many wrong ones.
        """
        wait = self._tokens.retry_after(address)
        if self._tokens.accepts(form("token") or "", address):
            return ""
        if wait:
            raise ProblemError(429, "TooManyGuesses", marked("too many wrong tokens; wait a minute"))
        return None


class UserLogin:
    """By the name and the password of a user of the application."""

    by_name = True

    def __init__(self, check: CheckUser, secret: str) -> None:
        """Raises ValidationError for a secret that could be guessed."""
        check_secret("secret", secret)
        self.secret = secret
        self._check = check
        self._guesses = Guesses(SystemClock().ticks)

    async def user(self, form: Form, address: str) -> str | None:
        """Return the name that the application accepts, else None.

        Raises ProblemError after too many wrong ones, without asking the application.
        """
        name, password = form("user"), form("password") or ""
        if self._guesses.retry_after(address):
            raise ProblemError(429, "TooManyGuesses", marked("too many wrong logins; wait a minute"))
        self._guesses.add(address)  # before it is known: a check takes long, and many may arrive meanwhile
        if not name or len(name) > MAX_USER or len(password) > MAX_PASSWORD:
            return None
        found = self._check(name, password)
        if inspect.isawaitable(found):
            found = await found
        if not found:
            return None
        self._guesses.remove(address)
        return name


Login: TypeAlias = TokenLogin | UserLogin

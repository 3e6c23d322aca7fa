"""Who may log in: a visitor with the token of the standalone server, or one of the application's own users."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Protocol

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.web.access import Guesses, TokenCheck, check_secret
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.policy import CheckUser
from aiotaskq.web.problem_details import ProblemError

MAX_USER, MAX_PASSWORD = 200, 1_000
"""Characters; hashing a long password takes long."""

Form = Mapping[str, list[str]]


class Login(Protocol):
    """A way to log in."""

    secret: str
    """Signs the sessions, in every process."""
    by_name: bool
    """Whether the form asks for a user name and a password, else for a token."""

    async def user(self, form: Form, address: str) -> str | None:
        """Return the name of the user, "" for one without a name, None for a wrong login.

        Raises ProblemError for an address with too many wrong ones.
        """


class TokenLogin:
    """With the token of the standalone server."""

    by_name = False

    def __init__(self, token: str, tokens: TokenCheck) -> None:
        self.secret = token
        self._tokens = tokens
        self._clock = SystemClock()

    async def user(self, form: Form, address: str) -> str | None:
        """Return "" for the token. It is always accepted: see ``TokenCheck``."""
        ticks = self._clock.ticks()
        wait = self._tokens.retry_after(address, ticks)
        if self._tokens.is_token(_field(form, "token"), address, ticks):
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
        self._guesses = Guesses()
        self._clock = SystemClock()

    async def user(self, form: Form, address: str) -> str | None:
        """Return the name that the application accepts. After too many wrong ones the application is not asked."""
        name, password, ticks = _field(form, "user"), _field(form, "password"), self._clock.ticks()
        if self._guesses.retry_after(address, ticks):
            raise ProblemError(429, "TooManyGuesses", marked("too many wrong logins; wait a minute"))
        self._guesses.add(address, ticks)  # before it is known: a check takes long, and many may arrive meanwhile
        if not name or len(name) > MAX_USER or len(password) > MAX_PASSWORD:
            return None
        found = self._check(name, password)
        if inspect.isawaitable(found):
            found = await found
        if not found:
            return None
        self._guesses.remove(address, ticks)
        return name


def _field(form: Form, name: str) -> str:
    return next(iter(form.get(name, ())), "")

"""What the dashboard needs to know of a request, and what it gives back; each framework has an adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

HTML = "text/html; charset=utf-8"

# Nothing of a page may come from elsewhere, and nothing inline runs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
SECURITY = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

Allow = Callable[[Any, str], bool | Awaitable[bool]]
"""Called with the framework's request and the name of an action, or ``"view"``: whether the visitor may."""
CheckUser = Callable[[str, str], Any | Awaitable[Any]]
"""Called with a user name and a password: something true for a user who may log in, else None."""


class Request(Protocol):
    """A request below the prefix of the dashboard."""

    @property
    def method(self) -> str:
        """In capitals."""

    @property
    def name(self) -> str:
        """The decoded path below the prefix, without the slash at its beginning; "" is the overview."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, looked up without regard to case."""

    @property
    def query(self) -> list[tuple[str, str]]:
        """The decoded query parameters."""

    @property
    def secure(self) -> bool:
        """Whether the client's connection is encrypted, as far as the server knows."""

    @property
    def address(self) -> str:
        """The client's address, "" if it is not known."""

    @property
    def original(self) -> Any:
        """The request of the framework, for ``allow``."""

    def logged_in(self, user: str) -> None:
        """Let ``allow`` and ``actor`` see who has logged in here."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""


class Reply(msgspec.Struct, frozen=True):
    """A response."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    media_type: str = HTML


def is_encrypted(scheme: str, headers: Mapping[str, str]) -> bool:
    """Return whether the browser's connection is encrypted: this one, or, as a proxy says, the one before it.

    A client can claim that, too: it is asked only whether that client's own cookies are for encrypted connections.
    """
    said = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return "https" in (scheme, said)


def page_reply(body: bytes, status: int = 200, *, media_type: str = HTML) -> Reply:
    """Return a page, which no cache keeps."""
    return Reply(status, body, (*SECURITY, ("Cache-Control", "no-store")), media_type)


def form_reply(body: bytes, status: int = 200) -> Reply:
    """Return the page that follows a form without a redirect; the browser keeps it for its button Back."""
    return Reply(status, body, (*SECURITY, ("Cache-Control", "private, no-cache")))


def redirect(where: str, *cookies: str) -> Reply:
    """Send the browser to a page of the dashboard, as ``task?id=…``."""
    headers = [*SECURITY, ("Location", where), ("Cache-Control", "no-store")]
    return Reply(303, b"", (*headers, *(("Set-Cookie", each) for each in cookies)))

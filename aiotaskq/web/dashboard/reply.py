"""The responses of the dashboard, with the headers that keep other content out of its pages."""

from __future__ import annotations

from aiotaskq.web.endpoint import Response

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


def page_reply(body: bytes, status: int = 200, *, media_type: str = HTML) -> Response:
    """Return a page, which no cache keeps."""
    return Response(status, body, (*SECURITY, ("Cache-Control", "no-store")), media_type)


def form_reply(body: bytes, status: int = 200) -> Response:
    """Return the page that follows a form without a redirect; the browser keeps it for its button Back."""
    return Response(status, body, (*SECURITY, ("Cache-Control", "private, no-cache")), HTML)


def redirect(where: str, *cookies: str) -> Response:
    """Send the browser to a page of the dashboard, as ``task?id=…``."""
    headers = [*SECURITY, ("Location", where), ("Cache-Control", "no-store")]
    return Response(303, b"", (*headers, *(("Set-Cookie", each) for each in cookies)), HTML)

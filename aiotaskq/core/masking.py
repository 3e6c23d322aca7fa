"""Keeps secrets out of messages: passwords in URLs, and values whose repr ends up in logs.

Passwords are replaced by three stars, also in URLs that no parser accepts, since error messages quote them.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec

HIDDEN = frozenset({"params", "result", "progress", "extra", "error_message", "error", "cause", "coded"})
"""Fields of which a repr says only that they are set."""


class _Hidden:
    def __repr__(self) -> str:
        return "…"


class Redacted(msgspec.Struct, frozen=True):
    """A struct whose repr hides params, results and error texts, and leaves out fields that have their default."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown: list[tuple[str, Any]] = []
        for field in _fields(type(self)):
            value = getattr(self, field.name)
            if field.name in HIDDEN:
                # Not compared with the default: the == of a handler's result may do anything.
                if value is not None and not (type(value) is dict and not value):
                    shown.append((field.name, _Hidden()))
            elif field.required or value != field.default:
                shown.append((field.name, value))
        return shown


@functools.cache
def _fields(kind: type[Redacted]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a class: msgspec evaluates all its annotations to name them."""
    return msgspec.structs.fields(kind)


STARS = "***"
_SCHEME = re.compile(r"[^@]*?://|[A-Za-z][\w+.-]*(?::/{0,3}|/{2,3})|")
_PORT = re.compile(r"\d*")
_USER = re.compile(r"[\w.%+-]*")
# Names of options whose values are not shown. A name is read once: a text may hold a long one.
_HIDDEN = r"(?=[\w.-]*?(?:pass|pwd|secret|token|cred|key))[\w.-]++"
_OPTION = re.compile(rf"(?<![\w.-])({_HIDDEN}=)[^&\s]*", re.IGNORECASE)
_WORD = re.compile(r"\S+")
_LOGIN = re.compile(r"(?:[\w+]:?/{1,3}|\b(?:postgres|postgresql|mysql|mariadb|rediss?|valkey)(?:\+\w+)?:)[^\s:/@]*:")
_LOGIN_WITHOUT_USER = re.compile(r"\b((?:redis|rediss|valkey)(?:\+\w+)?://)[^\s:/@]+@")
_OPTION_OF_URL = re.compile(rf"([?&;]{_HIDDEN}=)[^&;\s'\"]*", re.IGNORECASE)


def mask(url: str) -> str:
    """Return a URL for messages, with ``***`` for its password and for any text that may be a part of one."""
    scheme = _SCHEME.match(url)
    assert scheme is not None  # it matches nothing, too
    head, rest = url[: scheme.end()], url[scheme.end() :]
    login, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = login.partition(":")
        if not colon and not (head.endswith("://") and not head.startswith(("redis", "valkey"))):
            user, colon = "", ":"  # a password alone is what some write for redis, and others by mistake
        rest = f"{user if _USER.fullmatch(user) else STARS}{colon and ':' + STARS}@{place}"
    elif not head.lower().startswith("sqlite"):
        place = re.split(r"[/?]", rest, maxsplit=1)[0]
        for host in place.split(",") if head.lower().endswith("+sentinel://") else [place]:
            name, colon, port = host.rpartition(":")
            if colon and not name.startswith("[") and not _PORT.fullmatch(port):
                rest = f"{rest.partition(':')[0]}:{STARS}"  # a login without its "@"
                break
    return head + _OPTION.sub(rf"\1{STARS}", rest)


def without_passwords(text: object) -> str:
    """Return a text with ``***`` for the password of each URL in it, as errors of drivers and handlers quote them."""
    said = str(text)
    if "@" in said:
        said = _WORD.sub(_without_login, said)
    said = _LOGIN_WITHOUT_USER.sub(rf"\1:{STARS}@", said)
    return _OPTION_OF_URL.sub(rf"\1{STARS}", said)


def _without_login(word: re.Match[str]) -> str:
    # The end of a password is not known where it holds an "@": up to the last one before a blank.
    before, at, place = word[0].rpartition("@")
    login = _LOGIN.search(before)
    return word[0] if login is None else f"{before[: login.end()]}{STARS}{at}{place}"

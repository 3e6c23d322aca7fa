"""The URL of a Redis store: the server or the sentinels, the prefix of all keys, and the options of redis-py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from aiotaskq.core.errors import missing
from aiotaskq.core.masking import mask
from aiotaskq.errors import ValidationError

try:
    import hiredis  # noqa: F401 - wire.py needs it
    from redis.asyncio.connection import parse_url
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as LostConnection
    from redis.exceptions import RedisError
except ModuleNotFoundError as error:
    raise missing((error.name or "redis").partition(".")[0], "redis") from None

TIMEOUT = 10.0  # seconds for an answer
CONNECT_TIMEOUT = 3.0  # seconds
SENTINEL_PORT = 26379
PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
EVICTION = ("refuse", "any")


class Address:
    """A parsed URL: the server, the prefix of all keys, and whether any eviction policy is accepted.

    ``redis://user:password@host:6379/0?prefix=aiotaskq&eviction=any``, with the options of redis-py in its query. With
    sentinels: ``redis+sentinel://user:password@a:26379,b:26379/name?db=0``, where user and password are those of the
    servers, and ``sentinel_username`` and ``sentinel_password`` in the query those of the sentinels.
    """

    def __init__(self, url: str) -> None:
        """Raises ValidationError for a URL or an option that is not valid."""
        self.shown = mask(url)
        scheme, _, rest = url.partition("://")
        head, _, query = rest.partition("?")
        options = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        self.prefix = options.pop("prefix", "aiotaskq")
        if not PREFIX.fullmatch(self.prefix):
            raise ValidationError(
                f"url: prefix={self.prefix[:70]!r} must be 1 to 64 of letters, digits, '_', '.' and '-'"
            )
        self.root = f"{{{self.prefix}}}:"
        """The beginning of every key: one hash tag, so that all keys are in one slot of a cluster."""
        eviction = options.pop("eviction", "refuse")
        if eviction not in EVICTION:
            raise ValidationError(f"url: eviction={eviction[:20]!r} is not one of {', '.join(EVICTION)}")
        self.any_eviction = eviction == "any"
        base, _, how = scheme.lower().partition("+")
        if how not in ("", "sentinel"):
            raise ValidationError(
                f"url: {scheme}:// is unknown (got {self.shown}); use {base}:// or {base}+sentinel://"
            )
        login: dict[str, Any] = {
            name: value for name in ("username", "password") if (value := options.pop(f"sentinel_{name}", None))
        }
        if login and not how:
            raise ValidationError("url: sentinel_username and sentinel_password need redis+sentinel://")
        hosts: list[tuple[str, int]] = []
        name = ""
        if how:
            head, hosts, name = self._sentinel_parts(head)
        try:
            scheme = "rediss" if base == "rediss" else "redis"
            known: dict[str, Any] = dict(parse_url(f"{scheme}://{head}?{urlencode(options)}"))
            urlsplit(f"{scheme}://{head}").port  # noqa: B018 - raises for an invalid port
        except ValueError:  # its text may contain a part of the password
            raise ValidationError(f"url: cannot be parsed (got {self.shown})") from None
        if of_a_pool := {"max_connections", "timeout"} & known.keys():
            raise ValidationError(f"url: {min(of_a_pool)} is an option of a pool of connections, and there is none")
        self.options = {
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            **known,
            "protocol": 2,  # every server version answers in the same shape
        }
        self.sentinels: Sentinels | None = None
        """What knows the primary, for a URL with sentinels: its host is not in ``options``."""
        if hosts:
            encrypted = {word: value for word, value in known.items() if word.startswith("ssl_")}
            if base == "rediss":
                encrypted["ssl"] = True
            seconds = self.options["socket_connect_timeout"]
            self.sentinels = Sentinels(hosts, name, seconds, {**login, **encrypted})

    def _sentinel_parts(self, head: str) -> tuple[str, list[tuple[str, int]], str]:
        """Return what is before the query without the sentinels, the sentinels, and the name of the primary."""
        places, _, name = head.partition("/")
        login, at, places = places.rpartition("@")
        hosts: list[tuple[str, int]] = []
        try:
            for place in places.split(","):
                parsed = urlsplit(f"//{place}")
                hosts.append((parsed.hostname or "", parsed.port or SENTINEL_PORT))
        except ValueError:
            hosts = []
        if not name or "/" in name or not hosts or not all(host for host, _ in hosts):
            raise ValidationError(
                f"url: sentinels and the name of their primary are needed (got {self.shown}), as in "
                "redis+sentinel://a:26379,b:26379/mymaster?db=0"
            )
        return f"{login}{at}sentinel", hosts, name


class Sentinels:
    """The sentinels of a URL. Nothing stays open between two questions, so any event loop may ask."""

    def __init__(self, hosts: Sequence[tuple[str, int]], name: str, seconds: float, options: Mapping[str, Any]) -> None:
        """Ask none yet. ``seconds`` is the time that each sentinel has to answer, ``name`` that of the primary.

        ``options`` are those of redis-py for a connection to a sentinel.
        """
        self._hosts = list(hosts)
        self._name = name
        self._options = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "protocol": 2, **options}

    async def primary(self) -> dict[str, Any]:
        """Return host and port of the primary. Raises a ConnectionError of redis-py if no sentinel names one."""
        options = {**self._options, "retry": Retry(NoBackoff(), 0)}
        asked: Any = Sentinel(self._hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        said: list[str] = []
        try:
            for place, client in zip(self._hosts, asked.sentinels, strict=True):
                try:
                    state = (await client.sentinel_masters()).get(self._name)
                except (RedisError, OSError) as error:
                    said.append(f"{_shown(place)}: {error}")
                    continue
                if state is not None and asked.check_master_state(state, self._name):
                    # It is asked first the next time.
                    self._hosts = [place, *(other for other in self._hosts if other != place)]
                    return {"host": state["ip"], "port": state["port"]}
                said.append(f"{_shown(place)}: {'it does not know that name' if state is None else 'it is down'}")
        finally:
            await asyncio.gather(*(client.aclose() for client in asked.sentinels), return_exceptions=True)
        raise LostConnection(f"no sentinel names a primary {self._name!r} that is up ({'; '.join(said)})")


def _shown(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"

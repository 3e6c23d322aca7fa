"""Finds the primary of a group of servers that Redis Sentinel watches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiotaskq.core.errors import missing

try:
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as LostConnection
    from redis.exceptions import RedisError
except ModuleNotFoundError as error:
    raise missing((error.name or "redis").partition(".")[0], "redis") from None


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

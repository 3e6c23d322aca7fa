"""Hints between processes through Redis: PUBLISH for those of this process, SUBSCRIBE for those of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiotaskq.backends.hints import HintChannel
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.redis.connection import RedisConnections

PING_AFTER = 1.5  # seconds between two pings of the server
BACK_OFF = (0.05, 1.0)  # seconds between attempts to subscribe again: the first, and the longest


class RedisNotifier(HintChannel):
    """The channel ``hints`` of one namespace."""

    def __init__(self, redis: RedisConnections, listeners: Listeners) -> None:
        super().__init__(listeners, redis.shown, BACK_OFF)
        self._redis = redis
        self._channel = f"{redis.root}hints"
        self._listens = False
        self.ready = self.message({READY: ()})
        """The message of a push."""

    def start(self) -> None:
        """Belong to the running loop from now on, as the connections do, and go on listening."""
        self.bind()
        if self._listens:
            self.listen()

    def listen(self) -> None:
        self._listens = True
        super().listen()

    async def stop(self) -> None:
        self._listens = False
        await super().stop()

    async def send(self, kind: str, names: Sequence[str]) -> None:
        await self._redis.command("PUBLISH", self._channel, self.message({kind: names}))

    async def follow(self, begun: Callable[[], None]) -> None:
        async with self._redis.subscribed(self._channel, self.hear) as wire:
            begun()
            await wire.watch(PING_AFTER)

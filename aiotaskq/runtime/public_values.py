"""Public values: values with a time to live. Expiry is computed here; backends compare numbers."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, cast

from aiotaskq.backends.memory.values import MemoryValues
from aiotaskq.backends.values import Values
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.loop_bound import NEEDS_LOOP
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.errors import (
    INT64,
    MAX_KEY,
    MAX_PAYLOAD,
    check_hashable,
    check_int,
    check_json,
    check_key,
    check_seconds,
)
from aiotaskq.core.task import SECOND
from aiotaskq.log import gate, log, printable

FOREVER = INT64  # microseconds: what it is added to does not matter
SWEEP = 1_000  # expired values removed at a time, so that other coroutines run in between


class PublicValues:
    """The public values of one store. An expired value cannot be read, whether or not a cleanup has run."""

    def __init__(
        self, values: Values, clock: Clock, *, durable: bool, cleanup_interval: float | timedelta = 60.0
    ) -> None:
        """Make the store of a backend's values; ``cleanup_interval`` in seconds. A ``durable`` one takes JSON only."""
        self._values = values
        self._store_clock = clock
        self._nanos = clock.nanos
        self._json_only = durable
        self._plain = values if isinstance(values, MemoryValues) else None
        self._seen = 0
        self._last_ttl: tuple[float | timedelta | None, int] = (None, FOREVER)
        self._interval = check_seconds("cleanup_interval", cleanup_interval, zero=False)
        self._cleaner = Poller("cleanup", self._clean, clock)

    @property
    def cleaning(self) -> bool:
        """Whether the background cleanup runs, in an event loop of this process."""
        return self._cleaner.running

    def _now(self) -> int:
        if self._plain is not None:
            return self._nanos() // 1000
        # If the clock is set back, expired values stay expired.
        self._seen = max(self._seen, self._store_clock.now())
        return self._seen

    def _check(self, key: str) -> str:
        return check_key("key", key, MAX_KEY) if self._json_only else check_hashable("key", key)

    async def set_public(self, key: str, value: Any, ttl: float | timedelta | None = None) -> None:
        """Store a value; ``ttl`` in seconds, None is permanent.

        In memory the key may be any hashable value, on a durable store a string of at most 255 characters. Raises
        ValidationError before anything is written.
        """
        if self._plain is not None:
            self.set_now(key, value, ttl)
            return
        log.debug("set {}", printable(key))
        span = self._span(ttl)
        self._check(key)
        check_json("value", value, MAX_PAYLOAD)
        await self._values.put([(key, value, None if ttl is None else self._now() + span)])

    def set_now(self, key: str, value: Any, ttl: float | timedelta | None = None) -> None:
        """Do what ``set_public`` does, from any thread and without a loop; return NEEDS_LOOP where it may wait."""
        if self._plain is None:
            return cast(None, NEEDS_LOOP)
        if gate.open:
            log.debug("set {}", printable(key))
        last, span = self._last_ttl
        if ttl is not last:  # to check the ttl of every call would take a third of the time of a call
            span = self._span(ttl)
            self._last_ttl = ttl, span
        if self._json_only:
            self._check(key)
            check_json("value", value, MAX_PAYLOAD)
        try:
            self._plain.set(key, value, self._nanos() // 1000 + span)
        except TypeError:
            self._check(key)  # raises ValidationError for a key that is not hashable
            raise

    @staticmethod
    def _span(ttl: float | timedelta | None) -> int:
        return FOREVER if ttl is None else int(check_seconds("ttl", ttl) * SECOND)

    async def edit_public(self, key: str, value: Any) -> None:
        """Store a value; one that is there keeps its time to live, a new one is permanent. Raises as ``set_public``."""
        log.debug("edit {}", printable(key))
        self._check(key)
        if self._json_only:
            check_json("value", value, MAX_PAYLOAD)
        await self._values.put([(key, value, await self._values.expires_at(key, self._now()))])

    async def get_ttl(self, key: str) -> float | None:
        """Return the seconds that a value has left; None for a permanent one, and where there is none."""
        now = self._now()
        expires_at = await self._values.expires_at(self._check(key), now)
        return None if expires_at is None else (expires_at - now) / SECOND

    async def get_public(self, key: str) -> Any:
        """Return the value, or None when it is missing or expired."""
        if self._plain is not None:
            return self.get_now(key)
        log.debug("get {}", printable(key))
        (found,) = await self._values.get([self._check(key)], self._now())
        return None if found is None else found[0]

    def get_now(self, key: str) -> Any:
        """Do what ``get_public`` does, from any thread and without a loop; return NEEDS_LOOP where it may wait."""
        if self._plain is None:
            return NEEDS_LOOP
        if gate.open:
            log.debug("get {}", printable(key))
        if self._json_only:
            self._check(key)
        try:
            return self._plain.read(key, self._nanos() // 1000)
        except TypeError:
            self._check(key)  # raises ValidationError for a key that is not hashable
            raise

    async def delete_public(self, key: str) -> bool:
        """Remove a value; return whether there was one."""
        log.debug("delete {}", printable(key))
        (there,) = await self._values.delete([self._check(key)], self._now())
        return there

    async def get_store_size(self) -> int:
        """Return how many live values there are."""
        live = await self._values.count(self._now())
        log.debug("store size: {}", live)
        return live

    async def list_keys(self) -> list[str]:
        """Return the live keys, sorted; keys that cannot be compared with each other are in the order of their text."""
        keys = await self._values.keys(self._now())
        log.debug("list keys: {}", len(keys))
        return keys

    async def find_keys(self, prefix: str = "", *, after: str | None = None, limit: int = 100) -> list[str]:
        """Return a page of live keys that begin with ``prefix``, as text and in the order of the store.

        ``after`` is a key: the page begins behind it. Raises ValidationError.
        """
        limit = check_int("limit", limit, 1, 100_000)
        return [key for key, _ in await self._values.page(self._now(), limit, prefix=prefix, after=after)]

    async def clear_store(self) -> None:
        """Remove every value."""
        log.debug("clear public values")
        await self._values.clear()

    async def cleanup(self) -> int:
        """Remove expired values now; return how many. Other coroutines run in between."""
        removed = await self._sweep()
        log.debug("cleanup: {} expired values", removed)
        return removed

    async def _sweep(self) -> int:
        removed = 0
        while swept := await self._values.expire(self._now(), SWEEP):
            removed += swept
            await asyncio.sleep(0)
        return removed

    async def _clean(self) -> float:
        if removed := await self._sweep():
            log.debug("cleanup: {} expired values", removed)
        return self._interval

    async def start_cleanup(self) -> None:
        """Start the background cleanup in the running loop; does nothing if it runs."""
        if not self.cleaning:
            log.debug("cleanup started: it removes expired values every {:g} s", self._interval)
        await self._cleaner.start()

    async def stop_cleanup(self) -> None:
        """Stop the background cleanup; it can be started again."""
        if self._cleaner.here:
            log.debug("cleanup stopped")
        await self._cleaner.stop()

"""The contract for public values: what a store of keys with a time to live must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class Values(ABC):
    """A store of public values. ``expires_at`` is in microseconds, None for never; at that instant a value is gone."""

    @abstractmethod
    async def put(self, items: Sequence[tuple[str, Any, int | None]]) -> None:
        """Store values, each as key, value and expires_at; each replaces the value of its key."""

    @abstractmethod
    async def get(self, keys: Sequence[str], now: int) -> list[tuple[Any] | None]:
        """Read values, each as a 1-tuple, or None where it is missing or expired."""

    @abstractmethod
    async def delete(self, keys: Sequence[str], now: int) -> list[bool]:
        """Delete values; return for each whether there was a live one."""

    @abstractmethod
    async def keys(self, now: int) -> list[str]:
        """Return the live keys, sorted."""

    async def page(self, now: int, limit: int, *, prefix: str = "", after: str | None = None) -> list[str]:
        """Return up to ``limit`` live keys that begin with ``prefix``, in the order of the store, behind ``after``."""
        found = sorted(str(key) for key in await self.keys(now))  # in memory a key need not be a string
        return [key for key in found if key.startswith(prefix) and (after is None or key > after)][:limit]

    @abstractmethod
    async def count(self, now: int) -> int:
        """Count the live keys."""

    @abstractmethod
    async def expire(self, now: int, limit: int) -> int:
        """Remove up to ``limit`` expired values; return how many. Other coroutines run in between."""

    @abstractmethod
    async def clear(self) -> None:
        """Remove every public value."""


class PlainValues(Values):
    """Values that are objects of this process: any thread may set and read one by a plain function, without a loop."""

    @abstractmethod
    def set(self, key: str, value: Any, expires_at: int) -> None:
        """Store one value; ``expires_at`` in microseconds. Raises TypeError for a key that is not hashable."""

    @abstractmethod
    def read(self, key: str, now: int) -> Any:
        """Return the value, or None where it is missing or expired. Raises TypeError as ``set``."""

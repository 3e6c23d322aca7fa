"""Large values outside of a durable store: each is a file or an object, a blob, and its row keeps a reference.

A blob has the name ``scope/hour/hash``: the id of the store that refers to it, the hour in which it was written, and
the SHA-256 of its bytes, which are what the codec has made. The same bytes that are stored again in a later hour become
another blob. So no write of an old blob can come between a look for its references and its deletion.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypeVar

from aiotaskq.backends.side_rows import SideRow, SideRows
from aiotaskq.core.codec import BlobStore, Chain, Codec
from aiotaskq.core.coded import COLUMNS, BlobError, blob_of, decoded, reference
from aiotaskq.core.errors import ValidationError, shown
from aiotaskq.core.ids import new_id
from aiotaskq.core.task import SECOND, UNREAD, Task
from aiotaskq.errors import DatabaseUnavailable

T = TypeVar("T")

BLOBS: Final = "blobs"
"""The kind of the side rows about the blobs of a store."""
SCOPE: Final = "scope"
"""The name of the row with the id of the store."""
UNSCOPED: Final = "0"
"""The scope of what is written before the store is open: such blobs are never deleted."""


class BlobCodec:
    """A codec, and behind it the blobs of one store: what it makes longer than ``over`` bytes goes there.

    ``encode`` and ``decode`` wait for the blobs. In an event loop ``encoded`` and ``whole`` do that in threads.
    """

    def __init__(self, inner: Codec, store: BlobStore, now: Callable[[], int], side: SideRows | None = None) -> None:
        """``now`` returns the present instant in microseconds UTC; ``side`` is that of the store, None for no store."""
        self.inner, self.store, self.now = inner, store, now
        self._side = side
        self._scope: str | None = None
        self.running: set[asyncio.Future[Any]] = set()
        """What runs in threads for the running loop."""

    def of(self, side: SideRows) -> BlobCodec:
        """Return the same codec for the store with these side rows."""
        return BlobCodec(self.inner, self.store, lambda: self.now(), side)

    def encode(self, data: bytes, /) -> bytes:
        """Return what the codec has made of the data, or the reference to its blob. Raises DatabaseUnavailable."""
        return self.encode_with(data, functools.partial(self._reached, self.store.put))

    def decode(self, data: bytes, /) -> bytes:
        """Return what ``encode`` was given. Raises BlobError, DatabaseUnavailable, and any exception of the codec."""
        if (name := blob_of(data)) is None:
            return self.inner.decode(data)
        return self.checked(name, self._reached(self.store.get, name))

    @property
    def lazy(self) -> Codec:
        """The same codec, whose ``decode`` reads no blob: it raises BlobError instead."""
        return _InLoop(self)

    async def encoded(self, make: Callable[[Codec], T], joined: bool = False) -> T:
        """Return what ``make`` returns with this codec, whose blobs are written by then. Raises DatabaseUnavailable.

        ``joined``: the transaction of a caller may lock the store, which is not asked for its id then.
        """
        if not joined:
            await self.open()
        codec = _InLoop(self)
        made = make(codec)
        if codec.unwritten:
            await self._in_threads(self.store.put, codec.unwritten.items())
        return made

    async def whole(self, tasks: Sequence[Task], columns: Collection[str] = COLUMNS) -> list[Task]:
        """Return tasks with these columns read from blobs. Raises DatabaseUnavailable."""
        names = {name for task in tasks for name in blobs_of(task, columns)}
        if not names:
            return list(tasks)
        order = sorted(names)
        found = await self._in_threads(self.store.get, [(name,) for name in order])
        read = _InLoop(self, dict(zip(order, found, strict=True)))
        return [decoded(task, read) if any(blobs_of(task, columns)) else task for task in tasks]

    async def open(self) -> str:
        """Return the scope of the blobs of the store; it is made at the first use."""
        if self._scope is None:
            assert self._side is not None
            (found,) = await self._side.get(BLOBS, [SCOPE], 0)
            if found is None:
                row = SideRow(SCOPE, new_id())
                await self._side.rewrite(BLOBS, [SCOPE], lambda there: None if there else [row], repeatable=True)
                (found,) = await self._side.get(BLOBS, [SCOPE], 0)
            self._scope = found
        assert self._scope is not None
        return self._scope

    async def older(self, seconds: float) -> set[str]:
        """Return the names of the blobs that were written more than ``seconds`` ago."""
        scope = await self.open()
        before = f"{scope}/{_hour(self.now() - int(seconds * SECOND))}"
        (found,) = await self._in_threads(lambda: {name for name in self.store.names(scope) if name < before}, [()])
        return found

    async def delete(self, names: Sequence[str]) -> None:
        """Delete blobs. Raises DatabaseUnavailable."""
        await self._in_threads(self.store.delete, [(names,)])

    def encode_with(self, data: bytes, put: Callable[[str, bytes], object]) -> bytes:
        """Do as ``encode``; ``put`` takes the name and the bytes of a blob."""
        made = self.inner.encode(data)
        if len(made) <= self.store.over and blob_of(made) is None:
            return made
        name = f"{self._scope or UNSCOPED}/{_hour(self.now())}/{hashlib.sha256(made).hexdigest()}"
        put(name, made)
        return reference(name)

    def checked(self, name: str, found: bytes | None) -> bytes:
        """Return what was encoded as this blob. Raises BlobError, and any exception of the codec."""
        if found is None:
            raise BlobError(f"its blob {name} is missing")
        if hashlib.sha256(found).hexdigest() != name.rpartition("/")[2]:
            raise BlobError(f"its blob {name} was altered")
        return self.inner.decode(found)

    def _reached(self, verb: Callable[..., T], *given: Any) -> T:
        try:
            return verb(*given)
        except Exception as error:  # whatever a store says of a disk or a server
            said = (str(error).splitlines() or [""])[0]
            raise DatabaseUnavailable(f"blobs: {self.store!r}: {type(error).__name__}: {said}") from error

    async def _in_threads(self, verb: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> list[T]:
        """Call a function with each of these arguments, in threads; return all answers, or raise the first error."""
        futures = [asyncio.ensure_future(asyncio.to_thread(self._reached, verb, *each)) for each in calls]
        self.running.update(futures)
        try:
            return await asyncio.gather(*futures)
        finally:
            self.running.difference_update(futures)


class _InLoop:
    """The codec for an event loop: it keeps the blobs that are to be written, and reads none but those it is given."""

    def __init__(self, codec: BlobCodec, found: Mapping[str, bytes | None] = MappingProxyType({})) -> None:
        self._codec, self._found = codec, found
        self.unwritten: dict[str, bytes] = {}

    def encode(self, data: bytes, /) -> bytes:
        return self._codec.encode_with(data, self.unwritten.__setitem__)

    def decode(self, data: bytes, /) -> bytes:
        if (name := blob_of(data)) is None:
            return self._codec.decode(data)
        if name not in self._found:
            raise BlobError(UNREAD)
        return self._codec.checked(name, self._found[name])


def blobs_of(task: Task, columns: Collection[str] = COLUMNS) -> Iterator[str]:
    """Yield the names of the blobs to which these columns of a task refer that are not decoded."""
    for column, text in (task.coded or {}).items():
        if column in columns and (name := blob_of(text)) is not None:
            yield name


def with_blobs(codec: Codec | None, store: object, now: Callable[[], int]) -> BlobCodec:
    """Return a codec with blobs; ``now`` returns the present instant in microseconds UTC. Raises ValidationError."""
    if not isinstance(store, BlobStore):
        raise ValidationError(f"blobs: a store is needed, as Folder('/srv/blobs') (got {shown(store)})")
    inner = codec.inner if isinstance(codec, BlobCodec) else codec
    return BlobCodec(Chain() if inner is None else inner, store, now)


async def encoded_by(codec: Codec | None, make: Callable[[Codec | None], T], joined: bool = False) -> T:
    """Return what ``make`` returns with the codec of a store, as ``BlobCodec.encoded``."""
    return await codec.encoded(make, joined) if isinstance(codec, BlobCodec) else make(codec)


def _hour(at: int) -> str:
    """Return the hour of an instant; these texts are in the order of time."""
    return datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y-%m-%dT%H")

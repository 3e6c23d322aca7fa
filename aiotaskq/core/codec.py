"""Codecs: what compresses or encrypts the values of a task on their way into a durable store, and back.

A codec is any object with ``encode`` and ``decode``. The ones here may be chained: ``Chain(Zlib(), Fernet(key))``.
"""

from __future__ import annotations

import base64
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from aiotaskq.core.errors import MAX_PAYLOAD, ValidationError, check_int, check_seconds, missing, shown

MOST = 2**28
"""Bytes that compressed data may have when it is decompressed: more than a store accepts."""


class Codec(Protocol):
    """Encodes and decodes the values of tasks: any object with these two methods, which threads may call.

    ``decode`` must return what was given to ``encode``, and raise any exception for data that it cannot decode.
    """

    def encode(self, data: bytes, /) -> bytes:
        """Return the data as it is stored. The same data, unchanged, is stored as plain JSON."""

    def decode(self, data: bytes, /) -> bytes:
        """Return what ``encode`` was given. Raises any exception for what ``encode`` cannot have returned."""


def check_codec(codec: object) -> Codec:
    """Return an object that has the methods of a codec; raises ValidationError for another one, also for a class."""
    if isinstance(codec, type) or not all(callable(getattr(codec, name, None)) for name in ("encode", "decode")):
        raise ValidationError(f"codec: an object with encode and decode is needed, as Zlib() (got {shown(codec)})")
    return codec  # type: ignore[return-value]


class BlobStore(ABC):
    """What keeps large values outside of a durable store, for ``TaskQ(blobs=…)``; threads call its methods.

    Any exception but a missing blob means that the store cannot be reached: a push raises DatabaseUnavailable then,
    and a task waits.
    """

    def __init__(self, over: int = 65_536, grace: float | timedelta = 86_400.0) -> None:
        """``over``: values of more bytes are blobs, after the codec; at most 262,144.

        ``grace``, in seconds and at least 3,600: a blob that no row refers to is kept so long, which must be longer
        than the longest transaction that pushes. Raises ValidationError.
        """
        self.over = check_int("over", over, 1, MAX_PAYLOAD)
        self.grace = check_seconds("grace", grace)
        if self.grace < 3_600:
            raise ValidationError(f"grace: at least 3600 seconds are needed (got {self.grace:g})")

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Store a blob, durably when this returns; one of the same name has the same bytes, and may be replaced.

        A name has three parts of letters, digits, ``-`` and ``:`` with ``/`` between them.
        """

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """Return a blob; None if the store can be reached, and has none of this name."""

    @abstractmethod
    def names(self, scope: str) -> Iterable[str]:
        """Return the names whose first part is ``scope``, in any order."""

    @abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Delete blobs; those that are missing are ignored."""


class Chain:
    """Several codecs as one: ``encode`` calls them in this order, ``decode`` in the reverse order."""

    def __init__(self, *codecs: Codec) -> None:
        self._codecs = [check_codec(each) for each in codecs]

    def encode(self, data: bytes, /) -> bytes:
        """Return the data encoded by each codec in turn."""
        for codec in self._codecs:
            data = codec.encode(data)
        return data

    def decode(self, data: bytes, /) -> bytes:
        """Return the data decoded by each codec in turn, the last one first."""
        for codec in reversed(self._codecs):
            data = codec.decode(data)
        return data


class _Compression:
    _mark: bytes
    """The beginning of compressed data. JSON does not begin so; other data that does is always compressed."""

    def __init__(self, over: int, compress: Callable[[bytes], bytes], decompressor: Callable[[], Any]) -> None:
        self._over = check_int("over", over, 0)
        self._compress, self._decompressor = compress, decompressor

    def encode(self, data: bytes, /) -> bytes:
        """Return the data compressed, or as it is where it is short or would become no shorter."""
        marked = data.startswith(self._mark)
        if len(data) <= self._over and not marked:
            return data
        packed = self._mark + self._compress(data)
        return packed if marked or len(packed) < len(data) else data

    def decode(self, data: bytes, /) -> bytes:
        """Return the data decompressed, or as it is where it is not compressed. Raises ValueError."""
        if not data.startswith(self._mark):
            return data
        unpacking = self._decompressor()  # one for each value: threads must not share it
        found: bytes = unpacking.decompress(data[len(self._mark) :], MOST)
        if not unpacking.eof or unpacking.unused_data:
            raise ValueError(f"it is damaged, or has more than {MOST:,} bytes")
        return found


class Zlib(_Compression):
    """Compresses data of more than ``over`` bytes with zlib, of the standard library."""

    _mark = b"\x00z"

    def __init__(self, over: int = 1024) -> None:
        """``over``: data of at most so many bytes stays as it is. Raises ValidationError."""
        super().__init__(over, zlib.compress, zlib.decompressobj)


class Zstd(_Compression):
    """Compresses data of more than ``over`` bytes with Zstandard: Python 3.14, or the extra ``zstd``.

    Raises MissingExtra where neither is there.
    """

    _mark = b"\x00s"

    def __init__(self, over: int = 1024) -> None:
        zstd = _zstd()
        super().__init__(over, zstd.compress, zstd.ZstdDecompressor)


def _zstd() -> Any:
    try:
        from compression import zstd
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise missing("backports.zstd", "zstd") from None
    return zstd


class Fernet:
    """Encrypts and authenticates data with Fernet (AES and HMAC) of the library ``cryptography``: the extra ``crypto``.

    The first key encrypts, and each of them decrypts. To change the key, put the new one in front, run
    ``aiotaskq db recode``, and drop the old one. A key is what ``cryptography.fernet.Fernet.generate_key()`` returns.

    Raises ValidationError for no key or a value that is no key, MissingExtra where the library is not installed.
    """

    def __init__(self, *keys: str | bytes) -> None:
        try:
            from cryptography import fernet
        except ImportError:
            raise missing("cryptography", "crypto") from None
        if not keys:
            raise ValidationError("keys: at least one is needed; make one with Fernet.generate_key() of cryptography")
        try:
            self._fernet: Any = fernet.MultiFernet([fernet.Fernet(key) for key in keys])
        except (ValueError, TypeError):
            raise ValidationError("keys: each is 32 bytes as URL-safe base64, as Fernet.generate_key() makes") from None

    def __repr__(self) -> str:
        return "Fernet(…)"

    def encode(self, data: bytes, /) -> bytes:
        """Return the data encrypted with the first key."""
        return base64.urlsafe_b64decode(self._fernet.encrypt(data))  # base64 once is enough, when it is stored

    def decode(self, data: bytes, /) -> bytes:
        """Return the data decrypted. Raises cryptography.fernet.InvalidToken if no key fits, or it was changed."""
        found: bytes = self._fernet.decrypt(base64.urlsafe_b64encode(data))
        return found

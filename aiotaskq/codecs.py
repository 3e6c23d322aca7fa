"""Codecs: how params, results and values are coded before they are stored, for ``TaskQ(codec=…, blobs=…)``.

A codec is any object with ``encode`` and ``decode``. Large values may be in a folder, or a bucket of an object store.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiotaskq.core.codec import BlobStore, Chain, Codec, Fernet, Zlib, Zstd
from aiotaskq.core.errors import check_text, missing

__all__ = ["S3", "BlobStore", "Chain", "Codec", "Fernet", "Folder", "Zlib", "Zstd"]


class Folder(BlobStore):
    """Keeps blobs as files in a folder that every host sees under some path: a local disk for one host, or NFS."""

    def __init__(self, path: str | Path, over: int = 65_536, grace: float | timedelta = 86_400.0) -> None:
        """``path`` is created with the first blob. ``over`` and ``grace`` as of ``BlobStore``. Raises ValidationError.

        Only the user of the process may read what is written there.
        """
        super().__init__(over, grace)
        self._root = Path(check_text("path", str(path) if isinstance(path, Path) else path, 4_096)).absolute()

    def __repr__(self) -> str:
        return f"Folder({str(self._root)!r})"

    def put(self, name: str, data: bytes) -> None:
        """Do as ``BlobStore.put``: a file of another name is written, synchronised, and renamed."""
        path = self._root / name
        for folder in (self._root, path.parent.parent, path.parent):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700, parents=folder is self._root)
                _sync(folder.parent)
        number, new = tempfile.mkstemp(dir=path.parent)  # with the mode 0600
        try:
            with open(number, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        finally:
            Path(new).unlink(missing_ok=True)  # where it could not be written or renamed
        _sync(path.parent)

    def get(self, name: str) -> bytes | None:
        """Do as ``BlobStore.get``."""
        path = self._root / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            path.parent.parent.stat()  # raises where the folder is not mounted
            return None

    def names(self, scope: str) -> Iterable[str]:
        """Do as ``BlobStore.names``; what a killed process has left half written is among them."""
        return [str(path.relative_to(self._root)) for path in (self._root / scope).glob("*/*")]

    def delete(self, names: Sequence[str]) -> None:
        """Do as ``BlobStore.delete``; the folder of an hour goes with its last file."""
        for name in names:
            (self._root / name).unlink(missing_ok=True)
        for folder in {(self._root / name).parent for name in names}:
            with contextlib.suppress(OSError):
                folder.rmdir()


class S3(BlobStore):
    """Keeps blobs as objects in a bucket of Amazon S3, or of what speaks its protocol: the extra ``s3``.

    Credentials that are not given are those of the environment (``AWS_ACCESS_KEY_ID`` and so on) or of the instance.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        over: int = 65_536,
        grace: float | timedelta = 86_400.0,
    ) -> None:
        """Name a bucket that exists; nothing is opened yet.

        Args:
            prefix: what the names of the objects begin with, as ``jobs/``.
            endpoint: URL of another server than Amazon's, as ``https://minio.example:9000``.
            region: that of the bucket; default that of the environment, else ``us-east-1``.
            access_key_id, secret_access_key: credentials.
            over, grace: as of ``BlobStore``.

        Raises:
            ValidationError: naming the argument, MissingExtra where the library is not installed.
        """
        super().__init__(over, grace)
        try:
            from obstore import store
        except ImportError:
            raise missing("obstore", "s3") from None
        config: dict[str, Any] = {
            "endpoint": endpoint,
            "region": region,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
        }
        self._name = f"S3({check_text('bucket', bucket, 255)!r}, prefix={prefix!r})"
        self._store = store.S3Store(
            bucket,
            prefix=prefix or None,
            client_options={"allow_http": endpoint is not None and endpoint.startswith("http:"), "timeout": "60s"},
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=60)},
            **{name: value for name, value in config.items() if value is not None},
        )

    def __repr__(self) -> str:
        return self._name

    def put(self, name: str, data: bytes) -> None:
        """Do as ``BlobStore.put``."""
        self._store.put(name, data)

    def get(self, name: str) -> bytes | None:
        """Do as ``BlobStore.get``."""
        try:
            return bytes(self._store.get(name).bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None

    def names(self, scope: str) -> Iterable[str]:
        """Do as ``BlobStore.names``."""
        return [found["path"] for part in self._store.list(scope, chunk_size=1_000) for found in part]

    def delete(self, names: Sequence[str]) -> None:
        """Do as ``BlobStore.delete``."""
        self._store.delete(list(names))


def _sync(folder: Path) -> None:
    """Make the entries of a folder durable."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)

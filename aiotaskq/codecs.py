"""Codecs: how params, results and values are coded before they are stored, for ``TaskQ(codec=…, blobs=…)``."""

from __future__ import annotations

from aiotaskq.backends.blob_stores import S3, Folder
from aiotaskq.core.codec import BlobStore, Chain, Codec, Fernet, Zlib, Zstd

__all__ = ["S3", "BlobStore", "Chain", "Codec", "Fernet", "Folder", "Zlib", "Zstd"]

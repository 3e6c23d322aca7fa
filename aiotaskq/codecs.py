"""Codecs: how params, results and values are coded before they are stored, for ``TaskQ(codec=…)``."""

from __future__ import annotations

from aiotaskq.core.codec import Chain, Codec, Fernet, Zlib, Zstd

__all__ = ["Chain", "Codec", "Fernet", "Zlib", "Zstd"]

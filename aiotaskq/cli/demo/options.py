"""What the user asked the demo for."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for. ``url`` None is a file in the cache folder, one for each folder."""

    folder: Path
    url: str | None = None
    max_files: int = 2_000
    max_bytes: int = 512_000_000
    concurrency: int = 32
    pause: float = 0.0
    fresh: bool = False
    as_json: bool = False

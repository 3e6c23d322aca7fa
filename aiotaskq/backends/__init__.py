"""Stores of tasks, public values and schedules: from a URL to a backend, which is imported only then."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from aiotaskq.backends.url import BACKENDS, DURABLE_FAKE, memory_options, scheme_of, with_table_names

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend
    from aiotaskq.core.codec import Codec

__all__ = ["connect"]


def connect(url: str, *, keep_ended: int | None = None, codec: Codec | None = None) -> Backend:
    """Return the backend of a URL; nothing is opened yet. ``memory://`` does not use a codec.

    Raises ValidationError for an unknown scheme, MissingExtra when its driver is not installed, and the errors of
    ``memory_options`` and ``with_table_names``.
    """
    scheme, options = scheme_of(with_table_names(url)), memory_options(url, keep_ended)
    fake = url.partition("?")[0] == DURABLE_FAKE
    module, _, name = BACKENDS[DURABLE_FAKE if fake else scheme].partition(":")
    kind = getattr(import_module(module), name)
    if fake:
        return cast("Backend", kind()).coded_by(getattr(codec, "inner", codec))  # blobs are for what is stored
    if scheme == "memory":
        return cast("Backend", kind(options.keep_ended, options.objects))
    if codec is None:
        return cast("Backend", kind(url))
    from aiotaskq.backends.coded import coded

    return coded(kind)(url).coded_by(codec)

"""The hint at the end of an error about an unknown name: the most similar known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def guess(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'send_mail'?`` with the known name that is most similar, an empty text if none is."""
    close = difflib.get_close_matches(name[:64], sorted(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""

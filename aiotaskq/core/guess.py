"""What somebody may have meant by a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def guess(name: str, known: Iterable[str]) -> str:
    """Return the end of an error text: ``; did you mean 'send_mail'?``, empty where no known name is similar."""
    close = difflib.get_close_matches(name[:64], sorted(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""

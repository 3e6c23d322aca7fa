"""In which language the command line speaks: English, or Chinese where the locale says so.

The English sentence is the key, so the code reads as it speaks. Chinese is in ``chinese``, imported only when spoken.
What the library itself raises stays English: it is what is searched for, and what other programs match.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["chinese", "marked", "tr"]


def chinese() -> bool:
    """Whether the locale asks for Chinese: the first of LC_ALL, LC_MESSAGES and LANG that is set (POSIX, 8.2)."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return value.lower().startswith("zh")
    return False


def tr(message: str, **values: object) -> str:
    """Return the sentence in the user's language, with the values in place of its ``{names}``."""
    text = message
    if chinese():
        from aiotaskq.cli.chinese import CHINESE

        text = CHINESE.get(message, message)
    return text.format(**values) if values else text


def marked(message: str) -> str:
    """Return the sentence as it is: one that is said later, by ``tr``, and must be in the catalogue."""
    return message


def translated_help(text: str) -> str:
    """Return a help page with what typer itself says in it in the user's language."""
    if not chinese():
        return text
    from aiotaskq.cli.chinese import TYPER

    for english, other in TYPER.items():
        text = text.replace(english, other)
    return text


def usage_error(error: Any) -> str:
    """Return what is wrong with how a command was called, in one line, in the user's language.

    ``error`` is one of typer's; which of its classes is told by name, since the library has moved them about.
    """
    kind, said = type(error).__name__, error.format_message()
    if not chinese():
        return str(said)
    if kind == "NoSuchOption":
        guess = f"；是不是 {'、'.join(error.possibilities)}？" if error.possibilities else ""
        return f"没有选项 {error.option_name}{guess}"
    if kind in ("MissingParameter", "BadParameter") and error.param is not None:
        hint = error.param_hint or error.param.get_error_hint(error.ctx)
        hint = hint if isinstance(hint, str) else " / ".join(hint)
        return f"缺少 {hint}" if kind == "MissingParameter" else f"{hint} 的值不对：{error.message}"
    return f"用法不对：{said}"

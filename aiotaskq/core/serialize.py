"""What a handler returns or raises, as values that every store can hold."""

from __future__ import annotations

import contextlib
import traceback
from typing import Any

import msgspec

from aiotaskq.core.conversion import Conversion, encodable
from aiotaskq.core.errors import ValidationError
from aiotaskq.core.validation import INT64, MAX_DEPTH, check_json, shown

MAX_RESULT = 64 * 1024 * 1024  # bytes of JSON


def describe(error: BaseException) -> str:
    """Return the error as text: ``Type: message`` in the first line, then the traceback."""
    try:
        message = str(error)
    except Exception as broken:  # the exception's own __str__ may raise
        message = f"<{type(broken).__name__} in __str__>"
    head = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = traceback.format_tb(error.__traceback__, limit=-20)
    return head + ("\n\nTraceback (most recent call last):\n" + "".join(frames) if frames else "")


def storable(result: Any, conversion: Conversion | None = None) -> Any:
    """Return a handler's result as JSON values: tuples become lists, dataclasses, structs and models dicts, dates text.

    ``conversion`` is that of the return annotation. A result that does not fit it is stored as what it is, since the
    work is done.

    Raises ValidationError with the path to a part that cannot be stored. NUL and lone surrogates are escaped, not
    refused, since the work is done.
    """
    kind = type(result)
    if result is None or kind is bool or (kind is int and abs(result) <= INT64):
        return result
    if conversion is not None:
        with contextlib.suppress(ValidationError):
            result = conversion.store("result", result)
    _check_keys("result", result)
    try:
        plain = _plain(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"{_culprit('result', result)}: {error}") from None
    plain = _escape(plain)
    check_json("result", plain, limit=MAX_RESULT)
    return plain


def _check_keys(path: str, value: Any, depth: int = 0) -> None:
    """Raise ValidationError for two keys that would be one key in JSON, so that a value would be lost."""
    if depth > MAX_DEPTH:
        return  # refused later, with a path
    if isinstance(value, dict):
        if any(type(key) is not str for key in value) and len({str(key) for key in value}) < len(value):
            raise ValidationError(f"{path}: two of its keys are the same text in JSON")
        for key, item in value.items():
            _check_keys(f"{path}.{key}" if isinstance(key, str) else f"{path}[{shown(key)}]", item, depth + 1)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_keys(f"{path}[{number}]", item, depth + 1)


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview), str_keys=True, enc_hook=encodable)


def _culprit(path: str, value: Any) -> str:
    """Return the path to the first part that cannot be converted; for a cycle, the beginning of the way round it."""
    while len(path) < 80:
        names = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
        )
        for name, item in names:
            try:
                _plain(item)
            except Exception:
                path, value = f"{path}.{name}" if isinstance(name, str) else f"{path}[{shown(name)}]", item
                break
        else:
            return path
    return f"{path}…"


def _escape(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    if depth < 100:  # deeper values are refused by check_json with a path
        if isinstance(value, list | tuple):
            return [_escape(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return {_escape(key): _escape(item, depth + 1) for key, item in value.items()}
    return value


MAX_TYPE = 100
"""Characters of a type that are shown."""


def error_type(error: str | None) -> str | None:
    """Return the type of an error text: what stands before its first colon or line break."""
    return None if error is None else error.partition(":")[0].partition("\n")[0][:MAX_TYPE]


def check_error_type(name: str, text: object) -> str:
    """Return the beginning of a type: an error text that begins so has a type that begins so.

    ``name`` begins the message. Raises ValidationError.
    """
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TYPE or any(mark in text for mark in ":\n\0"):
        raise ValidationError(
            f"{name}: the beginning of an error's type is needed, such as ValueError: 1 to {MAX_TYPE} characters "
            "without a colon and a line break"
        )
    return text

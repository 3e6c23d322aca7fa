"""The errors that hold no task, and the checks of input, which raise them before anything is written.

``aiotaskq.errors`` is what applications import: it has all of these errors, and ``TaskFailed``, which needs
``core.task``. A check returns the value, or raises ValidationError naming the field. The limits are those of the
documented tables, and of what every store can hold.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec


class AiotaskqError(Exception):
    """Base of every error that aiotaskq raises on purpose."""


class ValidationError(AiotaskqError, ValueError):
    """The input is wrong; nothing was written. The message names the field, the value and a remedy."""


class CronError(ValidationError):
    """A cron expression cannot be accepted; the message names the field and gives a hint."""


class UnknownHandler(ValidationError, LookupError):
    """No handler is registered under that task type; register it, or correct the name."""


class TaskConflict(AiotaskqError, ValueError):
    """A task with this id is pending with other content, or has ended. Use another id, or follow the message."""


class NoOpenTask(AiotaskqError, ValueError):
    """``task_done()`` was called more often than tasks were popped, or names a task not popped here."""


class NotFound(AiotaskqError, LookupError):
    """There is no task or schedule under that id."""


class QueueFull(AiotaskqError, asyncio.QueueFull):
    """The queue holds ``maxsize`` tasks; nothing was written. Push later, or let the push wait.

    ``excess`` is how many tasks were too many, 0 where that is not known.
    """

    def __init__(self, message: str = "", excess: int = 0) -> None:
        super().__init__(message)
        self.excess = excess


def queue_full(maxsize: int, excess: int) -> QueueFull:
    """Return the error of a push that finds the queue full, by so many tasks."""
    return QueueFull(f"the queue holds its maxsize of {maxsize} tasks; push later, or raise maxsize", excess)


def gate_full(key: str, most: int) -> QueueFull:
    """Return the error of a push that finds too many tasks waiting at a gate."""
    return QueueFull(f"limit {key!r}: more than max_waiting={most} tasks would wait; push later, or raise max_waiting")


class BatchFailed(AiotaskqError, RuntimeError):
    """Raised by a handler with ``batch``: only these of its items failed.

    Args:
        errors: the exception of each item that failed, by its index; whether it is retried goes by that exception.
        results: one for each item, those that failed included; None gives the others the result None.
    """

    def __init__(self, errors: Mapping[int, BaseException], results: Sequence[Any] | None = None) -> None:
        super().__init__(errors, results)  # these arguments make it anew where a process has raised it
        self.errors = errors
        self.results = results

    def __str__(self) -> str:
        return f"{len(self.errors)} items failed"


class EventTimeout(AiotaskqError, TimeoutError):
    """The event that a handler waited for did not come within its timeout."""


class ResultTimeout(AiotaskqError, TimeoutError):
    """The task did not end in time, or the worker did not answer. A task is not cancelled by that."""


class LeaseLost(AiotaskqError, RuntimeError):
    """Another worker has taken the task over, or settled it; this write changed nothing."""


class NotSupported(AiotaskqError, NotImplementedError):
    """This backend cannot honour the option; the message names one that can."""


class MissingExtra(AiotaskqError, ImportError):
    """An optional dependency is not installed; the message has the command that installs it."""


class DatabaseUnavailable(AiotaskqError, ConnectionError):
    """The database cannot be opened or reached; the message holds its URL without the password.

    If a push raised it, ``task_ids`` has the ids of its tasks, in order: they may have been stored. A second push with
    ``task_id=`` one of them makes no second task, and TaskConflict then says that it was stored and has ended. With
    ``push_task`` of the documented queues, first look with ``get(task_id)``, since there a push of an id that has ended
    runs it again. After any other call ``task_ids`` is empty.
    """

    task_ids: tuple[str, ...] = ()

    def of_push(self, task_ids: Iterable[str]) -> DatabaseUnavailable:
        """Return the same error for the push of these tasks."""
        error = type(self)(str(self))
        error.task_ids = tuple(task_ids)
        return error


class SchemaTooNew(AiotaskqError, RuntimeError):
    """The database was migrated by a newer aiotaskq; upgrade this installation."""


class ClosedError(AiotaskqError, RuntimeError):
    """The object was closed, it is too late to configure it, or the interpreter is shutting down."""


class WrongLoop(AiotaskqError, RuntimeError):
    """A blocking call was made from a thread that runs an event loop, or an object belongs to another loop."""


def guess(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'send_mail'?`` with the known name that is most similar, an empty text if none is."""
    import difflib

    close = difflib.get_close_matches(name[:64], sorted(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_host(error: BaseException | None) -> str:
    """Return what to do about the name of a host that has no address; an empty text for any other error."""
    while error is not None:
        if isinstance(error, socket.gaierror):
            return "; the host has no address: check its name in the URL, and the network"
        error = error.__cause__ or error.__context__
    return ""


# It repeats ``[project.optional-dependencies]`` of pyproject.toml; a test compares them. An error names the library
# itself: ``pip install 'aiotaskq[redis]'`` would fetch another project of that name from the public index, and
# ``pip install -e '.[redis]'`` would install the project of the user.
REQUIREMENTS = {
    "redis": ("redis[hiredis]>=5.0.4,<9",),
    "mysql": ("asyncmy>=0.2.13,<0.3", "pymysql>=1.1,<2"),
    "postgres": ("psycopg[binary]>=3.2.2,<4",),
    "web": ("starlette>=0.46,<2", "uvicorn>=0.31.1,<1", "jinja2>=3.1.2,<4"),
    "dashboard": ("jinja2>=3.1.2,<4",),
    "fastapi": ("fastapi>=0.115.12,<1", "pydantic>=2.13,<3"),
    "aiohttp": ("aiohttp>=3.10,<4", "starlette>=0.46,<2"),
    "reload": ("watchfiles>=1,<2",),
    "metrics": ("prometheus-client>=0.22,<1",),
    "crypto": ("cryptography>=42,<51",),
    "zstd": ("backports.zstd>=1,<2; python_version < '3.14'",),
    "s3": ("obstore>=0.8,<0.13",),
    "otel": ("opentelemetry-api>=1.30,<2",),
    "calendars": ("holidays>=0.80,<1",),
    "mcp": ("mcp>=2.3,<3",),
    "django": ("django>=5.2,<7", "django-tasks>=0.12,<0.13; python_version < '3.12'"),
    "pydantic": ("pydantic>=2.13,<3",),
    "pydantic-ai": ("pydantic-ai-slim>=2.68,<3",),
}


def missing(library: str, extra: str) -> MissingExtra:
    """Return the error for a library that is not installed, with the command that installs its extra."""
    import shlex

    wanted = " ".join(shlex.quote(requirement) for requirement in REQUIREMENTS[extra])
    return MissingExtra(f"{library} is not installed; install the extra {extra}: pip install {wanted}")


# ---- checks of input -----------------------------------------------------------------------------------------------

MAX_PAYLOAD = 256 * 1024  # bytes of JSON
MAX_ID = 36  # characters, the documented VARCHAR(36)
MAX_NAME = 100  # characters of a type or queue name, the documented VARCHAR(100)
MAX_KEY = 255  # characters of a unique, idempotency or public key
MAX_ERROR = 16 * 1024  # bytes of error text that are kept
MAX_DEPTH = 64  # nested lists and dicts in params
INT32 = 2**31 - 1
INT64 = 2**63 - 1
TEN_YEARS = 315_360_000  # seconds; the longest delay, timeout, interval or ttl that is accepted
_LAST = 100_000_000_000  # epoch seconds in the year 5138; as milliseconds it was 1973
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS = 1_000_000  # of a second


def check_text(field: str, value: object, limit: int) -> str:
    """Return ``value`` if it is a string of 1 to ``limit`` characters that every store can hold.

    Raises ValidationError for another type, only white space, NUL, or a lone surrogate.
    """
    if not isinstance(value, str):
        raise ValidationError(f"{field}: a string is needed (got {type(value).__name__})")
    if not value or value.isspace():
        raise ValidationError(f"{field}: must not be empty")
    if len(value) > limit:
        raise ValidationError(f"{field}: {len(value)} characters are more than {limit} (starts with {value[:20]!r})")
    _check_chars(field, value)
    return value


def check_key(field: str, value: object, limit: int = MAX_KEY) -> str:
    """Return ``value`` as :func:`check_text` does; raises ValidationError for any other control character as well."""
    text = check_text(field, value, limit)
    # Printable text has no control characters; other text has not always one.
    if not text.isprintable() and any(char < " " or char == "\x7f" for char in text):
        raise ValidationError(f"{field}: control characters are not allowed (got {text[:40]!r})")
    return text


def check_hashable(field: str, value: Any) -> Any:
    """Return ``value`` if it is hashable, as an id or key in memory must be; raises ValidationError."""
    try:
        hash(value)
    except TypeError:
        raise ValidationError(f"{field}: {type(value).__name__} is not hashable, so it cannot be a key") from None
    return value


def check_id(value: Any, *, any_id: bool = False) -> Any:
    """Return ``value`` if a store can look it up as a ``task_id``; raises ValidationError.

    That is text of any length, or with ``any_id``, as in memory, any hashable value.
    """
    if any_id:
        return check_hashable("task_id", value)
    if not isinstance(value, str):
        raise ValidationError(f"task_id: a string is needed (got {type(value).__name__})")
    _check_chars("task_id", value)
    return value


def kind_name(value: object) -> str:
    """Return the class of a value, with its module, for a message."""
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def shown(value: object) -> str:
    """Return at most 40 characters that stand for any value in an error message."""
    try:
        return f"{value!r:.40}"
    except Exception:  # Python refuses to print an int of more than 4,300 digits, and a __repr__ may raise anything
        return f"a huge or odd {type(value).__name__}"


def check_int(field: str, value: object, low: int = -INT32, high: int = INT32) -> int:
    """Return ``value`` if it is an int (not a bool) in ``low..high``; raises ValidationError.

    One of a subclass, such as an IntEnum, is returned as a plain int.
    """
    if type(value) is not int:
        if isinstance(value, int) and not isinstance(value, bool):
            return check_int(field, int(value), low, high)
        raise ValidationError(f"{field}: an int is needed (got {type(value).__name__} {shown(value)})")
    if not low <= value <= high:
        number = value if value.bit_length() < 200 else f"an int of {value.bit_length()} bits"
        raise ValidationError(f"{field}: {number} is not in {low}..{high}")
    return value


def check_bool(field: str, value: object) -> bool:
    """Return ``value`` if it is True or False; raises ValidationError."""
    if not isinstance(value, bool):
        raise ValidationError(f"{field}: True or False is needed (got {shown(value)})")
    return value


def check_seconds(field: str, value: object, *, zero: bool = True) -> float:
    """Return a number or a timedelta as seconds, from 0 (or just above) to ten years. Raises ValidationError."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = type(value).__name__
        raise ValidationError(f"{field}: seconds as int, float or timedelta are needed (got {kind} {shown(value)})")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValidationError(f"{field}: {value} is not a number of seconds")
    if value < 0 or (value == 0 and not zero):
        raise ValidationError(f"{field}: must be {'at least' if zero else 'more than'} 0 seconds (got {shown(value)})")
    if value > TEN_YEARS:
        raise ValidationError(f"{field}: {shown(value)} seconds is more than ten years")
    return float(value)


def check_whole_seconds(field: str, value: object, low: int, high: int = TEN_YEARS) -> int:
    """Return an int or a timedelta as whole seconds. Raises ValidationError."""
    if isinstance(value, timedelta):
        if value % timedelta(seconds=1):
            raise ValidationError(f"{field}: whole seconds are needed (got {value})")
        value = value // timedelta(seconds=1)
    return check_int(field, value, low, high)


def instant(field: str, value: object) -> int:
    """Return the microseconds of epoch seconds or of an aware datetime (its fold is honoured, PEP 495).

    Raises ValidationError naming the field.
    """
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValidationError(f"{field}: a naive datetime names no instant; give it a tzinfo (got {value})")
        found = (value - _EPOCH) // timedelta(microseconds=1)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValidationError(f"{field}: epoch seconds or an aware datetime are needed (got {type(value).__name__})")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValidationError(f"{field}: {value} is not a time")
    elif abs(value) > _LAST:  # before any arithmetic or repr(), which a huge int may refuse
        shown = f"{value:.6g}" if abs(value) < 10**20 else "a huge number"
        raise ValidationError(f"{field}: epoch seconds are needed; {shown} looks like milliseconds, divide by 1000")
    else:
        found = value * _MICROSECONDS if isinstance(value, int) else round(value * _MICROSECONDS)
    if not 0 <= found <= _LAST * _MICROSECONDS:
        raise ValidationError(f"{field}: is not in the years 1970 to 5000 (got {value!r:.60})")
    return found


def check_params(params: object) -> dict[str, Any]:
    """Return ``params`` if it is a dict (None means empty); raises ValidationError."""
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise ValidationError(f"params: a dict is needed (got {type(params).__name__})")
    return params


def check_json(field: str, value: object, limit: int = MAX_PAYLOAD) -> bytes:
    """Return ``value`` as JSON bytes, if every durable store gives back an equal value.

    Raises ValidationError with the path to a value that is not JSON (``params.items[3]: set is not JSON``), and for
    NaN, infinities, ints over 64 bits, NUL, lone surrogates, more than MAX_DEPTH levels, or more than ``limit`` bytes.
    """
    _walk(field, value, 0)
    encoded = msgspec.json.encode(value)
    if len(encoded) > limit:
        raise ValidationError(
            f"{field}: {len(encoded):,} bytes of JSON are more than {limit:,}; store a reference instead"
        )
    return encoded


def check_storable(field: str, value: object, limit: int = MAX_PAYLOAD) -> None:
    """Check as :func:`check_json` does, without making the bytes. Raises ValidationError."""
    if type(value) is dict and len(value) < _FEW:
        # The usual params, a few short ASCII texts and numbers, are checked here, since every push does it.
        for key, item in value.items():
            if type(key) is not str or len(key) > _SHORT or not key.isascii() or "\x00" in key:
                break
            kind = type(item)
            if kind is str:
                if len(item) > _SHORT or not item.isascii() or "\x00" in item:
                    break
            elif kind is int:
                if not -INT64 <= item <= INT64:
                    break
            elif kind is float:
                if not math.isfinite(item):
                    break
            elif item is not None and kind is not bool:
                break
        else:
            return
    check_json(field, value, limit)


_FEW, _SHORT = 16, 1000  # far less than MAX_PAYLOAD together
_HINTS = {
    "tuple": "; use a list",
    "bytes": "; encode it as text",
    "datetime": "; use .isoformat()",
    "date": "; use .isoformat()",
    "set": "; use a list",
    "UUID": "; use str()",
    "Decimal": "; use str()",
}


def _walk(path: str, value: object, depth: int) -> None:
    kind = type(value)
    if kind is str:
        _check_chars(path, value)  # type: ignore[arg-type]
    elif kind is bool or value is None:
        pass
    elif kind is int:
        if not -INT64 - 1 <= value <= INT64:  # type: ignore[operator]
            raise ValidationError(f"{path}: an int over 64 bits is not portable JSON; use a string")
    elif kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise ValidationError(f"{path}: {value} is not JSON")
    elif kind is dict or kind is list:
        if depth >= MAX_DEPTH:
            raise ValidationError(f"{path[:80]}…: nested deeper than {MAX_DEPTH} levels (or in a cycle)")
        if kind is dict:
            for key, item in value.items():  # type: ignore[attr-defined]
                if type(key) is not str:
                    raise ValidationError(f"{path}: key {shown(key)} is {type(key).__name__}; JSON keys are strings")
                _check_chars(f"{path} key", key)
                _walk(f"{path}.{key}", item, depth + 1)
        else:
            for index, item in enumerate(value):  # type: ignore[arg-type]
                _walk(f"{path}[{index}]", item, depth + 1)
    else:
        raise ValidationError(f"{path}: {kind.__name__} is not JSON{_HINTS.get(kind.__name__, '')}")


def _check_chars(field: str, text: str) -> None:
    if "\x00" in text:
        raise ValidationError(f"{field}: NUL characters are not portable text")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValidationError(f"{field}: a lone surrogate at position {error.start} is not text") from None


def clip(text: str, limit: int = MAX_ERROR) -> str:
    """Return error text that every store can hold: NUL and lone surrogates escaped, at most ``limit`` bytes."""
    # Cut before it is encoded as well: an error text can have many megabytes.
    data = text[: limit + 1].replace("\x00", "\\x00").encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - 20].decode("utf-8", "ignore") + "\n… (truncated)"

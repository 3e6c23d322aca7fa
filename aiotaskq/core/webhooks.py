"""Webhooks: which ends of tasks they tell, what they say, and how a message is signed. Pure.

Messages follow the Standard Webhooks specification, https://www.standardwebhooks.com: the headers ``webhook-id``,
``webhook-timestamp`` and ``webhook-signature``, and ``{"type", "timestamp", "data"}`` as their body. A message is a
task of the type WEBHOOK, pushed by the transaction that ends the task it is about.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from aiotaskq.core.alerts import ALERTS, Alert
from aiotaskq.core.errors import MAX_NAME, ValidationError, check_int, check_key, check_seconds
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.instants import to_iso
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task, new_task

WEBHOOK: Final = "aiotaskq.webhook"
"""The type of the tasks that send messages."""
SILENT: Final = (WEBHOOK, ALERTS)
"""The types of tasks whose ends are never told."""
STATUSES: Final = ("completed", "failed", "cancelled", "expired", "alert")
_PREFIX: Final = "whsec_"
_KEY: Final = (24, 64)  # bytes, as the specification asks for
_LONGEST: Final = 200  # characters of a host in the key of its gate


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """An address that is told of ended tasks."""

    name: str
    url: str
    secrets: tuple[bytes, ...]
    """The keys of the signatures: each message has one by each of them, so that a receiver can change to a new one."""
    on: tuple[str, ...]
    """Statuses of ended tasks, and ``alert``."""
    types: frozenset[str] | None
    """None for all."""
    queues: frozenset[str] | None
    """None for all."""
    queue: str | None
    """The queue of the messages; None for that of the task."""
    max_retries: int
    timeout: float
    """Seconds that one attempt may take."""
    private: bool
    """Whether it may be an address of this host or of a private network."""

    def __repr__(self) -> str:
        return f"<Webhook {self.name}>"

    @property
    def host(self) -> str:
        """All of its address that is shown: the rest may be secret."""
        return check_url(self.url).hostname or ""

    def wants(self, task: Task) -> bool:
        """Whether it tells of this ended task."""
        return (
            task.status in self.on
            and task.type not in SILENT
            and (self.types is None or task.type in self.types)
            and (self.queues is None or task.queue in self.queues)
        )


def make_webhook(
    url: object,
    secret: object,
    *,
    on: object = ("failed",),
    types: object = None,
    queues: object = None,
    name: object = None,
    queue: object = None,
    max_retries: object = 12,
    timeout: object = 15.0,
    private: bool = False,
) -> Webhook:
    """Return a webhook made from unchecked input. Raises ValidationError naming the argument."""
    host = check_url(url).hostname
    statuses = _names("on", on) or ()
    if unknown := [each for each in statuses if each not in STATUSES]:
        raise ValidationError(f"on: must be of {', '.join(STATUSES)} (got {unknown[0]!r:.60})")
    if not statuses:
        raise ValidationError(f"on: at least one of {', '.join(STATUSES)} is needed")
    secrets = (secret,) if isinstance(secret, str | bytes) or not isinstance(secret, Iterable) else tuple(secret)
    if not secrets:
        raise ValidationError("secret: at least one is needed")
    only_types, only_queues = _names("types", types), _names("queues", queues)
    return Webhook(
        name=check_key("name", host if name is None else name, 255),
        url=url,  # type: ignore[arg-type]  # checked above
        secrets=tuple(_secret(each) for each in secrets),
        on=statuses,
        types=None if only_types is None else frozenset(only_types),
        queues=None if only_queues is None else frozenset(only_queues),
        queue=None if queue is None else check_key("queue", queue, MAX_NAME),
        max_retries=check_int("max_retries", max_retries, 0),
        timeout=check_seconds("timeout", timeout, zero=False),
        private=private,
    )


def check_url(url: object) -> SplitResult:
    """Return the parts of the address of a webhook. Raises ValidationError."""
    wrong = ValidationError("url: an address such as 'https://example.com/hook' is needed")
    if not isinstance(url, str) or not url.isascii() or any(char <= " " for char in url):
        raise wrong
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise wrong
    if parts.username is not None or parts.password is not None:
        raise ValidationError("url: has a user or a password; receivers check the signature instead")
    return parts


def sign(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return a signature of a message: ``v1,`` and the base64 of its HMAC-SHA256. ``timestamp`` in epoch seconds."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()


def signed_headers(webhook: Webhook, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers by which a receiver checks a message."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, message_id, timestamp, body) for secret in webhook.secrets),
    }


def messages(webhooks: Mapping[str, Webhook], after: Task, now: int) -> list[Task]:
    """Return the tasks that tell of an ended task; ``now`` in microseconds UTC."""
    return [
        message(webhook, f"task.{after.status}", _about(after), after.queue, now)
        for webhook in webhooks.values()
        if webhook.wants(after)
    ]


def alert_messages(webhooks: Mapping[str, Webhook], alert: Alert, queue: str, now: int) -> list[Task]:
    """Return the tasks that tell of an alert; in ``queue`` where a webhook names none."""
    data = alert.as_dict() | {"since": to_iso(alert.since)}
    kind = f"alert.{data['state']}"
    return [message(each, kind, data, queue, now) for each in webhooks.values() if "alert" in each.on]


def message(webhook: Webhook, kind: str, data: dict[str, Any], queue: str, now: int, **options: Any) -> Task:
    """Return the task that sends a message: one at a time to each host, so that one that hangs leaves slots free."""
    body = {"type": kind, "timestamp": to_iso(now), "data": data}
    gates = ((f"{WEBHOOK}:{webhook.host[:_LONGEST]}", Bounds(cap=1)),)
    task = new_task(
        WEBHOOK,
        {"webhook": webhook.name, "body": body},
        now=now,
        queue=webhook.queue or queue,
        max_retries=webhook.max_retries,
        timeout=webhook.timeout + 5,
        **options,
    )
    return parked(task.replace(flow=Flow(gates=gates)), task.run_at)


def _about(task: Task) -> dict[str, Any]:
    """Return what a message says about a task: the first line of its error, and no params and no result."""
    error = task.error_message
    return {
        "task_id": task.task_id,
        "type": task.type,
        "queue": task.queue,
        "status": str(task.status),
        "error": error.partition("\n")[0][:1000] if isinstance(error, str) else None,
        "retry_count": task.retry_count,
        "max_retries": task.max_retries,
        "scheduler_task_id": task.scheduler_task_id,
        "created_at": to_iso(task.created_at * SECOND),
        "started_at": None if task.started_at is None else to_iso(task.started_at * SECOND),
        "completed_at": None if task.completed_at is None else to_iso(task.completed_at * SECOND),
    }


def _names(field: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable):
        raise ValidationError(f"{field}: a name or a list of names is needed")
    return tuple(check_key(field, name, MAX_NAME) for name in names)


def _secret(value: object) -> bytes:
    key = value if isinstance(value, bytes) else b""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            key = base64.b64decode(value.removeprefix(_PREFIX), validate=True)
    if not _KEY[0] <= len(key) <= _KEY[1]:
        raise ValidationError(
            f"secret: must be {_KEY[0]} to {_KEY[1]} bytes, or their base64 behind 'whsec_'; make one with "
            "secrets.token_bytes(32)"
        )
    return key

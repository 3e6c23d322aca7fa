"""Webhooks as a script takes them that may end children: it makes the messages about these itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import msgspec

from aiotaskq.backends.redis.heads import place_names
from aiotaskq.backends.redis.rows import row_words
from aiotaskq.core.webhooks import SILENT, Webhook, message


def webhooks_word(webhooks: Mapping[str, Webhook]) -> str:
    """Return them as the last argument of a script, as ``lua/include/groups.lua`` reads it; "" for none."""
    return _word(tuple(webhooks.values())) if webhooks else ""


@functools.lru_cache(maxsize=16)
def _word(webhooks: tuple[Webhook, ...]) -> str:
    return msgspec.json.encode([list(SILENT), list(map(_plain, webhooks))]).decode()


def _plain(webhook: Webhook) -> dict[str, Any]:
    made = message(webhook, "", {}, "default", 0).replace(task_id="", params={"webhook": webhook.name})
    _, body, _ = row_words(made)
    return {
        "name": webhook.name,
        "on": dict.fromkeys(webhook.on, True),
        "types": None if webhook.types is None else dict.fromkeys(webhook.types, True),
        "queues": None if webhook.queues is None else dict.fromkeys(webhook.queues, True),
        "queue": webhook.queue,
        "names": place_names(made),
        "max_retries": made.max_retries,
        # To the end of its params, to which the script adds the message.
        "body": body.removesuffix("}"),
    }

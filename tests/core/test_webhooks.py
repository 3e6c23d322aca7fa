"""Webhooks: what a message says, how it is signed, and what is refused."""

from __future__ import annotations

import base64
import secrets
from typing import Any

import pytest

from aiotaskq.core.errors import MAX_KEY
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.status import Status
from aiotaskq.core.task import new_task
from aiotaskq.core.webhooks import WEBHOOK, make_webhook, messages, sign, signed_headers
from aiotaskq.errors import ValidationError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_700_000_000_000_000


def hook(**options: Any) -> Any:
    return make_webhook("https://example.com/hook", SECRET, **options)


def ended(status: Status = Status.FAILED, type: str = "work", queue: str = "mail") -> Any:
    task = new_task(type, {"card": "4111"}, now=NOW, queue=queue)
    return task.replace(status=status, error_message="ValueError: no\nTraceback", result={"card": "4111"})


def test_a_signature_is_that_of_the_specification() -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    two = make_webhook("https://example.com", [SECRET, secrets.token_bytes(32)])
    headers = signed_headers(two, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert headers["webhook-signature"].split(" ")[0] == signature and headers["webhook-signature"].count("v1,") == 2
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")


def test_a_message_says_what_ended_and_nothing_of_params_and_results() -> None:
    task = ended()
    (sent,) = messages({"h": hook(name="h")}, task, NOW)
    assert (sent.type, sent.queue, sent.max_retries) == (WEBHOOK, "mail", 12)
    assert sent.params["webhook"] == "h" and sent.params["body"]["type"] == "task.failed"
    data = sent.params["body"]["data"]
    assert (data["task_id"], data["type"], data["error"]) == (task.task_id, "work", "ValueError: no")
    assert "4111" not in repr(dict(sent.params))


@pytest.mark.parametrize(
    ("options", "task", "told"),
    [
        ({}, ended(), True),
        ({}, ended(Status.COMPLETED), False),
        ({"on": ["completed", "failed"]}, ended(Status.COMPLETED), True),
        ({"types": "work"}, ended(), True),
        ({"types": ["other"]}, ended(), False),
        ({"queues": ["default"]}, ended(), False),
        ({"queues": "mail"}, ended(), True),
        ({}, ended(type=WEBHOOK), False),
    ],
)
def test_which_ends_are_told(options: dict[str, Any], task: Any, told: bool) -> None:
    assert len(messages({"h": hook(**options)}, task, NOW)) == told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://example.com"}, "url: an address such as"),
        ({"url": "https://user:pw@example.com"}, "url: has a user or a password"),
        ({"url": "https://"}, "url: an address such as"),
        ({"url": "https://example.com/a\r\nX: y"}, "url: an address such as"),
        ({"url": "https://example.com:99999"}, "url: an address such as"),
        ({"secret": "whsec_short"}, "secret: must be 24 to 64 bytes"),
        ({"secret": 7}, "secret: must be 24 to 64 bytes"),
        ({"secret": []}, "secret: at least one is needed"),
        ({"on": "running"}, "on: must be of completed, failed, cancelled, expired"),
        ({"on": []}, "on: at least one"),
        ({"types": 7}, "types: a name or a list of names"),
        ({"timeout": 0}, "timeout: "),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=f"^{message}"):
        make_webhook(**{"url": "https://example.com", "secret": SECRET} | options)


def test_a_repr_shows_no_secret() -> None:
    assert "MfKQ" not in repr(hook()) and "b'" not in repr(hook())


def test_of_an_address_the_host_alone_is_shown() -> None:
    url = "https://Example.com:8443/hidden/path?sig=hidden"
    made = make_webhook(url, SECRET)
    assert (made.url, made.name, repr(made)) == (url, "example.com", "<Webhook example.com>")
    assert make_webhook(url, SECRET, name="mine").name == "mine"
    assert "hidden" not in str(messages({"h": made}, ended(), NOW))
    for wrong in (
        "ftp://example.com/hidden?sig=hidden",
        "https://user:hidden@example.com/hidden",
        "https://x:0/hidden",
    ):
        with pytest.raises(ValidationError) as error:
            make_webhook(wrong, SECRET)
        assert "hidden" not in str(error.value)


def test_one_message_is_sent_to_a_host_at_a_time() -> None:
    (sent,) = messages({"h": make_webhook("https://example.com:8443/hook", SECRET)}, ended(), NOW)
    assert (sent.parked, sent.gate, sent.due_us) == (True, f"{WEBHOOK}:example.com", NOW)
    assert sent.flow == Flow(gates=((f"{WEBHOOK}:example.com", Bounds(cap=1)),))
    (long,) = messages({"h": make_webhook(f"https://{'x' * 1_000}.test/hook", SECRET, name="h")}, ended(), NOW)
    assert long.gate is not None and len(long.gate) <= MAX_KEY

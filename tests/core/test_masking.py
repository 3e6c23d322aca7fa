"""Passwords in URLs are masked, also in texts that no URL parser accepts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq import AiotaskqError, TaskQ
from aiotaskq.core.masking import mask, without_passwords
from tests.support.command import Cli
from tests.support.machine import within

SECRET = "S3CRET"
MALFORMED = [
    "postgresql:/me:S3CRET@127.0.0.1:1/x",
    "postgresql//me:S3CRET@127.0.0.1:1/x",
    "postgresql:me:S3CRET@127.0.0.1:1/x",
    "postgresql ://me:S3CRET@127.0.0.1:1/x",
    "me:S3CRET@127.0.0.1:1/x",
    "S3CRET@127.0.0.1:1/x",
    "postgresql://me:S3CRET/x@y@127.0.0.1:1/x",
    "postgresql://me:x/S3CRET@127.0.0.1:1/x",
    "postgresql://me:S3CRET@127.0.0.1:port/x",
    "postgresql://me:S3CRET 127.0.0.1/x",
    "postgresql://me:x S3CRET@127.0.0.1:1/x",
    "mysql+://me:S3CRET@127.0.0.1:1/x",
    "mysql://me:S3CRET@[::1/x",
    "postgresql://127.0.0.1:1/x?user=me&password=S3CRET",
    "postgresql://127.0.0.1:1/x?user=me&pwd=S3CRET",
    "redis://S3CRET@127.0.0.1:1/0",
    "redis://:S3CRET@127.0.0.1:port/0",
    "redis://me:S3CRET/x@127.0.0.1:1/0",
    "redis://127.0.0.1:1/0?password=S3CRET",
    "redis+sentinel://S3CRET@127.0.0.1:1,127.0.0.1:port/main",
    "redis+sentinel://127.0.0.1:1,127.0.0.1:1/main?sentinel_password=S3CRET",
]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("url", MALFORMED)
async def test_no_error_and_no_repr_shows_the_password_of_a_malformed_url(url: str) -> None:  # J8, J9
    assert SECRET not in mask(url)

    async def use() -> None:
        tq = TaskQ(url)
        assert SECRET not in repr(tq)
        await tq.open()

    with pytest.raises(AiotaskqError) as raised:
        await use()
    assert SECRET not in f"{raised.value} {raised.value!r}"


@pytest.mark.parametrize("url", MALFORMED)
def test_no_command_shows_the_password_of_a_malformed_url(cli: Cli, url: str) -> None:  # J9
    cli.monkeypatch.setenv("AIOTASKQ_DATABASE_URL", url)
    cli.monkeypatch.setenv("AIOTASKQ_SCHEDULES_URL", url)
    for command in (["doctor"], ["doctor", "--json"], ["check"], ["stats"]):
        code, out, err = cli.run(*command)
        assert code in (1, 2) and SECRET not in out + err


@given(
    password=st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), max_size=8),
    form=st.sampled_from(
        ["{}://me:{}@host/x", "{}:/me:{}@host", "{}://:{}@host:1/x?a=b", "{}+driver://me:{}@host", "{}:me:{}@host"]
    ),
    scheme=st.sampled_from(["postgresql", "mysql", "redis"]),
)
def test_whatever_the_password_is(password: str, form: str, scheme: str) -> None:
    url = form.format(scheme, f"{SECRET}{password}{SECRET}")
    assert SECRET not in mask(url) and mask(url).startswith(scheme)
    assert SECRET not in without_passwords(f"cannot open {url}, because")
    assert "because" in without_passwords(f"cannot open {url}, because")


def test_what_is_no_secret_stays_readable() -> None:
    for url in (
        "sqlite:///app.db",
        "sqlite:////tmp/a:b.db",
        "sqlite:///C:/data/app.db",
        "memory://",
        "postgresql://me@db.example:5432/app?sslmode=require",
        "postgresql:///app?host=/var/run/postgresql",
        "mysql://[::1]:3306/app",
        "redis://localhost:6379/0?prefix=shop",
    ):
        assert mask(url) == url
    assert mask("postgresql://me:x@db:5432/app?sslmode=require") == "postgresql://me:***@db:5432/app?sslmode=require"
    assert mask("redis://:x@db/0") == "redis://:***@db/0"
    for text in (
        "mail to me@example.org: no",
        'File "/srv/a.py", line 3',
        "http://host:80/path is down",
        "3:14 @ noon",
    ):
        assert without_passwords(text) == text


def test_the_sentinels_of_a_url_are_shown() -> None:
    for url in ("redis+sentinel://a:1,b,[::1]:2/main?db=0", "redis+sentinel://a,b/main"):
        assert mask(url) == url
    assert mask("redis+sentinel://me:S3CRET@a:1,b/main") == "redis+sentinel://me:***@a:1,b/main"
    assert SECRET not in mask("redis+sentinel://me:S3CRET,b:2/main")
    assert without_passwords("to redis+sentinel://S3CRET@a:1,b/main: no") == "to redis+sentinel://:***@a:1,b/main: no"


@pytest.mark.parametrize("part", ["a/:", "https://host:1,", "key", "key-", "1.", "redis://a"])
@pytest.mark.parametrize("before", ["", "a/:x@", "?"])
def test_no_text_is_slow_to_mask(part: str, before: str) -> None:
    """Errors of handlers have any text: the cost must not grow faster than it."""
    text = before + part * (200_000 // len(part))
    began = time.process_time()
    without_passwords(text)
    mask(text)
    assert time.process_time() - began < within(1)

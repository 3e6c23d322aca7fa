"""The URLs of stores: one table of schemes says which backend is meant."""

from __future__ import annotations

from importlib import import_module

import pytest

from aiotaskq.backends.base import Backend
from aiotaskq.backends.url import BACKENDS, DURABLE_FAKE, kind_of, scheme_of
from aiotaskq.errors import ValidationError
from tests.support.backends import STORES


@pytest.mark.parametrize("scheme", BACKENDS)
def test_each_scheme_names_a_backend(scheme: str) -> None:
    module, _, name = BACKENDS[scheme].partition(":")
    assert issubclass(getattr(import_module(module), name), Backend)


@pytest.mark.parametrize(
    ("url", "scheme", "kind"),
    [
        ("memory://", "memory", "memory"),
        (DURABLE_FAKE, "memory", "memory"),
        ("sqlite:///app.db", "sqlite", "sql"),
        ("POSTGRES://host/app", "postgres", "sql"),
        ("mysql+pymysql://host/app", "mysql", "sql"),
        ("rediss://host/0", "rediss", "redis"),
        ("valkey://host", "valkey", "redis"),
    ],
)
def test_scheme_and_kind(url: str, scheme: str, kind: str) -> None:
    assert (scheme_of(url), kind_of(url)) == (scheme, kind)


@pytest.mark.parametrize("url", ["ftp://host", "app.db", ":memory:"])
def test_an_unknown_scheme_is_refused(url: str) -> None:
    for function in (scheme_of, kind_of):
        with pytest.raises(ValidationError, match=r"^url: unknown scheme in '.*'; use memory://, "):
            function(url)


@pytest.mark.parametrize(
    ("url", "right"),
    [("sqlite:", "sqlite:///file.db"), ("sqlite:/app.db", "sqlite:///file.db"), ("redis:/0", "redis://")],
)
def test_a_known_scheme_without_slashes_is_told_how_to_write_it(url: str, right: str) -> None:
    with pytest.raises(ValidationError, match=f"^url: '{url}' has no // after its scheme; write {right}$"):
        scheme_of(url)


def test_the_contract_suite_runs_on_every_kind() -> None:
    opened = {
        *(name for name, kind in STORES.items() if not kind.sql),
        *("sql" for kind in STORES.values() if kind.sql),
    }
    ours = {each.split(".")[2] for each in BACKENDS.values() if each.startswith("aiotaskq.")}
    assert opened == {"durable_fake", "small", *ours}

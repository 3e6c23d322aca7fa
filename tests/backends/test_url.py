"""The URLs of stores: one table of schemes says which backend is meant."""

from __future__ import annotations

from importlib import import_module

import pytest

from aiotaskq.backends.base import Backend
from aiotaskq.backends.url import BACKENDS, DURABLE_FAKE, has_tables, is_shared, scheme_of
from aiotaskq.errors import ValidationError
from tests.support.backends import STORES


@pytest.mark.parametrize("scheme", BACKENDS)
def test_each_scheme_names_a_backend(scheme: str) -> None:
    module, _, name = BACKENDS[scheme].partition(":")
    assert issubclass(getattr(import_module(module), name), Backend)


@pytest.mark.parametrize(
    ("url", "scheme", "shared", "tables"),
    [
        ("memory://", "memory", False, False),
        (DURABLE_FAKE, "memory", False, False),
        ("sqlite:///app.db", "sqlite", True, True),
        ("POSTGRES://host/app", "postgres", True, True),
        ("mysql+pymysql://host/app", "mysql", True, True),
        ("rediss://host/0", "rediss", True, False),
        ("valkey://host", "valkey", True, False),
    ],
)
def test_what_a_url_tells(url: str, scheme: str, shared: bool, tables: bool) -> None:
    assert (scheme_of(url), is_shared(url), has_tables(url)) == (scheme, shared, tables)


@pytest.mark.parametrize("url", ["ftp://host", "app.db", ":memory:"])
def test_an_unknown_scheme_is_refused(url: str) -> None:
    for function in (scheme_of, is_shared, has_tables):
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
    ours = {each.split(".")[2] for each in BACKENDS.values() if each.startswith("aiotaskq.backends.")}
    assert opened == {"durable_fake", "small", *ours}

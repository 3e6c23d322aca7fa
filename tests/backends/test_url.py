"""The URLs of stores: one table of schemes says which backend is meant."""

from __future__ import annotations

import re
import socket
from importlib import import_module
from typing import Any
from urllib.parse import quote

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Backend
from aiotaskq.backends.sql.engines import parse_url
from aiotaskq.backends.sql.names import Names
from aiotaskq.backends.url import BACKENDS, DURABLE_FAKE, has_tables, is_shared, scheme_of, with_table_names
from aiotaskq.errors import DatabaseUnavailable, NotSupported, ValidationError
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


# ---- names of tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "given", "made"),
    [
        ("postgresql://host/app", {"schema": "jobs"}, "postgresql://host/app?schema=jobs"),
        (
            "postgres://host/app?pooler=transaction",
            {"schema": "J_2"},
            "postgres://host/app?pooler=transaction&schema=J_2",
        ),
        ("sqlite:///app.db", {"table_prefix": "jobs_"}, "sqlite:///app.db?table_prefix=jobs_"),
        ("mariadb://host/app", {"table_prefix": "_" * 30}, "mariadb://host/app?table_prefix=" + "_" * 30),
        ("sqlite:///app.db?table_prefix=jobs_", {"table_prefix": None}, "sqlite:///app.db?table_prefix=jobs_"),
        ("redis://host", {"schema": None, "table_prefix": None}, "redis://host"),
    ],
)
def test_names_of_tables_become_an_option_of_the_url(url: str, given: dict[str, Any], made: str) -> None:
    assert with_table_names(url, **given) == made
    assert with_table_names(made) == made


@pytest.mark.parametrize("name", ["", "1jobs", "jobs-2", "jobs.", 'a"b', "é", "a" * 31, "jobs\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    for url, option in (("postgresql://host/app", "schema"), ("sqlite:///a.db", "table_prefix")):
        for make in (
            lambda url=url, option=option: TaskQ(url, **{option: name}),
            lambda url=url, option=option: TaskQ(f"{url}?{option}={quote(name)}"),
            lambda url=url, option=option: parse_url(f"{url}?{option}={quote(name)}"),
        ):
            with pytest.raises(ValidationError, match=f"^{option}: a letter or '_' and then letters, digits"):
                make()


@pytest.mark.parametrize(
    ("url", "option", "text"),
    [
        ("sqlite:///a.db", "schema", "it is not for sqlite://; use table_prefix"),
        ("mysql://host/app", "schema", "it is not for mysql://; use table_prefix"),
        ("postgresql://host/app", "table_prefix", "it is not for postgresql://; use schema"),
        ("redis://host", "schema", "redis:// has no tables; write ?prefix=… in the URL"),
        ("redis://host", "table_prefix", "redis:// has no tables; write ?prefix=… in the URL"),
        ("memory://", "schema", "memory:// shares nothing between two TaskQ, and has no tables"),
        (DURABLE_FAKE, "table_prefix", "memory:// shares nothing between two TaskQ, and has no tables"),
    ],
)
def test_the_option_of_another_store_is_refused(url: str, option: str, text: str) -> None:
    for place, given in ((url, {option: "jobs"}), (f"{url}?{option}=jobs", {})):
        with pytest.raises(NotSupported, match=f"^{option}: {re.escape(text)}$"):
            TaskQ(place, **given)  # type: ignore[arg-type]


def test_a_name_is_given_in_one_place() -> None:
    with pytest.raises(ValidationError, match=r"^schema: it is in the URL, too; give it in one place$"):
        TaskQ("postgresql://host/app?schema=jobs", schema="jobs")
    with pytest.raises(ValidationError, match=r"^schema: .* \(got 7\)$"):
        TaskQ("postgresql://host/app", schema=7)  # type: ignore[arg-type]


def test_only_whole_names_are_replaced() -> None:
    sql = "SELECT task_queue.ctid, task_queue_1.aiotaskq_side FROM task_queue FORCE INDEX (ix_task_queue_gate)"
    assert Names("jobs")(sql) == (
        'SELECT "jobs".task_queue.ctid, task_queue_1.aiotaskq_side FROM "jobs".task_queue '
        "FORCE INDEX (ix_task_queue_gate)"
    )
    assert Names(prefix="a_")(sql) == (
        "SELECT a_task_queue.ctid, task_queue_1.aiotaskq_side FROM a_task_queue FORCE INDEX (a_ix_task_queue_gate)"
    )
    for names in (Names("jobs"), Names(prefix="a_")):
        long = " UNION ".join([sql] * 100)
        assert names(names(sql)) == names(sql) and names(names(long)) == names(long)


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "redis"])
async def test_the_error_about_a_host_without_an_address_names_the_url(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_args: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DatabaseUnavailable, match=r"not known\W*; the host has no address: check its name in the URL"):
        await TaskQ(f"{scheme}://nowhere/0").open()

"""The database servers of the tests: several run beside each other."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.support.servers import MariaDB, PostgreSQLJIT, Unavailable, mariadb, postgresql_jit


def test_a_mariadb_that_starts_keeps_the_temporary_tables_of_others() -> None:
    import pymysql

    try:
        first = mariadb(durable=False)
    except Unavailable as reason:
        pytest.skip(str(reason))  # the contract suite fails for it
    with contextlib.closing(pymysql.connect(host="127.0.0.1", port=first.port, user="root")) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE test.mine (a INT) ENGINE=Aria")
        MariaDB(durable=False)._remove()
        cursor.execute("DROP TABLE test.mine")


def test_the_second_postgresql_compiles_plans() -> None:
    try:
        server = postgresql_jit(durable=False)
    except Unavailable as reason:
        pytest.skip(str(reason))  # the contract suite fails for it
    ((version, available),) = server.execute("SELECT current_setting('server_version_num')::int, pg_jit_available()")
    assert version < 180_000 and available


def test_a_postgresql_that_is_too_new_or_has_no_jit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, library in (("18", "llvmjit.so"), ("17", "pgxml.so"), ("common", "llvmjit.so")):
        (tmp_path / version / "lib").mkdir(parents=True)
        (tmp_path / version / "lib" / library).touch()
    monkeypatch.setattr(PostgreSQLJIT, "home", tmp_path)
    with pytest.raises(Unavailable, match="apt-get install -y postgresql"):
        PostgreSQLJIT(durable=False)
